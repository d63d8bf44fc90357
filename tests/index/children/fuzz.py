"""Opens, searches and verifies archives with one thing wrong, again and again, in one process.

    python fuzz.py FOLDER COUNT SEED

Raises if an open fails with anything but ArchiveError (or ConfigError from a snapshot whose file has gone) that names
a file of the archive, if anything after it fails, or if ``verify`` finds nothing though content has changed whose hash
is recorded. A crash ends the process by a signal, a hang by its alarm of five minutes a mutation. With the environment
variable NUMBA_BOUNDSCHECK=1 the compiled loops check every access.
"""

import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import mutants
import numpy as np
from archives import DIM, NAMES, codebook, global_vectors, pool, positions
from jobs import require

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.types import FileState
from ctxdeploy.index import Codebook, GlobalQuantiser, Index, IndexConfig
from ctxdeploy.index.storage.pins import pin_current

POOL = pool()
GLOBAL = global_vectors()
CELLS_DIM = 8
SNAPSHOT = "kept"


def make(path: Path, config: IndexConfig, words: Codebook | None) -> None:
    """Write an archive with two shards, removed photos, a snapshot and failures."""
    trained = None
    if config.needs_quantiser:
        trained = GlobalQuantiser.train(global_vectors(300), config, cells=4, threads=1)
    with Index.create(path, words, config=config, quantiser=trained) as index:
        for number, name in enumerate(NAMES[:9]):
            vectors = POOL[number][:, : DIM if words is None else words.dim]
            size = (4000, 3000 + number) if number % 2 else None
            file = FileState(size=number, mtime_ns=-1)
            given = GLOBAL[number] if config.keeps_global else None
            index.add(name, vectors, global_descriptor=given, positions=positions(vectors), size=size, file=file)
        index.record_failures([{"name": "bad", "reason": "cut", "stage": "decode"}])
        index.commit()
        index.remove([NAMES[2], NAMES[7]])
        index.snapshot(SNAPSHOT)
        index.record_failures([{"name": "worse", "reason": "cut", "stage": "decode"}])
        index.commit()
        index.collect_garbage()


def kept(kind: str) -> dict[str, Any]:
    """Return the settings of an archive that keeps global vectors."""
    return {"global_vectors": kind, "global_dim": DIM}


