"""Processes that are killed at random, and readers beside a writer: every state that is seen is a committed one.

``CTXDEPLOY_KILLS`` (25 by default) and ``CTXDEPLOY_SECONDS`` (6 by default) make it longer; ``benchmarks/soak.py`` runs
300 kills and two minutes.
"""

import os
from pathlib import Path
from typing import Any

import pytest

KILLS = int(os.environ.get("CTXDEPLOY_KILLS", "25"))
SECONDS = float(os.environ.get("CTXDEPLOY_SECONDS", "6"))


def test_killed_at_random_moments(tmp_path: Path, run_child: Any) -> None:
    report = run_child("kills", tmp_path, KILLS, timeout=1200 + KILLS)
    assert report["kills"] == KILLS and report["kills after a commit"] > KILLS // 4
    assert report["snapshots checked"] > KILLS


@pytest.mark.slow
def test_readers_beside_a_writer(tmp_path: Path, run_child: Any) -> None:
    report = run_child("readers", tmp_path, SECONDS, timeout=1200 + SECONDS)
    assert report["steps"] > SECONDS and report["opened"] > 5 * SECONDS
    assert report["answers of old states"] > 5 * SECONDS and report["new states"] > SECONDS
