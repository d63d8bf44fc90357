"""What the tests of whole archives share: photos to choose from, what an archive answers, which files it may hold.

Imported by the scripts beside it, which run in processes of their own, and by test modules through ``load_child``.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index import Codebook, Hit, Index

DIM = 40
WORDS = 12
# Some sort differently as text and as bytes, one is no UTF-8, one is empty.
NAMES = ["a", "b", "c/d.jpg", "é", "日本", "\udce9.jpg", "", "z" * 300, "🙂", "B", "\uffff", "m"]


def pool(count: int = 10, dim: int = DIM, seed: int = 3) -> list[NDArray[np.float32]]:
    """Return the descriptors of photos, of 1 to 12 each; the fourth has none, the second and third are equal."""
    rng = np.random.default_rng(seed)
    prototypes = rng.normal(size=(30, dim))
    photos = []
    for number in range(count):
        length = 0 if number == 3 else int(rng.integers(1, 13))
        chosen = prototypes[rng.integers(0, len(prototypes), length)]
        photos.append((chosen + 0.4 * rng.normal(size=chosen.shape)).astype(np.float32))
    photos[2] = photos[1]
    return photos


def codebook(words: int = WORDS, dim: int = DIM) -> Codebook:
    """Return random words, as near to the photos as to each other."""
    return Codebook.from_centroids(np.random.default_rng(9).normal(size=(words, dim)).astype(np.float32))


def positions(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a position for each descriptor that follows from it."""
    return np.abs(vectors[:, :2].astype(np.float64)) * 1000


def global_vectors(count: int = 10, dim: int = DIM, seed: int = 5) -> NDArray[np.float32]:
    """Return the global vectors of the pool's photos; the fourth is all 0, the second and third are equal."""
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[3], rows[2] = 0, rows[1]
    return rows.astype(np.float32)


def by_score_and_name(hits: list[Hit]) -> list[Hit]:
    """Return hits by falling score, equal scores by the bytes of the names."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.name.encode("utf-8", "surrogateescape")))


def answers(index: Index, queries: list[Any]) -> dict[str, Any]:
    """Return what an archive says of itself and finds, in JSON's types; equal archives give equal answers."""
    found: dict[str, Any] = {
        "known": {
            name: None if file is None else [file.size, file.mtime_ns] for name, file in sorted(index.known().items())
        },
        "failures": sorted(index.failures(), key=lambda record: record["name"]),
    }
    if index.config.keeps_global:
        ranked = index.search_global(global_vectors()[:3], 1000)
        found["global"] = [[[hit.name, hit.score] for hit in by_score_and_name(part)] for part in ranked]
    for idf in (False, True) if index.keeps_local else ():
        hits = [by_score_and_name(found) for found in index.search_batch(queries, 1000, idf=idf)]
        found[f"hits {idf}"] = [[[hit.name, hit.score] for hit in part] for part in hits]
    if index.config.keeps("positions"):
        for name in sorted(index.known()):
            features = index.features(name)
            if features is None:
                raise ValueError(f"{name!r} has lost its features")
            found[f"features {name}"] = [
                None if part is None else np.asarray(part).tolist() for part in vars(features).values()
            ]
    return found


def referenced(folder: Path) -> set[str]:
    """Return the files that the state in force and the snapshots need, read from JSON alone."""
    pointers = [(folder / "CURRENT").read_text()]
    kept = {"CURRENT"}
    for path in sorted((folder / "snapshots").glob("*.json")) if (folder / "snapshots").is_dir() else []:
        kept.add(f"snapshots/{path.name}")
        pointers.append(json.loads(path.read_text())["manifest"])
    for pointer in pointers:
        name = pointer.split()[0]
        kept.add(name)
        data = json.loads((folder / name).read_text())
        shards = data["shards"]
        entries = [data["codebook"], *shards, data["failures"], data.get("statistics")]
        entries += [shard.get(kind) for shard in shards for kind in ("names", "tombstones", "vectors")]
        kept |= {entry["file"] for entry in entries if entry}
    return kept


def files(folder: Path) -> set[str]:
    """Return every file of an archive but its lock, its lease and the lists of lost names."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if name != "LOCK" and not name.startswith(("lost-", "lease/"))}
