"""The machine code that is kept on disk: whatever happens to it, a loop compiles, computes, and is kept again."""

import importlib.util
import itertools
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import pytest

from ctxdeploy.core import progress

_SOURCE = """
from ctxdeploy.index.kernels import compiled

@compiled
def twice(x):
    return 2 * x
"""
_MODULES = itertools.count()


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return a function that returns the loop as a process finds it that has just begun."""
    source = tmp_path / "source" / "loops.py"
    source.parent.mkdir()
    source.write_text(_SOURCE)
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))

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


def kept(tmp_path: Path, suffix: str) -> Path:
    """Return the one file of a kind."""
    [file] = (tmp_path / "kept").rglob(f"*{suffix}")
    return file


def hits(loop: Any) -> int:
    """Return how often a loop was read and not compiled."""
    return sum(loop.stats.cache_hits.values())


@contextmanager
def no_room() -> Iterator[None]:
    """Let no file of this process grow above 64 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def damages() -> Iterator[Any]:
    """Yield the end of a file's name, and what becomes of its bytes."""
    for suffix in (".nbi", ".nbc"):
        yield pytest.param(suffix, lambda data: b"", id=f"empty{suffix}")
        yield pytest.param(suffix, lambda data: data[:100], id=f"100 bytes of {suffix}")
        yield pytest.param(suffix, lambda data: data[:-1], id=f"last byte of {suffix}")
        yield pytest.param(suffix, lambda data: bytes(len(data)), id=f"zeros in {suffix}")
        yield pytest.param(suffix, lambda data: b"<!doctype html>" + data, id=f"page in {suffix}")
        yield pytest.param(suffix, lambda data: pickle.dumps(7), id=f"number in {suffix}")
        yield pytest.param(suffix, lambda data: pickle.dumps("0.1") + data, id=f"version in {suffix}")
    for part in (0.3, 0.5, 0.7):
        yield pytest.param(".nbc", lambda data, at=part: flipped(data, at), id=f"bit at {part}")


def flipped(data: bytes, part: float) -> bytes:
    """Return the bytes with one bit of them flipped, as disks do it."""
    at = int(len(data) * part)
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


@pytest.mark.parametrize(("suffix", "damage"), list(damages()))
def test_damaged(fresh: Callable[[], Any], tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]) -> None:
    assert fresh()(21) == 42
    unharmed = fresh()
    assert unharmed(21) == 42 and hits(unharmed) == 1
    file = kept(tmp_path, suffix)
    file.write_bytes(damage(file.read_bytes()))
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 0
    again = fresh()
    assert again(21) == 42 and hits(again) == 1


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_gone_or_no_file(fresh: Callable[[], Any], tmp_path: Path, suffix: str) -> None:
    assert fresh()(21) == 42
    kept(tmp_path, suffix).unlink()
    loop = fresh()
    assert loop(21) == 42 and hits(loop) == 0
    file = kept(tmp_path, suffix)
    file.unlink()
    file.mkdir()
    (file / "mine").touch()
    assert fresh()(21) == 42
    assert (file / "mine").exists()


def test_no_room(fresh: Callable[[], Any], tmp_path: Path) -> None:
    with no_room():
        assert fresh()(21) == 42
    assert not list((tmp_path / "kept").rglob("*.tmp.*"))
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
