"""Progress of long work on stderr: a bar with rate and remaining time on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from ctxdeploy.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

# Seconds between two lines where stderr is no terminal.
LINE_INTERVAL = 10.0


class Progress(Protocol):
    """Counts what is done."""

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        """Add to what is done, and to the failures among it."""


class _Silent:
    """Shows nothing."""

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        """Count nothing."""


class _Lines:
    def __init__(self, task: str, total: int, unit: str) -> None:
        self._task, self._total, self._unit = task, total, unit
        self._done = self._failed = 0
        self._start = self._shown = time.monotonic()

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        self._done += count
        self._failed += failed
        now = time.monotonic()
        if now - self._shown >= LINE_INTERVAL or (self._done == self._total and self._shown > self._start):
            self._shown = now
            rate = self._done / max(now - self._start, 1e-9)
            left = (self._total - self._done) / max(rate, 1e-9)
            failures = f", {self._failed} failed" if self._failed else ""
            line = f"{self._task}: {self._done}/{self._total}{failures}, {rate:.1f} {self._unit}/s, {left:.0f} s left"
            sys.stderr.write(line + "\n")


class Display:
    """How long work speaks to the user, on stderr.

    Args:
        quiet: say and show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        """Print one remark."""
        if not self._quiet:
            sys.stderr.write(printable(text) + "\n")
            sys.stderr.flush()

    @contextmanager
    def progress(self, task: str, total: int, unit: str = "photos") -> Iterator[Progress]:
        """Show a task's progress while the block runs."""
        if self._quiet or not sys.stderr.isatty():
            yield _Silent() if self._quiet else _Lines(task, total, unit)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        speed = TextColumn("{task.fields[speed]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True)) as bar:
            yield _Bar(bar, bar.add_task(task, total=total, speed=""), unit)

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
    def __init__(self, bar: "RichProgress", task: "TaskID", unit: str) -> None:
        self._bar, self._task, self._unit = bar, task, unit
        self._done = self._failed = 0
        self._start = time.monotonic()

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        self._done += count
        self._failed += failed
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        failures = f"  {self._failed} failed" if self._failed else ""
        self._bar.update(self._task, advance=count, speed=f"{rate:.1f} {self._unit}/s{failures}")
