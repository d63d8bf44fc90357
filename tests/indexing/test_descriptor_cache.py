"""Descriptors that wait on disk for their codebook."""

from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError, StorageError
from ctxdeploy.core.types import FileState, LocalDescriptors, PhotoDescriptors
from ctxdeploy.indexing.descriptor_cache import DescriptorCache

STATE = FileState(size=10, mtime_ns=20)
KEY = {"model": "m", "preprocessing": "p"}


def _photo(name: str, seed: int = 0, count: int = 5) -> PhotoDescriptors:
    random = np.random.default_rng(seed)
    descriptors = LocalDescriptors(
        vectors=random.random((count, 8), np.float32),
        attention=random.random(count, np.float32),
        positions=random.random((count, 2), np.float32),
        scales=random.random(count, np.float32),
    )
    return PhotoDescriptors(name=name, descriptors=descriptors, size=(640, 480) if seed == 0 else None, file=STATE)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["a.jpg", "b/ü.jpg", "caf\udce9.jpg", "x\ny", "half a pair \ud800"])
def test_what_is_put_comes_back(tmp_path: Path, name: str, seed: int) -> None:
    cache, photo = DescriptorCache(tmp_path / "s", KEY), _photo(name, seed)
    with cache.locked():
        cache.put(photo)
    found = cache.get(name, STATE)
    assert found is not None
    assert (found.name, found.file, found.size) == (name, STATE, None if seed else (640, 480))
    for field in ("vectors", "attention", "positions", "scales"):
        np.testing.assert_array_equal(getattr(found.descriptors, field), getattr(photo.descriptors, field))
    assert cache.has(name, STATE)
    assert not cache.has(name, FileState(size=11, mtime_ns=20))
    assert cache.get(name, FileState(size=10, mtime_ns=21)) is None and cache.get(name, None) is None
    assert [photo.name for photo in cache.photos({name, "other"})] == [name]


def test_empty_photo_and_damaged_file(tmp_path: Path) -> None:
    cache = DescriptorCache(tmp_path / "s", KEY)
    with cache.locked():
        cache.put(_photo("empty", count=0))
        cache.put(_photo("cut"))
        for path in (tmp_path / "s").glob("*/*.safetensors"):
            if path.stat().st_size > 400:
                path.write_bytes(path.read_bytes()[:100])
        assert cache.has("empty", STATE)
        assert not cache.has("cut", STATE)
        assert cache.get("cut", STATE) is None
        assert [len(scales) for scales in cache.scales({"empty", "cut"})] == [0]


@pytest.mark.parametrize("size", [0, 4, 8, 60, 300, -1])
def test_a_file_that_was_cut_is_absent(tmp_path: Path, size: int) -> None:
    cache = DescriptorCache(tmp_path / "s", KEY)
    with cache.locked():
        cache.put(_photo("cut"))
        [path] = (tmp_path / "s").glob("*/*.safetensors")
        path.write_bytes(path.read_bytes()[:size])
        assert not cache.has("cut", STATE) and cache.get("cut", STATE) is None
        assert not list(cache.scales({"cut"})) and not list(cache.photos({"cut"}))


def test_another_key_sees_nothing_and_removes_nothing(tmp_path: Path) -> None:
    first, second = DescriptorCache(tmp_path / "s", KEY), DescriptorCache(tmp_path / "s", {**KEY, "model": "other"})
    with first.locked():
        first.put(_photo("a"))
    assert not second.has("a", STATE)
    second.remove()
    assert first.has("a", STATE)
    first.remove()
    assert not (tmp_path / "s").exists()


def test_one_process_fills_it(tmp_path: Path) -> None:
    first, second = DescriptorCache(tmp_path / "s", KEY), DescriptorCache(tmp_path / "s", KEY)
    with first.locked(), pytest.raises(ArchiveError, match="process"), second.locked():
        pass
    assert not (tmp_path / "s").exists()
    with second.locked():
        pass


def test_clean_up_that_fails_hides_nothing_and_keeps_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    cache = DescriptorCache(tmp_path / "s", KEY)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError), cache.locked():
        patch.setattr(Path, "glob", failing)
        raise ZeroDivisionError
    with cache.locked():
        pass


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="-o"), DescriptorCache(tmp_path / "file" / "s", KEY).locked():
        pass


def test_file_without_facts_is_absent(tmp_path: Path) -> None:
    from safetensors.numpy import save

    cache = DescriptorCache(tmp_path / "s", KEY)
    with cache.locked():
        cache.put(_photo("a"))
        (path,) = (tmp_path / "s").glob("*/*.safetensors")
        path.write_bytes(save({key: np.zeros((0, 2), np.float32) for key in ("vectors", "attention", "scales")}))
        assert not cache.has("a", STATE)
        assert cache.get("a", STATE) is None
