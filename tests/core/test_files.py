"""Durable files: whole or not at all, whatever fails, and also after SIGKILL between any two calls."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core import files
from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.files import (
    TEMPORARY,
    copy_file,
    file_sha256,
    make_folder,
    move,
    new_folder,
    remove_folder,
    remove_leftovers,
    replacing,
    working_folder,
    write_file,
    write_json,
    write_text,
)

NEW = b"new" * 1000


def _folder(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "content").write_bytes(NEW)


def _replacing(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(NEW)


def _copy(path: Path) -> None:
    source = path.with_name("source")
    source.write_bytes(NEW)
    try:
        copy_file(source, path)
    finally:
        source.unlink()


VERBS: dict[str, Callable[[Path], Any]] = {
    "write_file": lambda path: write_file(path, [NEW[:1000], NEW[1000:]]),
    "write_text": lambda path: write_text(path, NEW.decode()),
    "replacing": _replacing,
    "copy_file": _copy,
    "new_folder": _folder,
}


def _content(path: Path) -> bytes | None:
    found = path / "sub" / "content" if path.is_dir() else path
    return found.read_bytes() if found.exists() else None


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_written_is_there_whole_and_alone(tmp_path: Path, verb: str) -> None:
    VERBS[verb](tmp_path / "file")
    assert _content(tmp_path / "file") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("verb", VERBS)
def test_what_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, call: str, code: int
) -> None:
    path = tmp_path / "file"
    old = None if verb == "new_folder" else b"old"
    if old is not None:
        path.write_bytes(old)

    def failing(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(StorageError, match=f"file cannot be written: {os.strerror(code)}") as caught:
        VERBS[verb](path)
    assert caught.value.exit_code == 18
    assert _content(path) == old
    assert [left.name for left in tmp_path.iterdir()] == ([] if old is None else ["file"])


def test_a_sync_of_the_folder_that_fails_is_an_error_but_the_new_content_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync = tmp_path / "file", os.fsync
    path.write_bytes(b"old")

    def failing(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match="cannot be written: Input/output error"):
        write_file(path, [NEW])
    assert path.read_bytes() == NEW and [left.name for left in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF])
def test_a_file_system_that_cannot_sync_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    sync = os.fsync

    def failing(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            raise OSError(code, os.strerror(code))
        sync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    make_folder(tmp_path / "a" / "b")
    write_file(tmp_path / "a" / "b" / "file", [NEW])
    _folder(tmp_path / "folder")
    assert _content(tmp_path / "a" / "b" / "file") == _content(tmp_path / "folder") == NEW


_FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_files import VERBS
from ctxdeploy.core.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.dont_write_bytecode = True  # half of it would be left, and no later import survives that
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
try:
    VERBS[sys.argv[1]](Path(sys.argv[2]))
except (StorageError, OSError) as error:
    print(error)
"""


@pytest.mark.parametrize("verb", ["write_file", "write_text", "replacing", "new_folder"])
def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path, verb: str) -> None:
    path = tmp_path / "file"
    if verb != "new_folder":
        path.write_bytes(b"old")
    code = _FULL.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code, verb, str(path)], capture_output=True, text=True, check=True)
    assert "file cannot be written: File too large" in done.stdout
    assert _content(path) == (None if verb == "new_folder" else b"old")
    assert [left.name for left in tmp_path.iterdir()] == ([] if verb == "new_folder" else ["file"])


def _killed_at(point: int, calls: tuple[str, ...], act: Callable[[], Any]) -> bool:
    """Run in a child that is killed at its ``point``-th call of the system's functions; return whether it was."""
    child = os.fork()
    if child == 0:
        done = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal done
                done += 1
                if done == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        for name in calls:
            setattr(os, name, counted(getattr(os, name)))
        act()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("verb", VERBS)
def test_kill_9_at_any_call_leaves_the_old_content_or_the_new(tmp_path: Path, verb: str) -> None:
    point = 0
    found = set()
    while True:
        point += 1
        place = tmp_path / str(point)
        place.mkdir()
        path = place / "file"
        if verb != "new_folder":
            path.write_bytes(b"old")
        killed = _killed_at(point, ("open", "write", "fsync", "replace", "link"), lambda path=path: VERBS[verb](path))  # type: ignore[misc]
        found.add(_content(path))
        assert found <= {None if verb == "new_folder" else b"old", NEW}
        remove_leftovers(place)
        assert {left.name for left in place.iterdir()} <= {"file", "source"}
        if not killed:
            break
    assert len(found) == 2 and point > 3


