"""Runs: what they learn, and that an interruption leaves no trace in the weights."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ctxdeploy.cli.main import run as command_line
from ctxdeploy.core.errors import CheckpointError, ConfigError, StorageError, TrainingError
from ctxdeploy.core.progress import Display
from ctxdeploy.export import load_checkpoint
from ctxdeploy.export.networks import Architecture, Edges, NetworkConfig, Refinement, Smoothing
from ctxdeploy.training.config import ContrastiveConfig, OptimiserConfig, PairsConfig, RunConfig, TrainConfig
from ctxdeploy.training.features import Maps
from ctxdeploy.training.objectives import objective_of
from ctxdeploy.training.run import Start, Trained, train
from ctxdeploy.training.sets import read_set
from ctxdeploy.training.start import new_network
from ctxdeploy.training.state import load_state, locked, save_state

BOTH = NetworkConfig(
    family="ctx",
    architecture=Architecture.RESNET18_HALF,
    skip_layer=1,
    dim=16,
    smoothing=Smoothing(kind="gaussian"),
    refinement=Refinement(blocks=1),
)
PAIRS = PairsConfig(pairs=4, view_size=64)
TUPLES = ContrastiveConfig(tuples=2, negatives=2, queries=6, pool=12, view_size=64)
CONFIG = TrainConfig(recipe=PAIRS, optimiser=OptimiserConfig(warmup=2), steps=6, photo_size=160)
RUN = RunConfig(threads=1, save_seconds=0)


def run(folder: Path, landmarks: Path, config: TrainConfig = CONFIG, start: Start | None = None) -> Trained:
    photos = read_set("landmarks", landmarks)
    return train(folder, photos, start or Start(network=BOTH), config, RUN, Display(quiet=True))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path).state)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stopped_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the run of the test end as by a kill when it has saved a step."""
    from ctxdeploy.training import trainer

    def save(path: Path, content: dict[str, object]) -> None:
        save_state(path, content)
        if content["step"] == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_state", save)
    monkeypatch.setattr(trainer, "LOG_STEPS", 1)


