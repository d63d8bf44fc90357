"""A shard server: it searches a part of the shards of archives for fronts."""

import time
from collections.abc import Sequence
from pathlib import Path

from ctxdeploy.core.part import Part
from ctxdeploy.service.archives import Archives
from ctxdeploy.service.config import ArchivePlace, ServiceConfig
from ctxdeploy.service.keys import Keys
from ctxdeploy.service.problems import ProblemError, problem_of
from ctxdeploy.service.record import RequestRecord
from ctxdeploy.service.rehearsing import compile_kernels
from ctxdeploy.service.served import Catalogue
from ctxdeploy.service.served_part import ServedPart
from ctxdeploy.service.service import Service
from ctxdeploy.service.shard_metrics import PartMetrics


class Parts(Catalogue[ServedPart]):
    """The same part of several archives.

    Args:
        places: of the archives.
        part: of their shards.
        config: of the service.

    Raises:
        As ``Catalogue``.
    """

    def __init__(self, places: Sequence[Path | ArchivePlace], part: Part, config: ServiceConfig) -> None:
        device = config.search_device
        super().__init__(places, lambda place: ServedPart(place, part, device), config.refresh_seconds)


class PartService(Service):
    """A service that answers fronts alone: its archives are empty, and ``parts`` are what it has.

    Args:
        places: of the archives.
        part: of their shards.
        config, keys: as of ``Service``.
    """

    def __init__(
        self, places: Sequence[Path | ArchivePlace], part: Part, config: ServiceConfig, keys: Keys | None = None
    ) -> None:
        super().__init__(Archives([], config), config, keys)
        self.parts = Parts(places, part, config)
        self._counts = PartMetrics(self.metrics.registry, lambda: self.parts)

    def prepare(self) -> None:
        """Compile whatever the first request would wait for."""
        try:
            compile_kernels(self.readiness)
            for served in self.parts:
                self.readiness.step(f"reading part {served.part} of {served.name}")
                served.prepare()
        except BaseException as error:  # of a thread that nobody joins
            self.readiness.fail(error)
        else:
            self.readiness.done()

    def problem(self, error: BaseException) -> ProblemError:
        """Return what an error is for the one who asked. Folders of the server are not told."""
        return problem_of(error, self.parts.secrets)

    def answered(self, served: ServedPart, message: bytes, record: RequestRecord) -> bytes:
        """Return the answer to a message of a front; it runs in a thread.

        Raises:
            CtxdeployError: as ``ServedPart.answer``.
        """
        since = time.perf_counter()
        answer, kind = served.answer(message, record.deadline)
        seconds = record.seconds["search"] = time.perf_counter() - since
        self._counts.answered(kind, seconds, len(message), len(answer))
        return answer

    def close(self, seconds: float = 5.0) -> bool:
        """End threads and archives, as ``Service.close``."""
        has_ended = super().close(seconds)
        if has_ended:
            self.parts.close()
        return has_ended
