"""Some photos of an archive, by their names or what these begin with: what a search is restricted to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.storage.names import encode_name
from ctxdeploy.index.storage.state import State


@dataclass(frozen=True, kw_only=True, eq=False)
class Subset:
    """Some photos of one state of an archive.

    Attributes:
        state: which holds them.
        photos: their rising numbers in each shard, int64.
        unknown: names that were given and that the archive does not hold.
        unused: beginnings that were given and that no name of the archive has.
    """

    state: State
    photos: tuple[NDArray[np.int64], ...]
    unknown: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of photos."""
        return sum(map(len, self.photos))


def select(state: State, prefixes: Sequence[str], names: Sequence[str] | None) -> Subset:
    """Return the photos whose names begin with one of the prefixes, if there are any, and are among the names.

    Of 10^5 photos prefixes take 1 ms; 10^5 given names take 0.15 s.

    Args:
        state: of the archive.
        prefixes: none for all photos.
        names: of photos; those that the archive does not hold are left out. None for all photos.
    """
    chosen = [shard.live[: len(shard)].copy() for shard in state.shards]
    unused = _keep_prefixed(state, prefixes, chosen)
    unknown: tuple[str, ...] = ()
    if names is not None:
        places = state.find_all(names)
        is_here = places[:, 0] >= 0
        unknown = tuple(names[row] for row in np.flatnonzero(~is_here).tolist())
        for number, mask in enumerate(chosen):
            named = np.zeros_like(mask)
            named[places[places[:, 0] == number, 1]] = True
            mask &= named
    return Subset(state=state, photos=tuple(map(np.flatnonzero, chosen)), unknown=unknown, unused=unused)


def _keep_prefixed(state: State, prefixes: Sequence[str], chosen: list[NDArray[np.bool_]]) -> tuple[str, ...]:
    """Take the photos out of the masks of all shards whose names begin otherwise; return the prefixes of none."""
    from ctxdeploy.index.kernels import names as name_kernels

    if not prefixes:
        return ()
    counts = np.zeros(len(prefixes), np.int64)
    encoded = [_encoded(prefix) for prefix in prefixes]
    for mask, shard in zip(chosen, state.shards, strict=True):
        found = np.zeros_like(mask)
        for number, prefix in enumerate(encoded):
            if prefix is None:
                continue
            here = np.zeros_like(mask)
            name_kernels.mark_beginning(shard.names, shard.name_offsets, prefix, here)
            here &= mask
            counts[number] += np.count_nonzero(here)
            found |= here
        mask &= found
    return tuple(prefix for prefix, count in zip(prefixes, counts.tolist(), strict=True) if not count)


def _encoded(prefix: str) -> NDArray[np.uint8] | None:
    """Return the bytes that a name begins with; None if no archive can hold such a name."""
    try:
        return np.frombuffer(encode_name(prefix), np.uint8)
    except ConfigError:
        return None
