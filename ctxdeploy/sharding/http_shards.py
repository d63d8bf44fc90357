"""The shards of an archive behind servers that are asked over HTTP."""

import re
from collections.abc import Sequence

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.part import Part
from ctxdeploy.core.text import printable
from ctxdeploy.sharding.config import TransportConfig
from ctxdeploy.sharding.http_replica import HttpReplica, checked_url
from ctxdeploy.sharding.replicas import ReplicaTransport, TransportObserver
from ctxdeploy.sharding.replicated_shards import ReplicatedShards

# Between the servers of a part; where commas stand between parts, ``|``.
_BETWEEN = re.compile(r"[,|]")


class HttpShards(ReplicatedShards):
    """The servers of all parts of an archive, ``ctxdeploy serve --shards`` each, for ``PhotoIndex.open(…, shards=…)``.

        with HttpShards(["http://a:8001,http://a2:8001", "http://b:8001"]) as shards:
            with PhotoIndex.open("photos.ctxindex", shards=shards) as photos:
                hits = photos.search("query.jpg")

    Args:
        parts: of each part, in their order, the URLs of its servers with commas between them.
        key: that the servers ask for.
        archive: name of the archive, where servers have several.
        config: how they are asked.
        observer: told of what becomes of requests.

    Raises:
        ConfigError: there is no part, or one has no server, or what is no URL.
        MissingExtraError: httpx is not installed.
    """

    def __init__(
        self,
        parts: Sequence[str],
        *,
        key: str | None = None,
        archive: str | None = None,
        config: TransportConfig | None = None,
        observer: TransportObserver | None = None,
    ) -> None:
        how = config or TransportConfig()
        transports: list[ReplicaTransport] = []
        for number, text in enumerate(parts, 1):
            part = Part(number=number, count=len(parts))
            replicas = [HttpReplica(url, part=part, archive=archive, key=key, config=how) for url in server_urls(text)]
            transports.append(ReplicaTransport(part, replicas, how, observer))
        super().__init__(transports, patience=how.timeout)


def server_urls(text: str) -> tuple[str, ...]:
    """Return the URLs of the servers of a part, given with commas or ``|`` between them.

    Raises:
        ConfigError: there is none, or one is no URL.
    """
    given = [url for part in _BETWEEN.split(text) if (url := part.strip())]
    if not given:
        raise ConfigError("a part of the shards has no server: give a URL for each part")
    try:
        return tuple(map(checked_url, given))
    except ValueError as error:
        raise ConfigError(f"{printable(repr(text))} {error}") from error
