"""``ctxdeploy names``."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.index import Codebook, Index

NAMES = ["a.jpg", "b/é.jpg", "line\nend.jpg", "x\udcff.jpg"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((64, 8), np.float32)
    path = tmp_path / "a.ctxindex"
    with Index.create(path, Codebook.train(vectors, words=4)) as index:
        for name in reversed(NAMES):
            index.add(name, vectors[:10])
    with Index.open(path, writable=True) as index:
        index.snapshot("before")
        index.remove("a.jpg")
        index.commit()
    return path


def test_one_name_a_line_whatever_is_in_it(call: Callable[..., Any], archive: Path) -> None:
    done = call("names", archive)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == ["b/é.jpg", r"line\nend.jpg", r"x\udcff.jpg"]


def test_json_has_all_of_a_name_and_snapshots_are_read(call: Callable[..., Any], archive: Path) -> None:
    done = call("names", archive, "--at", "before", "--json")
    encoded = base64.b64encode(b"x\xff.jpg").decode()
    names = {"names": [*NAMES[:3], r"x\udcff.jpg"], "names_bytes": [None, None, None, encoded]}
    assert done.json == [{"archive": str(archive), **names}]


def test_what_is_not_an_archive_is_said(call: Callable[..., Any], tmp_path: Path) -> None:
    done = call("names", tmp_path / "gone.ctxindex")
    assert done.code == 15
    assert len(done.err.splitlines()) == 1 and "gone.ctxindex" in done.err


def test_names_are_taken_back_as_they_are_printed(call: Callable[..., Any], archive: Path) -> None:
    with Index.open(archive, writable=True) as index:
        index.add("twice\n.jpg", np.ones((3, 8), np.float32))
        index.add(r"twice\n.jpg", np.ones((3, 8), np.float32))  # and of two, the one that is named so itself
        index.commit()
    printed = [r"line\nend.jpg", r"x\udcff.jpg", r"twice\n.jpg", r"never\nthere.jpg"]
    done = call("remove", archive, *printed)
    assert (done.code, "3 photos removed" in done.out, r"not in the archive: never\nthere.jpg" in done.err) == (
        0,
        True,
        True,
    )
    assert call("names", archive).out.splitlines() == ["b/é.jpg", r"twice\n.jpg"]
    with Index.open(archive) as index:
        assert sorted(index.names()) == ["b/é.jpg", "twice\n.jpg"]
