"""Descriptors that wait on disk for their codebook."""

from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError, StorageError
from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.indexing.descriptor_cache import DescriptorCache, Spooled

KEY = {"model": "m", "preprocessing": "p"}


def _photo(name: str, seed: int = 0, count: int = 5) -> Spooled:
    random = np.random.default_rng(seed)
    descriptors = LocalDescriptors(
        vectors=random.random((count, 8), np.float32),
        attention=random.random(count, np.float32),
        positions=random.random((count, 2), np.float32),
        scales=random.random(count, np.float32),
    )
    return Spooled(name=name, descriptors=descriptors, size=10, mtime_ns=20)


@pytest.mark.parametrize("name", ["a.jpg", "b/ü.jpg", "caf\udce9.jpg", "x\ny"])
def test_what_is_put_comes_back(tmp_path: Path, name: str) -> None:
    spool, photo = DescriptorCache(tmp_path / "s", KEY), _photo(name)
    with spool.locked():
        spool.put(photo)
    found = spool.get(name, 10, 20)
    assert found is not None
    assert (found.name, found.size, found.mtime_ns) == (name, 10, 20)
    for field in ("vectors", "attention", "positions", "scales"):
        np.testing.assert_array_equal(getattr(found.descriptors, field), getattr(photo.descriptors, field))
    assert spool.has(name, 10, 20)
    assert not spool.has(name, 11, 20) and spool.get(name, 10, 21) is None
    assert [photo.name for photo in spool.photos({name, "other"})] == [name]


def test_empty_photo_and_damaged_file(tmp_path: Path) -> None:
    spool = DescriptorCache(tmp_path / "s", KEY)
    with spool.locked():
        spool.put(_photo("empty", count=0))
        spool.put(_photo("cut"))
        for path in (tmp_path / "s").glob("*/*.safetensors"):
            if path.stat().st_size > 400:
                path.write_bytes(path.read_bytes()[:100])
        assert spool.has("empty", 10, 20)
        assert not spool.has("cut", 10, 20)
        assert spool.get("cut", 10, 20) is None
        assert [len(scales) for scales in spool.scales({"empty", "cut"})] == [0]


def test_another_key_sees_nothing_and_removes_nothing(tmp_path: Path) -> None:
    first, second = DescriptorCache(tmp_path / "s", KEY), DescriptorCache(tmp_path / "s", {**KEY, "model": "other"})
    with first.locked():
        first.put(_photo("a"))
    assert not second.has("a", 10, 20)
    second.remove()
    assert first.has("a", 10, 20)
    first.remove()
    assert not (tmp_path / "s").exists()


def test_one_process_fills_it(tmp_path: Path) -> None:
    first, second = DescriptorCache(tmp_path / "s", KEY), DescriptorCache(tmp_path / "s", KEY)
    with first.locked(), pytest.raises(ArchiveError, match="process"), second.locked():
        pass
    assert not (tmp_path / "s").exists()
    with second.locked():
        pass


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="-o"), DescriptorCache(tmp_path / "file" / "s", KEY).locked():
        pass


def test_file_without_facts_is_absent(tmp_path: Path) -> None:
    from safetensors.numpy import save

    spool = DescriptorCache(tmp_path / "s", KEY)
    with spool.locked():
        spool.put(_photo("a"))
        (path,) = (tmp_path / "s").glob("*/*.safetensors")
        path.write_bytes(save({key: np.zeros((0, 2), np.float32) for key in ("vectors", "attention", "scales")}))
        assert not spool.has("a", 10, 20)
        assert spool.get("a", 10, 20) is None
