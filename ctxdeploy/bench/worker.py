"""The process that measures one case, from both ends; requests and answers are lines of JSON on its standard streams.

Every case has a process of its own, so that the threads of one engine do not get in the way of another's, and the peak
of its memory is its own. The process ends when its input does.

Lines of JSON, not ``multiprocessing.connection``, because the other end may be another interpreter with another version
of this package (``--against python=…``): ``python -m ctxdeploy.bench.worker``, which was ``ctxdeploy.benching.worker``
in 0.1.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from ctxdeploy.bench.cases import MAIN, Case
from ctxdeploy.core import errors
from ctxdeploy.core.errors import BackendError, ConfigError, CtxdeployError

SUBJECTS = {
    "photos": "ctxdeploy.bench.subjects:PhotoSubject",
    "searches": "ctxdeploy.bench.subjects:SearchSubject",
    "indexing": "ctxdeploy.bench.subjects:IndexingSubject",
    "adding": "ctxdeploy.bench.subjects:AddingSubject",
    "answering": "ctxdeploy.bench.subjects:QuerySubject",
    "convolutions": "ctxdeploy.bench.roofline:ConvolutionSubject",
    "reads": "ctxdeploy.bench.roofline:ReadSubject",
    "pytorch": "ctxdeploy.bench.peers:PyTorchSubject",
    "asmk": "ctxdeploy.bench.peers:AsmkSubject",
}
# For an interpreter whose version of the package is not known. -P: the folder that the command runs in is not imported.
_ANY_VERSION = """
import importlib.util, runpy
name = "bench" if importlib.util.find_spec("ctxdeploy.bench") else "benching"
runpy.run_module(f"ctxdeploy.{name}.worker", run_name="__main__")
"""


class CaseProcess:
    """A process that measures one case; ``close`` ends it."""

    def __init__(self, case: Case) -> None:
        self._case = case
        command = [sys.executable, "-m", __name__] if case.python is None else [case.python, "-P", "-c", _ANY_VERSION]
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
            hint = "killed, perhaps because memory ran out" if code < 0 else f"exit code {code}"
            raise BackendError(f"the process of {self._case.label!r} ended ({hint}); its own message is above")
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


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends this process
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    subject: Any = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if request["do"] == "open":
                subject, answer = _open(request)
            else:
                answer = _run(subject, request["items"])
        except (CtxdeployError, MemoryError) as error:
            answer = {"error": type(error).__name__, "message": str(error) or "out of memory"}
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except BrokenPipeError:  # the command was killed: nothing waits for the answer
            os._exit(0)


def _open(request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from ctxdeploy.bench.machine import PACKAGES, code_hash, versions

    module, _, name = SUBJECTS[request["subject"]].partition(":")
    subject = getattr(import_module(module), name)(request["settings"])
    subject.warm()
    about = {"code_sha256": code_hash(), "versions": versions(PACKAGES)}
    return subject, {"items": subject.items, "facts": subject.facts, "software": about}


def _run(subject: Any, items: list[int]) -> dict[str, Any]:
    from ctxdeploy.bench.machine import memory_facts

    samples = subject.run(items)
    names = list(dict.fromkeys(name for sample in samples for name in sample.stages))
    return {
        "seconds": [sample.seconds for sample in samples],
        "stages": {name: [sample.stages[name] for sample in samples] for name in names},
        "memory": memory_facts(subject.gpu),
    }


if __name__ == "__main__":
    main()
