"""The log: what cannot be written is counted, and said when there is room again."""

import errno
import json
import logging
import os
from types import SimpleNamespace
from typing import Any

import pytest

from ctxdeploy.service import logs
from ctxdeploy.service.logs import JsonFormatter, LogWriter, log


def record(text: str) -> logging.LogRecord:
    return log.makeRecord(log.name, logging.INFO, __file__, 0, text, (), None)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A disk with room for so many bytes more, to which stderr is written."""

    class Disk:
        room, written, lines = 10**6, b"", 0

        def write(self, _: int, data: bytes) -> int:
            taken = min(self.room, len(data))
            if not taken:
                self.lines += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= taken
            self.written += data[:taken]
            return taken

        def fileno(self) -> int:
            return 2

    made = Disk()
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=made))
    monkeypatch.setattr(logs, "os", SimpleNamespace(write=made.write))
    return made


def test_lines_that_find_no_room_are_counted_and_none_is_half(disk: Any) -> None:
    writer = LogWriter(JsonFormatter())
    writer.waiting.put(record("first"))
    while not disk.written:
        pass
    disk.room = 30  # half of a line
    for number in range(5):
        writer.waiting.put(record(f"lost {number}"))
    while disk.lines < 5:
        pass
    disk.room = 10**6
    writer.waiting.put(record("last"))
    assert writer.stop()
    lines = disk.written.decode().splitlines()
    events = [json.loads(line)["event"] for line in lines if line.endswith("}")]
    assert len(lines) == 4 and len(lines[1]) == 30  # what had been begun is on a line of its own
    assert events == ["first", "lines of the log that could not be written: 5 (No space left on device)", "last"]


def test_where_there_is_no_stderr_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=None))
    writer = LogWriter(JsonFormatter())
    writer.waiting.put(record("nowhere"))
    assert writer.stop()


def test_a_reader_that_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, bytes(1 << 16))  # all that it takes
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
        monkeypatch.setattr(logs, "_LAST_LINES", 0.1)
        writer = LogWriter(JsonFormatter())
        writer.waiting.put(record("x" * 10_000))
        assert not writer.stop()
        os.read(reading, 1 << 20)
        assert writer.stop()
    os.close(reading)
