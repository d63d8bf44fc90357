"""One server of a part as the others know it: what can go wrong with it, and how it has done so far."""

import threading
import time
from collections import deque
from enum import Enum
from typing import Protocol

from ctxdeploy.sharding.config import TransportConfig

# Answers of which the usual time is known, and how many there must be.
_KEPT, _ENOUGH = 128, 16
_USUAL = 0.95
# A second request sooner than this costs more than it wins.
_SOONEST = 0.005
# An answer that is not there after so many times the usual, and so many seconds, is one of a server that hangs.
_TIMES_USUAL, _PATIENCE = 4, 0.25
# Hedged requests that may come at once.
_AT_ONCE = 5.0


class Trouble(Enum):
    """Why a server did not answer a request.

    ``refused``: it is not reached, not ready or cannot answer, which is known at once. ``busy``: it has too much to do.
    ``silent``: nothing came in time. ``late``: it says itself that it has not done it in time. ``unfit``: this request
    is none for it; another one may be.
    """

    REFUSED = "refused"
    BUSY = "busy"
    SILENT = "silent"
    LATE = "late"
    UNFIT = "unfit"

    @classmethod
    def of_status(cls, status: int) -> "Trouble":
        """Return which trouble a status of HTTP is."""
        return _OF_STATUS.get(status, cls.REFUSED)


_OF_STATUS = {
    400: Trouble.UNFIT,
    408: Trouble.LATE,
    413: Trouble.UNFIT,
    422: Trouble.UNFIT,
    429: Trouble.BUSY,
    504: Trouble.LATE,
}


class ReplicaError(Exception):
    """A server did not answer a request.

    Args:
        reason: in words.
        trouble: of which kind.
    """

    def __init__(self, reason: str, trouble: Trouble) -> None:
        super().__init__(reason)
        self.reason, self.trouble = reason, trouble


class Replica(Protocol):
    """One of the servers of a part. Any number of threads may ask at once.

    Attributes:
        name: that messages call it by, such as its URL.
    """

    @property
    def name(self) -> str: ...

    def send(self, request: bytes, seconds: float) -> bytes:
        """Return its answer, which it has so many seconds for.

        Raises:
            ReplicaError: it does not answer.
            StaleStateError: it does not hold the state that the request names.
        """
        ...

    def is_back(self) -> bool:
        """Return whether it answers anything, after it was silent; takes a second at most."""
        ...

    def close(self) -> None:
        """Release its connections."""
        ...


class Standing:
    """How a server has done so far. Safe to use from several threads.

    Attributes:
        replica: the server.
        in_flight: requests that it has from here.
        is_overtaken: another server answered a request of its before it did, and it has answered none since.
        is_refusing: it refused the last request.
        silence: why it is not asked before it was looked at; None if it may be asked.
    """

    def __init__(self, replica: Replica, config: TransportConfig) -> None:
        self.replica, self._config = replica, config
        self._lock = threading.Lock()
        self.in_flight = 0
        self.is_overtaken, self.is_refusing = False, False
        self.silence: str | None = None
        self._pause = config.first_pause
        self.look_at = 0.0

    @property
    def has_room(self) -> bool:
        """Whether it may be sent one more request."""
        return self.silence is None and self.in_flight < self._config.max_in_flight

    def begin(self) -> None:
        """Count a request."""
        with self._lock:
            self.in_flight += 1

    def end(self, error: ReplicaError | None, *, is_long: bool = True) -> None:
        """Count a request that was answered, or not; ``is_long``: it had as long as an answer may well take."""
        with self._lock:
            self.in_flight -= 1
            trouble = None if error is None else error.trouble
            if trouble in (None, Trouble.UNFIT):
                self.is_overtaken, self.is_refusing, self.silence = False, False, None
                self._pause = self._config.first_pause
            elif trouble is Trouble.REFUSED:
                self.is_refusing = True
            else:
                self.is_overtaken = True
        if trouble is Trouble.SILENT and is_long:
            self.was_silent(str(error))

    def was_silent(self, reason: str) -> None:
        """Say that nothing came from it in as long as an answer may well take: it is to be looked at."""
        with self._lock:
            if self.silence is None:
                self.silence = reason
                self.look_at = time.monotonic() + self._pause

    def overtaken(self) -> None:
        """Say that another server has answered first."""
        self.is_overtaken = True

    def looked(self, is_back: bool) -> None:
        """Say what a look at it has shown. Only an answer makes the pauses short again."""
        with self._lock:
            self._pause = min(2 * self._pause, self._config.last_pause)
            self.look_at = time.monotonic() + self._pause
            if is_back:
                self.silence, self.is_overtaken = None, True


class Pace:
    """How long answers of a part take, and how many requests may be sent twice. Safe to use from several threads."""

    def __init__(self, config: TransportConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._seconds: deque[float] = deque(maxlen=_KEPT)
        self._usual = config.hedge_seconds
        self._tokens = _AT_ONCE

    @property
    def usual_seconds(self) -> float:
        """Seconds in which 95 of 100 answers came lately."""
        return self._usual

    @property
    def patience(self) -> float:
        """Seconds after which a server that has not answered is silent: less says nothing of it."""
        return min(max(_TIMES_USUAL * self._usual, _PATIENCE), self._config.timeout)

    def asked(self) -> None:
        """Count a request."""
        with self._lock:
            self._tokens = min(self._tokens + self._config.hedge_share, _AT_ONCE)

    def answered(self, seconds: float) -> None:
        """Count an answer."""
        with self._lock:
            self._seconds.append(seconds)
            if len(self._seconds) >= _ENOUGH:
                ordered = sorted(self._seconds)
                self._usual = max(ordered[min(int(_USUAL * len(ordered)), len(ordered) - 1)], _SOONEST)

    def may_hedge(self) -> bool:
        """Return whether one more request may be sent twice, and count it."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
