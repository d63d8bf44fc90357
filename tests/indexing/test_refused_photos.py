"""Photos with a property that no archive can hold: each is one failure among the photos of a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import TooManyFailuresError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.types import FileState, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Codebook, Index, IndexConfig
from ctxdeploy.indexing.commit import IndexCommitter
from ctxdeploy.indexing.config import FailureLimit
from ctxdeploy.indexing.plan import Kind, make_plan
from ctxdeploy.indexing.report import IndexingReport
from ctxdeploy.runtime import PhotoSource
from ctxdeploy.runtime.sources import PhotoList

DIM = 8
STATE = FileState(size=10, mtime_ns=20)


def photo(name: str, number: int = 0) -> PhotoDescriptors:
    """Return a sound photo."""
    random = np.random.default_rng(number)
    descriptors = LocalDescriptors(
        vectors=random.normal(size=(4, DIM)).astype(np.float32), positions=random.random((4, 2), np.float32)
    )
    return PhotoDescriptors(name=name, descriptors=descriptors, file=STATE)


def described(name: str, **changes: Any) -> PhotoDescriptors:
    """Return a photo of which a field of the descriptors has this value in its second row."""
    whole = photo(name)
    descriptors = whole.descriptors
    for field, value in changes.items():
        array = getattr(descriptors, field).copy()
        array[1] = value
        descriptors = replace(descriptors, **{field: array})
    return replace(whole, descriptors=descriptors)


WRONG = {
    "nan": (described("nan", vectors=np.nan), "NaN, infinity or a number beyond 1e+15"),
    "infinite": (described("infinite", vectors=-np.inf), "NaN, infinity or a number beyond 1e+15"),
    "large": (described("large", vectors=2e15), "NaN, infinity or a number beyond 1e+15"),
    "wide": (
        replace(photo("wide"), descriptors=LocalDescriptors(vectors=np.zeros((1, DIM + 1), np.float32))),
        "dimension 9, but the codebook has 8",
    ),
    "far": (described("far", positions=1e12), "positions must be below 1e9"),
    "nowhere": (described("nowhere", positions=np.nan), "positions must be below 1e9"),
    "unplaced": (
        replace(photo("unplaced"), descriptors=LocalDescriptors(vectors=np.ones((1, DIM), np.float32))),
        "give positions",
    ),
    "flat": (described("flat", scales=0), "scales in 6.2e-05..65504"),
    "huge": (described("huge", scales=1e6), "scales in 6.2e-05..65504"),
    "sized": (replace(photo("sized"), file=FileState(size=1 << 63, mtime_ns=0)), "is not a whole number in"),
    "half \ud800": (photo("half \ud800"), "holds surrogates that do not stand for bytes"),
    "é as bytes \udcc3\udca9": (photo("é as bytes \udcc3\udca9"), "holds surrogates that do not stand for bytes"),
}


@pytest.fixture
def index(tmp_path: Path) -> Any:
    codebook = Codebook(np.random.default_rng(1).normal(size=(16, DIM)).astype(np.float32))
    with Index.create(tmp_path / "a", codebook, config=IndexConfig(geometry=True)) as opened:
        yield opened


def committer(index: Index, limit: FailureLimit | None = None) -> tuple[IndexCommitter, IndexingReport]:
    report = IndexingReport()
    return IndexCommitter(index, report, 3600.0, limit or FailureLimit(), Display(quiet=True)), report


def test_each_is_a_failure_with_its_reason_and_the_others_are_added(index: Index) -> None:
    taking, report = committer(index)
    for number, (name, (wrong, _)) in enumerate(WRONG.items()):
        assert wrong.name == name
        taking.add(photo(f"before {number}", number))
        taking.add(wrong)
    taking.add(photo("last"))
    taking.finish()
    assert (report.indexed, report.replaced, report.failed) == (len(WRONG) + 1, 0, len(WRONG))
    assert report.descriptors == 4 * report.indexed
    assert len(index) == report.indexed and index.verify() == []
    failures = {failure["name"]: failure for failure in Index.open(index.path).failures()}
    assert set(failures) == set(WRONG)
    for name, (_, reason) in WRONG.items():
        assert reason in failures[name]["reason"] and failures[name]["stage"] == "index"
        assert not failures[name]["reason"].startswith(name[:100])
    assert failures["nan"]["mtime_ns"] == 20


def test_too_many_of_them_end_the_run_with_what_was_done_committed(index: Index) -> None:
    taking, report = committer(index, FailureLimit(count=3))
    with pytest.raises(TooManyFailuresError, match="4 of 32 photos failed"):
        for number in range(32):
            taking.add(described(f"{number}", vectors=np.nan) if number % 8 == 0 else photo(f"{number}"))
    taking.commit()
    assert (len(index), report.failed) == (28, 4)
    taking, report = committer(index, FailureLimit(count=0))
    taking.add(described("x", vectors=np.nan))
    with pytest.raises(TooManyFailuresError, match="1 of 1 photos failed"):
        taking.finish()
    assert "x" in {failure["name"] for failure in Index.open(index.path).failures()}


def test_a_new_name_twice_in_one_batch_is_one_photo_that_was_replaced(index: Index) -> None:
    taking, report = committer(index)
    for name in ("a", "b", "a", "c", "b", "a"):
        taking.add(photo(name))
    taking.finish()
    assert (len(index), report.indexed, report.replaced) == (3, 3, 3)
    taking.add(described("d", vectors=np.nan))
    for name in ("c", "d", "d"):
        taking.add(photo(name))
    taking.finish()
    assert (len(index), report.indexed, report.replaced, report.failed) == (4, 4, 5, 1)


@pytest.mark.parametrize("ns", [-43_200 * 10**9, -2, 1 << 63, 10**25])
def test_times_that_no_int64_holds_are_kept_as_the_nearest(index: Index, ns: int) -> None:
    state = FileState(size=1, mtime_ns=ns)
    taking, report = committer(index)
    taking.add(replace(photo("a"), file=state))
    taking.finish()
    assert report.indexed == 1 and index.known()["a"] == state
    assert state.mtime_ns == (0 if ns < 0 else (1 << 63) - 1)
    assert Index.open(index.path).known()["a"] == FileState(size=1, mtime_ns=ns + ns // abs(ns))


def test_a_plan_names_those_whose_names_cannot_be_kept(index: Index) -> None:
    names = sorted(["a", "é", "\udcff", "x" * 300, *WRONG])
    photos = [PhotoSource(name=name, data=b"") for name in names]
    plan = make_plan(index, PhotoList(place="p", photos=photos))
    assert [failure.name for failure in plan.refused] == ["half \ud800", "é as bytes \udcc3\udca9"]
    assert {failure.stage for failure in plan.refused} == {"index"} and plan.count(Kind.NEW) == len(names) - 2
    assert plan.metadata()["refused"] == 2


def test_photos_that_came_from_memory_are_not_gone_from_a_place(index: Index, tmp_path: Path) -> None:
    index.add_many([replace(photo("memory"), file=None), replace(photo("file"), file=FileState(size=1, mtime_ns=1))])
    (tmp_path / "there.jpg").write_bytes(b"x")
    there = PhotoSource(name="there.jpg", path=tmp_path / "there.jpg")
    in_folder = PhotoList(place=str(tmp_path), photos=[there], folder=tmp_path)
    packed = PhotoList(place="p.tar", photos=[there])
    assert make_plan(index, in_folder).gone == make_plan(index, packed).gone == ["file"]
    unknown = PhotoList(place="s3://a/b", photos=[PhotoSource(name="there.jpg", data=b"x")])
    assert make_plan(index, unknown).gone == ["memory", "file"]  # its photos have no states either
