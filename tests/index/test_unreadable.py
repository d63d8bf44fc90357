"""What cannot be read now is not damaged: many shards need many open files, and repair drops none for want of them."""

import gc
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core import reading
from ctxdeploy.index import Aggregated, Codebook, Index
from ctxdeploy.index.storage import format as storage
from ctxdeploy.index.storage.format import UnreadableError

WORD = Aggregated(words=np.array([1], np.int32), codes=np.zeros((1, 1), np.uint64))


@pytest.fixture
def codebook() -> Codebook:
    return Codebook(np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32))


@pytest.fixture
def few_files() -> Iterator[Callable[[int], None]]:
    """Return a function that sets the soft limit so that this process can open so many files more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(soft: int) -> None:
        gc.collect()
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + soft, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _small_shards(path: Path, codebook: Codebook, count: int) -> None:
    with Index.create(path, codebook, threads=1) as index:
        for i in range(count):
            index.add_aggregated(f"{i}", WORD)
            index.commit()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files")
def test_more_shards_than_the_usual_limit_of_open_files(tmp_path: Path, codebook: Codebook, few_files: Any) -> None:
    _small_shards(tmp_path / "a", codebook, 150)
    few_files(100)
    with Index.open(tmp_path / "a") as index:
        assert len(index) == 150
        assert index.verify() == []


@pytest.mark.parametrize("open_files", range(8))
def test_a_repair_drops_nothing_because_too_many_files_are_open(
    tmp_path: Path, codebook: Codebook, monkeypatch: pytest.MonkeyPatch, open_files: int
) -> None:
    _small_shards(tmp_path / "a", codebook, 5)
    before = (tmp_path / "a" / "CURRENT").read_bytes()
    count = 0
    really = reading.open_regular

    def full(path: Path) -> Any:
        nonlocal count
        count += 1
        if count > open_files:
            raise OSError(24, "Too many open files")
        return really(path)

    for module in (reading, storage):
        monkeypatch.setattr(module, "open_regular", full)
    with pytest.raises(UnreadableError, match="Too many open files"):
        Index.repair(tmp_path / "a")
    monkeypatch.undo()
    assert (tmp_path / "a" / "CURRENT").read_bytes() == before
    assert Index.open(tmp_path / "a").verify() == []
