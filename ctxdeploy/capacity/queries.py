"""How long a query takes: on one machine, and over all of them, of which the slowest decides."""

import math
from dataclasses import dataclass

from ctxdeploy.capacity.costs import Costs
from ctxdeploy.capacity.figures import BYTES, COUNT, RATE, SECONDS, SHARE, figure
from ctxdeploy.capacity.service_time import ServiceTime
from ctxdeploy.capacity.storage import Holdings, Machines
from ctxdeploy.capacity.subject import Subject

# Fewer queries together are not faster than one by one.
_TOGETHER = 16
# Bytes of global vectors that two cores compare in a second, where nothing is said: a vector in the product quantiser's
# code is looked up number by number.
USUAL_GLOBAL_RATES = {"fp32": 31e9, "fp16": 18e9, "int8": 25e9, "pq": 2.6e9}
# One cell of so many is searched, at least eight, in archives that have more photos than this.
_PROBED, _LEAST_PROBES, _IVF_PHOTOS = 16, 8, 1 << 15
# Bytes of the postings whose rate is measured: 128 dimensions, binary. Wider ones take as much longer.
_MEASURED_WIDTH = 18
# Of a hit besides its name: score, number, and what frames them.
_HIT = 32


@dataclass(frozen=True, kw_only=True)
class QueryTimes:
    """A query by local descriptors, and its parts; seconds."""

    reads: float = figure("postings that a query reads, of each machine", COUNT)
    extraction: float = figure("the photo through the network", SECONDS)
    assignment: float = figure("its descriptors to words", SECONDS)
    search: float = figure("search of one machine's part, median", SECONDS)
    uncompacted: float = figure("the same before  compact", SECONDS)
    global_search: float | None = figure("search by global vectors of one machine's part", SECONDS)
    asking: float = figure("query out and hits back", SECONDS)
    median: float = figure("all parts searched, median", SECONDS)
    p99: float = figure("all parts searched, 99 of 100", SECONDS)
    whole: float = figure("from photo to hits, median", SECONDS)
    sent: float = figure("bytes to each machine", BYTES)
    returned: float = figure("bytes back from each machine", BYTES)
    most: float = figure("searches a second at most", RATE)
    most_photos: float = figure("photos a second that one machine extracts for queries", RATE)


@dataclass(frozen=True, kw_only=True)
class LoadTimes:
    """Queries that come by chance, so many a second."""

    rate: float = figure("queries a second", RATE)
    load: float = figure("of its time a machine searches", SHARE)
    mean_wait: float = figure("mean wait for queries before it", SECONDS)
    p99: float = figure("wait and search, 99 of 100", SECONDS)
    fronts: float = figure("machines that extract the queries' photos", COUNT)


def threads_gain(threads: int, costs: Costs) -> float:
    """Return how many times as fast some threads search as one."""
    return 1 + (threads - 1) * costs.search.thread_share


def reads_per_photo(subject: Subject, costs: Costs) -> float:
    """Return the postings that a query reads for each photo of an archive."""
    photo = costs.photo
    if not subject.words:
        return 0.0
    return min(photo.query_words * photo.words_per_photo * photo.skew / subject.words, photo.words_per_photo)


def search_seconds(subject: Subject, costs: Costs, *, photos: float, shards: float, threads: int) -> float:
    """Return the seconds of a search of photos in some shards on one machine, with all of its threads.

    Finding the lists of a query's words takes a time for each shard, reading them one for each posting; both divide
    among threads. No machine reads postings faster than its memory gives them.
    """
    search, reads = costs.search, photos * reads_per_photo(subject, costs)
    lists = shards * costs.photo.query_words * search.list_seconds
    width = _posting_bytes(subject)
    alone = lists + reads / search.posting_rate * max(width / _MEASURED_WIDTH, 1.0)
    return max(alone / threads_gain(threads, costs), reads * width / search.bandwidth)


