"""Killed, or out of disk, at every call that writes: a committed state is in force, and a second run completes the job.

By default a part of the points is tried; ``CTXDEPLOY_FULL=1`` tries every one, as ``benchmarks/soak.py`` does.
"""

import os
from pathlib import Path
from typing import Any

import pytest

LONG = (pytest.mark.slow, pytest.mark.long)
FULL = os.environ.get("CTXDEPLOY_FULL") == "1"
JOBS = (
    *("add", "change", "compact", "sort", "merge", "publish", "segment"),
    *("collect", "snapshot", "forget", "repair", "create"),
)
# Jobs that change what an archive answers, and the one call that makes their change visible: none shows earlier.
CHANGING = ("add", "change", "merge", "publish", "repair", "create")


def interrupted(run_child: Any, folder: Path, mode: str, stride: int) -> dict[str, Any]:
    """Return the reports of ``children/faults.py`` for all jobs."""
    reports: dict[str, Any] = run_child("faults", folder, ",".join(JOBS), mode, 1 if FULL else stride, timeout=1800)
    for job, report in reports.items():
        assert report["tried"] == -(-report["points"] // (1 if FULL else stride)), (job, report)
        assert report["before"] + report["after"] == report["tried"]
    return reports


@pytest.mark.slow
@pytest.mark.parametrize("stride", [17, pytest.param(5, marks=pytest.mark.long)])
def test_killed_at_every_point(tmp_path: Path, run_child: Any, stride: int) -> None:
    reports = interrupted(run_child, tmp_path, "kill", stride)
    assert sum(report["points"] for report in reports.values()) > 250
    for job in CHANGING:
        # Only the sync of the folder and the release of the lease come after the rename of CURRENT.
        assert reports[job]["after"] == (2 if FULL else 1), (job, reports[job])


@pytest.mark.parametrize("mode", ["ENOSPC", pytest.param("EIO", marks=LONG), pytest.param("full", marks=LONG)])
def test_a_call_that_fails_at_every_point(tmp_path: Path, run_child: Any, mode: str) -> None:
    reports = interrupted(run_child, tmp_path, mode, 9)
    for job in CHANGING:
        assert reports[job]["before"] > 0 and reports[job]["errors"] > 0, (job, reports[job])
    assert reports["change"]["same_writer"] > 1
    if mode == "full" and FULL:
        assert reports["collect"]["errors"] == 0, "garbage collection needs no space: it frees it"
