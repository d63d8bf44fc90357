"""A history of changes that is the same in every process: what an archive holds after step k follows from k alone.

Step k publishes once, with the photo "step" whose time of change is k: so a reader knows what it has to find. Then
some steps compact, collect garbage or make a snapshot, which changes no answer.
"""

import random
import sys
from pathlib import Path
from typing import Any

from archives import by_score_and_name, codebook, pool

from ctxdeploy.core.types import FileState, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Hit, Index, IndexConfig

NAMES = [f"folder/{number}.jpg" for number in range(14)]
STEP = "step"
SEED = 11


class History:
    """The states after 0, 1, 2, ... steps, and what is found in them.

    Args:
        folder: for an archive with every photo of the pool, which says what each scores.
    """

    def __init__(self, folder: Path) -> None:
        self.pool = pool()
        self.codebook = codebook()
        self.config = IndexConfig(shard_images=5)
        self.query = self.pool[1]
        self._states: list[dict[str, int]] = [{STEP: 3}]
        with Index.create(folder / "every", self.codebook) as index:
            index.add_many((str(number), vectors) for number, vectors in enumerate(self.pool))
            self._scores = {int(hit.name): hit.score for hit in index.search(self.query, 100)}

    def state(self, step: int) -> dict[str, int]:
        """Return the photos after a step: number in the pool by name."""
        while len(self._states) <= step:
            put, removed = self._change(len(self._states))
            state = {name: number for name, number in self._states[-1].items() if name not in removed}
            self._states.append({**state, **put})
        return self._states[step]

    def _change(self, step: int) -> tuple[dict[str, int], list[str]]:
        chance = random.Random(SEED * 1_000_003 + step)
        put = {name: chance.randrange(len(self.pool)) for name in chance.sample(NAMES, chance.randrange(1, 6))}
        return put, [name for name in chance.sample(NAMES, chance.randrange(4)) if name not in put]

    def hits(self, step: int) -> list[Hit]:
        """Return what the query finds after a step."""
        found = ((name, self._scores.get(number)) for name, number in self.state(step).items())
        return by_score_and_name([Hit(name, score) for name, score in found if score is not None])

    def check(self, index: Index) -> int:
        """Raise unless an opened archive is the state after the step it says; return the step."""
        known = index.known()
        files = {name: file for name, file in known.items() if file is not None}
        step = files[STEP].mtime_ns
        expected = self.state(step)
        if {name: file.size for name, file in files.items()} != expected:
            raise ValueError(f"step {step}: {known} instead of {expected}")
        hits = index.search(self.query, 1000)
        if hits != self.hits(step):
            raise ValueError(f"step {step}: {hits} instead of {self.hits(step)}")
        return step

    def create(self, path: Path) -> None:
        """Make the archive of step 0."""
        with Index.create(path, self.codebook, config=self.config) as index:
            index.add(STEP, self.pool[3], file=FileState(size=3, mtime_ns=0))

    def take(self, index: Index, step: int) -> None:
        """Go from the state before a step to that after it."""
        put, removed = self._change(step)
        index.remove(removed)
        photos = [
            PhotoDescriptors(
                name=name, descriptors=LocalDescriptors(vectors=self.pool[n]), file=FileState(size=n, mtime_ns=step)
            )
            for name, n in (*put.items(), (STEP, 3))
        ]
        index.add_many(photos, replace=True)
        index.commit()

    def tidy(self, index: Index, step: int) -> None:
        """Do what changes no answer, now and then."""
        if step % 3 == 0:
            index.compact(purge=step % 2 == 0)
        if step % 4 == 0:
            names = [info.name for info in index.snapshots()]
            if f"s{step}" not in names:
                index.snapshot(f"s{step}")
            for name in names[:-2]:
                index.remove_snapshot(name)
        if step % 5 == 0:
            index.collect_garbage()


def write(path: Path, folder: Path, limit: int) -> None:
    """Continue the history from where the archive stands; print each step once it is committed."""
    history = History(folder)
    with Index.open(path, writable=True) as index:
        step = history.check(index)
        while step < limit:
            step += 1
            history.take(index, step)
            print(step, flush=True)
            history.tidy(index, step)


def main(arguments: list[Any]) -> None:
    """Write a history: ARCHIVE FOLDER LIMIT."""
    write(Path(arguments[0]), Path(arguments[1]), int(arguments[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
