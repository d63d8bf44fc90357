"""The script for the day of the GPU: what it found survives whatever happens, and every step runs before that day."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
H200 = ROOT / "benchmarks" / "h200"
DRIVE = """
import json, sys
from pathlib import Path
from driver import Driver, Options, Step
place, steps, seconds = Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])
options = Options(
    output=place / "h200.json", work=place / "work", store=place / "store", folder=place / "steps",
    steps=tuple(Step(**step) for step in steps), seconds=seconds, again="again" in sys.argv,
    only=tuple(name for word in sys.argv if word.startswith("only=") for name in word[5:].split(",")),
)
sys.exit(Driver(options).run())
"""
# Steps as those of benchmarks/h200/steps/; what is measured is written down, to see whether it is measured twice.
GOOD = """
from pathlib import Path
import time
from rows import LackingError, Rows, run_step
def noted(rows, name):
    with (rows.work / "measured").open("a") as file:
        file.write(name + chr(10))
    time.sleep({pause})
    return {{"figure": 7}}
def run(rows: Rows) -> None:
    for name in {names}:
        rows.measure(name, lambda name=name: noted(rows, name))
    {then}
run_step(run)
"""


def write_step(place: Path, name: str, names: str = "'abc'", pause: float = 0.0, then: str = "") -> dict[str, Any]:
    (place / "steps").mkdir(exist_ok=True)
    text = GOOD.format(names=f"[{name!r} + letter for letter in {names}]", pause=pause, then=then)
    (place / "steps" / f"{name}.py").write_text(text)
    return {"name": name, "seconds": 60}


def command(place: Path, steps: list[dict[str, Any]], seconds: float, *more: str) -> list[str]:
    return [sys.executable, "-c", DRIVE, str(place), json.dumps(steps), str(seconds), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(H200), os.environ.get("PYTHONPATH", "")])}


def drive(place: Path, steps: list[dict[str, Any]], *more: str, seconds: float = 120) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        command(place, steps, seconds, *more), env=environment(), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr.split("begins")[0], done.stderr
    return done.returncode, json.loads((place / "h200.json").read_text())["steps"]


def measured(place: Path) -> list[str]:
    return (place / "work" / "measured").read_text().split()


def test_steps_that_fail_hang_or_lack_something_do_not_stop_the_others(tmp_path: Path) -> None:
    steps = [
        write_step(tmp_path, "one"),
        write_step(tmp_path, "bad", then="raise RuntimeError('it broke')"),
        {**write_step(tmp_path, "hangs", then="print('here it hangs'); time.sleep(600)"), "seconds": 3},
        write_step(tmp_path, "lacks", names="''", then="raise LackingError('faiss-gpu is not installed')"),
        write_step(
            tmp_path, "partly", then="rows.measure('broken', lambda: 1 / 0); rows.measure('after', lambda: {'n': 1})"
        ),
        write_step(tmp_path, "dies", then="import os; os.kill(os.getpid(), 9)"),
        {**write_step(tmp_path, "beside", pause=0.2), "beside": True},
        {**write_step(tmp_path, "last"), "after": "beside"},
    ]
    code, found = drive(tmp_path, steps)
    assert code == 1
    assert {name: step["status"] for name, step in found.items()} == {
        "one": "done",
        "bad": "failed",
        "hangs": "took too long",
        "lacks": "lacks something",
        "partly": "failed",
        "dies": "failed",
        "beside": "done",
        "last": "done",
    }
    assert "RuntimeError: it broke" in found["bad"]["said"] and "here it hangs" in found["hangs"]["said"]
    assert found["lacks"]["said"] == ["lacks something: faiss-gpu is not installed"]
    assert found["partly"]["rows"]["broken"] == {"error": "ZeroDivisionError: division by zero"}
    assert found["partly"]["rows"]["after"]["n"] == 1 and set(found["hangs"]["rows"]) == {"hangsa", "hangsb", "hangsc"}
    order = measured(tmp_path)
    assert order.index("lasta") > order.index("besidec")
    assert sorted(order) == sorted(f"{name}{c}" for name in found for c in "abc" if name != "lacks")
    # Again: what was measured is not, what failed is tried once more.
    write_step(tmp_path, "partly", then="rows.measure('broken', lambda: {'n': 2})")
    write_step(tmp_path, "bad")
    code, found = drive(tmp_path, steps)
    assert code == 1 and len(measured(tmp_path)) == len(order)
    assert found["partly"]["status"] == found["bad"]["status"] == "done" and "said" not in found["bad"]
    assert found["partly"]["rows"]["broken"]["n"] == 2
    code, found = drive(tmp_path, steps[:1], "again")
    assert code == 0 and len(measured(tmp_path)) == len(order) + 3


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_run_that_is_cut_off_leaves_what_it_found_and_the_next_one_goes_on(
    tmp_path: Path, how: signal.Signals, rows: int
) -> None:
    steps = [write_step(tmp_path, name, pause=0.3) for name in ("one", "two", "three")]
    process = subprocess.Popen(command(tmp_path, steps, 120), env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while count_rows(tmp_path) < rows and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    process.wait()
    left = count_rows(tmp_path)
    assert rows <= left < 9
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_of(tmp_path)
    before = measured(tmp_path)
    code, found = drive(tmp_path, steps)
    assert code == 0 and {len(step["rows"]) for step in found.values()} == {3}
    # At most the row that was being measured is measured twice.
    assert len(measured(tmp_path)) <= 10 and len(set(measured(tmp_path))) == 9 and len(before) <= left + 1


def count_rows(place: Path) -> int:
    try:
        steps = json.loads((place / "h200.json").read_text())["steps"]
    except FileNotFoundError:
        return 0
    return sum(len(step["rows"]) for step in steps.values())


def processes_of(place: Path) -> list[str]:
    """Return the commands of processes that run a step of a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{place}/steps/" in line:
            found.append(line)
    return found


