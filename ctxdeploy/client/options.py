"""What a client is told: how it speaks, and what it asks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ctxdeploy.core.errors import ConfigError

if TYPE_CHECKING:
    from ctxdeploy.core.types import Box

KEY_VARIABLE = "CTXDEPLOY_KEY"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """How a client speaks with a service.

    Attributes:
        url: of the service, such as ``https://photos.example.org`` or, behind a proxy, with a path.
        key: that the service asks for; None for that of ``CTXDEPLOY_KEY``, if there is one. It goes into a header, and
            into no URL, message or log.
        archive: which archive is asked; not needed where the service has one.
        timeout: seconds that a call may take, all its attempts and the waiting between them included.
        retries: further attempts where the service says that it is busy or not ready (429, 503), or was not reached.
        max_bytes: of a reply; a longer one is refused.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    archive: str | None = None
    timeout: float = 60.0
    retries: int = 3
    max_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host = parts.hostname
        except ValueError as error:
            raise ConfigError(f"url {self.url!r} is not a URL: {error}") from error
        if "@" in parts.netloc:
            raise ConfigError("the url holds a user or a password: give the key as key=, or in CTXDEPLOY_KEY")
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise ConfigError(f"url {self.url!r} is not the URL of a service, such as http://127.0.0.1:8000")
        if not 0 < self.timeout <= 86_400:
            raise ConfigError(f"timeout={self.timeout:g} is not a time of up to a day in seconds")
        if self.retries < 0:
            raise ConfigError(f"retries={self.retries} is negative: 0 tries once")
        if self.max_bytes < 1:
            raise ConfigError(f"max_bytes={self.max_bytes} is not positive")
        found = self.sent_key
        if found is not None and not (found.isascii() and found.isprintable() and " " not in found):
            raise ConfigError("the key has characters other than visible ASCII: check for a line end at its end")

    @property
    def sent_key(self) -> str | None:
        """The key that is sent; None without one."""
        return self.key or os.environ.get(KEY_VARIABLE) or None

    @property
    def is_local(self) -> bool:
        """Whether the service runs on this machine: no proxy is asked then."""
        return urlsplit(self.url).hostname in _LOOPBACK


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How an archive is asked, in the words of ``ctxdeploy query``. What is None is left to the service.

    Attributes:
        top: results at most.
        box: the part of the photo to search for: x0, y0, x1, y1 in its pixels.
        rank: what orders the results: ``local``, ``global`` or ``global-then-local``.
        rerank, rerank_by: with ``global-then-local``, how many are ordered anew, and by what.
        expand: so many of the first results ask too.
        verify, verify_from: so many of the first are compared by geometry, and by what.
        turn: ``auto``, ``none`` or ``all``.
        min_probability: leave out results less likely to show the same.
        prefix: only photos whose names begin with one of these.
        name: only photos of these names.
        matches: give the matched points of verified results.
    """

    top: int | None = None
    box: "Box | Sequence[float] | None" = None
    rank: str | None = None
    rerank: int | None = None
    rerank_by: str | None = None
    expand: int | None = None
    verify: int | None = None
    verify_from: str | None = None
    turn: str | None = None
    min_probability: float | None = None
    prefix: Sequence[str] = ()
    name: Sequence[str] = ()
    matches: bool | None = None

    def __post_init__(self) -> None:
        for word in ("prefix", "name"):
            if isinstance(getattr(self, word), str):
                raise ConfigError(f"{word} is a text: give a list of them")

    def parameters(self) -> list[tuple[str, str]]:
        """Return what stands in the URL."""
        found = []
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in ("prefix", "name"):
                found += [(one.name, text) for text in value]
            elif one.name == "box" and value is not None:
                found.append(("box", _edges(value)))
            elif value is not None:
                found.append((one.name, str(value).lower() if isinstance(value, bool) else str(value)))
        return found


def _edges(box: "Box | Sequence[float]") -> str:
    try:
        given = box if isinstance(box, Sequence) else (box.x0, box.y0, box.x1, box.y1)
        edges = [float(edge) for edge in given]
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"box {box!r} is not four numbers: give it as x0, y0, x1, y1") from error
    if len(edges) != 4:
        raise ConfigError(f"box {box!r} is not four numbers: give it as x0, y0, x1, y1")
    return ",".join(f"{edge:g}" if edge == int(edge) else repr(edge) for edge in edges)
