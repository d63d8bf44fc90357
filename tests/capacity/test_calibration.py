"""A calibration measures what a plan takes; how much it finds is the machine's affair."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.bench import roofline
from ctxdeploy.capacity.calibration import CalibrationConfig, calibrate, disk_costs
from ctxdeploy.capacity.config import PlanConfig
from ctxdeploy.capacity.costs import MEASURED, MODEL, Costs
from ctxdeploy.capacity.measurement import PHOTO_FACTS, Measurement
from ctxdeploy.capacity.plan import make_plan
from ctxdeploy.capacity.subject import chosen, subject_of_model
from ctxdeploy.core.bundle import open as open_bundle
from ctxdeploy.core.errors import NoPhotosError, StorageError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.models import find_model
from ctxdeploy.runtime import BackendConfig

QUIET = Display(quiet=True)
SMALL = CalibrationConfig(photo_seconds=0.1, small=64, large=512, vectors=300, disk_bytes=1 << 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small photos."""
    path = tmp_path / "photos"
    path.mkdir()
    for name in ("astronaut", "coffee", "rocket"):
        Image.fromarray(sample_photo(name)).resize((200, 150)).save(path / f"{name}.jpg")
    return path


@pytest.mark.slow
def test_everything_that_can_be_measured_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "READ_BYTES", 1 << 22)
    bundle = open_bundle(find_model("ctx-small"), check_hashes=False)
    found = calibrate(bundle, BackendConfig(), folder, tmp_path / "work", QUIET, SMALL)
    assert found.model == bundle.model_id and found.photos >= 8
    assert set(found.global_rates) == {"fp32", "fp16", "int8", "pq"}
    assert set(PHOTO_FACTS) <= set(found.costs) | {"process_memory"}
    stored = {"disk_read", "disk_write", "hash_rate", "bandwidth", "commit_seconds", "shard_seconds", "compact_rate"}
    assert stored | {"name_bytes", "photo_bytes", "count_rate", "load_seconds"} <= set(found.costs)
    assert found.costs["name_bytes"] == pytest.approx(np.mean([len(file.name) for file in folder.iterdir()]))
    assert found.costs["photo_bytes"] == pytest.approx(np.mean([file.stat().st_size for file in folder.iterdir()]))
    assert 0 < found.costs["words_per_photo"] <= found.costs["features_per_photo"] <= bundle.extraction.top_k
    assert found.costs["words_per_photo"] < found.costs["query_words"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    found.write(tmp_path / "m.json")
    subject = chosen(subject_of_model(bundle), PlanConfig(photos=10**6), 0)
    facts = Measurement.read(tmp_path / "m.json").for_model(bundle.model_id, "pq", subject.words)
    costs = Costs().updated(subject.usual, MODEL).updated(facts, MEASURED)
    plan = make_plan(subject, costs, PlanConfig(photos=10**6), processors=2, memory=1 << 34)
    assert plan.extraction.seconds > 0 and costs.search.global_rate == found.global_rates["pq"]


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bundle = open_bundle(find_model("ctx-small"), check_hashes=False)
    with pytest.raises(NoPhotosError):
        calibrate(bundle, BackendConfig(), tmp_path / "empty", tmp_path / "work", QUIET, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    assert set(disk_costs(tmp_path, 100_000)) == {"disk_write", "disk_read"}
    with pytest.raises(StorageError, match="choose another folder"):
        disk_costs(tmp_path / "gone", 100_000)
