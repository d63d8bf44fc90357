"""Every item comes out once, among items of its shape, and never do too many wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.runtime.batching import ShapeBatcher

Shapes = st.lists(st.integers(0, 6), max_size=120)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, int]:
    batch_size = draw(st.integers(1, 6))
    max_pending = draw(st.integers(batch_size, 20))
    return {"batch_size": batch_size, "max_pending": max_pending, "max_age": draw(st.integers(1, 40))}


@given(Shapes, configs())
def test_batches(shapes: list[int], config: dict[str, int]) -> None:
    batcher: ShapeBatcher[tuple[int, int]] = ShapeBatcher(**config)
    batches: list[list[tuple[int, int]]] = []
    for number, shape in enumerate(shapes):
        ready = batcher.add(shape, (number, shape))
        batches += ready
        out = {item for batch in batches for item in batch}
        waiting = [item for item in enumerate(shapes[: number + 1]) if item not in out]
        assert len(batcher) == len(waiting) <= config["max_pending"]
        assert all(number - first < config["max_age"] for first, _ in waiting), "too old"
        assert all(sum(s == shape for _, s in waiting) < config["batch_size"] for shape in set(shapes))
    batches += batcher.flush()
    assert len(batcher) == 0
    assert batcher.flush() == []
    assert sorted(item for batch in batches for item in batch) == list(enumerate(shapes))
    for batch in batches:
        assert 1 <= len(batch) <= config["batch_size"]
        assert len({shape for _, shape in batch}) == 1
        assert batch == sorted(batch), "within a batch the order is kept"


def test_a_full_batch_leaves_at_once() -> None:
    batcher: ShapeBatcher[str] = ShapeBatcher(batch_size=2, max_pending=9, max_age=9)
    assert batcher.add((3, 4), "a") == []
    assert batcher.add((4, 3), "b") == []
    assert batcher.add((3, 4), "c") == [["a", "c"]]
    assert batcher.flush() == [["b"]]


def test_an_old_batch_leaves_incomplete() -> None:
    batcher: ShapeBatcher[int] = ShapeBatcher(batch_size=3, max_age=2, max_pending=9)
    assert batcher.add("rare", 0) == []
    assert batcher.add("frequent", 1) == []
    assert batcher.add("frequent", 2) == [[0]]


def test_when_too_many_wait_the_fullest_leaves() -> None:
    batcher: ShapeBatcher[int] = ShapeBatcher(batch_size=3, max_pending=3, max_age=9)
    for number, shape in enumerate("abb"):
        assert batcher.add(shape, number) == []
    assert batcher.add("c", 3) == [[1, 2]]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 8, "max_pending": 7}, {"max_age": 0}])
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        ShapeBatcher(**{"batch_size": 1, "max_pending": 9, "max_age": 9, **wrong})
