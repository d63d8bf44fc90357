"""A file system without space: exit code 18, the last committed state, and once there is space the rest."""

from pathlib import Path
from typing import Any

import pytest


def test_files_above_a_limit(tmp_path: Path, run_child: Any) -> None:
    report = run_child("full_disk", tmp_path, "limit")["limit"]
    assert report["failures"] > 15 and report["attempts"] == 30


@pytest.mark.slow
@pytest.mark.long
def test_a_small_file_system(tmp_path: Path, run_child: Any) -> None:
    report = run_child("full_disk", tmp_path, "tmpfs")["tmpfs"]
    if "skipped" in report:
        pytest.skip(report["skipped"])
    assert report["failures"] > 10 and report["attempts"] == 120
