"""Validation: the same score as the network's own descriptors ranked and scored by hand."""

import copy
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.cli.main import run as command_line
from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.scoring import average_precision
from ctxdeploy.export.networks import Architecture, NetworkConfig, build
from ctxdeploy.index import Codebook, Index
from ctxdeploy.training import trainer
from ctxdeploy.training.config import ValidationConfig
from ctxdeploy.training.features import initialise, trainable
from ctxdeploy.training.validation import Validation

SMALL = ValidationConfig(image_size=128, scales=(1.0, 0.707), top_k=60, words=32, codebook_photos=6)


@pytest.fixture(scope="module")
def judged(landmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the photos of the landmarks and their ground truth."""
    folder = tmp_path_factory.mktemp("judged")
    scenes: dict[str, list[str]] = {}
    for photo in sorted(landmarks.rglob("*.png")):
        (folder / photo.name).write_bytes(photo.read_bytes())
        scenes.setdefault(photo.parent.name, []).append(photo.name)
    small = {"rocket": scenes.pop("rocket")}
    kinds = {"coins": "still", "coffee": "still"}
    (folder / "gnd.json").write_text(json.dumps({"scenes": scenes, "small_scenes": small, "kinds": kinds}))
    return folder


def test_the_score_is_that_of_the_networks_descriptors(landmarks: Path, judged: Path, tmp_path: Path) -> None:
    config = NetworkConfig(family="how", architecture=Architecture.RESNET18_HALF, skip_layer=1, dim=32)
    network = trainable(build(config, Extraction(scales=SMALL.scales, top_k=SMALL.top_k, dim=32)))
    initialise(network, 0)
    network.eval()
    # Folded as the validation's copy is: it rounds differently, and photos of equal score would change places.
    folded = copy.deepcopy(network)
    folded.fold()

    def describe(path: Path) -> NDArray[np.float32]:
        photo = Image.open(path).convert("RGB")
        photo.thumbnail((128, 128), Image.Resampling.LANCZOS)
        with torch.inference_mode():
            vectors, attention, _, _ = folded(torch.tensor(np.asarray(photo))[None])
        return np.asarray(vectors[0][attention[0] > 0])

    training = sorted(landmarks.rglob("*.png"))
    chosen = [training[i] for i in np.unique(np.linspace(0, len(training) - 1, 6).astype(int))]
    codebook = Codebook.train(np.concatenate([describe(p) for p in chosen]), words=32, seed=0)
    photos = {path.name: describe(path) for path in sorted(judged.glob("*.png"))}
    with Index.create(tmp_path / "a", codebook) as index:
        for name, vectors in photos.items():
            index.add(name, vectors)
    index = Index.open(tmp_path / "a")
    scores: dict[str, list[float]] = {}
    for name, vectors in photos.items():
        scene = name.rsplit("_", 1)[0]
        positives = {other for other in photos if other.rsplit("_", 1)[0] == scene} - {name}
        ranked = [hit.name for hit in index.search(vectors, len(photos)) if hit.name != name]
        ranks = [rank for rank, other in enumerate(ranked) if other in positives]
        scores.setdefault(scene, []).append(average_precision(ranks, len(positives)))
    wanted = np.mean([np.mean(values) for scene, values in scores.items() if scene != "rocket"])
    assert 0.3 < wanted <= 1
    found = Validation(judged, training, SMALL).scores(network)
    assert found["map"] == pytest.approx(wanted, abs=1e-9)
    assert found["still"] == pytest.approx(np.mean([np.mean(scores[s]) for s in ("coins", "coffee")]), abs=1e-9)
    assert found["small"] == pytest.approx(np.mean(scores["rocket"]), abs=1e-9)
    assert list(found) == ["map", "still", "small"]


def test_few_descriptors_make_a_small_codebook(landmarks: Path, judged: Path) -> None:
    config = NetworkConfig(family="how", architecture=Architecture.RESNET18_HALF, skip_layer=1, dim=32)
    network = trainable(build(config, Extraction(scales=SMALL.scales, top_k=SMALL.top_k, dim=32))).eval()
    photo = next(landmarks.rglob("*.png"))
    assert "map" in Validation(judged, (photo,), replace(SMALL, words=4096)).scores(network)


def test_a_folder_without_ground_truth_is_refused(landmarks: Path, tmp_path: Path) -> None:
    (tmp_path / "coins_0.png").write_bytes((landmarks / "coins" / "coins_0.png").read_bytes())
    (tmp_path / "gnd.json").write_text(json.dumps({"scenes": {"coins": ["coins_0.png", "gone.png"]}}))
    with pytest.raises(ConfigError, match=r"no two photos of a scene of gnd.json are in it"):
        Validation(tmp_path, (), SMALL)
    with pytest.raises(ConfigError, match=r"--validate .*: there is no gnd.json in it"):
        Validation(landmarks, (), replace(SMALL, words=8))


def test_scores_are_logged_once_a_step_and_the_best_network_is_kept(
    landmarks: Path, judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(tmp_path / "run"), "--landmarks", str(landmarks), "--steps", "4", "--threads", "1"]
    command += ["--dim", "16", "--set", "pairs=4", "--set", "view_size=64", "--set", "photo_size=96"]
    command += ["--validate", str(judged), "--validate-every", "2", "--json", "--quiet"]
    assert command_line(command) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader((tmp_path / "run" / "validation.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert printed["score"] == pytest.approx(float(rows[-1]["map"]), abs=1e-5) and printed["steps"] == 4
    assert (tmp_path / "run" / "best.pth").exists()
    assert command_line(command) == 0
    assert list(csv.DictReader((tmp_path / "run" / "validation.csv").open())) == rows


def test_scores_of_other_photos_are_not_mixed_with_these(
    landmarks: Path, judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer, run = tmp_path / "fewer", tmp_path / "run"
    shutil.copytree(judged, fewer)
    truth = json.loads((fewer / "gnd.json").read_text())
    name, files = next((name, files) for name, files in truth["scenes"].items() if len(files) > 2)
    truth["scenes"][name] = files[:-1]
    (fewer / "gnd.json").write_text(json.dumps(truth))
    command = ["train", str(run), "--landmarks", str(landmarks), "--steps", "1", "--threads", "1"]
    command += ["--dim", "16", "--set", "pairs=4", "--set", "view_size=64", "--set", "photo_size=96", "--json", "-q"]
    monkeypatch.setattr(Validation, "scores", lambda self, network: dict.fromkeys(self.figures, 0.5))
    assert command_line([*command, "--validate", str(judged)]) == 0
    best = (run / "best.pth").read_bytes()
    assert command_line([*command, "--validate", str(fewer)]) == 2
    assert "validation.csv and what best.pth was chosen by are of other photos" in capsys.readouterr().err
    assert (run / "best.pth").read_bytes() == best and command_line([*command, "--validate", str(judged)]) == 0
    (run / "validation.csv").write_text("step,map\n1,0.5\n")
    assert command_line([*command, "--validate", str(judged)]) == 2


def test_a_validation_that_was_interrupted_is_done_when_the_run_continues(
    landmarks: Path, judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", str(tmp_path), "--landmarks", str(landmarks), "--steps", "3", "--threads", "1", "--quiet"]
    command += ["--dim", "16", "--set", "pairs=4", "--set", "view_size=64", "--set", "photo_size=96"]
    command += ["--validate", str(judged), "--validate-every", "2", "--save-seconds", "0"]

    def interrupted(validation: Validation, network: object) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "LOG_STEPS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "scores", interrupted)
        assert command_line(command) == 130
    monkeypatch.setattr(Validation, "scores", lambda self, network: dict.fromkeys(self.figures, 0.5))
    assert command_line(command) == 0
    assert [row["step"] for row in csv.DictReader((tmp_path / "validation.csv").open())] == ["2", "3"]
