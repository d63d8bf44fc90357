"""The guide to descriptors of one's own, run from top to bottom; what it says is printed is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "bring-your-own-descriptors.md"


def _program() -> str:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert {language for language, _ in blocks} == {"python", "sh"}
    parts = ["import subprocess\n"]
    for language, text in blocks:
        shell = f"subprocess.run(['bash', '-e', '-c', {text!r}], check=True, stdout=subprocess.DEVNULL)\n"
        parts.append(text if language == "python" else shell)
    return "\n".join(parts)


@pytest.mark.slow
def test_every_block_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    program = _program()
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)
    assert len(expected) > 10
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected


def test_every_test_that_a_guide_names_exists() -> None:
    root = GUIDE.parents[1]
    named = {
        name for page in root.glob("docs/*.md") for name in re.findall(r"`(tests/[\w/.:]+)`", page.read_text("utf-8"))
    }
    assert len(named) > 15
    for name in sorted(named):
        file, _, function = name.partition("::")
        path = root / file
        assert path.exists(), name
        assert not function or f"\ndef {function}(" in path.read_text("utf-8"), name
