"""The scripts of benchmarks/ still find what they stand on, and a small measurement is what the page reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
IMPORT_ALL = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def test_every_script_starts() -> None:
    scripts = sorted(BENCHMARKS.glob("*.py"))
    # soak has no options: called without parts it begins; the others hold what scripts print or count.
    without = ("soak", "figures", "families_table", "graph_costs", "operator_page", "cluster_page")
    chosen = [str(path) for path in scripts if path.stem not in without]
    command = [sys.executable, "-c", IMPORT_ALL, *chosen]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(chosen) > 7


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", ["search", "batch", "query", "add"])
def test_a_small_measurement_has_the_figures_of_the_page(name: str, tmp_path: Path) -> None:
    sizes = ("--photos", 300, "--queries", 11, "--query-words", 50, "--descriptors", 30, "--count", 5, "--runs", 1)
    command = [sys.executable, BENCHMARKS / "index.py", name, *sizes, "--folder", tmp_path, "-o", tmp_path / "r.json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, stored = (
        json.loads(path.read_text()) for path in (tmp_path / "r.json", BENCHMARKS / f"results/{name}.json")
    )
    removed = {"peak_memory_mb_of_both", "giga_postings_per_s_loop"}  # of no page
    assert set(stored) - removed <= set(found)
    assert "limit" in done.stdout
