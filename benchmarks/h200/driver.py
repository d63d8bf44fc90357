"""Runs the steps, each a process with a time limit; every figure is in one JSON file from the moment it is known."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FORMAT = "ctxdeploy-h200/1"
# What a step writes before the JSON of a row.
ROW = "ROW "
DONE, FAILED, LATE, LACKING, CUT = "done", "failed", "took too long", "lacks something", "cut off"
# Lines of a step that failed which are kept.
_KEPT_LINES = 12
# A step is not begun with less time than this, but left to the next run.
_LEAST_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """A row of the table of steps.

    Attributes:
        name: of the step, and of its file in ``steps/``.
        seconds: that it may take.
        after: a step beside the others that must be through before.
        beside: it runs beside the others, on the CPU.
    """

    name: str
    seconds: float
    after: str = ""
    beside: bool = False


# In the order of what they prove. The seconds add up to more than ten minutes: they are limits, not estimates.
STEPS = (
    # Work of the CPU, while the GPU has other: networks as ONNX graphs, and an archive to be searched.
    Step(name="bundles", seconds=300, beside=True),
    Step(name="archives", seconds=200, beside=True),
    Step(name="machine", seconds=60),
    Step(name="tests", seconds=180),
    Step(name="parity", seconds=150, after="bundles"),
    Step(name="speed", seconds=150, after="bundles"),
    Step(name="loop", seconds=60),
    Step(name="search", seconds=120, after="archives"),
    Step(name="words", seconds=120),
    Step(name="training", seconds=90),
    Step(name="operators", seconds=60),
    Step(name="decoding", seconds=40),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is told; see ``h200.sh --help``."""

    output: Path
    work: Path
    store: Path
    photos: Path | None = None
    rehearse: bool = False
    seconds: float = 570.0
    only: tuple[str, ...] = ()
    again: bool = False
    steps: tuple[Step, ...] = STEPS
    folder: Path = Path(__file__).parent / "steps"


@dataclass
class Running:
    """A step that runs, with the last lines that it said."""

    step: Step
    process: "subprocess.Popen[str]"
    began: float
    lines: "queue.Queue[str | None]" = field(default_factory=queue.Queue)
    said: list[str] = field(default_factory=list)


