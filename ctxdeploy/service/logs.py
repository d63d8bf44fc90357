"""The log: a line a request on stderr, and tracebacks with the id of the request that met them.

It names methods, routes, statuses, times and sizes. What somebody sent is not in it: no photo, no name of one (paths
are those of the routes), no parameter, no key, no address.
"""

import json
import logging
import queue
import sys
import time
from collections.abc import Callable
from logging.handlers import QueueHandler, QueueListener
from typing import Any

from ctxdeploy.core.text import printable
from ctxdeploy.service.record import STAGES, RequestRecord

log = logging.getLogger("ctxdeploy.service")
_FIELDS = "ctxdeploy_fields"
# Lines that may wait for a slow reader of stderr; further ones are dropped.
_MAX_LINES = 10_000


def start_log(log_format: str) -> Callable[[], None]:
    """Let everything that is logged in this process go to stderr, written by a thread: nobody waits for the terminal.

    Args:
        log_format: ``text`` or ``json``.

    Returns:
        what writes the lines that wait, and ends it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    waiting: queue.Queue[Any] = queue.Queue(_MAX_LINES)
    listener = QueueListener(waiting, handler)
    root = logging.getLogger()
    root.handlers = [_Dropping(waiting)]
    root.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    listener.start()
    return listener.stop


class _Dropping(QueueHandler):
    """Passes records on, and drops them where too many wait."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a record as it is: the thread that writes it lives in this process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Pass a record on, if there is room."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            return


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
