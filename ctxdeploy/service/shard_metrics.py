"""What shard servers and fronts count, for Prometheus. Labels are parts, kinds of requests and kinds of trouble."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ctxdeploy.core.part import Part
from ctxdeploy.sharding.replica import Trouble

if TYPE_CHECKING:
    from ctxdeploy.service.served_part import ServedPart
    from ctxdeploy.sharding.replicas import ReplicaTransport

# From a look at a few photos to a search of tens of millions: 0.5 ms to 10 s.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PartMetrics:
    """Counters of a shard server.

    Args:
        registry: of the service.
        parts: returns what it serves.
    """

    def __init__(self, registry: CollectorRegistry, parts: "Callable[[], Iterable[ServedPart]]") -> None:
        self._seconds = Histogram(
            "ctxdeploy_shard_seconds",
            "Of requests to search this part of the shards, by what they ask for.",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._bytes = Counter(
            "ctxdeploy_shard_bytes", "Of such requests, and of their answers.", ("direction",), registry=registry
        )
        registry.register(_PartCollector(parts))

    def answered(self, kind: str, seconds: float, received: int, sent: int) -> None:
        """Count a request that was answered."""
        self._seconds.labels(kind).observe(seconds)
        self._bytes.labels("in").inc(received)
        self._bytes.labels("out").inc(sent)


class _PartCollector(Collector):
    def __init__(self, parts: "Callable[[], Iterable[ServedPart]]") -> None:
        self._parts = parts

    def describe(self) -> list[GaugeMetricFamily]:
        """Return what there may be, without looking."""
        return self._families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield photos and state of what is served."""
        photos, state, held = self._families()
        for served in self._parts():
            labels, states = [served.name, str(served.part)], served.states
            photos.add_metric(labels, served.photos)
            state.add_metric(labels, max(states, default=0))
            held.add_metric(labels, len(states))
        yield from (photos, state, held)

    def _families(self) -> list[GaugeMetricFamily]:
        kinds = {
            "photos": "Photos of the part of an archive.",
            "state": "Number of the newest state that it is searched in.",
            "states": "States that it can be searched in.",
        }
        return [
            GaugeMetricFamily(f"ctxdeploy_part_{kind}", said, labels=["archive", "part"])
            for kind, said in kinds.items()
        ]


class FrontMetrics:
    """Counters of a front; it is a ``TransportObserver``.

    They are made before the service, which has the registry: ``register`` adds them to it.
    """

    def __init__(self) -> None:
        self._seconds = Histogram(
            "ctxdeploy_front_part_seconds",
            "From a request to a part to its answer.",
            ("part",),
            buckets=_SECONDS,
            registry=None,
        )
        self._bytes = Counter(
            "ctxdeploy_front_part_bytes", "Sent to a part, and received.", ("part", "direction"), registry=None
        )
        self._failed = Counter(
            "ctxdeploy_front_part_failed",
            "Servers of a part that did not answer a request, by why.",
            ("part", "reason"),
            registry=None,
        )
        self._hedged = Counter(
            "ctxdeploy_front_part_hedged", "Requests that a second server of a part was sent.", ("part",), registry=None
        )
        self._partial = Counter("ctxdeploy_front_partial", "Answers without some part of the archive.", registry=None)

    def register(self, registry: CollectorRegistry, transports: "Callable[[], Iterable[ReplicaTransport]]") -> None:
        """Add them to a registry, and the servers that there are."""
        for metric in (self._seconds, self._bytes, self._failed, self._hedged, self._partial):
            registry.register(metric)
        registry.register(_ServerCollector(transports))

    def answered(self, part: Part, seconds: float, sent: int, received: int) -> None:
        """Count an answer, and bytes."""
        self._seconds.labels(str(part)).observe(seconds)
        self._bytes.labels(str(part), "out").inc(sent)
        self._bytes.labels(str(part), "in").inc(received)

    def failed(self, part: Part, trouble: Trouble) -> None:
        """Count a server that did not answer a request."""
        self._failed.labels(str(part), trouble.value).inc()

    def hedged(self, part: Part) -> None:
        """Count a request that was sent to a second server."""
        self._hedged.labels(str(part)).inc()

    def partial(self) -> None:
        """Count an answer that lacks a part."""
        self._partial.inc()


class _ServerCollector(Collector):
    def __init__(self, transports: "Callable[[], Iterable[ReplicaTransport]]") -> None:
        self._transports = transports

    def describe(self) -> list[GaugeMetricFamily]:
        """Return what there may be, without looking."""
        return [self._family()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield how many servers of each part can be asked."""
        usable: dict[str, int] = {}
        for transport in self._transports():
            part = str(transport.part)
            usable[part] = min(transport.usable, usable.get(part, transport.usable))
        family = self._family()
        for part, count in usable.items():
            family.add_metric([part], count)
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily("ctxdeploy_front_part_servers", "Servers of a part that answer.", labels=["part"])
