"""Progress of lists that workers are at: files that a driver looks at, one display, and what limits."""

from pathlib import Path

import pytest

from ctxdeploy.cluster import progress
from ctxdeploy.cluster.lists import NameList
from ctxdeploy.cluster.progress import (
    ClusterProgress,
    WorkerDisplay,
    forget_progress,
    progress_path,
    read_progress,
)
from ctxdeploy.cluster.unit import Receipt
from ctxdeploy.core.part import Part
from ctxdeploy.indexing.report import StageTimes


class Bar:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.done, self.failed, self.limit = list[int](), 0, ""

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        self.done.append(count)
        self.failed += failed

    def limited_by(self, stage: str) -> None:
        self.limit = stage


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write and look each time."""
    monkeypatch.setattr(progress, "_WRITE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 0.0)


def names(number: int) -> NameList:
    return NameList(part=Part(number=number, count=3), names=["a", "b", "c", "d"])


def receipt(stages: StageTimes, *, is_new: bool = True) -> Receipt:
    return Receipt(
        segment=Path(), id="", is_new=is_new, photos=4, images=3, failed=1, bytes=0, seconds=1.0, stages=stages
    )


def test_a_worker_writes_how_far_it_is_and_removes_it(tmp_path: Path) -> None:
    shown = WorkerDisplay(progress_path(tmp_path, 2))
    with shown.progress("compacting", 5) as bar:
        bar.advance(2)
    assert read_progress(tmp_path, 2) is None, "indexing alone is shown"
    with shown.progress("indexing", 5) as bar:
        bar.limited_by("decode")
        bar.advance(2, failed=1)
        found = read_progress(tmp_path, 2)
        assert found is not None and (found.done, found.failed, found.limit) == (2, 1, "decode")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_or_gone_ends_no_work(tmp_path: Path) -> None:
    with WorkerDisplay(progress_path(tmp_path / "gone", 1)).progress("indexing", 5) as bar:
        bar.advance()


def test_all_workers_are_one_bar_that_never_goes_back(tmp_path: Path) -> None:
    bar, stages = Bar(), StageTimes()
    shown = ClusterProgress(bar, tmp_path, stages)
    path = progress_path(tmp_path, 1)
    for text in ('{"done": 2, "failed": 1, "limit": "network"}', '{"done": 1, "failed": 0, "limit": "network"}', "{"):
        path.write_text(text)
        shown.look([names(1), names(2)])
    assert (sum(bar.done), bar.failed, bar.limit) == (2, 1, "network")
    path.write_text('{"done": 900, "failed": 1, "limit": ""}')
    shown.look([names(1)])
    assert sum(bar.done) == 4, "no more than the list has"
    shown.take(1, receipt(StageTimes(decode=9.0, waiting=9.0, network=1.0)))
    assert (sum(bar.done), bar.failed, bar.limit) == (4, 1, "decode")
    shown.take(2, receipt(StageTimes(network=100.0)))
    assert (sum(bar.done), bar.failed, bar.limit) == (8, 2, "network")
    shown.take(3, receipt(StageTimes(network=100.0), is_new=False))
    assert sum(bar.done) == 12 and stages.network == 101.0 and stages.decode == 9.0
    assert all(count >= 0 for count in bar.done)


def test_what_former_runs_left_is_forgotten(tmp_path: Path) -> None:
    progress_path(tmp_path, 7).write_text("{}")
    forget_progress(tmp_path)
    assert not list(tmp_path.iterdir())