def test_steps_for_which_no_time_is_left_are_left_to_the_next_run(tmp_path: Path) -> None:
    steps = [write_step(tmp_path, "one", pause=0.5), write_step(tmp_path, "two")]
    code, found = drive(tmp_path, steps, seconds=5.8)
    assert code == 1 and found["one"]["status"] == "done" and found["two"]["status"] == "not run"
    assert drive(tmp_path, steps)[0] == 0


def test_a_step_is_refused_without_the_one_that_makes_what_it_needs(tmp_path: Path) -> None:
    steps = [
        write_step(tmp_path, "archives"),
        {**write_step(tmp_path, "search"), "after": "archives"},
        write_step(tmp_path, "words"),
    ]

    def run(*only: str) -> "subprocess.CompletedProcess[str]":
        given = [f"only={','.join(only)}"]
        line = command(tmp_path, steps, 60, *given)
        return subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)

    refused = run("search", "words")
    assert refused.returncode == 1 and refused.stderr == (
        "h200.sh: --only search,words: search needs what the step archives makes, which is not done: "
        "give  --only archives,search,words\n"
    )
    assert not (tmp_path / "h200.json").exists() and not (tmp_path / "work").exists()
    unknown = run("serach")
    assert unknown.stderr == "h200.sh: --only serach: there is no such step, only archives, search, words\n"
    assert run("archives", "search").returncode == 0
    assert run("search").returncode == 0, "what it needs was done before"


