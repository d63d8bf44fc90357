"""Archives with one thing wrong: a clear error or a safe search, and nothing that changed passes ``verify``.

``CTXDEPLOY_MUTATIONS`` is the number of mutations (200 by default, 100 with checked array accesses, and 600 before a
release); ``benchmarks/soak.py`` tries 24,000 of other seeds.
"""

import os
from pathlib import Path
from typing import Any

import pytest

MUTATIONS = int(os.environ.get("CTXDEPLOY_MUTATIONS", "200"))
KINDS = (
    "flip",
    "truncate",
    "extend",
    "long_header",
    "missing",
    "swapped",
    "wrong_header",
    "wrong_layout",
    "wrong_values",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checked", "count"),
    [
        pytest.param(False, MUTATIONS, id="mapped"),
        pytest.param(True, MUTATIONS // 2, id="bounds-checked"),
        pytest.param(False, 3 * MUTATIONS, id="mapped-at-length", marks=pytest.mark.long),
    ],
)
def test_mutated_archives(
    tmp_path: Path, run_child: Any, checked: bool, count: int, request: pytest.FixtureRequest
) -> None:
    environment = {"PYTHONWARNINGS": "ignore"}  # numpy's, of NaN in a damaged codebook
    if checked:
        cache = request.config.cache
        folder = tmp_path / "numba" if cache is None else cache.mkdir("numba")  # compiling takes ten seconds
        environment |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(folder)}
    (tmp_path / "archives").mkdir()
    report = run_child("fuzz", tmp_path / "archives", count, 7 + checked, timeout=1200 + count, environment=environment)
    assert report["mutations"] == count == report["opened"] + report["refused"]
    assert report["found by verify"] > 0.9 * count and report["opened"] > 0.2 * count
    assert all(report[kind] > 0 for kind in (*KINDS, "wrong_manifest", "wrong_lines", "wrong_snapshot"))
