"""Names in order, and the folders that they make, against plain loops."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.index import Aggregated, Codebook, Index, IndexConfig
from ctxdeploy.index import subset as subset_module
from ctxdeploy.index.kernels import names as names_kernels
from ctxdeploy.index.storage.names import name_tensors, split_names
from ctxdeploy.service import names as names_module
from ctxdeploy.service.names import Folder, SortedNames, held_names

NAME = st.text("ab/0.é\udcff\U0010ffff", min_size=1, max_size=6)
NAMES = st.lists(NAME, unique=True, max_size=30)
PREFIX = st.text("ab/é\U0010ffff", max_size=3)


@dataclass(frozen=True, eq=False)
class Shard:
    """Some names, of which some are removed."""

    given: tuple[str, ...]
    gone: frozenset[str] = frozenset()
    read: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        packed = name_tensors(self.given)
        object.__setattr__(self, "names", packed["names"])
        object.__setattr__(self, "name_offsets", packed["name_offsets"])

    @property
    def path(self) -> Path:
        return Path(repr(self.given))

    @property
    def live(self) -> Any:
        mask = np.zeros(1 << 16, np.bool_)
        mask[: len(self)] = [name not in self.gone for name in self.given]
        return mask

    def __len__(self) -> int:
        return len(self.given)

    def name(self, number: int) -> str:
        self.read.append(self.given[number])
        return self.given[number]

    def all_names(self) -> list[str]:
        self.read.extend(self.given)
        return split_names(self.names, self.name_offsets)  # type: ignore[attr-defined]


def listed(names: list[str], state: int = 1) -> SortedNames:
    """Return the names of two shards."""
    return SortedNames([Shard(tuple(names[::2])), Shard(tuple(names[1::2]))], state)


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
    held = listed(names)
    wanted = sorted(name for name in names if name.startswith(prefix))
    assert everything(lambda after, most: held.page(prefix, after, most), limit) == wanted
    assert held.count(prefix) == len(wanted) and len(held) == len(names)


@given(names=NAMES, prefix=PREFIX, limit=st.integers(1, 5))
def test_folders_hold_what_lies_below_them(names: list[str], prefix: str, limit: int) -> None:
    held = listed(names)
    wanted: dict[str, int] = {}
    for name in sorted(names):
        if name.startswith(prefix) and "/" in name[len(prefix) :]:
            folder = name[: name.index("/", len(prefix)) + 1]
            wanted[folder] = wanted.get(folder, 0) + 1
    found = everything(lambda after, most: held.folders(prefix, after, most), limit)
    assert found == [Folder(name=name, photos=count) for name, count in sorted(wanted.items())]


def test_after_need_not_be_a_name() -> None:
    held = listed(["a", "c", "d/x", "e"])
    assert held.page("", "b", 2) == (["c", "d/x"], "d/x")
    assert held.page("", "zzz", 2) == ([], None)
    assert held.folders("", "d", 2) == ([Folder(name="d/", photos=1)], None)


@given(data=st.data(), few=st.sampled_from([1, 8]))
def test_a_later_state_is_as_if_it_were_the_first(data: Any, few: int) -> None:
    """Shards come, go, move, lose photos and get them back."""
    names = data.draw(NAMES)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(names)), min_size=4, max_size=4)))
    parts = [tuple(names[i:j]) for i, j in zip([0, *cuts], [*cuts, len(names)], strict=True)]

    def draw_state() -> list[Shard]:
        chosen = data.draw(st.permutations([part for part in parts if data.draw(st.booleans())]))
        return [Shard(part, frozenset(name for name in part if data.draw(st.booleans()))) for part in chosen]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names_module, "_FEW", few)
        held = None
        for number in range(3):
            shards = draw_state()
            held = SortedNames(shards, number, held)
            wanted = sorted(name for shard in shards for name in shard.given if name not in shard.gone)
            assert held.page("", None, 99) == (wanted, None) and len(held) == len(wanted) and held.state == number
            folders = {name[: name.index("/") + 1] for name in wanted if "/" in name}
            assert [folder.name for folder in held.folders("", None, 99)[0]] == sorted(folders)


@given(names=NAMES)
def test_names_of_shards_that_are_elsewhere(names: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names_module, "_BITS", 2)
        patch.setattr(names_module, "_LOWER", 3)
        shards = held_names(iter(names))
        assert [len(shard) for shard in shards] == [len(names[at : at + 4]) for at in range(0, len(names), 4)]
        assert SortedNames(shards, 1).page("", None, 99) == (sorted(names), None)


def test_of_many_names_few_are_read() -> None:
    """No request looks at all names: of 20,000 beside two folders, and of those that were sorted before."""
    many = Shard(tuple(f"{number:06d}" for number in range(20_000)))
    odd = Shard(("000000-/a", "019999-/b/c", "019999-/b/d"))
    first = SortedNames([many], 1)
    many.read.clear()
    held = SortedNames([many, odd], 2, first)
    assert len(many.read) < 100
    many.read.clear()
    folders = [Folder(name="000000-/", photos=1), Folder(name="019999-/", photos=2)]
    assert held.folders("", None, 10) == (folders, None) and len(many.read) < 300
    many.read.clear()
    assert held.page("01", "015000", 3) == (["015001", "015002", "015003"], "015003") and len(many.read) < 100
    assert held.count("0199") == 102


def test_a_restriction_to_a_prefix_is_the_one_that_looking_at_all_names_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{folder}{number}.jpg" for folder in ("2024/", "2024/é/", "x", "日本/") for number in range(9)]
    names += ["x/", "x\udcff1", "caf\udce9.jpg"]
    codebook = Codebook.from_centroids(np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32))
    with Index.create(tmp_path / "a", codebook, config=IndexConfig(shard_images=7)) as made:
        for name in names:
            made.add_aggregated(name, Aggregated(words=np.array([1], np.int32), codes=np.zeros((1, 1), np.uint64)))
        made.remove(["x3.jpg", "日本/0.jpg"])
    prefixes = ["2024/", "2024/é", "x", "x/", "日", "caf\udce9", "x\udcff", "y", "\ud800", ""]
    given = [(prefix,) for prefix in prefixes] + [("x", "日"), ("y", "2024/é/1")]
    with Index.open(tmp_path / "a") as index:
        plain = [index.subset(prefixes=some) for some in given]
        index.state.name_order = SortedNames(index.state.shards, 1)
        for some, wanted in zip(given, plain, strict=True):
            if any("\udc80" <= letter <= "\udcff" for prefix in some for letter in prefix):
                continue  # looked for in the bytes
            monkeypatch.setattr(subset_module, "_MANY", 1)
            monkeypatch.setattr(names_kernels, "mark_beginning", None)
            found = index.subset(prefixes=some, names=["x4.jpg", "2024/1.jpg", "日本/0.jpg"])
            among = index.subset(prefixes=some)
            monkeypatch.undo()
            assert among.unused == wanted.unused and len(among) == len(wanted)
            for one, other in zip(among.photos, wanted.photos, strict=True):
                np.testing.assert_array_equal(one, other)
            assert len(found) == sum(name.startswith(tuple(some)) for name in ("x4.jpg", "2024/1.jpg"))
        for some, wanted in zip(given, plain, strict=True):
            assert [*map(list, index.subset(prefixes=some).photos)] == [*map(list, wanted.photos)]
