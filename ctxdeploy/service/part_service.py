"""A shard server: it searches a part of the shards of archives for fronts."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.part import Part
from ctxdeploy.service.archives import Archives
from ctxdeploy.service.config import ArchivePlace, ServiceConfig
from ctxdeploy.service.keys import Keys
from ctxdeploy.service.logs import log
from ctxdeploy.service.problems import ProblemError, problem_of
from ctxdeploy.service.record import RequestRecord
from ctxdeploy.service.rehearsing import compile_kernels
from ctxdeploy.service.served_part import ServedPart
from ctxdeploy.service.service import Service
from ctxdeploy.service.shard_metrics import PartMetrics


class Parts:
    """The same part of several archives, by their names; a thread looks for newer states of them.

    Args:
        places: of the archives.
        part: of their shards.
        config: of the service.

    Raises:
        ConfigError: two have the same name.
        ArchiveError: one is not an archive, or damaged.
    """

    def __init__(self, places: Sequence[Path | ArchivePlace], part: Part, config: ServiceConfig) -> None:
        self._config = config
        self._by_name: dict[str, ServedPart] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ctxdeploy-refresh", daemon=True)
        try:
            for place in places:
                named = place if isinstance(place, ArchivePlace) else ArchivePlace(path=place)
                served = ServedPart(named, part, config.search_device)
                other = self._by_name.setdefault(served.name, served)
                if other is not served:
                    served.close()
                    raise ConfigError(f"{served.path} and {other.path} are both called {served.name}")
        except BaseException:
            self.close()
            raise
        self._thread.start()

    def __iter__(self) -> Iterator[ServedPart]:
        return iter(self._by_name.values())

    def named(self, name: str | None) -> ServedPart:
        """Return what is served of an archive; the only one may be left unnamed."""
        if name is None and len(self._by_name) == 1:
            return next(iter(self))
        known = ", ".join(self._by_name)
        if name is None:
            raise ProblemError(422, f"name the archive with archive=…: one of {known}", code="ConfigError")
        if name not in self._by_name:
            raise ProblemError(404, f"there is no archive {name!r} here: ask one of {known}", code="NoSuchArchive")
        return self._by_name[name]

    @property
    def secrets(self) -> dict[str, str]:
        """Folders of the server, and what stands for them in what others are told."""
        return {text: shown for served in self for text, shown in served.secrets.items()}

    def _look(self) -> None:
        while not self._ended.wait(self._config.refresh_seconds):
            for served in self:
                try:
                    served.look()
                except Exception:  # a defect of ours must not end the looking
                    log.exception("%s: looking for a newer state failed", served.name)

    def close(self) -> None:
        """Close them all."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for served in self:
            served.close()


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