@pytest.mark.parametrize("recipe", [PAIRS, TUPLES], ids=["pairs", "contrastive"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_was_interrupted_gives_the_weights_of_one_that_was_not(
    landmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: PairsConfig, accumulate: int
) -> None:
    config = replace(CONFIG, recipe=recipe, accumulate=accumulate)
    whole = run(tmp_path / "whole", landmarks, config)
    # Two epochs of three batches; the fourth step is in the middle of one, with or without accumulation.
    for step in (1, 4):
        with monkeypatch.context() as patch:
            stopped_after(patch, step)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "parts", landmarks, config)
    parts = run(tmp_path / "parts", landmarks, config)
    assert whole.steps == parts.steps == 6
    assert same(weights(whole.model), weights(parts.model))


@pytest.mark.slow
def test_kill_9_and_the_same_command_give_the_same_weights(landmarks: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = [
        "--landmarks",
        str(landmarks),
        "--steps",
        "65",
        "--threads",
        "1",
        "--dim",
        "16",
        "--quiet",
        "--save-seconds",
        "0",
    ]
    command += ["--set", "pairs=4", "--set", "view_size=64", "--set", "photo_size=160"]
    assert command_line(["train", str(whole), *command]) == 0
    process = subprocess.Popen([sys.executable, "-m", "ctxdeploy.cli.main", "train", str(parts), *command])
    deadline = time.monotonic() + 600
    while not (parts / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (parts / "state.pt").exists() and not (parts / "model.pth").exists()
    assert command_line(["train", str(parts), *command]) == 0
    assert same(weights(whole / "model.pth"), weights(parts / "model.pth"))
    logs = [list(csv.DictReader((folder / "log.csv").open())) for folder in (whole, parts)]
    assert [[row[c] for c in ("step", "global", "match", "local")] for row in logs[0]] == [
        [row[c] for c in ("step", "global", "match", "local")] for row in logs[1]
    ]
    assert [int(row["step"]) for row in logs[0]] == [*range(20, 61, 20), 65]


def test_training_from_nothing_learns_to_tell_photos_and_positions_apart(landmarks: Path, tmp_path: Path) -> None:
    recipe = PairsConfig(pairs=6, view_size=64, correspondences=12)
    config = TrainConfig(recipe=recipe, optimiser=OptimiserConfig(warmup=5), steps=60, photo_size=160)
    photos = read_set("landmarks", landmarks)
    network = replace(BOTH, family="how", smoothing=Smoothing(), refinement=None, dim=64)
    train(tmp_path, photos, Start(network=network), config, RUN, Display(quiet=True))
    first, *_, last = list(csv.DictReader((tmp_path / "log.csv").open()))
    # Guessing costs ln 6 = 1.79 and, with some 30 positions, 3.4.
    assert float(last["global"]) < 0.9 * float(first["global"])
    assert float(last["local"]) < 0.9 * float(first["local"])


def test_contrastive_training_brings_negatives_to_the_margin(landmarks: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, recipe=TUPLES, steps=30)
    run(tmp_path, landmarks, config)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert float(rows[-1]["contrastive"]) < float(rows[0]["contrastive"])


def test_a_run_starts_from_a_checkpoint_and_adds_refinements(landmarks: Path, tmp_path: Path) -> None:
    plain = replace(BOTH, family="how", smoothing=Smoothing(), refinement=None)
    base = run(tmp_path / "base", landmarks, replace(CONFIG, steps=1), Start(network=plain)).model
    both = Start(checkpoint=base, smoothing=Smoothing(kind="gaussian"), refinement=Refinement())
    config = replace(CONFIG, recipe=TUPLES, steps=2, optimiser=OptimiserConfig(backbone_factor=0.0))
    found = load_checkpoint(run(tmp_path / "next", landmarks, config, both).model)
    assert found.config.family == "ctx" and found.config.refinement == Refinement()
    before, after = weights(base), dict(found.state)
    trunk = [name for name in before if name.startswith("features.")]
    assert trunk and all(torch.equal(before[name], after[name]) for name in trunk)
    assert any(name.startswith("refinement.") and bool(after[name].abs().sum() > 0) for name in after)
    # The whitening is one of the photos' own features.
    assert not torch.equal(before["dim_reduction.weight"], after["dim_reduction.weight"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, "another config: choose another folder.*seed: 0 there, 1 here"),
        ({"recipe": replace(PAIRS, temperature=0.1)}, "temperature: 0.07 there, 0.1 here"),
    ],
)
def test_a_folder_continues_no_other_training(
    landmarks: Path, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    config = replace(CONFIG, steps=1)
    run(tmp_path, landmarks, config)
    with pytest.raises(ConfigError, match=reason):
        run(tmp_path, landmarks, replace(config, **change))


def test_a_damaged_state_is_said_and_a_second_process_is_kept_out(landmarks: Path, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 no state")
    with pytest.raises(CheckpointError, match=r"state.pt is damaged .*: delete it to start again"):
        run(tmp_path, landmarks)
    torch.save({"format": "other"}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="is not a state of a training that is known here"):
        load_state(tmp_path / "state.pt", {})
    with locked(tmp_path), pytest.raises(StorageError, match="is being written by process"):
        run(tmp_path, landmarks)


def test_a_loss_that_is_not_finite_ends_the_run(landmarks: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, optimiser=OptimiserConfig(learning_rate=10, warmup=0))
    config = replace(config, precision="fp32", recipe=replace(TUPLES, margin=2.0))
    network = replace(BOTH, family="how", smoothing=Smoothing(), refinement=None)
    with pytest.raises(TrainingError, match=r"the loss of step [0-9]+ is nan: train with a lower --learning-rate"):
        run(tmp_path, landmarks, config, Start(network=network))


def test_photos_that_cannot_be_read_are_no_negatives(
    landmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxdeploy.training.photos import PhotoStore
    from ctxdeploy.training.start import new_network

    photos, load = read_set("landmarks", landmarks), PhotoStore.load
    missing = set(range(0, len(photos), 3)) | {3, 4, 5}

    def some(store: PhotoStore, number: int) -> object:
        store.unreadable |= {number: "gone"} if number in missing else {}
        return None if number in missing else load(store, number)

    monkeypatch.setattr(PhotoStore, "load", some)
    config = replace(CONFIG, recipe=replace(TUPLES, queries=20, pool=18))
    objective = objective_of(photos, PhotoStore(photos.paths, 160), config, 16)
    network = new_network(BOTH, 0)
    objective.start(Maps(network, "fp32"))
    objective.begin_epoch(0, Maps(network, "fp32"))
    tuples = objective.state()["tuples"].numpy()
    assert tuples.shape == (20, 4) and not missing & set(tuples[:, [0, 2, 3]].ravel().tolist())
    shown = photos.classes[tuples]
    assert (shown[:, 0] == shown[:, 1]).all() and (shown[:, :1] != shown[:, 2:]).all()


def test_a_full_disk_is_said_and_leaves_the_model_that_is_there(
    landmarks: Path, tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    config = replace(CONFIG, steps=1)
    before = run(tmp_path, landmarks, config).model.read_bytes()
    with pytest.raises(StorageError, match=r"cannot be written: No space left"), full_disk():
        run(tmp_path, landmarks, config)
    assert (tmp_path / "model.pth").read_bytes() == before == run(tmp_path, landmarks, config).model.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "no photos to train on: give --landmarks, --photos or --sfm120k"),
        (["--init", "x.pth", "--dim", "64"], "--dim 64 is for a network from nothing: leave out --dim or --init"),
        (["--set", "margin=0.7"], "--set margin is unknown: the recipe pairs has accumulate, averaging"),
        (["--set", "pairs=many"], "--set pairs=many: write NAME=NUMBER, or NAME=none"),
        (["--set", "temperature=none"], "--set temperature=none is outside 0.001..10"),
        (["--photo-memory", "nan"], "--photo-memory 'nan' is not a number of gigabytes"),
        (["--init", "x.pth", "--kernel-size", "5"], "--kernel-size 5 is of --smoothing"),
        (["--edges", "attention"], "--edges attention is of the graph refinement: give --graph BLOCKS too"),
        (["--set", "temperature=0"], "--set temperature=0 is outside 0.001..10"),
        (["--architecture", "vgg"], "architecture 'vgg' is not one of"),
        (["--steps", "0"], "--steps 0 is outside 1"),
        (["--set", "pairs=2.5"], "--set pairs=2.5 is not a whole number: give one of 2..4096"),
        (["--set", "learning_rate=1"], "--set learning_rate=1 has an option of its own: --learning-rate"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    (tmp_path / "x.pth").touch()
    given = [str(tmp_path / argument) if argument == "x.pth" else argument for argument in arguments]
    photos = ["--photos", str(tmp_path)] if given else []  # their lack is said first
    assert command_line(["train", str(tmp_path / "run"), *photos, *given]) == 2
    printed = capsys.readouterr().err
    assert reason in printed and printed.count("\n") == 1


def test_attention_begins_as_softmax_edges_and_learns() -> None:
    """Queries are the keys, whose products are the cosines but for chance, and a gradient comes to both projections."""
    config = replace(BOTH, refinement=Refinement(blocks=1, edges=Edges.ATTENTION, dim=256))
    network = new_network(config, seed=3)
    assert network.refinement is not None
    block = network.refinement.blocks[0]
    assert torch.equal(block.query, block.key) and block.query.abs().min() > 0
    x = torch.nn.functional.normalize(
        torch.rand(1, 30, config.channels, generator=torch.Generator().manual_seed(0)), dim=2
    )
    cosines = (x @ x.mT)[0]
    products = ((x @ block.query) @ (x @ block.key).mT)[0]
    assert (products - cosines).abs().max() < 0.5 and (products - cosines).abs().mean() < 0.15
    block(x).square().sum().backward()
    for parameter in (block.query, block.key, block.temperature, block.weight):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0


def test_a_configuration_prints_itself() -> None:
    for config in (CONFIG, replace(CONFIG, recipe=TUPLES, accumulate=3, precision="fp32")):
        assert TrainConfig.parse(config.metadata()) == config
    with pytest.raises(ConfigError, match="not the configuration of a training"):
        TrainConfig.parse({"recipe": {"kind": "unknown"}})


def test_the_learning_rate_warms_up_and_falls_to_its_end() -> None:
    optimiser = OptimiserConfig(warmup=10, final=0.1)
    rates = [optimiser.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=1e-2) and max(rates) == rates[9] > 0.95
    assert rates[50] == pytest.approx(0.55) and rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert np.all(np.diff(rates[10:]) < 0)
