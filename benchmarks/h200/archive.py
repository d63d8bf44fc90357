"""The synthetic archive that is searched: parts that processes make beside each other, opened as one state."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rows import LackingError, Rows

PARTS = 16


def sizes(rows: Rows) -> tuple[int, int, int]:
    """Return photos, descriptors of a photo and words of the codebook."""
    return (24, 20, 64) if rows.rehearse else (1_000_000, 1000, 65_536)


def part_of(rows: Rows, number: int) -> Path:
    """Return where a part lies."""
    return rows.folder("archives") / f"part-{number:02d}"


def state_of(rows: Rows, times: int = 1) -> Any:
    """Return one state of all parts, each taken several times under other names: as many photos more, from one file.

    Postings on a GPU are then as many times as many; files, and their pages in memory, are not.
    """
    from ctxdeploy.index import Index

    paths = sorted(rows.folder("archives").glob("part-[0-9][0-9]"))
    wanted = 2 if rows.rehearse else PARTS
    if len(paths) < wanted:
        raise LackingError(
            f"the step archives has made {len(paths)} of {wanted} parts in {rows.work}: run it too, with  --only "
            "archives,search --again"
        )
    states = [Index.open(path).state for path in paths]
    shards = tuple(
        replace(shard, path=shard.path.with_name(f"{shard.path.name}.{again}")) if again else shard
        for again in range(times)
        for state in states
        for shard in state.shards
    )
    entries = times * tuple(entry for state in states for entry in state.manifest.shards)
    return states[0].over(replace(states[0].manifest, shards=entries), shards)


def queries(rows: Rows, count: int) -> list[Any]:
    """Return queries with as many words as one of 1000 descriptors has after assignment to five of them."""
    import numpy as np

    from ctxdeploy.bench import draw_aggregated
    from ctxdeploy.index import Aggregated

    if not rows.rehearse:
        return draw_aggregated(count, 1933, np.random.default_rng(7))
    random, words = np.random.default_rng(7), sizes(rows)[2]
    return [
        Aggregated(
            words=np.sort(random.choice(words, 5, replace=False)).astype(np.int32),
            codes=random.integers(0, 1 << 64, (5, 2), dtype=np.uint64),
        )
        for _ in range(count)
    ]
