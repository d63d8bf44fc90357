"""Two photos of one name, which no writer makes: verify finds them, and repair keeps the last."""

from pathlib import Path

import numpy as np

from ctxdeploy.index import Aggregated, Codebook, Index
from ctxdeploy.index.storage.names import NameIndex

WORD = Aggregated(words=np.array([1], np.int32), codes=np.zeros((1, 1), np.uint64))


def test_repair_keeps_the_last_of_photos_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with Index.create(path, Codebook(np.eye(8, dtype=np.float32)), threads=1) as index:
        for names in (("a", "b"), ("c",), ("b", "d"), ("c",)):
            for name in names:
                index.add_aggregated(name, WORD)
            index.commit()
            writer = index._writer
            assert writer is not None
            writer._names = NameIndex([])  # as if it had forgotten what is there
    with Index.open(path) as index:
        assert len([line for line in index.verify() if "a name occurs twice" in line]) == 2
    repaired = Index.repair(path)
    assert len(repaired.problems) == 2
    assert repaired.lost == ()
    with Index.open(path) as index:
        assert index.verify() == []
        assert list(index.names()) == ["a", "b", "d", "c"]
    assert Index.repair(path).problems == ()
