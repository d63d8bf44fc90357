"""Progress of long work on stderr: a bar with rate and remaining time on a terminal, a line now and then elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from ctxdeploy.core.host import user_cache
from ctxdeploy.core.text import json_text, printable
from ctxdeploy.core.urls import redacted

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

# Seconds between two lines where stderr is not a terminal; between two lines of JSON; over which a rate is taken: a
# run of days is to show what it does now, and the first moments of one show nothing.
LINE_INTERVAL = 10.0
JSON_INTERVAL = 1.0
_RATE_SECONDS = 60.0
_LEAST_SECONDS = 0.1
# Between two times that the same user gets the same hint.
_HINT_SECONDS = 7 * 24 * 3600.0


class Progress(Protocol):
    """Counts what is done."""

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        """Add to what is done, and to the failures among it."""

    def limited_by(self, stage: str) -> None:
        """Name the stage that everything waits for."""


class _Silent:
    """Shows nothing."""

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        """Count nothing."""

    def limited_by(self, stage: str) -> None:
        """Name nothing."""


class Counts:
    """What is done, and how fast: over the last minute, or since the start.

    Args:
        total: of the task; None if it is not known.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.done = self.failed = 0
        self.limit = ""
        self._start = time.monotonic()
        self._marks = deque([(self._start, 0)])

    def advance(self, count: int, failed: int) -> float:
        """Add to the counts; return seconds since the start."""
        self.done += count
        self.failed += failed
        now = time.monotonic()
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self.done))
            while len(self._marks) > 2 and now - self._marks[1][0] > _RATE_SECONDS:
                self._marks.popleft()
        return now - self._start

    @property
    def rate(self) -> float | None:
        """Done per second; None as long as nothing was, or for a tenth of a second: that says nothing."""
        then, done = self._marks[0]
        seconds = time.monotonic() - then
        return (self.done - done) / seconds if self.done > done and seconds >= _LEAST_SECONDS else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest takes at this rate; None if either is not known."""
        if self.total is None or self.done >= self.total:
            return None if self.total is None else 0.0
        return None if self.rate is None else (self.total - self.done) / self.rate

    def speed(self, unit: str) -> str:
        """Return the rate for people, a comma before it; nothing if it is not known."""
        return "" if self.rate is None else f", {self.rate:.1f} {unit}/s"

    @property
    def of_total(self) -> str:
        """What is done, of what is to be done: ``3/10``."""
        return str(self.done) if self.total is None else f"{self.done}/{self.total}"


class _Lines:
    def __init__(self, task: str, total: int | None, unit: str) -> None:
        self._task, self._unit = task, unit
        self._counts = Counts(total)
        self._shown = 0.0

    def limited_by(self, stage: str) -> None:
        self._counts.limit = stage

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        counts = self._counts
        now = counts.advance(count, failed)
        if now - self._shown >= LINE_INTERVAL or (counts.done == counts.total and self._shown > 0):
            self._shown = now
            failures = f", {counts.failed} failed" if counts.failed else ""
            limit = f", limited by {counts.limit}" if counts.limit else ""
            left = "" if counts.seconds_left is None else f", {counts.seconds_left:.0f} s left"
            sys.stderr.write(f"{self._task}: {counts.of_total}{failures}{counts.speed(self._unit)}{left}{limit}\n")


class _JsonLines:
    def __init__(self, task: str, total: int | None, unit: str) -> None:
        self._task, self._unit = task, unit
        self._counts = Counts(total)
        self._shown: float | None = None

    def limited_by(self, stage: str) -> None:
        self._counts.limit = stage

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        counts = self._counts
        now = counts.advance(count, failed)
        if self._shown is None or now - self._shown >= JSON_INTERVAL or counts.done == counts.total:
            self._shown = now
            facts = {"task": self._task, "unit": self._unit, "done": counts.done, "total": counts.total}
            left = counts.seconds_left
            rate = counts.rate
            speed = {
                "per_second": None if rate is None else round(rate, 3),
                "seconds_left": None if left is None else round(left, 1),
            }
            _event("progress", {**facts, "failed": counts.failed, **speed, "limit": counts.limit or None})


def _event(kind: str, facts: dict[str, Any]) -> None:
    sys.stderr.write(json_text({"event": kind, **facts}) + "\n")
    sys.stderr.flush()


_announced: set[str] = set()
_speaking: "Display | None" = None


def announce(text: str, topic: str = "") -> None:
    """Say, once a process, what takes long far below a command; nothing where no command speaks to a user.

    Args:
        text: of it.
        topic: of which one text alone is said, the first; if empty the text is its own.
    """
    key = topic or text
    if _speaking is not None and key not in _announced:
        _announced.add(key)
        _speaking.say(text)


def hint(name: str, text: str) -> None:
    """Announce what may help, to each user once a week; nothing where no command speaks to one.

    Args:
        name: of the hint; an empty file of that name in the user's folder of caches says when it was given.
        text: of it.
    """
    if _speaking is not None and _is_due(name):
        announce(text)


def _is_due(name: str) -> bool:
    folder = user_cache()
    if folder is None:
        return True
    mark = folder / f"hint-{name}"
    try:
        if abs(time.time() - mark.stat().st_mtime) < _HINT_SECONDS:
            return False
    except OSError:
        pass
    with suppress(OSError):  # it is given again where nothing can be kept
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    return True


class Display:
    """How long work speaks to the user, on stderr; the latest is the one that announces.

    Args:
        quiet: say and show nothing.
        as_json: one JSON object a line: ``{"event": "progress" | "remark", …}``.
    """

    def __init__(self, *, quiet: bool, as_json: bool = False) -> None:
        global _speaking
        self._quiet, self._as_json = quiet, as_json
        _speaking = None if quiet else self

    def say(self, text: str) -> None:
        """Print one remark."""
        if self._quiet:
            return
        if self._as_json:
            _event("remark", {"text": redacted(text)})
            return
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()

    @contextmanager
    def progress(self, task: str, total: int | None, unit: str = "photos") -> Iterator[Progress]:
        """Show a task's progress while the block runs; without a total if that is None."""
        if self._quiet:
            yield _Silent()
            return
        if self._as_json or not sys.stderr.isatty():
            yield (_JsonLines if self._as_json else _Lines)(task, total, unit)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        speed = TextColumn("{task.fields[speed]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True)) as bar:
            yield _Bar(bar, bar.add_task(task, total=total, speed=""), unit, total)

    @contextmanager
    def steps(self, task: str, unit: str = "photos") -> Iterator[Callable[[int, int], None]]:
        """As ``progress``, for work that finds out how much it is: it calls what this yields with done and total."""
        with ExitStack() as stack:
            bar: Progress | None = None
            before = 0

            def show(done: int, total: int) -> None:
                nonlocal bar, before
                if bar is None:
                    bar = stack.enter_context(self.progress(task, total, unit))
                bar.advance(done - before)
                before = done

            yield show


class _Bar:
    def __init__(self, bar: "RichProgress", task: "TaskID", unit: str, total: int | None) -> None:
        self._bar, self._task, self._unit = bar, task, unit
        self._counts = Counts(total)

    def limited_by(self, stage: str) -> None:
        self._counts.limit = stage

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        counts = self._counts
        counts.advance(count, failed)
        failures = f"  {counts.failed} failed" if counts.failed else ""
        limit = f"  limited by {counts.limit}" if counts.limit else ""
        speed = f"{counts.speed(self._unit).removeprefix(', ')}{failures}{limit}"
        self._bar.update(self._task, advance=count, speed=speed)
