"""The log: a line a request on stderr, and tracebacks with the id of the request that met them.

It names methods, routes, statuses, times and sizes. What somebody sent is not in it: no photo, no name of one (paths
are those of the routes), no parameter, no key, no address.
"""

import io
import json
import logging
import os
import queue
import sys
import threading
import time
from logging.handlers import QueueHandler
from typing import Any

from ctxdeploy.core.text import printable
from ctxdeploy.service.record import STAGES, RequestRecord

log = logging.getLogger("ctxdeploy.service")
_FIELDS = "ctxdeploy_fields"
# Lines that may wait for a slow reader of stderr; further ones are dropped.
_MAX_LINES = 10_000
# Seconds that the end of the process waits for somebody to read the last lines.
_LAST_LINES = 2.0


def start_log(log_format: str) -> "LogWriter":
    """Let everything that is logged in this process go to stderr, written by a thread: nobody waits for the terminal.

    Args:
        log_format: ``text`` or ``json``.
    """
    writer = LogWriter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [_Dropping(writer.waiting)]
    root.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    # They warn of every request or form that is none, and want packages installed where one asks for a WebSocket.
    for name in ("uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return writer


class LogWriter:
    """Writes lines to stderr in a thread. What cannot be written, to a full disk or a closed pipe, is counted, and the
    number is logged once there is room again.

    Args:
        formatter: of the lines.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        # What a signal logs may interrupt what the same thread logs: this queue stands that.
        self.waiting: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._formatter = formatter
        self._lost, self._reason, self._is_torn = 0, "", False
        self._thread = threading.Thread(target=self._run, name="ctxdeploy-log", daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """Write what waits, and end; return False if nobody reads it. May be called twice, and by a signal."""
        self.waiting.put(None)
        self._thread.join(_LAST_LINES)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (record := self.waiting.get()) is not None:
            if self._lost and self._write(self._formatter.format(self._loss())):
                self._lost = 0
            if self._lost or not self._write(self._formatter.format(record)):
                self._lost += 1

    def _loss(self) -> logging.LogRecord:
        text = f"lines of the log that could not be written: {self._lost:,} ({self._reason})"
        return log.makeRecord(log.name, logging.WARNING, __file__, 0, text, (), None)

    def _write(self, line: str) -> bool:
        """Write a line; return whether it is there, whole. What is left of one is ended before the next."""
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        data = b"\n" + data if self._is_torn else data
        try:
            descriptor = sys.stderr.fileno()
        except (AttributeError, io.UnsupportedOperation, ValueError):  # closed, or not a file
            return _print(data)
        done = 0
        try:
            while done < len(data):
                done += os.write(descriptor, data[done:])
        except OSError as error:
            self._reason = error.strerror or str(error)
            self._is_torn = self._is_torn or done > 0
            return False
        self._is_torn = False
        return True


def _print(data: bytes) -> bool:
    try:
        sys.stderr.write(data.decode())
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # there is no stderr
        return False
    return True


class _Dropping(QueueHandler):
    """Passes records on, and drops them where too many wait."""

    def __init__(self, waiting: "queue.SimpleQueue[logging.LogRecord | None]") -> None:
        super().__init__(waiting)
        self._waiting = waiting

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a record as it is: the thread that writes it lives in this process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Pass a record on, if there is room."""
        if self._waiting.qsize() < _MAX_LINES:
            self._waiting.put(record)


def log_request(record: RequestRecord, method: str, route: str, status: int) -> None:
    """Log a request that has ended."""
    fields = {
        "request_id": record.request_id,
        "method": printable(method)[:16],
        "route": route,
        "status": status,
        "code": record.code,
        "ms": {stage: round(record.seconds[stage] * 1000, 3) for stage in STAGES if stage in record.seconds},
        "bytes_in": record.received,
        "bytes_out": record.sent,
    }
    log.info("request", extra={_FIELDS: fields})


def log_failure(record: RequestRecord, error: BaseException) -> None:
    """Log a defect of ours with its traceback."""
    log.error("the request failed", exc_info=error, extra={_FIELDS: {"request_id": record.request_id}})


def _time_of(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


class JsonFormatter(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {"time": _time_of(record), "level": record.levelname.lower()}
        fields["event"] = record.getMessage()
        if record.name != log.name:
            fields["logger"] = record.name
        fields |= getattr(record, _FIELDS, {})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in fields.items() if value is not None})


class TextFormatter(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the lines of a traceback."""
        fields: dict[str, Any] = getattr(record, _FIELDS, {})
        words = [_time_of(record), record.levelname.lower()]
        if "route" in fields:
            stages = " ".join(f"{stage} {ms:.1f}" for stage, ms in fields["ms"].items())
            words += [fields["method"], fields["route"], str(fields["status"]), fields["code"] or "", f"ms: {stages}"]
            words += [f"in {fields['bytes_in']} out {fields['bytes_out']}"]
        else:
            words.append(printable(record.getMessage()))
        words += [f"id {fields['request_id']}"] if "request_id" in fields else []
        line = " ".join(word for word in words if word)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
