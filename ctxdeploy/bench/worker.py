"""The process that measures one case: requests and answers are lines of JSON on its standard streams.

Every case has a process of its own, so that the threads of one engine do not wait in the way of another's, and the
peak of its memory is its own. It ends when its input does.
"""

import json
import os
import signal
import sys
from importlib import import_module
from typing import Any

from ctxdeploy.core.errors import CtxdeployError

SUBJECTS = {
    "photos": "ctxdeploy.bench.subjects:Photos",
    "searches": "ctxdeploy.bench.subjects:Searches",
    "indexing": "ctxdeploy.bench.subjects:Indexing",
    "adding": "ctxdeploy.bench.subjects:Adding",
    "answering": "ctxdeploy.bench.subjects:Answering",
    "convolutions": "ctxdeploy.bench.subjects:Convolutions",
    "reads": "ctxdeploy.bench.subjects:Reads",
    "pytorch": "ctxdeploy.bench.peers:PyTorch",
    "asmk": "ctxdeploy.bench.peers:Asmk",
}


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
        except BrokenPipeError:  # the command was killed: nobody waits, and nothing is to be said
            os._exit(0)


def _open(request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from ctxdeploy.bench.machine import PACKAGES, code_hash, versions

    module, _, name = SUBJECTS[request["subject"]].partition(":")
    subject = getattr(import_module(module), name)(request["settings"])
    subject.warm()
    about = {"code_sha256": code_hash(), "versions": versions(PACKAGES)}
    return subject, {"items": subject.items, "facts": subject.facts, "software": about}


def _run(subject: Any, items: list[int]) -> dict[str, Any]:
    from ctxdeploy.bench.resources import memory_facts

    samples = subject.run(items)
    names = list(dict.fromkeys(name for sample in samples for name in sample.stages))
    return {
        "seconds": [sample.seconds for sample in samples],
        "stages": {name: [sample.stages[name] for sample in samples] for name in names},
        "memory": memory_facts(subject.gpu),
    }


if __name__ == "__main__":
    main()
