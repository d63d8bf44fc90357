"""The recipe ``transfer``: what it draws, freezes and remembers, and that an interruption leaves no trace."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ctxdeploy.cli.main import run as command_line
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.export.checkpoint import load_checkpoint
from ctxdeploy.export.networks.config import Architecture, NetworkConfig, Refinement, Smoothing
from ctxdeploy.export.networks.efficientnet import EfficientNetTrunk
from ctxdeploy.export.networks.lite import Lite
from ctxdeploy.training import losses
from ctxdeploy.training.config import OptimiserConfig, PairsConfig, TrainConfig, TransferConfig
from ctxdeploy.training.memory import Kernels, kernels_of, match_with, matched_pairs
from ctxdeploy.training.night import darken
from ctxdeploy.training.photos import PhotoStore
from ctxdeploy.training.run import RunConfig, Start, Trained, train
from ctxdeploy.training.sets import PhotoSet, joined, read_set
from ctxdeploy.training.sets.weights import read_weights, weighted
from ctxdeploy.training.state import save_state
from ctxdeploy.training.transfer_sampling import TransferSampler

LITE = NetworkConfig(family="how", architecture=Architecture.EFFICIENTNET_LITE0, skip_layer=1, dim=16, block=6)
RECIPE = TransferConfig(
    pairs=4, view_size=64, final_size=96, final_from=0.5, memory=2, positions=9, memory_positions=4, frozen_blocks=2
)
CONFIG = TrainConfig(recipe=RECIPE, optimiser=OptimiserConfig(warmup=2), steps=6, photo_size=160)


def run(folder: Path, landmarks: Path, config: TrainConfig = CONFIG, network: NetworkConfig = LITE) -> Trained:
    photos = read_set("landmarks", landmarks)
    return train(
        folder, photos, Start(network=network), config, RunConfig(threads=1, save_seconds=0), Display(quiet=True)
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path).state)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [pytest.param(1, marks=pytest.mark.long), 4])
def test_a_run_that_was_interrupted_gives_the_weights_of_one_that_was_not(
    landmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    from ctxdeploy.training import trainer

    monkeypatch.setattr(trainer, "LOG_STEPS", 1)
    wanted = weights(run(tmp_path / "whole", landmarks).model)

    def save(path: Path, content: dict[str, object]) -> None:
        save_state(path, content)
        if content["step"] == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_state", save)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", landmarks)
    found = weights(run(tmp_path / "broken", landmarks).model)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_front_of_the_trunk_and_all_statistics_stay_and_the_rest_is_trained(
    landmarks: Path, tmp_path: Path
) -> None:
    first = weights(run(tmp_path / "one", landmarks, replace(CONFIG, steps=1)).model)
    last = weights(run(tmp_path / "six", landmarks).model)
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    front = ("backbone.stem.", "backbone.blocks.0.", "backbone.blocks.1.")
    assert not [name for name in moved if name.startswith(front) or "running" in name]
    rest = {name for name in first if not name.startswith(front) and name.endswith((".weight", ".bias"))}
    assert moved == rest
    assert {"dim_reduction.weight", "dim_reduction.bias"} < rest


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_a_trunk_with_refinements_on_it(landmarks: Path, tmp_path: Path) -> None:
    lite = Lite(width=1.0, depth=1.0)
    trunk = EfficientNetTrunk(lite, 7)
    torch.save(as_the_package_names_them(trunk.state_dict()), tmp_path / "w.pth")
    network = replace(LITE, family="ctx", smoothing=Smoothing(kind="gaussian"), refinement=Refinement(blocks=1))
    start = Start(network=network, trunk=tmp_path / "w.pth")
    assert start.identity() != replace(start, trunk=None).identity()
    made, _ = start.make(0)
    found = made.backbone.state_dict()
    assert all(torch.equal(tensor, trunk.state_dict()[name]) for name, tensor in found.items())
    photos = read_set("landmarks", landmarks)
    still = replace(CONFIG, steps=2)
    trained = train(tmp_path / "run", photos, start, still, RunConfig(threads=1), Display(quiet=True))
    after = weights(trained.model)
    # Refinements are new and learn at ten times the trunk's rate.
    assert not torch.equal(after["smoothing.predict.weight"], made.state_dict()["smoothing.predict.weight"])
    assert torch.equal(after["backbone.stem.conv.weight"], found["stem.conv.weight"])


def as_the_package_names_them(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("stem.conv", "_conv_stem").replace("stem.bn", "_bn0").replace("blocks.", "_blocks.")
        for part, (conv, norm) in {
            "expand": ("_expand_conv", "_bn0"),
            "depthwise": ("_depthwise_conv", "_bn1"),
            "project": ("_project_conv", "_bn2"),
        }.items():
            name = name.replace(f"{part}.conv", conv).replace(f"{part}.bn", norm)
        renamed[name] = tensor
    return renamed


def test_frozen_blocks_of_another_trunk_are_refused(landmarks: Path, tmp_path: Path) -> None:
    resnet = NetworkConfig(family="how", architecture=Architecture.RESNET18_HALF, skip_layer=1, dim=16)
    with pytest.raises(ConfigError, match=r"train others with --set frozen_blocks=0"):
        run(tmp_path, landmarks, network=resnet)


@pytest.mark.slow
def test_the_whitening_begins_as_a_pca(landmarks: Path, tmp_path: Path) -> None:
    still = replace(CONFIG, steps=1, optimiser=OptimiserConfig(learning_rate=1e-12, warmup=0))
    network = load_checkpoint(run(tmp_path, landmarks, still).model).network()
    assert float(network.dim_reduction.weight.detach().abs().max()) > 0  # type: ignore[operator, union-attr]
    photos = PhotoStore(read_set("landmarks", landmarks).paths, 160)
    images = torch.stack([torch.tensor(photos.load(i))[:96, :96] for i in range(len(photos))])  # type: ignore[index]
    with torch.inference_mode():
        features = network.smoothing(network.backbone(network.normalise(images)))  # type: ignore[operator]
        vectors = network.dim_reduction(features).permute(0, 2, 3, 1).flatten(0, 2)
    covariance = torch.cov(vectors.T)
    # Of other crops than those that it was learned from: near the identity.
    assert float(covariance.diagonal().median()) == pytest.approx(1, abs=0.6)
    assert float((covariance - covariance.diagonal().diag()).abs().mean()) < 0.25


def kernels(rng: torch.Generator, count: int, first: int = 0) -> Kernels:
    vectors = functional.normalize(torch.randn(count, 6, 8, generator=rng), dim=2)
    attention = torch.rand(count, 6, generator=rng).sort(dim=1, descending=True).values
    return kernels_of(vectors, attention / attention.sum(1, keepdim=True), 4, torch.arange(first, first + count))


def test_kernels_with_the_memory_are_the_match_kernels_of_the_batch() -> None:
    rng = torch.Generator().manual_seed(0)
    one, other = kernels(rng, 3), kernels(rng, 5, 3)
    wanted = losses.match_kernel(one.vectors, one.weights, other.vectors, other.weights)
    torch.testing.assert_close(match_with(one, other), wanted)
    torch.testing.assert_close(matched_pairs(one, other.rows(slice(3))), wanted.diagonal())
    both = Kernels.joined([one, other])
    assert both.identity.tolist() == list(range(8))
    torch.testing.assert_close(both.rows(slice(3, None)).vectors, other.vectors)


def test_a_share_of_views_is_dark_and_the_others_are_untouched() -> None:
    views = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = views.clone()
    dark = darken(views, np.random.default_rng(0), 0.25)
    changed = (dark != views).flatten(1).any(dim=1)
    assert torch.equal(views, kept) and dark.min() >= 0 and dark.max() <= 1
    assert 30 < int(changed.sum()) < 70
    assert float(dark[changed].mean()) < 0.75 * float(views[changed].mean())
    assert darken(views, np.random.default_rng(0), 0.0) is views


def unequal(landmarks: Path) -> PhotoSet:
    """Return a set of two landmarks of nine and one photos for one of the other four, and two photos of none."""
    photos = read_set("landmarks", landmarks)
    classes = np.array([0] * 9 + [1] * 4 + [-1] * (len(photos) - 13))
    return PhotoSet(name="unequal", paths=photos.paths, classes=classes)


def test_landmarks_are_drawn_by_the_root_of_their_photos_times_their_factor(landmarks: Path) -> None:
    photos = unequal(landmarks)
    store = PhotoStore(photos.paths, 64)
    for factors, wanted in ((None, 3 / 5), (np.where(photos.classes == 0, 2.0, 1.0), 3 / 4)):
        sampler = TransferSampler(replace(photos, factors=factors), store, replace(RECIPE, pairs=2), 16, 0, size=64)
        rng = np.random.default_rng(0)
        couples = np.concatenate([sampler._drawn(rng)[1] for _ in range(1500)])
        assert (photos.classes[couples[:, 0]] == photos.classes[couples[:, 1]]).all()
        assert (couples[:, 0] != couples[:, 1]).all()
        assert float((photos.classes[couples[:, 0]] == 0).mean()) == pytest.approx(wanted, abs=0.04)


def test_a_batch_has_all_its_pairs_and_a_share_of_photos_without_landmark(landmarks: Path) -> None:
    photos = unequal(landmarks)
    recipe = replace(RECIPE, pairs=6, unlabelled=0.5)
    sampler = TransferSampler(photos, PhotoStore(photos.paths, 64), recipe, 16, 0, size=80)
    batch = sampler.batch(0)
    # Two landmarks give two pairs of photos at most, and two photos of which two views are taken.
    assert batch.views.shape[1:] == (3, 80, 80) and len(batch.views) == 2 * len(batch.identity)
    assert torch.equal(batch.views, sampler.batch(0).views)
    assert not torch.equal(batch.views, sampler.batch(1).views)
    alone = [int((sampler.batch(n).identity < 0).sum()) for n in range(20)]
    assert 0 < np.mean(alone) < 4


def test_weights_name_folders_and_zero_leaves_out(landmarks: Path, tmp_path: Path) -> None:
    table = tmp_path / "weights.csv"
    table.write_text("coffee,0.4\ncoins,0\n\n", encoding="utf-8")
    photos = weighted(joined([read_set("landmarks", landmarks)]), read_weights(table))
    assert {path.parent.name for path in photos.paths} == {path.name for path in landmarks.iterdir()} - {"coins"}
    assert photos.factors is not None
    assert {(p.parent.name, f) for p, f in zip(photos.paths, photos.factors, strict=True) if f != 1} == {
        ("coffee", 0.4)
    }
    assert photos.metadata()["sha256"] != replace(photos, factors=None).metadata()["sha256"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("coffee", "line 1: 'coffee' is not a landmark and a factor"),
        ("coffee,1\ncoffee,2", "line 2: 'coffee' is there twice"),
        ("coffee,-1", "is not a landmark and a factor"),
        ("coffee,nan", "is not a landmark and a factor"),
        ("tea,1", "'tea' is not the folder of a landmark"),
    ],
)
def test_mistakes_in_weights_are_named(landmarks: Path, tmp_path: Path, text: str, reason: str) -> None:
    table = tmp_path / "weights.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason):
        weighted(read_set("landmarks", landmarks), read_weights(table))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["--init", "efficientnet-lite0", "--architecture", "resnet18"],
            "--architecture resnet18 is for a network from",
        ),
        (["--block", "9"], "--block 9 is for --init efficientnet-lite0 and its like"),
        (["--init", "efficientnet-lite0", "--set", "night=2"], "--set night=2 is outside 0..1"),
        (["--init", "efficientnet-lite0", "--set", "slant=0.5"], "--set slant=0.5 is outside 1..16"),
        (["--init", "efficientnet-lite0", "--block", "3"], "block 3 of efficientnet-lite0: with skip_layer 1"),
    ],
)
def test_mistakes_are_one_line(
    landmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert command_line(["train", str(tmp_path / "run"), "--landmarks", str(landmarks), *arguments]) == 2
    printed = capsys.readouterr().err
    assert reason in printed and printed.count("\n") == 1


def test_a_configuration_prints_itself_and_is_no_other() -> None:
    assert TrainConfig.parse(CONFIG.metadata()) == CONFIG
    assert isinstance(CONFIG.recipe, PairsConfig) and CONFIG.metadata()["recipe"]["kind"] == "transfer"
