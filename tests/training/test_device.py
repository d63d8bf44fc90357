"""Training on another device, which here is the CPU under another name: what lies where, what a GPU would refuse."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ctxdeploy.cli.main import run as command_line
from ctxdeploy.core.errors import BackendError, ConfigError, TrainingError
from ctxdeploy.core.progress import Display
from ctxdeploy.export import load_checkpoint
from ctxdeploy.export.networks import Architecture, NetworkConfig, Refinement, Smoothing
from ctxdeploy.training import device as devices
from ctxdeploy.training import trainer as trainers
from ctxdeploy.training.config import (
    ContrastiveConfig,
    OptimiserConfig,
    PairsConfig,
    RunConfig,
    TrainConfig,
    TransferConfig,
)
from ctxdeploy.training.photos import PhotoStore
from ctxdeploy.training.sets import read_set
from ctxdeploy.training.start import new_network
from ctxdeploy.training.state import load_state, save_state
from ctxdeploy.training.trainer import LossSums, Trainer
from ctxdeploy.training.transfer import objective_for

BOTH = NetworkConfig(
    family="ctx",
    architecture=Architecture.RESNET18_HALF,
    skip_layer=1,
    dim=16,
    smoothing=Smoothing(kind="gaussian"),
    refinement=Refinement(blocks=1),
)
LITE = NetworkConfig(family="how", architecture=Architecture.EFFICIENTNET_LITE0, skip_layer=1, dim=16, block=6)
PAIRS = PairsConfig(pairs=4, view_size=64)
TUPLES = ContrastiveConfig(tuples=2, negatives=2, queries=6, pool=12, view_size=64)
TRANSFER = TransferConfig(
    pairs=4, view_size=64, final_size=96, final_from=0.5, memory=2, positions=9, memory_positions=4, frozen_blocks=2
)
RECIPES = {"pairs": (PAIRS, BOTH), "contrastive": (TUPLES, BOTH), "transfer": (TRANSFER, LITE)}
CPU = torch.device("cpu")


@pytest.fixture
def apart(load_reference: Any) -> Any:
    return load_reference("apart")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer_of(
    recipe: str, landmarks: Path, folder: Path, device: torch.device, *, workers: int = 0, steps: int = 6
) -> Trainer:
    settings, network = RECIPES[recipe]
    folder.mkdir(exist_ok=True)
    config = TrainConfig(
        recipe=settings, optimiser=OptimiserConfig(warmup=2), steps=steps, photo_size=160, precision="fp32"
    )
    photos = read_set("landmarks", landmarks)
    made = new_network(network, 0)
    objective = objective_for(photos, PhotoStore(photos.paths, 160), config, made.config.stride)
    return Trainer(made, objective, config, folder, identity={}, device=device, workers=workers)


def trained(trainer: Trainer, folder: Path) -> dict[str, torch.Tensor]:
    trainer.run(Display(quiet=True), save_seconds=0)
    return dict(load_checkpoint(folder / "model.pth").state)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stopping_after(step: int) -> Callable[[Path, dict[str, object]], None]:
    def save(path: Path, content: dict[str, object]) -> None:
        save_state(path, content)
        if content["step"] == step:
            raise KeyboardInterrupt

    return save


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_run_on_another_device_makes_nothing_on_the_wrong_one_and_goes_on_on_either(
    landmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: Any, recipe: str
) -> None:
    """Six steps on the CPU; two there, two on the other device and two on the CPU again: the same weights."""
    monkeypatch.setattr(trainers, "LOG_STEPS", 1)
    wanted = trained(trainer_of(recipe, landmarks, tmp_path / "whole", CPU), tmp_path / "whole")
    for stop, device in ((2, CPU), (4, apart.DEVICE)):
        with monkeypatch.context() as patch, apart.Apart():
            patch.setattr(trainers, "save_state", stopping_after(stop))
            run = trainer_of(recipe, landmarks, tmp_path / "parts", device)
            with pytest.raises(KeyboardInterrupt):
                run.run(Display(quiet=True), save_seconds=0)
        state = load_state(tmp_path / "parts" / "state.pt", {})
        assert state is not None and state["step"] == stop
        assert all(type(value) is torch.Tensor and value.device == CPU for value in state["weights"].values())
    assert same(trained(trainer_of(recipe, landmarks, tmp_path / "parts", CPU), tmp_path / "parts"), wanted)
    with apart.Apart():
        there = trained(trainer_of(recipe, landmarks, tmp_path / "there", apart.DEVICE), tmp_path / "there")
    assert same(there, wanted)


def test_the_device_that_stands_apart_refuses_what_a_gpu_does(apart: Any) -> None:
    with apart.Apart():
        x = torch.ones(2, 2, device=apart.DEVICE)
        with pytest.raises(RuntimeError, match="same device, but found meta and cpu"):
            x @ torch.ones(2, 2)
        with pytest.raises(RuntimeError, match="not supported"):
            x.numpy()
        assert (x + torch.tensor(1.0)).sum().item() == 8  # one number of the CPU is taken
        y = x.clone()
        assert y.add_(1) is y and y.cpu().tolist() == [[2, 2], [2, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [pytest.param("pairs", marks=pytest.mark.long), "contrastive"])
def test_batches_of_processes_are_those_of_the_thread(recipe: str, landmarks: Path, tmp_path: Path) -> None:
    wanted = trained(trainer_of(recipe, landmarks, tmp_path / "thread", CPU), tmp_path / "thread")
    made = trained(trainer_of(recipe, landmarks, tmp_path / "processes", CPU, workers=2), tmp_path / "processes")
    assert same(made, wanted)


@pytest.mark.slow
def test_what_processes_cannot_read_is_counted_and_said(landmarks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for scene in ("one", "two"):
        (folder / scene).mkdir(parents=True)
        for number in range(3):
            (folder / scene / f"{number}.jpg").write_bytes(b"no photo")
    with pytest.raises(Exception, match=r"none of the photos from .* can be read") as caught:
        trained(trainer_of("pairs", folder, tmp_path / "run", CPU, workers=1), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_losses_are_read_a_step_late_and_summed_as_if_at_once() -> None:
    sums, values = LossSums(("a", "b")), torch.tensor([1.5, 2.5])
    for step in range(3):
        sums.add(step, values.sum(), {"a": values[0]}, 2)
        sums.add(step, values.sum(), {"a": values[0], "b": values[1]}, 2)
    assert sums.taken() == {"a": 4.5, "b": 3.75} and sums.taken() == {"a": 0.0, "b": 0.0}
    sums.add(3, torch.tensor(float("nan")), {}, 1)
    with pytest.raises(TrainingError, match="the loss of step 3 is nan: train with a lower --learning-rate"):
        sums.add(4, torch.tensor(1.0), {}, 1)


@pytest.mark.parametrize(
    ("given", "code", "reason"),
    [
        ("gpu", 2, "--device 'gpu' is unknown: give --device auto, cpu, cuda or cuda:N"),
        ("meta", 2, "--device 'meta' is unknown"),
        ("cuda", 13, "--device cuda:0: "),
        ("cuda:3", 13, "--device cuda:3: "),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_in_one_line(
    landmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, code: int, reason: str
) -> None:
    arguments = ["train", str(tmp_path / "run"), "--landmarks", str(landmarks), "--device", given, "--quiet"]
    assert command_line(arguments) == code
    printed = capsys.readouterr().err
    assert reason in printed and printed.count("\n") == 1
    assert code == 2 or printed.endswith("or give --device cpu\n")
    assert not (tmp_path / "run").exists()


class Card:
    """What PyTorch says of GPUs, as far as the choice of one asks."""

    def __init__(self, capability: tuple[int, int], count: int = 1) -> None:
        self.capability, self.count = capability, count

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: self.count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: self.count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: self.capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "NVIDIA T4")


def test_the_gpu_is_chosen_and_what_it_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Card((7, 5), count=2).install(patch)
        assert devices.training_device("auto", "fp32") == torch.device("cuda:0")
        assert devices.training_device("cuda:1", "fp32") == torch.device("cuda:1")
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert devices.training_device("cpu", "bf16") == CPU
        with pytest.raises(
            BackendError, match=r"--precision bf16: NVIDIA T4 \(7\.5\) computes none: give --precision f"
        ):
            devices.training_device("cuda", "bf16")
        with pytest.raises(
            BackendError, match="--device cuda:2: PyTorch sees cuda:0 to cuda:1: give another number, or"
        ):
            devices.training_device("cuda:2", "fp32")
    with monkeypatch.context() as patch:
        Card((9, 0), count=0).install(patch)
        assert devices.training_device("auto", "bf16") == CPU
        patch.setattr(torch.version, "cuda", "13.0")
        with pytest.raises(BackendError, match=r"--device cuda:0: (there is no|the) NVIDIA.*, or give --device cpu$"):
            devices.training_device("cuda", "bf16")


def test_a_gpu_computes_the_same_again_and_the_settings_of_the_process_are_given_back() -> None:
    def settings() -> tuple[object, ...]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.deterministic,
            torch.backends.cuda.matmul.allow_tf32,
            torch.utils.deterministic.fill_uninitialized_memory,
        )

    before = settings()
    with devices.repeatable(CPU):
        assert settings() == before
    with pytest.raises(KeyError), devices.repeatable(torch.device("cuda")):
        assert settings() == (True, True, False, True, False, False)
        raise KeyError
    assert settings() == before


def test_too_little_memory_of_the_gpu_is_one_line() -> None:
    with (
        pytest.raises(TrainingError, match=r"the memory of cpu is not enough .* --set pairs=, tuples= or") as caught,
        devices.enough_memory(CPU),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 MiB")
    assert "\n" not in str(caught.value)


def test_processes_are_for_gpus() -> None:
    assert RunConfig().processes("cpu") == 0 and RunConfig(workers=3).processes("cpu") == 3
    assert 1 <= RunConfig().processes("cuda") <= 16 and RunConfig(workers=0).processes("cuda") == 0
    with pytest.raises(ConfigError, match=r"--workers -1 is outside 0\.\.256"):
        RunConfig(workers=-1)
