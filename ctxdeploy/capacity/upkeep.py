"""What commits, publishing, compaction and the loss of a machine cost."""

from dataclasses import dataclass

from ctxdeploy.capacity.costs import Costs
from ctxdeploy.capacity.figures import BYTES, SECONDS, figure
from ctxdeploy.capacity.storage import Holdings, Machines
from ctxdeploy.capacity.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """What an archive costs beside its queries."""

    commit: float = figure("a commit of a few photos", SECONDS)
    publish: float = figure("publish all segments, in one commit", SECONDS)
    compact: float = figure("compact all segments once", SECONDS)
    compact_room: float = figure("room on the disk meanwhile", BYTES)
    open: float = figure("open one machine's shards", SECONDS)
    warm: float = figure("read them into memory, from the disk", SECONDS)
    copied: float = figure("bytes copied after the loss of a machine", BYTES)
    copying: float = figure("copy them to a new machine, and open them", SECONDS)
    again: float = figure("or extract its photos again, on the other machines", SECONDS)


def commit_seconds(costs: Costs, *, shards: float, postings: float, idf: bool) -> float:
    """Return the seconds of a commit to an archive: the manifest names every shard, and idf counts every posting."""
    storage = costs.storage
    return storage.commit_seconds + shards * storage.shard_seconds + (postings / storage.count_rate if idf else 0.0)


def publish_seconds(costs: Costs, held: Holdings, *, idf: bool) -> float:
    """Return the seconds in which all segments are hashed, opened and taken in by one commit."""
    storage = costs.storage
    hashed = held.on_disk / min(storage.hash_rate, storage.disk_read)
    opened = held.segments * costs.search.load_seconds
    return hashed + opened + commit_seconds(costs, shards=held.segments, postings=held.postings, idf=idf)


def rebuild_seconds(costs: Costs, copied: float, shards: float) -> float:
    """Return the seconds until a new machine holds a lost one's part, which comes from storage or from a replica."""
    storage = costs.storage
    rate = min(costs.machine.network, storage.disk_write, storage.disk_read)
    return copied / rate + shards * costs.search.load_seconds


def upkeep(subject: Subject, costs: Costs, held: Holdings, on: Machines) -> Upkeep:
    """Return what an archive on some machines costs beside its queries."""
    storage, idf = costs.storage, subject.config.idf
    small = held.segments > held.shards
    others = max(on.machines - 1, 1)
    return Upkeep(
        commit=commit_seconds(costs, shards=held.shards, postings=held.postings, idf=idf),
        publish=publish_seconds(costs, held, idf=idf),
        compact=(held.sizes.total - held.sizes.listed) / storage.compact_rate if small else 0.0,
        compact_room=held.on_disk if small else 0.0,
        open=on.shards * costs.search.load_seconds,
        warm=min(on.memory, on.disk) / storage.disk_read,
        copied=on.disk,
        copying=rebuild_seconds(costs, on.disk, on.shards),
        again=on.photos * costs.photo.seconds_per_photo / (others * costs.machine.worker_share),
    )
