"""The front on Ray Serve: the service of ``ctxdeploy serve``, whose parts are asked through Ray."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ctxdeploy.cluster.serving_config import EXTRA, ServingConfig
from ctxdeploy.core.device import CPU
from ctxdeploy.core.errors import StaleStateError
from ctxdeploy.core.extras import require
from ctxdeploy.core.part import Part
from ctxdeploy.service.app import create_app
from ctxdeploy.service.front import Front
from ctxdeploy.service.front_service import front_service
from ctxdeploy.service.keys import Keys
from ctxdeploy.service.logs import log, start_log
from ctxdeploy.service.rehearsing import LogDisplay
from ctxdeploy.sharding.config import TransportConfig
from ctxdeploy.sharding.replica import ReplicaError, Trouble
from ctxdeploy.sharding.replicas import ReplicaTransport, TransportObserver
from ctxdeploy.sharding.replicated_shards import ReplicatedShards

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ctxdeploy.cluster.part_replica import PartReply

_LOOK_SECONDS = 1.0


class HandleReplica:
    """The replicas of a part, of which Ray Serve chooses one for each request; a ``Replica`` of search over shards.

    Args:
        handle: of the part's deployment.
        archive: that is asked; None where there is one.
        config: how they are asked.
    """

    def __init__(self, handle: Any, archive: str | None, config: TransportConfig) -> None:
        self._handle, self._archive, self._config = handle, archive, config
        self._ray, self._serve = (require(name, EXTRA) for name in ("ray.exceptions", "ray.serve.exceptions"))

    @property
    def name(self) -> str:
        """Of the deployment."""
        return str(self._handle.deployment_name)

    def send(self, request: bytes, seconds: float) -> bytes:
        """Return the answer of one of them; see ``Replica``."""
        until = time.monotonic() + seconds
        try:
            reply = self._reply(request, seconds)
        except self._ray.RayActorError:  # it died: nothing was changed by it, and Ray asks another one now
            try:
                reply = self._reply(request, max(until - time.monotonic(), 0.001))
            except self._ray.RayActorError as error:
                raise ReplicaError(f"it died: {_line(error)}", Trouble.REFUSED) from error
        if reply.held is not None:
            raise StaleStateError(f"{self.name}: {reply.text}", held=reply.held)
        if reply.answer is None:
            raise ReplicaError(reply.text, Trouble.of_status(reply.status))
        if len(reply.answer) > self._config.max_bytes:
            raise ReplicaError(f"the answer has more than {self._config.max_bytes:,} bytes", Trouble.UNFIT)
        return reply.answer

    def _reply(self, request: bytes, seconds: float) -> "PartReply":
        response = self._handle.answer.remote(self._archive, request, seconds)
        try:
            reply: PartReply = response.result(timeout_s=seconds)
            return reply
        except TimeoutError as error:
            response.cancel()
            raise ReplicaError(f"no answer within {seconds:.3g} s", Trouble.SILENT) from error
        except self._serve.BackPressureError as error:
            raise ReplicaError("it has too many requests", Trouble.BUSY) from error
        except self._ray.RayActorError:
            raise
        except (self._ray.RayError, self._serve.RayServeException) as error:
            raise ReplicaError(_line(error), Trouble.REFUSED) from error

    def is_back(self) -> bool:
        """Return whether one of them answers."""
        response = self._handle.is_ready.remote()
        try:
            return bool(response.result(timeout_s=_LOOK_SECONDS))
        except TimeoutError:
            response.cancel()
        except (self._ray.RayError, self._serve.RayServeException):
            pass
        return False

    def close(self) -> None:
        """Do nothing: the connections are Ray's."""


def front_app(config: ServingConfig, handles: Mapping[Part, Any]) -> "FastAPI":
    """Return the application of a front that is ready.

    Args:
        config: which archives.
        handles: of the deployments of their parts.

    Raises:
        CtxdeployError: what keeps it from being ready.
    """
    settings = config.settings()
    service_config = replace(settings.service, search_device=CPU)  # which is for those that have the postings
    start_log(service_config.log_format)
    LogDisplay()
    keys = Keys.load(service_config, os.environ)
    for warning in keys.warnings:
        log.warning(warning)
    if not keys:
        log.warning("there are no keys: whoever reaches the HTTP port of Ray Serve may ask (read-key-file)")

    def connect(archive: str | None, observer: TransportObserver, how: TransportConfig) -> ReplicatedShards:
        transports = []
        for part, handle in handles.items():
            # A second request beside one that takes long goes the same way: Ray gives it to the least busy replica.
            ways = [HandleReplica(handle, archive, how) for _ in range(min(config.replicas, 2))]
            transports.append(ReplicaTransport(part, ways, how, observer))
        return ReplicatedShards(transports, patience=how.timeout)

    places = config.places(settings)
    service = front_service(places, service_config, settings.backend, keys, Front(places, service_config, connect))
    # Handles are not asked in the thread of an event loop, in which Ray Serve makes a replica.
    preparing = threading.Thread(target=service.prepare, name="ctxdeploy-prepare", daemon=True)
    preparing.start()
    preparing.join()
    if service.readiness.failure is not None:
        service.close()
        raise service.readiness.failure
    return create_app(service)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
