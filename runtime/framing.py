"""Messages between this process and its workers: a header in JSON, and bytes behind it.

    header's length: 4 bytes, big-endian | header: a JSON object with "bytes": n among its keys | n bytes

The two ends are of one version of this package, but a worker may have been spoilt by the photo that it decodes: its
header is checked like any other input.
"""

import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

MAX_HEADER = 1 << 16
_LENGTH = struct.Struct(">I")
_SLICE = 1.0
_PIECE = 1 << 16


class DeadlineError(Exception):
    """The other end has not answered in its time."""


class Deadline:
    """Seconds that are left for an answer. Waiting goes in slices of which no more than two count at once: time in
    which both processes were stopped (Ctrl-Z) does not pass."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    @property
    def slice(self) -> float:
        """Seconds to wait at most until the next ``spend``."""
        return max(min(self._left, _SLICE), 1e-3)

    def spend(self, seconds: float) -> None:
        """Count seconds that have passed; ``DeadlineError`` when none are left."""
        self._left -= min(seconds, 2 * _SLICE)
        if self._left <= 0:
            raise DeadlineError


class Channel:
    """One end of a connection. ``EOFError`` or ``OSError`` when the other is gone, ``ValueError`` for what is no
    message."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, header: dict[str, Any], payload: bytes | memoryview = b"", patience: Deadline | None = None) -> None:
        """Send a message; without patience it may wait for ever."""
        text = json.dumps({**header, "bytes": len(payload)}).encode()
        self._move(self._connection.send, memoryview(_LENGTH.pack(len(text)) + text), patience)
        self._move(self._connection.send, memoryview(payload), patience)

    def receive(self, patience: Deadline | None = None) -> dict[str, Any]:
        """Return the next header; its ``bytes`` are to be received next."""
        length = _LENGTH.unpack(self.receive_bytes(_LENGTH.size, patience))[0]
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(self.receive_bytes(length, patience))
        if not isinstance(header, dict) or not isinstance(header.get("bytes"), int):
            raise ValueError("a header that is none")
        return header

    def receive_bytes(self, count: int, patience: Deadline | None = None) -> bytes:
        """Return the next ``count`` bytes; after a ``MemoryError`` they are lost, and the next message follows."""
        try:
            buffer = bytearray(count)
        except MemoryError:
            piece = bytearray(min(count, _PIECE))
            for start in range(0, count, _PIECE):
                self.receive_into(memoryview(piece)[: count - start], patience)
            raise
        self.receive_into(memoryview(buffer), patience)
        return bytes(buffer)

    def receive_into(self, view: memoryview, patience: Deadline | None = None) -> None:
        """Fill ``view`` with the next bytes."""
        self._move(self._connection.recv_into, view, patience)

    def interrupt(self) -> None:
        """End whatever another thread sends or receives here."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other end is gone already
            return

    def close(self) -> None:
        """Close the connection; no other thread may be using it."""
        self._connection.close()

    def _move(self, step: Callable[[memoryview], int], view: memoryview, patience: Deadline | None) -> None:
        while len(view):
            self._connection.settimeout(patience.slice if patience else None)
            start = time.monotonic()
            try:
                count = step(view)
                if not count:
                    raise EOFError
            except TimeoutError:
                count = 0
            view = view[count:]
            if patience:
                patience.spend(time.monotonic() - start)
