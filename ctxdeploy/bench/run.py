"""The run: windows in which every case takes its turn, until there are as many as were asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctxdeploy.bench.cases import AGAINST, PEER, Case
from ctxdeploy.bench.config import WindowConfig
from ctxdeploy.bench.machine import Energy, commit, load, machine, software
from ctxdeploy.bench.record import Record
from ctxdeploy.bench.results import results_of
from ctxdeploy.bench.worker import CaseProcess
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.core.progress import Display


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is measured.

    Attributes:
        kind: ``extract``, ``search`` or ``end-to-end``.
        settings: beyond the cases, what decides the figures (photos, numbers, seeds), in hashes instead of paths.
        cases: the first is the one that the question is about.
        known: facts for the results that take time to find, such as counted operations; not part of the key.
    """

    kind: str
    settings: dict[str, Any]
    cases: Sequence[Case]
    known: dict[str, Any]

    def configuration(self) -> dict[str, Any]:
        """Return what windows must have in common to lie in one file."""
        cases = {case.label: case.metadata() for case in self.cases}
        return {"settings": self.settings, "cases": cases, "machine": machine(), "software": software()}


def measure(question: Question, path: Path, config: WindowConfig, display: Display, *, restart: bool = False) -> Record:
    """Measure until the file has enough windows, and write what follows from them; return the record.

    Raises:
        ConfigError: the file is of another configuration.
        StorageError: it cannot be written.
        MissingExtraError: the extra ``bench`` is not installed, and cases are to be compared.
        CtxdeployError: a case cannot run here; what was measured stays.
    """
    labels = [case.label for case in question.cases]
    if len(set(labels)) != len(labels):
        raise ConfigError(f"two cases are the same ({', '.join(sorted(labels))}): leave one of them out")
    if any(case.role in (AGAINST, PEER) for case in question.cases):
        require("scipy.stats", "bench")  # the comparison needs it: said before hours of measuring
    record = Record.begin(path, question.kind, question.configuration(), restart=restart)
    for name, value in record.content["configuration"]["software"]["environment"].items():
        display.say(f"{name}={value} is set: the figures hold for that")
    if len(record.windows) >= config.windows:
        display.say(f"{path} has {len(record.windows)} windows already: give more --windows to go on")
    else:
        _add_windows(record, question, config, display)
    record.content["results"] = results_of(record)
    record.write()
    return record


def _add_windows(record: Record, question: Question, config: WindowConfig, display: Display) -> None:
    if record.windows:
        display.say(f"{record.path} has {len(record.windows)} of {config.windows} windows: going on")
    started = datetime.now(UTC).isoformat(timespec="seconds")
    record.begin_session({"started": started, "commit": commit(), "load_average": load()})
    record.content["known"] = question.known
    done, energy = len(record.windows), Energy()
    block = record.windows[-1]["block"] + 1 if record.windows else 0
    with (
        _processes() as processes,
        display.progress("measuring", config.windows - done, "windows") as bar,
    ):
        for number in range(done, config.windows):
            if (number - done) % config.block == 0:
                _renew(question.cases, processes)
                block += int(number > done)
                _take_about(record, processes)
            window = _window(question.cases, processes, energy, backwards=number % 2 == 1)
            facts = {"number": number, "block": block, "session": len(record.content["sessions"]) - 1}
            record.append({**facts, "load_average": load(), "cases": window})
            bar.advance()


@contextmanager
def _processes() -> Iterator[dict[str, CaseProcess]]:
    """Yield an empty table of processes by label; those that are in it at the end are ended."""
    processes: dict[str, CaseProcess] = {}
    try:
        yield processes
    finally:
        for process in processes.values():
            process.close()


def _renew(cases: Sequence[Case], processes: dict[str, CaseProcess]) -> None:
    """Start the processes that are not there, and those anew that shall not live on."""
    for case in cases:
        if case.label in processes and not case.restarts:
            continue
        if case.label in processes:
            processes.pop(case.label).close()
        processes[case.label] = CaseProcess(case)
        processes[case.label].open()


def _take_about(record: Record, processes: dict[str, CaseProcess]) -> None:
    """Keep what runs; another interpreter (``--against python=…``) may hold other code than in earlier windows."""
    about = {label: process.about for label, process in processes.items()}
    before = record.content.get("about", about)
    changed = [label for label in about if before.get(label, {}).get("software") != about[label]["software"]]
    if changed:
        raise ConfigError(f"{changed[0]} has other code than in {record.path}: give another -o, or --restart")
    record.content["about"] = about


def _window(
    cases: Sequence[Case], processes: dict[str, CaseProcess], energy: Energy, *, backwards: bool
) -> dict[str, Any]:
    """Measure every item of every case once, a turn of each after another, so that a drift of the machine meets all."""
    found: dict[str, dict[str, Any]] = {case.label: {"seconds": [], "stages": {}, "joules": None} for case in cases}
    turns = {case.label: _turns(processes[case.label].items, case.turn) for case in cases}
    for turn in range(max(map(len, turns.values()))):
        for case in list(cases)[:: -1 if backwards else 1]:
            if turn < len(turns[case.label]):
                items = turns[case.label][turn]
                if case.again:
                    processes[case.label].run(items[-case.again :])
                before = energy.read()
                answer = processes[case.label].run(items)
                _add(found[case.label], answer, energy.joules(before, energy.read()))
    return found


def _turns(items: int, length: int) -> list[list[int]]:
    return [list(range(start, min(start + length, items))) for start in range(0, items, length)]


def _add(total: dict[str, Any], answer: dict[str, Any], joules: float | None) -> None:
    total["seconds"] += _rounded(answer["seconds"])
    for name, seconds in answer["stages"].items():
        total["stages"].setdefault(name, []).extend(_rounded(seconds))
    total["memory"] = answer["memory"]
    if joules is not None:
        total["joules"] = (total["joules"] or 0.0) + joules


def _rounded(seconds: list[float]) -> list[float]:
    """Return times to a nanosecond, which the clock does not resolve."""
    return [max(round(value, 9), 1e-9) for value in seconds]
