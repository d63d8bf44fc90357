"""The tests that need a GPU, those of each file in a process of its own."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rows import LackingError, Rows, needed, run_step

ROOT = Path(__file__).parents[3]
# Those of stand-ins alone need no GPU.
_NAMES = ("test_gpu*", "test_*cuda*", "test_device")
# Files at once: most of their time is Python's, and compilers'.
_AT_ONCE = 4
# Reasons that are kept of a file.
_KEPT = 8


def run(rows: Rows) -> None:
    needed("pytest", "pytest is not installed")
    files = sorted({path for name in _NAMES for path in (ROOT / "tests").rglob(f"{name}.py")})
    # The comparison of engines with ONNX Runtime first.
    files.sort(key=lambda path: path.name != "test_gpu.py")
    if not files:
        raise LackingError("there are no tests of GPUs")
    if rows.rehearse:
        rows.measure("collected", lambda: _collected(files))
        files = [ROOT / "tests" / "core" / "test_device.py"]  # which takes no time
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        missing = [path for path in files if not rows.has(str(path.relative_to(ROOT)))]
        tested = {pool.submit(_tested, rows, path): str(path.relative_to(ROOT)) for path in missing}
        for future in as_completed(tested):
            rows.measure(tested[future], future.result)


def _collected(files: list[Path]) -> dict[str, Any]:
    """Return how many tests there are: on this machine all of the files can be loaded."""
    done = _pytest("--collect-only", "--no-header", *map(str, files))
    if done.returncode:
        raise RuntimeError(done.stdout[-800:])
    counts = [line.rpartition(": ")[2] for line in done.stdout.splitlines() if line.startswith("tests/")]
    return {"files": len(files), "tests": sum(int(count) for count in counts if count.isdigit())}


def _tested(rows: Rows, path: Path) -> dict[str, Any]:
    report = rows.folder("reports") / f"{'-'.join(path.relative_to(ROOT).with_suffix('').parts)}.xml"
    report.unlink(missing_ok=True)
    done = _pytest("-s", "--no-header", f"--junit-xml={report}", "--junit-prefix=gpu", str(path))
    print(done.stdout[-4000:])
    if not report.exists():
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-300:]}")
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    found = {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": [case.get("name") for case in failed],
        "skipped": len(skipped),
        "reasons": list(dict.fromkeys(case.find("skipped").get("message", "") for case in skipped))[:_KEPT],  # type: ignore[union-attr]
    }
    if failed:
        told = [(case.find("failure") if case.find("failure") is not None else case.find("error")) for case in failed]
        found["messages"] = [str(one.get("message"))[:300] for one in told[:_KEPT] if one is not None]
    return found


def _pytest(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


if __name__ == "__main__":
    run_step(run)
