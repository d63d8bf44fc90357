"""The process of a case: it ends with its command, and may be one of another version of the package."""

import json
import subprocess
import sys
from pathlib import Path

from ctxdeploy.bench.cases import Case
from ctxdeploy.bench.worker import CaseProcess

# What 0.1 calls ctxdeploy.benching.worker, without what it measures.
FORMER = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    opened = {"items": 2, "facts": {"version": "former"}, "software": {}}
    ran = {"seconds": [1.0] * len(request.get("items", ())), "stages": {}, "memory": {}}
    print(json.dumps(opened if request["do"] == "open" else ran), flush=True)
"""


def test_an_interpreter_with_the_former_package_takes_turns(tmp_path: Path) -> None:
    for part in ("ctxdeploy/__init__.py", "ctxdeploy/benching/__init__.py"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).touch()
    (tmp_path / "ctxdeploy" / "benching" / "worker.py").write_text(FORMER)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    case = Case(label="former", role="against", subject="photos", settings={}, python=str(python))
    process = CaseProcess(case)
    try:
        process.open()
        assert (process.items, process.about["facts"]) == (2, {"version": "former"})
        assert process.run([0, 1])["seconds"] == [1.0, 1.0]
    finally:
        process.close()


def test_a_worker_whose_command_was_killed_ends_in_silence() -> None:
    command = [sys.executable, "-m", "ctxdeploy.bench.worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    worker = subprocess.Popen(command, text=True, **pipes)
    assert worker.stdin is not None and worker.stdout is not None and worker.stderr is not None
    worker.stdout.close()
    settings = {"bundle": "/nowhere", "photos": []}
    worker.stdin.write(json.dumps({"do": "open", "subject": "photos", "settings": settings}) + "\n")
    worker.stdin.flush()
    assert worker.wait(600) == 0
    assert worker.stderr.read() == ""
