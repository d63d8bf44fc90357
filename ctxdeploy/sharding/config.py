"""How the servers of a part are asked."""

from dataclasses import dataclass

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types


@dataclass(frozen=True, kw_only=True)
class TransportConfig:
    """How long the servers of a part are waited for, and when a second one is asked.

    Attributes:
        timeout: seconds that an answer may take.
        share: of the time that whoever asks waits, which an answer may take: why there is none is told before that is
            over.
        connect_timeout: seconds that a connection may take.
        max_bytes: of an answer.
        max_in_flight: requests that a server has at the same time from here.
        hedge_seconds: after which a second server is asked beside the first, before it is known how long answers take;
            then that is the time that 95 of 100 answers need.
        hedge_share: of requests that may be sent twice: where all servers are slow, twice the load makes them slower.
        first_pause, last_pause: seconds between two looks at a server that was silent: the first, and at most; each is
            twice the one before.
    """

    timeout: float = 10.0
    share: float = 0.95
    connect_timeout: float = 1.0
    max_bytes: int = 1 << 26
    max_in_flight: int = 64
    hedge_seconds: float = 0.5
    hedge_share: float = 0.1
    first_pause: float = 0.25
    last_pause: float = 8.0

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("timeout", "connect_timeout", "hedge_seconds", "first_pause", "last_pause"):
            if not 0 < getattr(self, name) <= 86_400:
                raise ConfigError(f"{name} {getattr(self, name):g} is not a time of up to a day in seconds")
        for name in ("share", "hedge_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name):g} is not in 0..1")
        for name in ("max_bytes", "max_in_flight"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not positive")