class Driver:
    """One run over the steps."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._ends = time.monotonic() + options.seconds
        self._running: list[Running] = []
        unknown = set(options.only) - {step.name for step in options.steps}
        if unknown:
            known = ", ".join(step.name for step in options.steps)
            raise SystemExit(f"h200.sh: --only {','.join(sorted(unknown))}: there is no such step, only {known}")
        self.content = self._begun()
        self._check_chosen()
        for folder in (options.work, options.output.parent):
            folder.mkdir(parents=True, exist_ok=True)
        link_package(options.work / "links")
        self._log = (options.output.with_suffix(".log")).open("a", encoding="utf-8")

    def run(self) -> int:
        """Run what is missing; return 0 if all of it is there now, else 1."""
        signal.signal(signal.SIGTERM, _interrupt)
        wanted = [s for s in self._options.steps if not self._options.only or s.name in self._options.only]
        wanted = [step for step in wanted if self._options.again or self._of(step)["status"] != DONE]
        try:
            threads = {step.name: self._beside(step) for step in wanted if step.beside}
            for step in wanted:
                if step.beside:
                    continue
                if step.after in threads:
                    threads[step.after].join(max(0.0, self._left()))
                self._take(step)
            for thread in threads.values():
                thread.join(max(0.0, self._left()))
        except KeyboardInterrupt:
            print("h200.sh: cut off; the same command goes on", file=sys.stderr)
            return 130
        finally:
            for running in list(self._running):
                _kill(running.process)
            self._write()
        for step in self._options.steps:
            found = self._of(step)
            print(f"{step.name:10} {found['status']:16} {found['seconds']:6.1f} s  {len(found['rows'])} rows")
        print(f"wrote {self._options.output}")
        return int(any(self._of(step)["status"] != DONE for step in wanted))

    def _check_chosen(self) -> None:
        """Refuse steps without those that make what they need: said before a minute of the GPU is spent."""
        only = self._options.only
        steps = {step.name: step for step in self._options.steps}
        for name in only:
            before = steps[name].after
            if before and before not in only and self._of(steps[before])["status"] != DONE:
                together = ",".join(step for step in steps if step in (*only, before))
                raise SystemExit(
                    f"h200.sh: --only {','.join(only)}: {name} needs what the step {before} makes, which is not done: "
                    f"give  --only {together}"
                )

    def _beside(self, step: Step) -> threading.Thread:
        thread = threading.Thread(target=self._take, args=(step,), daemon=True)
        thread.start()
        return thread

    def _take(self, step: Step) -> None:
        """Run a step and keep what it finds and how it ends."""
        limit = min(step.seconds, self._left())
        if self._left() < _LEAST_SECONDS:
            self._say(f"{step.name}: no time is left for it")
            return
        found = self._of(step)
        if self._options.again:
            found["rows"] = {}
        with self._lock:
            found["status"] = CUT  # until it has ended
        self._say(f"{step.name}: begins, {limit:.0f} s at most")
        running = self._start(step, found)
        status = self._follow(running, found, limit)
        with self._lock:
            found["status"], found["seconds"] = status, round(time.monotonic() - running.began, 1)
            found.pop("said", None)
            if status != DONE:
                found["said"] = running.said[-_KEPT_LINES:]
        self._write()
        self._say(f"{step.name}: {status} after {found['seconds']} s, {len(found['rows'])} rows")

    def _start(self, step: Step, found: dict[str, Any]) -> Running:
        options = self._options
        done = options.work / f"{step.name}.done.json"
        kept = {name: row for name, row in found["rows"].items() if "error" not in row}
        done.write_text(json.dumps({"rows": kept, "steps": self.content["steps"]}), encoding="utf-8")
        command = [
            sys.executable,
            str(options.folder / f"{step.name}.py"),
            "--work",
            str(options.work),
            "--done",
            str(done),
        ]
        command += ["--rehearse"] if options.rehearse else []
        command += [] if options.photos is None else ["--photos", str(options.photos)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end tells the step that this process is gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._environment(),
            cwd=ROOT,
            start_new_session=True,
        )
        running = Running(step=step, process=process, began=time.monotonic())
        self._running.append(running)
        threading.Thread(target=_read, args=(running,), daemon=True).start()
        return running

    def _environment(self) -> dict[str, str]:
        """Return the variables of a step: where our package and the wheels are, and no network."""
        options = self._options
        places = [str(Path(__file__).parent), str(options.work / "links"), str(options.store / "site")]
        given = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        given["PYTHONPATH"] = os.pathsep.join([*places, *filter(None, [os.environ.get("PYTHONPATH")])])
        if options.rehearse:  # the GPU of a rehearsal is numba's simulator
            given |= {"NUMBA_ENABLE_CUDASIM": "1", "CUDA_VISIBLE_DEVICES": ""}
        return given

    def _follow(self, running: Running, found: dict[str, Any], limit: float) -> str:
        """Keep the rows of a step until it ends; return how it ended."""
        ends = running.began + limit
        while True:
            try:
                line = running.lines.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                _kill(running.process)
                self._running.remove(running)
                return LATE
            if line is None:
                break
            self._keep(running, found, line)
        code = running.process.wait()
        self._running.remove(running)
        if code == 0:
            return FAILED if any("error" in row for row in found["rows"].values()) else DONE
        return LACKING if code == 3 else FAILED

    def _keep(self, running: Running, found: dict[str, Any], line: str) -> None:
        if not line.startswith(ROW):
            running.said.append(line)
            self._say(f"  {running.step.name} | {line}", quiet=True)
            return
        row = json.loads(line.removeprefix(ROW))
        with self._lock:
            found["rows"][row["name"]] = row["found"]
        self._write()
        self._say(f"  {running.step.name} | {row['name']}: {json.dumps(row['found'])[:160]}")

    def _of(self, step: Step) -> dict[str, Any]:
        fresh = {"status": "not run", "seconds": 0.0, "rows": {}}
        found: dict[str, Any] = self.content["steps"].setdefault(step.name, fresh)
        return found

    def _begun(self) -> dict[str, Any]:
        """Return what an earlier run left, or an empty result."""
        path = self._options.output
        if path.exists():
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content.get("format") != FORMAT or content.get("rehearsal") != self._options.rehearse:
                raise SystemExit(f"h200.sh: {path} is of another kind of run: move it away or give another -o")
            return content
        return {"format": FORMAT, "rehearsal": self._options.rehearse, "commit": commit(), "steps": {}}

    def _write(self) -> None:
        with self._lock:
            text = json.dumps(self.content, indent=1)
            partial = self._options.output.with_suffix(".partial")
            partial.write_text(f"{text}\n", encoding="utf-8")
            partial.replace(self._options.output)

    def _left(self) -> float:
        return self._ends - time.monotonic()

    def _say(self, line: str, *, quiet: bool = False) -> None:
        with self._lock:
            self._log.write(f"{time.strftime('%H:%M:%S')} {line}\n")
            self._log.flush()
        if not quiet:
            print(line, file=sys.stderr)


def link_package(folder: Path) -> None:
    """Make our package importable without installing it: a folder of links to where its parts lie."""
    package = folder / "ctxdeploy"
    package.mkdir(parents=True, exist_ok=True)
    parts = [*(ROOT / "ctxdeploy").iterdir(), *(ROOT / room for room in ("export", "runtime", "index"))]
    for part in parts:
        link = package / part.name
        if part.name != "__pycache__" and not link.is_symlink():
            link.symlink_to(part)


def commit() -> str | None:
    """Return the commit that is measured, if git is there to say."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _read(running: Running) -> None:
    for line in running.process.stdout or ():
        running.lines.put(line.rstrip("\n"))
    running.lines.put(None)


def _kill(process: "subprocess.Popen[str]") -> None:
    """End a step and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
