"""Archives of every released format version, stored in `fixtures/`, are opened and searched by today's code."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.index import Hit, Index

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def maker() -> Any:
    """Return the script that made the fixtures."""
    spec = importlib.util.spec_from_file_location("make_archive_v1", FIXTURES / "make_archive_v1.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "dim"), [("archive-v1", 100), ("archive-v1-float", 20)])
def test_version_1(tmp_path: Path, maker: Any, name: str, dim: int) -> None:
    expected = json.loads((FIXTURES / f"{name}.json").read_text())
    with Index.open(FIXTURES / name) as index:
        assert index.verify() == [] and list(index.names()) == maker.NAMES
        assert index.known()["a.jpg"] == (1000, 10**18) and index.known()["f.jpg"] == (1005, -1)
        assert index.failures() == [{"name": "bad.jpg", "reason": "truncated", "stage": "decode"}]
        index.check_source(model="m" * 64, preprocessing="p" * 64)
        for query, hits in zip(maker.photos(dim), expected, strict=True):
            assert index.search(query) == [Hit(found, pytest.approx(score, rel=1e-6)) for found, score in hits]
    shutil.copytree(FIXTURES / name, tmp_path / "copy")
    with Index.open(tmp_path / "copy", writable=True) as index:
        index.add("new", maker.photos(dim)[0])
    assert len(Index.open(tmp_path / "copy")) == 7
