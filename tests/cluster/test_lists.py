"""Lists of names: cut from all names, whatever of them is to be done, and made as they are asked for."""

import tracemalloc
from itertools import islice
from pathlib import Path

from ctxdeploy.cluster.lists import cut_lists, name_lists, todo_count
from ctxdeploy.core.part import Part
from ctxdeploy.indexing.plan import Kind, make_plan
from ctxdeploy.runtime import PhotoFailure, PhotoSource
from ctxdeploy.runtime.sources import FolderPhotos, NameTable, PhotoList


def place(names: list[str], *, unlisted: int = 0) -> PhotoList:
    failures = [PhotoFailure(name=f"{i}/", reason="no", stage="list", file=None) for i in range(unlisted)]
    photos = [PhotoSource(name=name, data=b"") for name in sorted(names)]
    return PhotoList(place="/nowhere", photos=photos, unreadable=tuple(failures))


def test_a_list_is_the_same_one_whatever_of_it_is_to_be_done() -> None:
    names = [f"{number:03d}.jpg" for number in range(10)]
    photos = place(names)
    plan = make_plan(None, photos)
    assert todo_count(plan) == 10
    whole = list(name_lists(photos, plan, 4))
    assert [(one.part, list(one.names)) for one in whole] == [
        (Part(number=1, count=3), names[:4]),
        (Part(number=2, count=3), names[4:8]),
        (Part(number=3, count=3), names[8:]),
    ]
    for row in (*range(4, 8), 9):
        plan.kinds[row] = Kind.UNCHANGED
    assert [(one.part.number, list(one.names)) for one in name_lists(photos, plan, 4)] == [
        (1, names[:4]),
        (3, names[8:9]),
    ]
    assert [list(one.names) for one in cut_lists(names, 6)] == [names[:6], names[6:]]


def test_what_could_not_be_listed_and_names_that_no_archive_holds_are_of_a_list() -> None:
    long = "\ud800"
    photos = place(["a", "b", long], unlisted=2)
    plan = make_plan(None, photos)
    assert [failure.name for failure in plan.refused] == [long] and todo_count(plan) == 3
    first, second = name_lists(photos, plan, 2)
    assert (list(first.names), len(first.unlisted)) == (["a", "b"], 2)
    assert (list(second.names), second.unlisted) == ([long], ())
    plan.kinds[:] = bytes(3)
    (first,) = name_lists(photos, plan, 2)
    assert not first.names and len(first.unlisted) == 2


def test_names_of_a_folder_are_held_in_little_memory() -> None:
    """Of a hundred million: a byte of the plan, and what their names are packed in; no object for each."""
    count = 50_000
    names = NameTable(f"{number:09d}.jpg" for number in range(count))
    photos = PhotoList(place="/nowhere", photos=FolderPhotos("/nowhere", names))
    tracemalloc.start()
    try:
        plan = make_plan(None, photos)
        given = sum(len(one.names) for one in name_lists(photos, plan, 100))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert given == count == todo_count(plan)
    assert held < 6 * count and peak < 12 * count  # names of one block, of a list, and what they are cut from


def test_lists_are_made_as_they_are_asked_for(tmp_path: Path) -> None:
    """A hundred million names are not held twice."""
    photos = place([f"{number:06d}" for number in range(1000)])
    plan = make_plan(None, photos)
    lists = name_lists(photos, plan, 10)
    assert len(list(islice(lists, 3))) == 3
    plan.kinds[:] = bytes(1000)
    assert not list(lists), "the others were not made before"
