"""A front: it describes photos and asks the servers of each part of an archive's shards.

request ─ describe ─ words and codes ─┬─ part 1/n: one of its servers ─┐
                                      ├─ part 2/n ─────────────────────┼─ merge ─ expand ─ verify ─ judge ─ answer
                                      └─ …                             ┘
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, CtxdeployError
from ctxdeploy.core.reading import read_regular
from ctxdeploy.service.config import ArchivePlace, ServiceConfig
from ctxdeploy.service.shard_metrics import FrontMetrics
from ctxdeploy.sharding.config import TransportConfig
from ctxdeploy.sharding.envelope import STATUS, Asked, StateKey
from ctxdeploy.sharding.http_shards import HttpShards
from ctxdeploy.sharding.message import REPLY, Message
from ctxdeploy.sharding.replicas import ReplicaTransport, TransportObserver
from ctxdeploy.sharding.replicated_shards import ReplicatedShards
from ctxdeploy.sharding.replies import Status

if TYPE_CHECKING:
    from ctxdeploy.index import Manifest

KEY_VARIABLE = "CTXDEPLOY_SHARD_KEY"
_MAX_FILE = 1 << 20
# Seconds that a server may take to say what it holds.
_STATUS_SECONDS = 2.0


# Returns the servers that are asked about an archive. It is given the archive's name where there are several, else
# None; what is to be told of requests; and how servers are asked.
Connect = Callable[[str | None, TransportObserver, TransportConfig], ReplicatedShards]


class Front:
    """The servers that a front asks about its archives.

    Args:
        places: of the archives; several are named in every request, by the names that they have here.
        config: of the service.
        connect: finds the servers.

    Attributes:
        metrics: what becomes of requests.

    Raises:
        CtxdeployError: as of ``connect``.
    """

    def __init__(self, places: Sequence[Path | ArchivePlace], config: ServiceConfig, connect: Connect) -> None:
        self.metrics = FrontMetrics()
        self._shards: dict[str, ReplicatedShards] = {}
        how = TransportConfig(timeout=config.sharding.shard_timeout, max_in_flight=max(config.max_running, 64))
        names = [(one if isinstance(one, ArchivePlace) else ArchivePlace(path=one)).shown for one in places]
        for name in dict.fromkeys(names):
            self._shards[name] = connect(name if len(names) > 1 else None, self.metrics, how)

    def shards(self, name: str) -> ReplicatedShards:
        """Return the servers of an archive, to open it with."""
        return self._shards[name]

    def lacks(self, name: str, manifest: "Manifest") -> str | None:
        """Return which part of an archive no server answers for in a state of it, and why; None if there is none."""
        key = StateKey.of(manifest)
        for transport in self._shards[name].transports:
            part = transport.part
            request = Asked(kind=STATUS, part=part, state=key, message=Message()).encode()
            try:
                reply = transport.ask(request, deadline=Deadline(_STATUS_SECONDS))
                is_held = key in Status.read(Message.decode(reply, REPLY, f"the reply of part {part}")).states
            except CtxdeployError as error:
                return f"waiting for part {part}: {error}"
            if not is_held:
                return f"waiting for part {part}: its server does not hold state {manifest.number} of this archive"
        return None

    def __iter__(self) -> Iterator[ReplicaTransport]:
        return (transport for shards in self._shards.values() for transport in shards.transports)

    def close(self) -> None:
        """Release the connections."""
        for shards in self._shards.values():
            shards.close()


def http_front(
    places: Sequence[Path | ArchivePlace], config: ServiceConfig, environment: Mapping[str, str] = os.environ
) -> Front:
    """Return a front whose servers are those of ``--shard``.

    Args:
        places, config: as of ``Front``.
        environment: where the key of the servers may stand.

    Raises:
        ConfigError: the key cannot be read, or a URL is none.
        MissingExtraError: httpx is not installed.
    """
    key = shard_key(config.sharding.shard_key_file, environment)

    def connect(archive: str | None, observer: TransportObserver, how: TransportConfig) -> HttpShards:
        return HttpShards(config.sharding.shard, key=key, archive=archive, config=how, observer=observer)

    return Front(places, config, connect)


def shard_key(path: Path | None, environment: Mapping[str, str]) -> str | None:
    """Return the key that shard servers ask for: the first line of a file, or of ``CTXDEPLOY_SHARD_KEY``; None if there
    is none. No message holds it.

    Raises:
        ConfigError: the file cannot be read, or there is no key in it.
    """
    if path is None:
        where, text = KEY_VARIABLE, environment.get(KEY_VARIABLE, "")
        if not text.strip():
            return None
    else:
        where = f"--shard-key-file {path}"
        try:
            text = read_regular(path, _MAX_FILE).decode("ascii")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{where} is not plain text: give a file with the key") from error
        except OSError as error:
            raise ConfigError(f"{where} cannot be read: {error.strerror or error}") from error
    lines = [line.strip() for line in text.splitlines()]
    key = next((line for line in lines if line and not line.startswith("#")), None)
    if key is None:
        raise ConfigError(f"{where} holds no key: give one that shard servers take (their --read-key-file)")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where}: the key is not one word of ASCII letters, digits and signs")
    return key
