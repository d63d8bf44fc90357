"""What is said of speed and of the time that is left: nothing where nothing is known."""

import json
from types import SimpleNamespace

import pytest

from ctxdeploy.core.progress import Counts, Display


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("ctxdeploy.core.progress.time", SimpleNamespace(monotonic=made))  # not that of other threads
    return made


def test_nothing_is_said_before_anything_is_done(clock: Clock) -> None:
    counts = Counts(760)
    counts.advance(0, 0)
    assert (counts.rate, counts.seconds_left, counts.speed("photos")) == (None, None, "")
    clock.now += 5
    counts.advance(0, 0)
    assert (counts.rate, counts.seconds_left) == (None, None), "not 7.6e11 seconds"


def test_the_first_moments_say_nothing(clock: Clock) -> None:
    counts = Counts(100)
    clock.now += 1e-6
    counts.advance(1, 0)
    assert counts.rate is None, "not a million a second"
    clock.now += 1
    counts.advance(1, 0)
    assert counts.rate == pytest.approx(2, rel=0.01)
    assert counts.seconds_left == pytest.approx(49, rel=0.01)
    assert counts.speed("photos") == ", 2.0 photos/s"


@pytest.mark.parametrize(("total", "left"), [(3, 0.0), (None, None)])
def test_what_is_done_leaves_nothing(clock: Clock, total: int | None, left: float | None) -> None:
    counts = Counts(total)
    counts.advance(3, 0)
    assert counts.seconds_left == left
    clock.now += 1e6
    assert counts.seconds_left == left


def test_events_hold_null_for_what_is_not_known(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=False, as_json=True).progress("queries", 70, "queries") as bar:
        bar.advance(0)
        clock.now += 2
        bar.advance(1)
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["per_second"], first["seconds_left"]) == (None, None)
    assert (second["per_second"], second["seconds_left"]) == (0.5, 138.0)


def test_a_line_without_a_speed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=False).progress("queries", 70, "queries") as bar:
        clock.now += 20
        bar.advance(0)
        clock.now += 20
        bar.advance(5)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "queries: 0/70"
    assert second == "queries: 5/70, 0.1 queries/s, 520 s left"
