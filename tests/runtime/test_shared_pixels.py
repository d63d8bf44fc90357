"""Pixels in memory of two processes: what comes out is what was put in, whatever the other one does."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.runtime.shared_pixels import MOST, SharedPixels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has such memory")


@pytest.fixture
def make() -> "Iterator[Callable[[int], SharedPixels]]":
    """Return a function that makes memory of so many bytes, which the test gives back."""
    made: list[SharedPixels] = []

    def make(size: int) -> SharedPixels:
        memory = SharedPixels.make(size)
        assert memory is not None
        made.append(memory)
        return memory

    yield make
    for memory in made:
        memory.close()


def test_pixels_are_copied_and_have_to_fit(make: "Callable[[int], SharedPixels]") -> None:
    memory = make(5 * 7 * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert memory.put(pixels) and memory.put(pixels[:2])  # the second where the first was
    assert memory.put(pixels)
    taken = memory.taken((5, 7, 3))
    assert memory.put(np.zeros((5, 7, 3), np.uint8)) and np.array_equal(taken, pixels) and taken.flags.c_contiguous
    assert not memory.put(np.zeros((6, 6, 3), np.uint8))
    with pytest.raises(ValueError, match="108 bytes of pixels in 105"):
        memory.taken((6, 6, 3))
    assert SharedPixels.make(0) is None and SharedPixels.make(MOST + 1) is None


def test_nobody_cuts_the_memory_off(make: "Callable[[int], SharedPixels]") -> None:
    """A parent that read what is not there any more would die of SIGBUS."""
    memory = make(3000)
    for size in (0, 2999, 3001):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.descriptor, size)
    assert memory.put(np.ones((10, 100, 3), np.uint8)) and memory.taken((10, 100, 3)).all()


def test_it_is_given_back(make: "Callable[[int], SharedPixels]") -> None:
    memory = make(100)
    descriptor = Path(f"/proc/self/fd/{memory.descriptor}")
    assert "ctxdeploy-pixels" in str(descriptor.readlink())
    memory.close()
    memory.close()
    assert not descriptor.exists() or "ctxdeploy-pixels" not in str(descriptor.readlink())
