"""Files of photos: within their folder, whatever a name says and whatever links lead to."""

import os
from pathlib import Path

import pytest

from ctxdeploy.core.errors import ConfigError, StorageError
from ctxdeploy.core.types import FileState
from ctxdeploy.service.photo_files import OutsideError, PhotoFiles, check_new_name, is_listed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a photo, beside a secret that links and names lead to."""
    made = tmp_path / "photos"
    (made / "sub").mkdir(parents=True)
    (made / "a.jpg").write_bytes(b"photo a")
    (made / "sub" / "b.jpg").write_bytes(b"photo b")
    (tmp_path / "photos-secret").mkdir()
    (tmp_path / "photos-secret" / "s.jpg").write_bytes(b"secret")
    (made / "out.jpg").symlink_to(tmp_path / "photos-secret" / "s.jpg")
    (made / "outer").symlink_to(tmp_path / "photos-secret")
    (made / "in.jpg").symlink_to("sub/b.jpg")
    (made / "inner").symlink_to("sub")
    (made / "circle.jpg").symlink_to("circle.jpg")
    (made / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(made / "pipe.jpg")
    return made


def read(folder: Path, name: str) -> bytes:
    with PhotoFiles(folder).opened(name) as opened:
        data = os.pread(opened.descriptor, 100, 0)
        assert opened.state.size == len(data)
        return data


def test_what_lies_in_the_folder_is_read(folder: Path) -> None:
    assert read(folder, "a.jpg") == b"photo a"
    assert {read(folder, name) for name in ("sub/b.jpg", "in.jpg", "inner/b.jpg", "./sub//b.jpg")} == {b"photo b"}
    link = folder.with_name("link")
    link.symlink_to(folder)
    assert read(link, "a.jpg") == b"photo a"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "out.jpg",
            "outer/s.jpg",
            "../photos-secret/s.jpg",
            "sub/../../photos-secret/s.jpg",
            "circle.jpg",
            "gone.jpg",
        ),
        *("pipe.jpg", "sub", "", ".", "..", "/etc/passwd", "a.jpg\0", "a.jpg/x", "\ud800", "x" * 5000, "none.jpg"),
    ],
)
def test_nothing_else_is(folder: Path, name: str) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OutsideError):
        read(folder, name)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_link_that_comes_between_is_not_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PhotoFiles._inside

    def slow(self: PhotoFiles, name: str) -> tuple[Path, tuple[str, ...]]:
        found = real(self, name)
        (folder / "sub").rename(folder / "former")
        (folder / "sub").symlink_to(folder.with_name("photos-secret"))
        (folder.with_name("photos-secret") / "b.jpg").write_bytes(b"secret")
        return found

    monkeypatch.setattr(PhotoFiles, "_inside", slow)
    with pytest.raises(OutsideError):
        read(folder, "sub/b.jpg")


def test_a_photo_is_stored_and_removed(folder: Path) -> None:
    files = PhotoFiles(folder)
    state = files.store("new/deep/c.jpg", b"photo c", replace=False)
    found = (folder / "new" / "deep" / "c.jpg").stat()
    assert state == FileState(size=7, mtime_ns=found.st_mtime_ns) and read(folder, "new/deep/c.jpg") == b"photo c"
    with pytest.raises(FileExistsError):
        files.store("new/deep/c.jpg", b"other", replace=False)
    assert read(folder, "new/deep/c.jpg") == b"photo c" and len(list((folder / "new" / "deep").iterdir())) == 1
    newer = files.store("new/deep/c.jpg", b"photo d!", replace=True)
    assert not files.remove("new/deep/c.jpg", state)  # another one than was indexed
    assert not files.remove("new/deep/c.jpg", None) and read(folder, "new/deep/c.jpg") == b"photo d!"
    assert files.remove("new/deep/c.jpg", newer) and not files.exists("new/deep/c.jpg")
    assert not files.remove("new/deep/c.jpg", newer)


LEADING = ("out.jpg", "outer/new.jpg", "inner/new.jpg", "in.jpg", "a.jpg/x.jpg", "sub", "pipe.jpg", "circle.jpg")
OUTSIDE = ("../new.jpg", "../photos-secret/s.jpg", "/tmp/new.jpg", "sub/../new.jpg", "")


def contents(folder: Path) -> list[tuple[Path, bytes]]:
    """All that lies in a folder."""
    return sorted((path, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))


@pytest.mark.parametrize("name", [*LEADING, *OUTSIDE])
@pytest.mark.parametrize("replace", [False, True])
def test_nothing_is_stored_through_links_or_over_other_things(folder: Path, name: str, replace: bool) -> None:
    before = contents(folder.parent)
    secret = (folder.parent / "photos-secret" / "s.jpg").stat()
    with pytest.raises(OutsideError):
        PhotoFiles(folder).store(name, b"new", replace=replace)
    assert not PhotoFiles(folder).remove(name, FileState(size=6, mtime_ns=secret.st_mtime_ns))
    assert contents(folder.parent) == before


def test_a_full_disk_leaves_nothing(folder: Path, full_disk) -> None:
    with full_disk(), pytest.raises(StorageError):
        PhotoFiles(folder).store("sub/new.jpg", b"new", replace=False)
    assert [path.name for path in (folder / "sub").iterdir()] == ["b.jpg"]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "/a.jpg",
            "a//b.jpg",
            "a/",
            "./a.jpg",
            "a/../b.jpg",
            "..",
            "a\0.jpg",
            "a\n.jpg",
            "\x7f.jpg",
            "\ud800.jpg",
        ),
        *("x" * 256, "é" * 128 + ".jpg", "/".join(["a" * 200] * 6)),
    ],
)
def test_names_that_no_new_photo_has(name: str) -> None:
    with pytest.raises(ConfigError):
        check_new_name(name)


@pytest.mark.parametrize(
    "name", ["a.jpg", "a/b/c d.JPG", "e\u0301.png", "é.png", "caf\udce9.jpg", "<i>&'\".png", "...jpg"]
)
def test_names_that_a_new_photo_may_have(name: str) -> None:
    check_new_name(name)


def test_what_a_later_run_of_index_takes() -> None:
    assert all(map(is_listed, ("a.jpg", "A/b.HEIC", "x/y.png")))
    assert not any(map(is_listed, ("a.txt", "a", ".a.jpg", "a/.b/c.jpg", "@eaDir/a.jpg")))
