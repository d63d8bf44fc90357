"""Which photo of a name stays, after a repair has lost shards or the record of removals."""

from collections.abc import Sequence

from ctxdeploy.index.storage.manifest import ShardEntry
from ctxdeploy.index.storage.names import NameIndex, doubled_names
from ctxdeploy.index.storage.shard import Shard

Sound = list[tuple[ShardEntry, Shard]]


def missing_names(names: Sequence[str], sound: Sound) -> list[str]:
    """Return the names of which no photo is there: of a lost shard some may have been removed, or replaced."""
    if not names:
        return []
    table = NameIndex([shard for _, shard in sound])
    return [name for name in dict.fromkeys(names) if not any(sound[s][1].live[n] for s, n in table.find(name))]


def settle_returned(sound: Sound, returned: dict[int, int]) -> tuple[Sound, int, list[str]]:
    """Remove again what returned from damaged tombstones, where another shard has a photo of that name.

    Args:
        sound: the shards.
        returned: of those whose tombstones are damaged, how many photos had been removed.

    Returns:
        The shards, how many photos are back, and names among which are theirs.
    """
    if not returned:
        return sound, 0, []
    table = NameIndex([shard for _, shard in sound])
    result, back, names = [], 0, list[str]()
    for place, (entry, shard) in enumerate(sound):
        if place in returned:
            doubled = []
            for number, name in enumerate(shard.all_names()):
                others = [(s, n) for s, n in table.find(name) if s != place and sound[s][1].live[n]]
                # Of two shards whose tombstones are both damaged, the later one has the newer photo.
                if any(s not in returned or s > place for s, _ in others):
                    doubled.append(number)
            shard = shard.without(doubled)
            if len(doubled) < returned[place]:
                back += returned[place] - len(doubled)
                names += shard.live_names()
        if len(shard.removed) < len(shard):
            result.append((entry, shard))
    return result, back, names


def without_doubled(sound: Sound) -> tuple[Sound, list[str]]:
    """Of photos of one name keep the last: nothing else could ever remove the others. Return also what was wrong."""
    gone: dict[int, list[int]] = {}
    for (place, number), _ in doubled_names([shard for _, shard in sound]):
        gone.setdefault(place, []).append(number)
    if not gone:
        return sound, []
    problems = [f"{sound[place][1].path}: {len(gone[place])} names occur again later" for place in sorted(gone)]
    kept = [(entry, shard.without(gone.get(place, []))) for place, (entry, shard) in enumerate(sound)]
    return [(entry, shard) for entry, shard in kept if len(shard.removed) < len(shard)], problems
