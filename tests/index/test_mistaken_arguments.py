"""Arguments of another kind are refused with what was wrong, not with a traceback from inside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import FileState
from ctxdeploy.index import Codebook, Index

VECTORS = np.ones((2, 8), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Index.create(tmp_path / "a", Codebook(np.eye(8, dtype=np.float32))).close()
    return tmp_path / "a"


@pytest.mark.parametrize("item", [1, "ab", ("a",), ("a", VECTORS, 3), ["a"]])
def test_what_is_no_photo(path: Path, item: Any) -> None:
    with (
        Index.open(path, writable=True) as index,
        pytest.raises(ConfigError, match="neither PhotoDescriptors nor"),
    ):
        index.add_many([item])


@pytest.mark.parametrize("size", [None, 1.5, True, "7", -2, 1 << 63])
def test_what_is_no_size(path: Path, size: Any) -> None:
    with Index.open(path, writable=True) as index:
        with pytest.raises(ConfigError, match="is not a whole number"):
            index.add("a", VECTORS, file=FileState(size=size, mtime_ns=-1))
        index.add("a", VECTORS, file=FileState(size=np.int64(7), mtime_ns=-1))  # type: ignore[arg-type]
        assert index.known() == {"a": FileState(size=7, mtime_ns=-1)}


def test_rows_of_several_lengths(path: Path) -> None:
    with Index.open(path, writable=True) as index, pytest.raises(ConfigError, match="are not an array"):
        index.add("a", [[1.0], [1.0, 2.0]])


@pytest.mark.parametrize(
    "action",
    [
        lambda path: Index.open(path, threads=1.5),
        lambda path: Index.open(path, threads="2"),
        lambda path: Index.open(path, at=1.5),
        lambda path: Index.open(path, at=True),
    ],
)
def test_what_is_no_number_of_threads_or_state(path: Path, action: Callable[[Path], Any]) -> None:
    with pytest.raises(ConfigError, match=r"whole number|neither a snapshot's name"):
        action(path)


@pytest.mark.parametrize("names", [None, 3, [None], ["a", 3], b"ab", [Path("a")]])
def test_what_are_no_names(path: Path, names: Any) -> None:
    with Index.open(path, writable=True) as index:
        index.add("a", VECTORS)
        for act in (index.remove, index.forget_failures):
            with pytest.raises(ConfigError, match=r"neither a name nor several|is not a text"):
                act(names)
        assert len(index) == 1 and index.remove(iter(["a", "b"])) == 1


@pytest.mark.parametrize("words", [1.5, "2", True, 0, 1 << 17, float("nan")])
def test_what_is_no_number_of_words(words: Any) -> None:
    with pytest.raises(ConfigError, match="give a whole number in"):
        Codebook.train(np.eye(64, dtype=np.float32), words)
    with pytest.raises(ConfigError, match="whole numbers of at least"):
        Codebook.train(np.eye(64, dtype=np.float32), 2, iterations=1.5)  # type: ignore[arg-type]
    assert len(Codebook.train(np.eye(64, dtype=np.float32), np.int64(2))) == 2  # type: ignore[arg-type]