class Archive:
    """An archive whose files are replaced and put back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = mutants.read_all(folder)

    def put(self, name: str, data: bytes | None) -> None:
        """Give a file other content, under a new inode: old maps keep the old one."""
        path = self.folder / name
        if data is None:
            path.unlink()
            return
        temporary = path.with_name("new")
        temporary.write_bytes(data)
        temporary.replace(path)

    def mutate(self, chance: random.Random) -> tuple[str, dict[str, bytes | None], bool]:
        """Return the kind of a mutation, the files that change, and whether ``verify`` has to notice it."""
        name = chance.choice(list(self.files))
        if len(self.files.get("codebook.safetensors", b"")) > 1 << 16 and chance.random() < 0.7:
            name = "codebook.safetensors"
        data = self.files[name]
        kind = chance.random()
        if kind < 0.4:
            way = chance.choice(mutants.RANDOM)
            return way.__name__, {name: way(data, chance)}, True
        if kind < 0.44:
            return "missing", {name: None}, True
        if kind < 0.48:
            other = chance.choice(list(self.files))
            return "swapped", {name: self.files[other], other: data}, True
        if kind < 0.6:
            return "wrong_manifest", dict(mutants.wrong_manifest(self.files, chance)), False
        if name.endswith(".safetensors"):
            way = chance.choice(mutants.STRUCTURED)
            return way.__name__, dict(mutants.consistent(self.files, name, way(data, chance))), False
        if name.endswith(".jsonl"):
            return "wrong_lines", dict(mutants.consistent(self.files, name, mutants.wrong_lines(data, chance))), False
        if name.startswith("snapshots/"):
            text = json.dumps(mutants.wrong_json(json.loads(data), chance)).encode()
            return "wrong_snapshot", {name: text}, True
        return "wrong_manifest", dict(mutants.wrong_manifest(self.files, chance)), False

    def same(self, changed: dict[str, bytes | None]) -> bool:
        """Return whether nothing has really changed: equal bytes, or equal JSON in a file without a recorded hash."""
        for name, data in changed.items():
            if data == self.files[name]:
                continue
            if data is None or not name.startswith("snapshots/"):
                return False
            try:
                if json.loads(data) != json.loads(self.files[name]):
                    return False
            except ValueError:
                return False
        return True


def use(index: Index) -> None:
    """Do what readers do."""
    if index.config.keeps_global:
        probes = 1 if index.config.global_search == "ivf" else 0
        for hits in (index.search_global(GLOBAL[:2], 5), index.search_global(GLOBAL[:2], 5, probes=probes)):
            require(all(np.isfinite(hit.score) for hit in hits[0]), "scores of global vectors")
    for idf in (False, True) if index.keeps_local else ():
        for alpha, threshold in ((None, None), (2.5, 0.1)):
            for hit in index.search(POOL[1][:, : index.codebook.dim], 5, idf=idf, alpha=alpha, threshold=threshold):
                require(hit.score > 0, f"score {hit.score}")
    list(index.names())
    for name in (*NAMES[:4], "unknown"):
        if name in index:
            index.features(name)
    index.known(), index.failures(), len(index)


def attempt(archive: Archive, changed: dict[str, bytes | None], blamed: bool) -> str:
    """Open and use an archive; return "refused" or "opened"."""
    try:
        index = Index.open(archive.folder, threads=1)
    except ArchiveError as error:
        text = str(error)
        require(str(archive.folder) in text, f"names no file: {text}")
        # Of two sound files that contradict each other, either may be named.
        named = [name for name in (changed if blamed else archive.files) if Path(name).name in text]
        require(bool(named), f"names another file than {list(changed)}: {text}")
        return "refused"
    with index:
        use(index)
    return "opened"


def attempt_snapshot(archive: Archive) -> None:
    """Open and use the snapshot, if it can be opened."""
    try:
        with Index.open(archive.folder, at=SNAPSHOT, threads=1) as index:
            use(index)
    except (ArchiveError, ConfigError) as error:
        require(str(archive.folder) in str(error), f"names no file: {error}")
        gone = not (archive.folder / "snapshots" / f"{SNAPSHOT}.json").exists()
        require(isinstance(error, ArchiveError) or gone, repr(error))


def run(archive: Archive, chance: random.Random, counts: Counter[str]) -> None:
    """Try one mutation."""
    kind, changed, noticed = archive.mutate(chance)
    try:
        for name, data in changed.items():
            archive.put(name, data)
        result = attempt(archive, changed, noticed)
        attempt_snapshot(archive)
        problems = held_verify(archive.folder)
        forgotten = changed == {f"snapshots/{SNAPSHOT}.json": None}
        if noticed and not archive.same(changed) and not forgotten:
            require(bool(problems), f"verify finds nothing: {kind} {list(changed)}")
        require(result == "opened" or bool(problems), "verify passes what does not open")
        counts[result] += 1
        counts[kind] += 1
        counts["found by verify"] += bool(problems)
    except BaseException as error:
        error.add_note(f"{kind}: {[(name, None if data is None else data[:4000]) for name, data in changed.items()]}")
        raise
    finally:
        for name in changed:
            archive.put(name, archive.files[name])


def held_verify(folder: Path) -> list[str]:
    """Return what verify finds."""
    return Index.problems(folder)


def main(folder: Path, count: int, seed: int) -> None:
    """Mutate four archives; that with the large codebook, which is slower, once in six times."""
    os.fsync = lambda handle: None  # type: ignore[assignment]
    made: list[Any] = [(IndexConfig(shard_images=5, geometry="descriptors", **kept("int8")), codebook())]
    made.append((IndexConfig(shard_images=5, binary=False, idf=True, assignment=2, **kept("fp16")), codebook()))
    made.append((IndexConfig(shard_images=5, idf=True), codebook(4200, CELLS_DIM)))  # a codebook with cells
    made.append((IndexConfig(shard_images=5, **kept("pq"), global_search="ivf"), None))
    archives = []
    for number, (config, words) in enumerate(made):
        path = folder / str(number)
        make(path, config, words)
        archives.append(Archive(path))
        with Index.open(path) as index:
            use(index)
            require(index.verify() == [], "sound")
    counts: Counter[str] = Counter()
    for number in range(count):
        signal.alarm(300)
        run(archives[(0, 1, 3, 0, 1, 2)[number % 6]], random.Random(seed * 1_000_003 + number), counts)
    signal.alarm(0)
    for archive in archives:
        pin_current(archive.folder).release()
        shutil.rmtree(archive.folder)
    print(json.dumps({"mutations": count, **dict(sorted(counts.items()))}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