def global_seconds(subject: Subject, costs: Costs, photos: float) -> float | None:
    """Return the seconds of a search by global vectors of some photos; None where there are none."""
    config = subject.config
    if not config.keeps_global:
        return None
    rate = costs.search.global_rate or USUAL_GLOBAL_RATES[config.global_vectors]
    share = 1.0
    if subject.cells and photos >= _IVF_PHOTOS:
        looked_into = min(1.0, max(_LEAST_PROBES, subject.cells // _PROBED) / subject.cells)
        share = looked_into * costs.search.cell_times
    return photos * share * config.global_bytes / rate


def service_time(costs: Costs, median: float) -> ServiceTime:
    """Return how long one machine's search takes, rare slow ones included."""
    return ServiceTime(
        median=median,
        spread=costs.search.spread,
        slow_share=costs.machine.slow_share,
        slow_times=costs.machine.slow_times,
    )


def query_bytes(subject: Subject, costs: Costs) -> float:
    """Return the bytes of an aggregated query: words and codes; of a global vector, float32."""
    local = costs.photo.query_words * (4 + _posting_bytes(subject) - 2) if subject.words else 0.0
    return local + 4 * subject.config.global_dim


def query_times(
    subject: Subject, costs: Costs, held: Holdings, on: Machines, *, threads: int, replicas: int, batch: int, top: int
) -> QueryTimes:
    """Return how long queries take.

    Args:
        subject, costs, held, on: the archive and how it lies on machines.
        threads: of each machine.
        replicas: copies of each part; a query asks one of each.
        batch: queries that are searched together.
        top: results.
    """
    photos, shards = _part(on.photos, on, replicas), _part(on.shards, on, replicas)
    parts = max(round(on.machines / replicas), 1)
    gain = costs.search.batch_gain if batch >= _TOGETHER else 1.0
    local = search_seconds(subject, costs, photos=photos, shards=shards, threads=threads) / gain
    segments = held.segments / parts
    before = search_seconds(subject, costs, photos=photos, shards=segments, threads=threads) / gain
    by_vectors = global_seconds(subject, costs, photos)
    search = local if subject.words else by_vectors or 0.0
    sent, returned = query_bytes(subject, costs), top * (_HIT + costs.photo.name_bytes)
    asking = 0.0
    if parts > 1:
        asking = costs.machine.round_trip + parts * (sent + returned) / costs.machine.network
    times = service_time(costs, max(search, 1e-9))
    extraction, assignment = costs.photo.seconds_per_photo, costs.photo.query_seconds if subject.words else 0.0
    median = times.slowest(parts, 0.5) + asking
    return QueryTimes(
        reads=photos * reads_per_photo(subject, costs),
        extraction=extraction,
        assignment=assignment,
        search=search,
        uncompacted=before if subject.words else search,
        global_search=by_vectors,
        asking=asking,
        median=median,
        p99=times.slowest(parts, 0.99) + asking,
        whole=extraction + assignment + median,
        sent=sent,
        returned=returned,
        most=replicas / times.mean,
        most_photos=1 / extraction,
    )


def load_times(costs: Costs, times: QueryTimes, *, rate: float, replicas: int, parts: int) -> LoadTimes:
    """Return how long queries wait that come by chance; each part's copies share them evenly."""
    service, each = service_time(costs, max(times.search, 1e-9)), rate / replicas
    wait = service.wait_quantile(each, 0.99)
    return LoadTimes(
        rate=rate,
        load=service.load(each),
        mean_wait=service.mean_wait(each),
        p99=wait + service.slowest(parts, 0.99) + times.asking,
        fronts=math.ceil(rate * times.extraction),
    )


def _part(count: int, on: Machines, replicas: int) -> float:
    """Return what a query asks of a machine: with fewer machines than copies would need, each holds several parts."""
    return count if on.machines >= replicas else count / replicas


def _posting_bytes(subject: Subject) -> int:
    config = subject.config
    return (8 * -(-subject.dim // 64) if config.binary else 4 * subject.dim) + 2
