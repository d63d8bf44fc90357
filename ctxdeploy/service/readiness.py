"""Whether the service can answer, and what it waits for."""

import threading
import time


class Readiness:
    """Steps before the first answer, and the end. Safe to use from several threads.

    Attributes:
        failure: what ended the preparation; None if nothing did.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._step: str | None = "starting"
        self._ending_since: float | None = None
        self.failure: BaseException | None = None

    @property
    def reason(self) -> str | None:
        """Why the service cannot answer: the step that runs. None if it can."""
        with self._lock:
            return "shutting down" if self.is_ending else self._step

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self.reason is None

    @property
    def is_prepared(self) -> bool:
        """Whether everything is prepared: requests are answered, also while the service ends."""
        return self._step is None

    @property
    def is_ending(self) -> bool:
        """Whether the service was told to end. Requests that still come are answered."""
        return self._ending_since is not None

    @property
    def seconds_of_ending(self) -> float:
        """Seconds since the service was told to end, 0 before that."""
        return 0.0 if self._ending_since is None else time.monotonic() - self._ending_since

    def step(self, what: str) -> None:
        """Say what is being prepared."""
        with self._lock:
            self._step = what

    def done(self) -> None:
        """Say that everything is prepared."""
        with self._lock:
            self._step = None

    def fail(self, error: BaseException) -> None:
        """Say that the service will never be ready. While it ends nothing is a failure: what is prepared was closed."""
        with self._lock:
            if not self.is_ending:
                self.failure = error
            self._step = "the preparation failed"

    def end(self) -> None:
        """Say that no new requests should come."""
        with self._lock:
            if self._ending_since is None:
                self._ending_since = time.monotonic()
