"""docs/performance.md and the figures of README.md and of guides are what the stored results say, and nothing else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FIGURE = re.compile(r"\d+\.\d|\d (?:ms|s|MB|GB|times|photos/s|%)\b")


def generate(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "performance.py"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def scaled(value: Any) -> Any:
    """Return JSON with every figure changed, counts and ratios too."""
    if isinstance(value, dict):
        return {key: scaled(part) for key, part in value.items()}
    if isinstance(value, list):
        return [scaled(part) for part in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return type(value)(value * 3 + 1) if isinstance(value, int) else value * 1.618 + 0.37


def test_page_and_readme_are_those_of_the_results() -> None:
    done = generate("--check")
    assert done.returncode == 0, f"{done.stderr}run  python benchmarks/performance.py"


def test_no_figure_is_written_anywhere_but_in_the_results(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") == "ctxdeploy-bench":  # their keys fit their figures; they are read as they are
            continue
        if path.stem in ("million", "query", "batch"):  # runs are chosen by their numbers of threads and queries
            for run in content["runs"]:
                kept = {name: run[name] for name in ("threads", "queries") if name in run}
                run.update({**scaled(run), **kept})
            content = {**scaled({k: v for k, v in content.items() if k != "runs"}), "runs": content["runs"]}
        else:
            content = scaled(content)
        (results / path.name).write_text(json.dumps(content))
    readme, page = tmp_path / "README.md", tmp_path / "performance.md"
    readme.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    guides = [
        tmp_path / name
        for name in ("queries.md", "indexing.md", "families.md", "capacity.md", "gpu.md", "many-machines.md")
    ]
    for guide in guides:
        guide.write_text((ROOT / "docs" / guide.name).read_text(encoding="utf-8"), encoding="utf-8")
    done = generate("--results", results, "--readme", readme, "--page", page, "--guides", tmp_path)
    assert done.returncode == 0, done.stderr
    for new in (page, readme, *guides):
        old = ROOT / new.name if new == readme else ROOT / "docs" / new.name
        if new.name == "gpu.md" and not (results / "h200.json").exists():
            continue  # it holds goals alone until there was a GPU
        lines = marked(old.read_text(encoding="utf-8"), whole=new == page)
        figures = [line for line in lines if FIGURE.search(line)]
        assert len(figures) > (10 if new == page else 4)
        same = set(figures) & set(new.read_text(encoding="utf-8").split("\n"))
        assert same == set()


def marked(text: str, *, whole: bool) -> list[str]:
    """Return the generated lines that hold measured figures: not those of versions, nor of `bench`."""
    if whole:
        text = re.sub(r"## (`bench|What `bench).*?(?=\n## |\Z)", "", text, flags=re.DOTALL)
        return [line for line in text.split("\n") if not line.startswith("| `")]
    return [line for part in re.findall(r"<!-- figures:.*?<!-- end", text, re.DOTALL) for line in part.split("\n")]


@pytest.mark.parametrize("spoil", ["figure", "mark"])
def test_a_figure_changed_by_hand_is_noticed(tmp_path: Path, spoil: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- figures: quality -->.*?\| (\d+\.\d) \|", text, re.DOTALL)
    assert found is not None
    changed = text[: found.start(1)] + "100.1" + text[found.end(1) :]
    readme = tmp_path / "README.md"
    readme.write_text(changed if spoil == "figure" else text.replace("<!-- figures: quality -->", ""), encoding="utf-8")
    done = generate("--check", "--readme", readme)
    assert done.returncode == 1
    assert ("not what the results say" if spoil == "figure" else "the marks are") in done.stderr


def test_every_measurement_is_among_the_commands() -> None:
    script = (ROOT / "benchmarks" / "all.sh").read_text(encoding="utf-8")
    stored = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    # Not on the page: the longest export, and the soak, which is no measurement of speed.
    for name in stored - {"export_limits", "soak"}:
        part = name.removeprefix("bench-")
        commands = (f"{name}.py", f"{name}.json", f".py {name}", f"--parts {part}")
        assert any(command in script for command in commands), name
    assert subprocess.run(["bash", "-n", ROOT / "benchmarks" / "all.sh"], check=False).returncode == 0


def test_the_commands_run_an_interpreter_named_from_where_they_are_called(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$(basename "$PWD") $1" >> "$(dirname "$0")/called"\n')
    python.chmod(0o755)
    given = {**os.environ, "PYTHON": "bin/python", "DATA": ".", "TRAINING": ".", "LANDMARKS": "."}
    script = ROOT / "benchmarks" / "all.sh"
    steps = [line for line in script.read_text(encoding="utf-8").splitlines() if line.startswith('    "')]
    number = 1 + steps.index('    "part index.py search"')
    command = [script, str(number)]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (python.parent / "called").read_text() == "benchmarks index.py\n"
