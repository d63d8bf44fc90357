"""Archives with one thing wrong: a clear error or a safe search, and nothing that changed passes ``verify``.

``CTXDEPLOY_MUTATIONS`` is the number of mutations (600 by default, and a quarter as many with checked array accesses);
``benchmarks/soak.py`` tries 24,000 of other seeds.
"""

import os
from pathlib import Path
from typing import Any

import pytest

MUTATIONS = int(os.environ.get("CTXDEPLOY_MUTATIONS", "600"))
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
@pytest.mark.parametrize("checked", [False, True], ids=["mapped", "bounds-checked"])
def test_mutated_archives(tmp_path: Path, run_child: Any, checked: bool, request: pytest.FixtureRequest) -> None:
    environment = {"PYTHONWARNINGS": "ignore"}  # numpy's, of NaN in a damaged codebook
    if checked:
        cache = request.config.cache
        folder = tmp_path / "numba" if cache is None else cache.mkdir("numba")  # compiling takes ten seconds
        environment |= {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(folder)}
    count = MUTATIONS // 4 if checked else MUTATIONS
    (tmp_path / "archives").mkdir()
    report = run_child("fuzz", tmp_path / "archives", count, 7 + checked, timeout=1200 + count, environment=environment)
    assert report["mutations"] == count == report["opened"] + report["refused"]
    assert report["found by verify"] > 0.9 * count and report["opened"] > 0.2 * count
    assert all(report[kind] > 0 for kind in (*KINDS, "wrong_manifest", "wrong_lines", "wrong_snapshot"))
