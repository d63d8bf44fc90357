"""What is known of one request while it is answered."""

import re
import time
import uuid
from dataclasses import dataclass, field

from starlette.requests import Request

from ctxdeploy.core.deadline import Deadline

# Of the stages of a request, in their order; ``total`` is from the first line of the request to the end of the answer.
STAGES = ("body", "queue", "extract", "search", "total")
_GIVEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


@dataclass(kw_only=True, eq=False)
class RequestRecord:
    """One request.

    Attributes:
        request_id: of it, in its answer and in the log.
        deadline: until when somebody waits for the answer.
        seconds: spent so far, by stage.
        received: bytes of its body.
        sent: bytes of the body of the answer.
        code: of the problem that it ended with; None if with none.
    """

    request_id: str
    deadline: Deadline
    seconds: dict[str, float] = field(default_factory=dict)
    received: int = 0
    sent: int = 0
    code: str | None = None
    since: float = field(default_factory=time.perf_counter)

    @property
    def total(self) -> float:
        """Seconds since it came."""
        return time.perf_counter() - self.since


def request_id_of(given: str | None) -> str:
    """Return the id that the one who asks has chosen, if it is a plain word; else a new one."""
    return given if given is not None and _GIVEN.fullmatch(given) is not None else uuid.uuid4().hex


def record_of(request: Request) -> RequestRecord:
    """Return the record of a request."""
    record: RequestRecord = request.state.record
    return record
