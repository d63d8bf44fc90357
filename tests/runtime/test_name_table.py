"""Names in little memory, against a list of them."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.runtime.sources import NameTable, name_table

NAMES = st.lists(st.text("ab/.-é\udcff\ud7ff\U0010ffff", min_size=1, max_size=5), unique=True, max_size=40).map(sorted)


@pytest.fixture(autouse=True)
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "memory" not in request.node.name:
        monkeypatch.setattr(name_table, "_BLOCK", 4)


def check(names: list[str]) -> None:
    table = NameTable(names)
    assert len(table) == len(names) and list(table) == names and bool(table) == bool(names)
    assert [table[row] for row in range(-len(names), len(names))] == names + names
    assert [table.row(name) for name in names] == list(range(len(names)))
    for other in ("", "a", "b/", "\U0010ffff\U0010ffff"):
        assert (other in table) == (other in names) and (other in names or table.row(other) is None)
    with pytest.raises(IndexError):
        table[len(names)]


def test_a_table_is_its_names() -> None:
    @given(names=NAMES)
    def checked(names: list[str]) -> None:
        check(names)

    checked()


@pytest.mark.parametrize("rows", [slice(None), slice(3, 9), slice(4, 8), slice(-3, None), slice(5, 5), slice(9, 2)])
@pytest.mark.parametrize("step", [None, 2, -1])
def test_slices_are_those_of_a_list(rows: slice, step: int | None) -> None:
    names = [f"{number:02d}" for number in range(11)]
    rows = slice(rows.start, rows.stop, step)
    assert NameTable(names)[rows] == names[rows]


@pytest.mark.parametrize("names", [["b", "a"], ["a", "b", "b"], ["a", "b", "c", "d", "d"], [""], ["a\0b"]])
def test_what_is_not_rising_is_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="the names are not rising"):
        NameTable(names)


def test_memory_of_many_names() -> None:
    count = 40_000
    tracemalloc.start()
    try:
        table = NameTable(f"{number // 10_000:05d}/IMG_{number:09d}.jpg" for number in range(count))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table) == count and held < 8 * count and peak < 16 * count, "a list of them takes 80 bytes a name"
