"""Who writes an archive, or reads it from another machine: a line of JSON in a file, and a sign of life behind it."""

import json
import os
import secrets
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ctxdeploy.core.heartbeat import beat_line, lease_seconds
from ctxdeploy.core.host import Host, this_host

_MAX_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that holds something of an archive.

    Attributes:
        host, boot, machine: see ``Host``.
        process: its id there.
        token: random; two holders are never alike.
        command: what it runs.
        since: when it began, by the clock of its machine: UTC, ISO 8601.
        seconds: after so many of silence it is taken for dead.
        manifest: file name of the state that a reader holds; empty of a writer.
    """

    host: str
    boot: str
    machine: str
    process: int
    token: str
    command: str
    since: str
    seconds: float
    manifest: str = ""

    @classmethod
    def here(cls, manifest: str = "") -> Self:
        """Return this process, with a new token."""
        host = this_host()
        return cls(
            host=host.name,
            boot=host.boot,
            machine=host.machine,
            process=os.getpid(),
            token=secrets.token_hex(8),
            command=_command(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=lease_seconds(),
            manifest=manifest,
        )

    @property
    def line(self) -> bytes:
        """The line of JSON; the sign of life comes after it."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def encode(self) -> bytes:
        """Return the content of the file."""
        return self.line + beat_line(0, 0)

    def is_of(self, host: Host) -> bool:
        """Return whether it ran on the kernel of a machine, or on one that was started there before."""
        if host.boot and self.boot == host.boot:
            return True
        return bool(host.machine) and (self.machine, self.host) == (host.machine, host.name)

    def metadata(self, held: int) -> dict[str, Any]:
        """Return what people may want to know, as JSON prints it."""
        facts = {"host": self.host, "process": self.process, "command": self.command, "since": self.since}
        return {**facts, "seconds": held}

    def told(self, held: int = 0) -> str:
        """Return it in words, after "process"; ``held``: seconds that it says it has been at it."""
        at_it = f", for {_duration(held)} so far" if held else ""
        return f"{self.process} on {self.host} ({self.command}, since {self.since}{at_it})"


def parse_holder(content: bytes) -> tuple[Holder, int] | None:
    """Return the holder in a file's content and the seconds that it has been at it; None if it is none."""
    line, _, sign = content.partition(b"\n")
    try:
        facts: dict[str, Any] = json.loads(line)
        holder = Holder(**{name: kind(facts[name]) for name, kind in _KINDS.items()})
        return holder, int(sign.split()[1])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def read_holder_file(path: Path) -> bytes | None:
    """Return the first bytes of a holder's file; None if it is gone. Opened anew: what others wrote, NFS shows then."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.read(handle, _MAX_BYTES)
    finally:
        os.close(handle)


_KINDS: dict[str, Any] = {
    "host": str,
    "boot": str,
    "machine": str,
    "process": int,
    "token": str,
    "command": str,
    "since": str,
    "seconds": float,
    "manifest": str,
}


def _command() -> str:
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program in ("__main__.py", "ctxdeploy"):
        return " ".join(("ctxdeploy", *(word for word in sys.argv[1:2] if word.replace("-", "").isalpha())))
    return "python" if program.startswith("-") else program[:80]


def _duration(seconds: int) -> str:
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    return f"{seconds} seconds"
