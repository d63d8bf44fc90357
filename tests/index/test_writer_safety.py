"""Writers: damage is not merged away, nothing is there twice after an interrupt, a fork commits nothing."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index import Aggregated, Codebook, Index, IndexConfig
from ctxdeploy.index.maintenance import snapshots
from ctxdeploy.index.storage import names
from ctxdeploy.index.storage.format import map_file
from ctxdeploy.index.storage.names import NameIndex

WORD = Aggregated(words=np.array([1], np.int32), codes=np.zeros((1, 1), np.uint64))


@pytest.fixture
def codebook() -> Codebook:
    return Codebook(np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32))


def _small_shards(path: Path, codebook: Codebook, count: int) -> None:
    with Index.create(path, codebook, threads=1) as index:
        for i in range(count):
            index.add_aggregated(f"{i}", WORD)
            index.commit()


def test_compaction_does_not_hide_a_flipped_bit(tmp_path: Path, codebook: Codebook) -> None:
    _small_shards(tmp_path / "a", codebook, 3)
    shard = min((tmp_path / "a" / "shards").iterdir())
    codes = map_file(shard)[0]["codes"]
    data = bytearray(shard.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    assert data[header : header + codes.nbytes] == codes.tobytes()
    data[header] ^= 1
    shard.write_bytes(data)
    with Index.open(tmp_path / "a", writable=True) as index, pytest.raises(ArchiveError, match="ctxdeploy repair"):
        index.compact()
    assert len(Index.open(tmp_path / "a").verify()) >= 1
    assert len(Index.repair(tmp_path / "a").lost) == 1


def test_a_writer_does_not_take_over_damaged_tombstones(tmp_path: Path, codebook: Codebook) -> None:
    with Index.create(tmp_path / "a", codebook) as index:
        for i in range(5):
            index.add_aggregated(f"{i}", WORD)
        index.commit()
        index.remove("2")
    (file,) = (tmp_path / "a" / "tombstones").iterdir()
    data = bytearray(file.read_bytes())
    data[-2] = 3
    file.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"tombstones/.*sha256"):
        Index.open(tmp_path / "a", writable=True)


def test_compaction_after_all_photos_of_a_merge_were_removed(tmp_path: Path, codebook: Codebook) -> None:
    _small_shards(tmp_path / "other", codebook, 3)
    with Index.create(tmp_path / "a", codebook) as index:
        index.merge(tmp_path / "other")
        assert index.remove(["0", "1", "2"]) == 3
        assert index.compact() == 0
        index.merge(tmp_path / "other")
        assert len(index) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_commits_nothing(tmp_path: Path, codebook: Codebook) -> None:
    index = Index.create(tmp_path / "a", codebook, threads=1)
    index.add_aggregated("parent", WORD)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            index.add_aggregated("child", WORD)
            index.commit()
        except ArchiveError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(path.name for path in (tmp_path / "a").glob("manifest-*")) == ["manifest-000000.json"]
    index.commit()
    assert list(index.names()) == ["parent"]
    index.close()


@pytest.mark.slow
@pytest.mark.parametrize("stride", [11, pytest.param(3, marks=pytest.mark.long)])
def test_ctrl_c_at_any_line_of_a_merge_or_removal_leaves_every_name_once(
    tmp_path: Path, codebook: Codebook, stride: int
) -> None:
    """Tried at one of so many of its lines."""
    _small_shards(tmp_path / "other", codebook, 3)
    number = 0
    while True:
        number += stride
        index = Index.create(tmp_path / str(number), codebook)
        index.add_aggregated("mine", WORD)
        index.commit()
        if not _interrupted(lambda: _merge_and_remove(index, tmp_path / "other"), number):  # noqa: B023
            break
        for name in ("0", "1", "2", "mine"):
            index.add_aggregated(name, WORD, replace=True)
        index.commit()
        assert sorted(index.names()) == ["0", "1", "2", "mine"]
        assert len(index) == 4
        assert index.verify() == []
        index.close()
    assert number > 60


def _merge_and_remove(index: Index, other: Path) -> None:
    index.merge(other, conflicts="replace")
    index.remove(["0", "1"])
    index.compact()
    index.commit()


def _interrupted(work: Callable[[], None], line: int) -> bool:
    seen = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal seen
        if Path(frame.f_code.co_filename).name not in ("writer.py", "merge.py", "compact.py", "index.py", "shard.py"):
            return None
        seen += event == "line"
        if seen == line:
            seen += 1
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_the_geometry_of_a_photo_that_was_just_added(tmp_path: Path, codebook: Codebook) -> None:
    with Index.create(tmp_path / "a", codebook, config=IndexConfig(geometry="descriptors")) as index:
        for name in ("a", "b"):
            index.add(name, np.ones((3, 8), np.float32), positions=np.zeros((3, 2)))
            found = index.features(name)
            assert found is not None
            assert len(found) == 3


class _Name(str):
    """A name that counts how often it is looked up."""

    hashed = 0

    def __hash__(self) -> int:
        _Name.hashed += 1
        return super().__hash__()


def test_removing_many_photos_that_are_not_committed_is_no_square_of_work(tmp_path: Path, codebook: Codebook) -> None:
    with Index.create(tmp_path / "a", codebook) as index:
        for i in range(20_000):
            index.add_aggregated(f"{i}", WORD)
        _Name.hashed = 0
        assert index.remove(_Name(i) for i in range(10_000)) == 10_000
        assert _Name.hashed < 20 * 10_000  # 50 million with a set made for each
        assert len(index) == 10_000


def test_names_are_found_after_many_commits(
    tmp_path: Path, codebook: Codebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_RECENT_SHARDS", 3)
    tables = 0
    really = NameIndex.__init__

    def counted(self: NameIndex, *arguments: Any) -> None:
        nonlocal tables
        tables += 1
        really(self, *arguments)

    monkeypatch.setattr(NameIndex, "__init__", counted)
    with Index.create(tmp_path / "a", codebook) as index:
        for i in range(20):
            index.add_aggregated(f"{i}", WORD)
            index.commit()
            assert all((f"{j}" in index) == (j <= i) for j in range(21))
    assert 4 <= tables <= 8


def test_snapshots_that_others_remove_meanwhile_stop_nothing(
    tmp_path: Path, codebook: Codebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    _small_shards(path, codebook, 2)
    with Index.open(path) as index:
        index.snapshot("gone")
        index.snapshot("kept")
    really = snapshots.snapshot_names

    def stale(folder: Path) -> list[str]:
        listed = really(folder)
        (folder / "snapshots" / "gone.json").unlink(missing_ok=True)
        return listed

    monkeypatch.setattr(snapshots, "snapshot_names", stale)
    with Index.open(path, writable=True) as index:
        index.add_aggregated("new", WORD)
        index.commit()
        index.collect_garbage()
        assert [info.name for info in index.snapshots()] == ["kept"]
    assert len(Index.open(path, at="kept")) == 2
