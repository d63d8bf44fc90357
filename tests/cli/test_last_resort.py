"""What no command has an answer to: failures of the system and of libraries, and Ctrl-C, each called what it is."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from ctxdeploy.cli import main, names


def _missing() -> None:
    Path("/nowhere/at/all").read_bytes()


def _renamed() -> None:
    os.replace("/nowhere/one", "/nowhere/other")  # noqa: PTH105


def _unnamed() -> None:
    handle = os.open("/dev/null", os.O_RDONLY)
    try:
        os.write(handle, b"x")
    finally:
        os.close(handle)


def _without_number() -> None:
    raise OSError("the library said this")


def _broken_by_a_file() -> None:
    Path(b"/nowhere/\xff".decode("utf-8", "surrogateescape")).stat()


@pytest.fixture
def doing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Return a function that puts something in the place of the command ``names``."""
    return lambda work: monkeypatch.setattr(names, "command", click.command()(lambda: work()))


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (_missing, "error: /nowhere/at/all: No such file or directory (in pathlib.open, line "),
        (_renamed, "error: /nowhere/one → /nowhere/other: No such file or directory (in "),
        (_unnamed, "error: a file whose name the system did not say: Bad file descriptor (in "),
        (_without_number, "error: a file whose name the system did not say: the library said this (in "),
        (_broken_by_a_file, r"error: /nowhere/\udcff: No such file or directory (in pathlib.stat, line "),
    ],
)
def test_a_failure_of_the_system_names_its_file_and_never_the_output(
    call: Any, doing: Any, work: Callable[[], None], said: str
) -> None:
    doing(work)
    result = call("names")
    assert result.code == 18 and said in result.err and "output" not in result.err
    assert len(result.err.splitlines()) == 1


def test_output_that_has_no_place_to_go_is_called_so(doing: Any, capfd: pytest.CaptureFixture[str]) -> None:
    doing(lambda: click.echo("x" * 100_000))
    with pytest.MonkeyPatch.context() as patch, open("/dev/full", "w") as full:  # noqa: PTH123
        patch.setattr("sys.stdout", full)
        code = main.run(["names"])
        assert full.fileno()
    assert code == 18
    assert "the output cannot be written: No space left on device" in capfd.readouterr().err


def test_the_end_of_a_file_is_not_ctrl_c(doing: Any) -> None:
    def work() -> None:
        raise EOFError("Ran out of input")

    doing(work)
    with pytest.raises(EOFError, match="Ran out of input"):
        main.run(["names"])


@pytest.fixture
def handling() -> Any:
    """Have signals handled as in a process of the command line."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(SystemExit):
        main.main(["--version"])
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_are(call: Any, doing: Any, handling: None, number: int, code: int) -> None:
    doing(lambda: signal.raise_signal(number))
    assert call("names").code == code


@pytest.mark.usefixtures("handling")
def test_an_interrupt_that_nobody_sent_is_not_ctrl_c(doing: Any) -> None:
    def work() -> None:
        raise KeyboardInterrupt

    doing(work)
    with pytest.raises(RuntimeError, match="nobody pressed Ctrl-C"):
        main.run(["names"])