def test_a_rehearsal_and_a_measurement_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "h200.json").write_text(json.dumps({"format": "ctxdeploy-h200/1", "rehearsal": True, "steps": {}}))
    done = subprocess.run(
        command(tmp_path, [write_step(tmp_path, "one")], 60),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "is of another kind of run: move it away" in done.stderr


def test_wheels_travel_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels are cut, carried one load after the other, put together, and installed; a changed piece is noticed."""
    monkeypatch.syspath_prepend(str(H200))
    import wheels

    folder = tmp_path / "wheels"
    folder.mkdir()
    made = [wheel(folder, "small", 2_000), wheel(folder, "large", 300_000)]
    said = list(wheels.cut(made, tmp_path / "loads", 100_000))
    loads = sorted((tmp_path / "loads").iterdir())
    assert len(said) == len(loads) == 4  # 303 kB and what zip files need besides
    for load in loads:
        assert sum(path.stat().st_size for path in load.iterdir() if path.name != "load.json") <= 100_000
    first = wheels.take(loads[0], tmp_path / "store")
    assert "installed in" in first and "small" in first and "pieces of large-1.0" in first
    assert (tmp_path / "store" / "site" / "small.py").exists()
    for load in loads[1:-1]:
        assert wheels.take(load, tmp_path / "store").startswith("kept; pieces of large")
    assert "all is there" in wheels.take(loads[-1], tmp_path / "store")
    for name, path in zip(("small", "large"), made, strict=True):
        there = tmp_path / "store" / path.name
        assert hashlib.sha256(there.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()
        assert (tmp_path / "store" / "site" / f"{name}.py").exists()
    (tmp_path / "store" / made[1].name).unlink()
    piece = next(path for path in loads[0].iterdir() if "large" in path.name)
    piece.write_bytes(b"x" * piece.stat().st_size)
    with pytest.raises(SystemExit, match=r"the pieces of .* are not those that were packed: bring them again"):
        wheels.take(loads[0], tmp_path / "store")


def wheel(folder: Path, name: str, size: int) -> Path:
    """Write a wheel of one module that no compression makes smaller."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    facts = f"{name}-1.0.dist-info"
    digits = os.urandom(size // 2).hex()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"text = '{digits}'\n")
        archive.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{facts}/RECORD", f"{name}.py,,\n{facts}/METADATA,,\n{facts}/WHEEL,,\n{facts}/RECORD,,\n")
    return path


def rehearse(output: Path, *more: str) -> dict[str, Any]:
    """Return the steps of a rehearsal, each of which must have done all that it should."""
    script, given = ROOT / "benchmarks" / "h200.sh", {**os.environ, "PYTHON": sys.executable}
    command = [str(script), "--rehearse", "-o", str(output), "--seconds", "3000", *more]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False, cwd=output.parent)
    content = json.loads(output.read_text())
    assert content["rehearsal"] is True and content["format"] == "ctxdeploy-h200/1"
    ran = {name: step for name, step in content["steps"].items() if step["status"] != "not run"}
    wrong = {name: (step["status"], step.get("said"), step["rows"]) for name, step in ran.items()}
    assert all(step["status"] == "done" for step in ran.values()), (wrong, done.stderr[-2000:])
    assert done.returncode == 0
    return ran


@pytest.mark.slow
def test_networks_and_searches_are_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    """The rehearsal: what could be misspelt on the day of the GPU is run today."""
    steps = rehearse(tmp_path / "r.json", "--only", "bundles,archives,parity,speed,search,decoding")
    assert set(steps) == {"bundles", "archives", "parity", "speed", "search", "decoding"}
    assert all(row["equal"] for row in steps["search"]["rows"].values() if "equal" in row)
    assert min(row["cosine_min"] for name, row in steps["parity"]["rows"].items() if "fp32" in name) > 0.9999
    # The table of docs/gpu.md takes all of it, as if it were of a GPU.
    spec = importlib.util.spec_from_file_location("page", H200 / "page.py")
    assert spec is not None and spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = page.gpu({"h200": {"steps": steps}})
    measured = [line for line in text.split("\n") if line.startswith("|") and "not measured" not in line]
    assert any("photos/s (onnxruntime " in line for line in measured) and any(" ms |" in line for line in measured)
    assert "Nothing has run" not in text and "Nothing has run on a GPU yet" in page.gpu({})


@pytest.mark.slow
@pytest.mark.long
def test_every_step_is_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    steps = rehearse(tmp_path / "r.json")
    there = {path.stem for path in (H200 / "steps").glob("*.py")}
    assert set(steps) == there
    assert steps["training"]["rows"]["interrupted, fp32"]["equal"]
    assert steps["words"]["rows"]["equal words"]["centroids"] and steps["words"]["rows"]["equal words"]["words"]


def test_every_step_of_the_table_has_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(H200))
    import driver

    names = [step.name for step in driver.STEPS]
    assert sorted(names) == sorted(path.stem for path in (H200 / "steps").glob("*.py"))
    assert {step.after for step in driver.STEPS} - {""} <= {step.name for step in driver.STEPS if step.beside}
    text = (ROOT / "docs" / "gpu.md").read_text()
    assert all(f"`{name}`" in text for name in names)
