"""Cases, and the processes that measure them."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ctxdeploy.core import errors
from ctxdeploy.core.errors import BackendError, ConfigError, CtxdeployError

MAIN, AGAINST, PEER, SWEEP, METER = "main", "against", "peer", "sweep", "meter"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something that takes its turn in every window.

    Attributes:
        label: for people, unique in a run.
        role: ``main``, ``against`` (another configuration), ``peer``, ``sweep`` (other batches, threads, sizes) or
            ``meter``.
        subject: name in ``worker.SUBJECTS``.
        settings: of the subject; they may hold paths of this machine.
        identity: what of them decides the figures, in hashes instead of paths.
        units: photos or queries of one item.
        turn: items of a turn; the next case follows.
        again: items that run untimed before each turn, where the turns of others take the caches from short ones.
        restarts: make its process anew with every block; not for peers that take long to start.
        python: interpreter that runs it; this one if None.
    """

    label: str
    role: str
    subject: str
    settings: Mapping[str, Any]
    identity: Mapping[str, Any] = field(default_factory=dict)
    units: int = 1
    turn: int = 1
    again: int = 0
    restarts: bool = True
    python: str | None = None

    def metadata(self) -> dict[str, Any]:
        """Return the case as it stands in the configuration of a result."""
        return {"role": self.role, "subject": self.subject, "units": self.units, **self.identity}


class CaseProcess:
    """A process that measures one case; it is ended by ``close``."""

    def __init__(self, case: Case) -> None:
        self._case = case
        command = [case.python or sys.executable, "-m", "ctxdeploy.bench.worker"]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"python={case.python} cannot be started: {error.strerror or error}") from error
        self.about: dict[str, Any] = {}

    def open(self) -> None:
        """Load and warm up; ``about`` says what runs.

        Raises:
            CtxdeployError: what the subject raised.
            BackendError: the process died.
        """
        self.about = self._ask({"do": "open", "subject": self._case.subject, "settings": dict(self._case.settings)})

    @property
    def items(self) -> int:
        """Items of a window."""
        return int(self.about["items"])

    def run(self, items: Sequence[int]) -> dict[str, Any]:
        """Measure items: seconds and stages of each, and the memory that the process has."""
        return self._ask({"do": "run", "items": list(items)})

    def close(self) -> None:
        """End the process; it holds nothing that would be lost."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        answer = ""
        if process.stdin is not None and process.stdout is not None:
            with suppress(OSError):
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
        if not answer:
            code = process.wait()
            hint = "killed, perhaps for want of memory" if code < 0 else f"exit code {code}"
            raise BackendError(f"the process of {self._case.label!r} ended ({hint}); what it said is above")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise _error(found, self._case)
        return found


def _error(answer: Mapping[str, Any], case: Case) -> Exception:
    kind = getattr(errors, answer["error"], None)
    message = answer["message"] if case.role == MAIN else f"{case.label}: {answer['message']}"
    if isinstance(kind, type) and issubclass(kind, CtxdeployError) and kind is not errors.MissingExtraError:
        return kind(message)
    return MemoryError(message) if answer["error"] == "MemoryError" else CtxdeployError(message)