def test_exclusive_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, [b"first"], exclusive=True)
    with pytest.raises(FileExistsError):
        write_file(path, [b"second"], exclusive=True)
    assert path.read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_exclusive_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def failing(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", failing)
    path, rename = tmp_path / "file", os.replace
    write_file(path, [b"first"], exclusive=True)
    with pytest.raises(FileExistsError):
        write_file(path, [b"second"], exclusive=True)
    assert path.read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(StorageError, match="other cannot be written"):
        write_file(tmp_path / "other", [b"third"], exclusive=True)
    monkeypatch.setattr(os, "replace", rename)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_at_all_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def failing(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", failing)
    write_file(tmp_path / "file", [NEW])
    assert (tmp_path / "file").read_bytes() == NEW


def test_the_file_that_failed_is_named_beside_the_one_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"/file cannot be written: .*/absent: No such file or directory; say it"):
        copy_file(tmp_path / "absent", tmp_path / "file", advice="say it")
    with pytest.raises(StorageError, match=r"/gone/file cannot be written: No such file or directory$"):
        write_file(tmp_path / "gone" / "file", [NEW])
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_block_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "folder") as folder:
        (folder / "file").write_bytes(NEW)
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(NEW)
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_text_goes_through_a_link_to_the_file_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("old", encoding="utf-8")
    (tmp_path / "link.html").symlink_to("page.html")
    write_text(tmp_path / "link.html", "é")
    assert (tmp_path / "link.html").is_symlink() and (tmp_path / "page.html").read_bytes() == "é".encode()


def test_a_device_and_a_pipe_are_written_and_not_replaced(tmp_path: Path) -> None:
    write_text(Path("/dev/null"), "page")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(StorageError, match="/dev/full cannot be written: No space left on device; choose another"):
        write_text(Path("/dev/full"), "page", advice="choose another --html")
    done = subprocess.run(
        [sys.executable, "-c", "from ctxdeploy.core.files import *; write_text(Path('/dev/stdout'), 'page')"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"page"


def test_long_names_and_names_that_are_not_utf_8(tmp_path: Path) -> None:
    for name in ("a" * 255, "ü" * 127, os.fsdecode(b"\xff" * 200)):
        write_file(tmp_path / name, [NEW])
        assert (tmp_path / name).read_bytes() == NEW


def test_json_is_refused_where_it_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "ä": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"ä": float("nan")})
    assert (tmp_path / "a.json").stat().st_size == 14


def test_a_folder_is_moved_only_to_a_free_name_and_removed_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        _folder(tmp_path / name)
    with pytest.raises(StorageError, match="b cannot be written: Directory not empty"):
        move(tmp_path / "a", tmp_path / "b")
    assert _content(tmp_path / "a") == _content(tmp_path / "b") == NEW
    remove_folder(tmp_path / "a")
    remove_folder(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    # What an interrupted removal leaves has not the old name any more.
    monkeypatch.setattr(shutil, "rmtree", lambda *arguments, **named: None)
    remove_folder(tmp_path / "b")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(TEMPORARY)
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_working_folder_makes_its_parents_and_goes(tmp_path: Path) -> None:
    with working_folder(tmp_path / "a" / "b" / "folder") as folder:
        assert folder.parent == tmp_path / "a" / "b" and not list(folder.iterdir())
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match=r"x cannot be written: Not a directory"),
        working_folder(tmp_path / "file/x"),
    ):
        pass


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file").startswith("ba7816bf")


def test_a_file_is_written_beside_another_and_moved_there(tmp_path: Path) -> None:
    target = tmp_path / "photo.jpg"
    first = files.write_beside(target, [b"one"])
    assert first.name.startswith(files.TEMPORARY) and first.parent == tmp_path and not target.exists()
    files.move(first, target, exclusive=True)
    second = files.write_beside(target, [b"two"])
    with pytest.raises(FileExistsError):
        files.move(second, target, exclusive=True)
    assert target.read_bytes() == b"one" and second.exists()
    files.move(second, target)
    assert target.read_bytes() == b"two" and list(tmp_path.iterdir()) == [target]
    with pytest.raises(StorageError, match="cannot be written"):
        files.write_beside(tmp_path / "no" / "photo.jpg", [b"three"])
