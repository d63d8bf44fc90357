"""Where an archive's photos are: read once for each file that says so."""

import os
from pathlib import Path

import pytest

from ctxdeploy import photo_folder
from ctxdeploy.archive import ORIGIN, store_origin
from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.photo_folder import LatestFolder
from ctxdeploy.runtime import PhotoSource
from ctxdeploy.runtime.sources import PhotoList


def store(archive: Path, folder: Path, seconds: float) -> None:
    """Say that the photos are in a folder, since some time."""
    photos = PhotoList(place=str(folder), photos=[PhotoSource(name="a", data=b"")], folder=folder)
    store_origin(archive, photos, {}, moved=True)
    os.utime(archive / ORIGIN, (seconds, seconds))


def test_it_is_read_again_when_its_file_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads = photo_folder.photo_folder, []
    monkeypatch.setattr(photo_folder, "photo_folder", lambda archive: reads.append(archive) or read(archive))
    latest = LatestFolder(tmp_path)
    assert latest.read() is None
    store(tmp_path, tmp_path / "one", 10**9)
    assert [latest.read() for _ in range(3)] == [tmp_path / "one"] * 3
    assert len(reads) == 2
    store(tmp_path, tmp_path / "two", 10**9)  # another file of the same time
    assert latest.read() == tmp_path / "two" and len(reads) == 3
    (tmp_path / ORIGIN).write_text("{}")
    with pytest.raises(ArchiveError, match="is damaged"):
        latest.read()
    (tmp_path / ORIGIN).unlink()
    assert latest.read() is None


def test_what_was_written_just_now_is_read_each_time(tmp_path: Path) -> None:
    """It may be written again with the same time and size."""
    latest = LatestFolder(tmp_path)
    for folder in ("one", "two"):
        store(tmp_path, tmp_path / folder, 4 * 10**9)  # in the future
        assert latest.read() == tmp_path / folder
    assert latest._held is None
