"""Which service answers: one that searches its archives, a front that asks shard servers, or a shard server."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.service.archives import Archives, ServedArchive
from ctxdeploy.service.config import ArchivePlace, ServiceConfig
from ctxdeploy.service.front import Front, http_front
from ctxdeploy.service.keys import Keys
from ctxdeploy.service.logs import log
from ctxdeploy.service.part_service import PartService
from ctxdeploy.service.service import Service

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig

# Seconds between two looks at parts that lack servers.
_PAUSE = 0.25


def service_of(
    places: Sequence[Path | ArchivePlace], config: ServiceConfig, backend: "BackendConfig | None", keys: Keys
) -> Service:
    """Return the service that a configuration means.

    Raises:
        CtxdeployError: as of the services.
    """
    if config.sharding.shards is not None:
        return PartService(places, config.sharding.shards, config, keys)
    if not config.sharding.shard:
        return Service(Archives(places, config, backend), config, keys)
    return front_service(places, config, backend, keys, http_front(places, config))


def front_service(
    places: Sequence[Path | ArchivePlace],
    config: ServiceConfig,
    backend: "BackendConfig | None",
    keys: Keys,
    front: Front,
) -> "FrontService":
    """Return the service of a front, which is closed with it.

    Raises:
        CtxdeployError: as of ``Archives``.
    """
    try:
        return FrontService(Archives(places, config, backend, front), config, keys, front)
    except BaseException:
        front.close()
        raise


class FrontService(Service):
    """A service whose archives are searched by shard servers. It is ready when each part has one; then a part that goes
    away is left out of answers, which say so.

    Args:
        archives, config, keys: as of ``Service``.
        front: the servers; closed with the service.
    """

    def __init__(self, archives: Archives, config: ServiceConfig, keys: Keys | None, front: Front) -> None:
        super().__init__(archives, config, keys)
        self._front = front
        front.metrics.register(self.metrics.registry, lambda: front)

    def prepare(self) -> None:
        """Wait for the servers of each part, and prepare as ``Service`` does."""
        try:
            for served in self.archives:
                self._wait_for_parts(served)
        except BaseException as error:  # of a thread that nobody joins
            self.readiness.fail(error)
            return
        if not self.readiness.is_ending:
            super().prepare()

    def _wait_for_parts(self, served: ServedArchive) -> None:
        told = ""
        while not self.readiness.is_ending:
            with served.photos.reading() as index:
                manifest = index.manifest
            lacks = self._front.lacks(served.name, manifest)
            if lacks is None:
                return
            if lacks != told:
                log.warning("%s: %s", served.name, lacks)
            told = lacks
            self.readiness.step(f"{served.name}: {lacks}")
            threading.Event().wait(_PAUSE)

    def close(self, seconds: float = 5.0) -> bool:
        """End threads, archives and connections, as ``Service.close``."""
        has_ended = super().close(seconds)
        self._front.close()
        return has_ended
