"""Names in order, and the folders that they make, against plain loops."""

from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.service.names import Folder, SortedNames

NAMES = st.lists(st.text("ab/0.é\udcff\U0010ffff", min_size=1, max_size=6), unique=True, max_size=30)
PREFIX = st.text("ab/é\U0010ffff", max_size=3)


def everything(take, limit: int) -> list:
    """All pages of a listing, one after the other."""
    found, after = [], None
    for _ in range(100):
        page, after = take(after, limit)
        assert len(page) <= limit
        found += page
        if after is None:
            return found
    raise AssertionError("the pages do not end")


@given(names=NAMES, prefix=PREFIX, limit=st.integers(1, 5))
def test_pages_are_the_names_that_begin_so(names: list[str], prefix: str, limit: int) -> None:
    listed = SortedNames(names, state=1)
    wanted = sorted(name for name in names if name.startswith(prefix))
    assert everything(lambda after, most: listed.page(prefix, after, most), limit) == wanted
    assert listed.count(prefix) == len(wanted) and len(listed) == len(names)


@given(names=NAMES, prefix=PREFIX, limit=st.integers(1, 5))
def test_folders_hold_what_lies_below_them(names: list[str], prefix: str, limit: int) -> None:
    listed = SortedNames(names, state=1)
    wanted: dict[str, int] = {}
    for name in sorted(names):
        if name.startswith(prefix) and "/" in name[len(prefix) :]:
            folder = name[: name.index("/", len(prefix)) + 1]
            wanted[folder] = wanted.get(folder, 0) + 1
    found = everything(lambda after, most: listed.folders(prefix, after, most), limit)
    assert found == [Folder(name=name, photos=count) for name, count in sorted(wanted.items())]


def test_after_need_not_be_a_name() -> None:
    listed = SortedNames(["a", "c", "d/x", "e"], state=1)
    assert listed.page("", "b", 2) == (["c", "d/x"], "d/x")
    assert listed.page("", "zzz", 2) == ([], None)
    assert listed.folders("", "d", 2) == ([Folder(name="d/", photos=1)], None)
