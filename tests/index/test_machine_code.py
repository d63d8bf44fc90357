"""The machine code that is kept on disk: whatever happens to it, a loop compiles, computes, and is kept again."""

import hashlib
import importlib.util
import itertools
import os
import pickle
import resource
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core import progress
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.kernels import cache, folders, processor

_SOURCE = """
from ctxdeploy.index.kernels import compiled

@compiled
def twice(x):
    return 2 * x
"""
_MODULES = itertools.count()
_OTHERS = 4711


@pytest.fixture
def remarks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a function that returns what a command has said since the last call; its next remarks are said anew."""
    monkeypatch.setattr(progress, "_announced", set())
    monkeypatch.setattr(progress, "_speaking", None)
    progress.Display(quiet=False)

    def said() -> str:
        progress._announced.clear()
        return capsys.readouterr().err

    return said


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return a function that returns the loop as a process finds it that has just begun."""
    source = tmp_path / "source" / "loops.py"
    source.parent.mkdir()
    source.write_text(_SOURCE)
    monkeypatch.setenv("CTXDEPLOY_CACHE", str(tmp_path / "kept"))

    def load() -> Any:
        spec = importlib.util.spec_from_file_location(f"loops_{next(_MODULES)}", source)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.twice

    return load


def test_compiling_is_announced_once_and_not_with_what_is_kept(
    fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_announced", set())
    monkeypatch.setattr(progress, "_speaking", None)
    progress.Display(quiet=False)
    assert fresh()(2) == 4 and fresh()(2) == 4
    loop = fresh()
    assert loop(2.0) == 4.0  # compiled again, and not said again
    assert capsys.readouterr().err.count("compiling the loops of the index") == 1
    monkeypatch.setattr(progress, "_announced", set())
    fresh()(2)
    progress.Display(quiet=True)
    fresh()(2j)
    assert capsys.readouterr() == ("", "")


def kept(tmp_path: Path) -> Path:
    """Return the one file."""
    [file] = (tmp_path / "kept").rglob("*.code")
    return file


def hits(loop: Any) -> int:
    """Return how often a loop was read and not compiled."""
    return sum(loop.stats.cache_hits.values())


@contextmanager
def no_room() -> Iterator[None]:
    """Let no file of this process grow above 64 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # half of it would be left, and no later import survives that
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sealed(payload: bytes) -> bytes:
    """Return a file whose sum is right."""
    return hashlib.sha256(payload).digest() + payload


def damages() -> Iterator[Any]:
    """Yield what becomes of the bytes of a file."""
    yield pytest.param(lambda data: b"", id="empty")
    yield pytest.param(lambda data: data[:100], id="100 bytes")
    yield pytest.param(lambda data: data[:-1], id="last byte")
    yield pytest.param(lambda data: bytes(len(data)), id="zeros")
    yield pytest.param(lambda data: b"<!doctype html>" + data, id="page")
    yield pytest.param(lambda data: sealed(pickle.dumps(7)), id="number")
    yield pytest.param(lambda data: sealed(pickle.dumps((1, 2))), id="numbers")
    yield pytest.param(lambda data: sealed(data), id="no pickle")
    for part in (0.01, 0.3, 0.7):
        yield pytest.param(lambda data, at=part: flipped(data, at), id=f"bit at {part}")


def flipped(data: bytes, part: float) -> bytes:
    """Return the bytes with one bit of them flipped, as disks do it."""
    at = int(len(data) * part)
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


@pytest.mark.parametrize("damage", list(damages()))
def test_damaged(fresh: Callable[[], Any], tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    assert fresh()(21) == 42
    unharmed = fresh()
    assert unharmed(21) == 42 and hits(unharmed) == 1
    file = kept(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 0
    again = fresh()
    assert again(21) == 42 and hits(again) == 1


def test_gone_or_no_file(fresh: Callable[[], Any], tmp_path: Path) -> None:
    assert fresh()(21) == 42
    kept(tmp_path).unlink()
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 0
    file = kept(tmp_path)
    file.unlink()
    file.mkdir()
    (file / "mine").touch()
    assert fresh()(21) == 42
    assert (file / "mine").exists()


def test_no_room(fresh: Callable[[], Any], tmp_path: Path, remarks: Callable[[], str]) -> None:
    lost = cache.TALLY.lost
    with no_room():
        assert fresh()(21) == 42
    assert cache.TALLY.lost == lost + 1
    assert f"machine code cannot be kept in {tmp_path / 'kept'}" in remarks()
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 0
    again = fresh()
    assert again(21) == 42 and hits(again) == 1


def test_no_folder(fresh: Callable[[], Any], tmp_path: Path) -> None:
    loop = fresh()
    (tmp_path / "kept").rename(tmp_path / "moved")
    (tmp_path / "kept").write_text("a file")
    assert loop(21) == 42
    assert fresh()(21) == 42


def test_a_copy_with_other_times_and_places_is_read_and_one_of_another_source_is_not(
    fresh: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source" / "loops.py"
    assert fresh()(21) == 42
    os.utime(source, (1, 1))
    (tmp_path / "kept").rename(tmp_path / "copied")
    monkeypatch.setenv("CTXDEPLOY_CACHE", str(tmp_path / "copied"))
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 1
    source.write_text(_SOURCE.replace("2 * x", "3 * x"))
    assert fresh()(21) == 63


def test_a_change_of_any_loop_of_the_package_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text("a")
    before = folders._sources(tmp_path)
    folders._sources.cache_clear()
    (tmp_path / "b.py").write_text("b")
    assert folders._sources(tmp_path) != before
    folders._sources.cache_clear()


def test_a_folder_that_others_may_write_is_neither_read_nor_written(
    fresh: Callable[[], Any], tmp_path: Path, remarks: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "kept").mkdir()
    assert fresh()(21) == 42
    remarks()
    for mode in (0o777, 0o775, 0o1777):
        (tmp_path / "kept").chmod(mode)
        loop = fresh()
        assert loop(21) == 42 and hits(loop) == int(mode != 0o777)  # kept beside the source now
        assert f"{tmp_path / 'kept'} may be written by other users" in remarks()
    (tmp_path / "kept").chmod(0o755)
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 1
    assert remarks() == ""


@pytest.mark.parametrize("what", ["top", "version", "file"])
def test_what_belongs_to_others_is_not_read(fresh: Callable[[], Any], tmp_path: Path, what: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    assert fresh()(21) == 42
    file = kept(tmp_path)
    os.chown({"top": tmp_path / "kept", "version": file.parent, "file": file}[what], _OTHERS, _OTHERS)
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 0


def test_a_file_that_others_may_write_is_not_read(fresh: Callable[[], Any], tmp_path: Path) -> None:
    assert fresh()(21) == 42
    kept(tmp_path).chmod(0o664)
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 0
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o644


def test_nobody_else_may_write_what_is_made(fresh: Callable[[], Any], tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        assert fresh()(21) == 42
    finally:
        os.umask(umask)
    made = [tmp_path / "kept", *(tmp_path / "kept").rglob("*")]
    assert len(made) == 3
    assert all(path.stat().st_mode & 0o022 == 0 for path in made)
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 1


def test_where_nothing_can_be_written_it_says_how_to_avoid_that(
    fresh: Callable[[], Any], tmp_path: Path, remarks: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders.Place, "is_writable", lambda self: False)
    assert fresh()(21) == 42
    said = remarks()
    assert "in every process anew" in said and "CTXDEPLOY_CACHE=FOLDER ctxdeploy warm-up" in said
    assert not (tmp_path / "kept").exists()


def test_what_was_kept_is_read_where_nothing_can_be_written(
    fresh: Callable[[], Any], remarks: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fresh()(21) == 42
    remarks()
    monkeypatch.setattr(folders.Place, "is_writable", lambda self: False)
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 1
    assert remarks() == ""


def test_code_for_another_processor_is_said_to_be_that(
    fresh: Callable[[], Any], tmp_path: Path, remarks: Callable[[], str]
) -> None:
    assert fresh()(21) == 42
    remarks()
    file = kept(tmp_path)
    name, _, end = file.name.rpartition(f"{processor.target()[1]}-")
    file.rename(file.with_name(f"{name}other-cpu-{end}"))
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 0
    said = remarks()
    assert f"machine code for other-cpu, and this processor is {processor.target()[1]}" in said
    assert "CTXDEPLOY_PROCESSOR=x86-64-v3 ctxdeploy warm-up" in said


def test_code_for_another_processor_than_was_asked_for_is_said_to_be_that(
    fresh: Callable[[], Any], tmp_path: Path, remarks: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fresh()(21) == 42
    remarks()
    file = kept(tmp_path)
    name, _, end = file.name.rpartition(f"{processor.target()[1]}-")
    file.rename(file.with_name(f"{name}other-cpu-{end}"))
    monkeypatch.setenv("CTXDEPLOY_PROCESSOR", "x86-64-v2")
    monkeypatch.setattr(cache, "target", lambda: ("triple", "x86-64-v2", "+sse2"))
    assert fresh()(21) == 42
    said = remarks()
    assert "machine code for other-cpu, and CTXDEPLOY_PROCESSOR asks for x86-64-v2. All of it ahead:" in said


def test_a_process_says_once_that_it_compiles_whatever_the_causes(
    fresh: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first loop is new, that of another type is damaged, a third has no folder: three causes, one remark."""
    assert fresh()(2.0) == 4.0
    kept(tmp_path).write_bytes(b"")
    monkeypatch.setattr(progress, "_announced", set())
    monkeypatch.setattr(progress, "_speaking", None)
    progress.Display(quiet=False)
    loop = fresh()
    assert (loop(21), loop(2.0)) == (42, 4.0)
    monkeypatch.setattr(folders.Place, "is_writable", lambda self: False)
    assert fresh()(2j) == 4j
    said = capsys.readouterr().err
    assert said.count("compiling") == said.count("\n") == 1


def test_a_loop_that_was_not_needed_before_is_told_from_a_new_installation(
    fresh: Callable[[], Any], remarks: Callable[[], str]
) -> None:
    assert fresh()(21) == 42
    assert "for the first time after an installation" in remarks()
    assert fresh()(2.0) == 4.0  # as a second command, which runs another loop
    said = remarks()
    assert "that nothing has used here before" in said and "ctxdeploy warm-up" in said and "installation" not in said


def test_damaged_code_is_said_to_be_that(fresh: Callable[[], Any], tmp_path: Path, remarks: Callable[[], str]) -> None:
    assert fresh()(21) == 42
    remarks()
    kept(tmp_path).write_bytes(b"")
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 0
    said = remarks()
    assert "is damaged, or another user" in said and "this processor is" not in said


def test_former_versions_are_removed_beside_the_source_alone(
    fresh: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CTXDEPLOY_CACHE")
    tops = (tmp_path / "source" / "__pycache__", tmp_path / "kept")
    for top in tops:
        (top / "loops-former").mkdir(parents=True)
        (top / "loops-former" / "a.code").touch()
    assert fresh()(21) == 42
    monkeypatch.setenv("CTXDEPLOY_CACHE", str(tmp_path / "kept"))
    assert fresh()(21) == 42
    assert [(top / "loops-former").exists() for top in tops] == [False, True]
    assert all(len(list(top.glob("loops-*/loops.twice*.code"))) == 1 for top in tops)


@pytest.mark.parametrize(
    ("level", "here", "message"),
    [
        ("x86-64-v9", {}, "x86-64-v9 is unknown: give x86-64-v2, x86-64-v3, x86-64-v4"),
        ("x86-64-v2", {"cx16": True, "sahf": True, "popcnt": True}, "lacks sse, sse2, sse3, ssse3, sse4.1, sse4.2"),
    ],
)
def test_a_processor_that_is_not_this_one_is_refused(
    level: str, here: dict[str, bool], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor.llvm, "get_host_cpu_features", lambda: here)
    with pytest.raises(ConfigError, match=message):
        processor._features(level)


def test_a_process_that_has_compiled_for_another_processor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_features", lambda level: ["sse2"])
    before = processor.numba.config.CPU_NAME
    monkeypatch.setenv("CTXDEPLOY_PROCESSOR", "x86-64-v2")
    with pytest.raises(ConfigError, match="has compiled for another processor"):
        processor.target.__wrapped__()
    assert before == processor.numba.config.CPU_NAME
