"""What is counted, for Prometheus. No label holds what somebody sent: no photo, no path, no key."""

import platform
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ctxdeploy import __version__
from ctxdeploy.core.errors import CtxdeployError
from ctxdeploy.core.files import folder_bytes
from ctxdeploy.service.jobs import DONE, FAILED, RUNNING, WAITING

if TYPE_CHECKING:
    from ctxdeploy.service.archives import Archives
    from ctxdeploy.service.jobs import Jobs
    from ctxdeploy.service.limits import Bodies, Places
    from ctxdeploy.service.readiness import Readiness
    from ctxdeploy.service.record import RequestRecord

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# From a search by name in a small archive to a photo that waits for others: 1 ms to a minute.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PHOTOS = (1, 2, 4, 8, 16, 32, 64)
# Reasons that alarms watch: from nothing to one is no increase.
_WATCHED = ("QueueFull", "InternalError")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Metrics:
    """Counters of one service, in a registry of its own.

    It is an observer of extractors as well: see ``ctxdeploy.runtime.network_queue.ExtractionObserver``.

    Args:
        archives, readiness, places, bodies, jobs: of the service, which are looked at when somebody asks.
    """

    def __init__(
        self, archives: "Archives", readiness: "Readiness", places: "Places", bodies: "Bodies", jobs: "Jobs"
    ) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "ctxdeploy_requests", "Requests that were answered.", ("method", "route", "status"), registry=self.registry
        )
        self._refused = Counter(
            "ctxdeploy_refused", "Requests that ended with a problem, by its code.", ("reason",), registry=self.registry
        )
        for reason in _WATCHED:
            self._refused.labels(reason)
        self._stages = Histogram(
            "ctxdeploy_stage_seconds",
            "Of requests: body, queue, extract (decoding, waiting for the network, network), search (verification as "
            "well), total. Of photos: decode. Of batches: network.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "ctxdeploy_batch_photos", "Photos that the network took at once.", buckets=_PHOTOS, registry=self.registry
        )
        build = Gauge("ctxdeploy_build_info", "Versions.", ("version", "python"), registry=self.registry)
        build.labels(__version__, platform.python_version()).set(1)
        self._gauge("ctxdeploy_ready", "1 where requests are answered.", lambda: readiness.is_ready)
        self._gauge("ctxdeploy_queue_length", "Requests that wait for a thread.", lambda: places.waiting)
        self._gauge("ctxdeploy_running", "Requests with a thread, or waiting for one.", lambda: places.taken)
        self._gauge("ctxdeploy_body_bytes", "Bytes of bodies in memory.", lambda: bodies.held)
        self._gauge("ctxdeploy_job_bytes", "Bytes of photos that wait to be added.", lambda: jobs.bytes)
        self.registry.register(_ArchiveCollector(archives))
        self.registry.register(_JobCollector(archives, jobs))
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(name, text, registry=self.registry).set_function(value)

    def finished(self, record: "RequestRecord", method: str, route: str, status: int) -> None:
        """Count a request that was answered, or that nobody waits for any more."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        if record.code is not None:
            self._refused.labels(record.code).inc()
        for stage, seconds in record.seconds.items():
            self._stages.labels(stage).observe(seconds)

    def decoded(self, seconds: float) -> None:
        """Count a photo that was decoded, or could not be."""
        self._stages.labels("decode").observe(seconds)

    def ran(self, photos: int, seconds: float) -> None:
        """Count a batch of the network."""
        self._batches.observe(photos)
        self._stages.labels("network").observe(seconds)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it; it looks at files, so call it in a thread."""
        return generate_latest(self.registry)


class _ArchiveCollector(Collector):
    """Looks at the archives when somebody asks."""

    def __init__(self, archives: "Archives") -> None:
        self._archives = archives

    def describe(self) -> list[GaugeMetricFamily]:
        """Return what there may be, without looking."""
        return self._families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is known of each archive; of one that cannot be read at all that it is stale."""
        photos, state, size, stale = self._families()
        for served in self._archives:
            stale.add_metric([served.name], served.stale is not None)
            try:
                with served.photos.reading() as index:
                    values = (len(index), index.manifest.number, folder_bytes(served.path))
            except (CtxdeployError, OSError):
                continue
            for family, value in zip((photos, state, size), values, strict=True):
                family.add_metric([served.name], value)
        yield from (photos, state, size, stale)

    def _families(self) -> list[GaugeMetricFamily]:
        kinds = {
            "photos": "Photos of an archive.",
            "state": "Number of its state.",
            "bytes": "Bytes of its files.",
            "stale": "1 where its newest state cannot be opened: the last whole one answers, the log says why.",
        }
        return [
            GaugeMetricFamily(f"ctxdeploy_archive_{kind}", text, labels=["archive"]) for kind, text in kinds.items()
        ]


class _JobCollector(Collector):
    """Counts the jobs of each archive when somebody asks."""

    def __init__(self, archives: "Archives", jobs: "Jobs") -> None:
        self._archives, self._jobs = archives, jobs

    def describe(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        """Return what there may be, without looking."""
        return list(self._families())

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield how many jobs wait and run, and how many have ended, and how."""
        present, ended = self._families()
        found = self._jobs.numbers()
        for served in self._archives:
            for family, states in ((present, (WAITING, RUNNING)), (ended, (DONE, FAILED))):
                for state in states:
                    family.add_metric([served.name, state], found[served.name, state])
        yield from (present, ended)

    def _families(self) -> tuple[GaugeMetricFamily, CounterMetricFamily]:
        labels = ["archive", "state"]
        return (
            GaugeMetricFamily("ctxdeploy_jobs", "Jobs that wait, and that are being written.", labels=labels),
            CounterMetricFamily("ctxdeploy_jobs_ended", "Jobs that are done, and that have failed.", labels=labels),
        )
