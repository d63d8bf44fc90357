"""How long does a search by global vectors take, how often is it right, and how far is it from the limit of memory?

Each way to keep the vectors in turn, ours beside faiss by hand with the same vectors in the same process: fp32
(``faiss.knn`` on the mapped file), fp16 and int8 (``IndexScalarQuantizer``), pq (``IndexPQ``, a byte for 8 numbers) and
int8 in cells (``IndexIVFScalarQuantizer``, as many cells and probes). One query at a time, on one thread and on two.

    python benchmarks/global_search.py                                    # 1M × 2048: 17 GB of disk, 12 GB of memory
    python benchmarks/global_search.py --queries 30                       # the same in about two thirds of the time
    python benchmarks/global_search.py --photos 50000 --ways int8 pq      # a quick look

Vectors are drawn: 64 normal coordinates of popular and rare kinds, turned into D dimensions, with noise, scaled to
length 1; queries are photos with more noise. Recall is of the best photo and the best ten of an exact search in
float64. The limit is reading every byte that is compared once, at the rate of a sequential read; where cells are looked
into, the bytes of a sixteenth of the photos.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench import bandwidth, choose_openblas, in_turns, milliseconds, publish, timed
from ctxdeploy.core.types import GlobalDescriptor, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import GlobalQuantiser, Index, IndexConfig

TOP = 10
BLOCK = 1 << 14
WAYS = ("fp32", "fp16", "int8", "pq", "int8-ivf")
Rows = NDArray[np.float32]
Ranked = NDArray[np.int64]


def unit(rows: Any) -> Rows:
    """Return rows of length 1."""
    scaled: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def draw(path: Path, photos: int, dim: int, rng: np.random.Generator) -> Any:
    """Write vectors into a file, and return it mapped."""
    inner, kinds = 64, max(photos // 100, 10)
    turn = rng.normal(size=(inner, dim)).astype(np.float32) / np.float32(inner**0.5)
    centres = rng.normal(size=(kinds, inner)).astype(np.float32)
    popularity = 1 / np.arange(1, kinds + 1) ** 0.7
    popularity /= popularity.sum()
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (photos, dim))
    for start in range(0, photos, BLOCK):
        count = min(BLOCK, photos - start)
        part = centres[rng.choice(kinds, count, p=popularity)] + 0.7 * rng.standard_normal((count, inner), np.float32)
        rows[start : start + count] = unit(part @ turn + 0.35 * rng.standard_normal((count, dim), np.float32))
    rows.flush()
    return np.load(path, mmap_mode="r")


def best_of(rows: Any, queries: Rows) -> Ranked:
    """Return the ten best of each query in float64."""
    scores = np.empty((len(queries), len(rows)), np.float64)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(np.float64)
        scores[:, start : start + len(block)] = queries.astype(np.float64) @ block.T
    return np.argsort(-scores, axis=1, kind="stable")[:, :TOP]


def photos_of(rows: Any) -> Iterator[PhotoDescriptors]:
    """Yield photos with these global vectors."""
    nothing = LocalDescriptors(vectors=np.empty((0, 0), np.float32))
    for start in range(0, len(rows), BLOCK):
        for number, vector in enumerate(np.array(rows[start : start + BLOCK]), start):
            yield PhotoDescriptors(
                name=f"{number:07d}", descriptors=nothing, global_descriptor=GlobalDescriptor(vector=vector)
            )


def build(path: Path, rows: Any, way: str, sample: Rows) -> dict[str, Any]:
    """Make an archive; return what that took and how large it is."""
    kind, _, search = way.partition("-")
    config = IndexConfig(global_vectors=kind, global_dim=rows.shape[1], global_search=search or "exact")
    quantiser, trained = None, 0.0
    if config.needs_quantiser:
        trained, quantiser = timed(lambda: GlobalQuantiser.train(sample, config))

    def fill() -> None:
        with Index.create(path, None, config=config, quantiser=quantiser) as index:
            index.add_many(photos_of(rows))

    seconds = timed(fill)[0]
    size = sum(file.stat().st_size for file in (path / "vectors").iterdir())
    return {
        "training_s": round(trained, 1),
        "building_s": round(seconds, 1),
        "bytes_a_photo": round(size / len(rows), 1),
        "cells": None if quantiser is None or quantiser.cells is None else len(quantiser.cells),
        "probes": 0 if quantiser is None else quantiser.probes,
    }


def peer(faiss: Any, rows: Any, way: str, sample: Rows, facts: dict[str, Any]) -> tuple[Callable[[Rows], Ranked], int]:
    """Return faiss' search by hand, and the bytes of a photo in it."""
    dim, metric = rows.shape[1], faiss.METRIC_INNER_PRODUCT
    if way == "fp32":
        return lambda query: faiss.knn(query, rows, TOP, metric=metric)[1], 4 * dim
    if way == "pq":
        index = faiss.IndexPQ(dim, dim // 8, 8, metric)
    elif way == "int8-ivf":
        coarse = faiss.IndexFlatIP(dim)
        kind = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(coarse, dim, facts["cells"], kind, metric, False)
        index.own_fields = True
        coarse.this.disown()
        index.nprobe = facts["probes"]
    else:
        kinds = {"fp16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}
        index = faiss.IndexScalarQuantizer(dim, kinds[way], metric)
    index.train(sample)
    for start in range(0, len(rows), BLOCK):
        index.add(np.ascontiguousarray(rows[start : start + BLOCK]))
    return lambda query: index.search(query, TOP)[1], int(index.code_size)


def recall(found: Ranked, truth: Ranked) -> dict[str, float]:
    """Return how often the best photo is found first, and how many of the best ten are found."""
    ten = (found[:, :, None] == truth[:, None, :]).any(axis=1).mean()
    return {"recall_at_1": round(float((found[:, 0] == truth[:, 0]).mean()), 4), "recall_at_10": round(float(ten), 4)}


def compare(folder: Path, rows: Any, queries: Rows, truth: Ranked, way: str, rates: dict[int, float]) -> dict[str, Any]:
    """Measure one way to keep and search, ours beside faiss."""
    import faiss

    sample = np.array(rows[: 1 << 16])
    path = folder / "archive"
    facts = build(path, rows, way, sample)
    theirs, their_bytes = peer(faiss, rows, way, sample, facts)
    opened = {threads: Index.open(path, threads=threads) for threads in rates}

    def ours(index: Index, query: Rows) -> Ranked:
        probes = facts["probes"] or None
        return np.array([[int(hit.name) for hit in hits] for hits in index.search_global(query, TOP, probes=probes)])

    def by_hand(threads: int, query: Rows) -> Ranked:
        faiss.omp_set_num_threads(threads)
        return theirs(query)

    works: dict[str, Callable[[Rows], Ranked]] = {}
    for threads, index in opened.items():
        works |= {f"ctxdeploy {threads}": partial(ours, index), f"faiss {threads}": partial(by_hand, threads)}
    answers: dict[str, list[Ranked]] = {name: [] for name in works}

    def keep(results: Mapping[str, list[Ranked]]) -> None:
        for name, ranked in results.items():
            answers[name] += ranked

    times = in_turns(works, [query[None] for query in queries], warm_up=2, check=keep)
    found = {name: milliseconds(seconds) for name, seconds in times.items()}
    for name, ranked in answers.items():
        found[name] |= recall(np.concatenate(ranked), truth)
    share = facts["probes"] / facts["cells"] if facts["cells"] else 1.0
    for threads, rate in rates.items():
        limit = 1000 * share * facts["bytes_a_photo"] * len(rows) / rate
        found[f"ctxdeploy {threads}"] |= {
            "limit_ms": round(limit, 3),
            "fraction_of_limit": round(limit / found[f"ctxdeploy {threads}"]["median_ms"], 3),
        }
    together = {f"ctxdeploy {threads}": timed(partial(index.search_global, queries, TOP, probes=0))[0]
                for threads, index in opened.items()}  # fmt: skip
    for index in opened.values():
        index.close()
    shutil.rmtree(path)
    return {
        **facts,
        "faiss_bytes_a_photo": their_bytes,
        "searches": found,
        "exact_together_ms_a_query": {name: round(1e3 * spent / len(queries), 3) for name, spent in together.items()},
    }


def main() -> None:
    """Read the options, measure, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work", help="for vectors and archives")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "global_search.json")
    options = parser.parse_args()
    if options.photos < 1000 or options.queries < 3 or options.dim < 8 or options.dim % 8:
        parser.error("--photos of at least 1000, --queries of at least 3 and --dim a multiple of 8 are needed")
    choose_openblas()
    rng = np.random.default_rng(options.seed)
    rates = {threads: bandwidth(5, threads) for threads in (1, 2)}
    options.work.mkdir(parents=True, exist_ok=True)
    ways: dict[str, Any] = {}
    lines = [f"{options.photos:,} photos × {options.dim}, top {TOP}, one query at a time; GB/s: "
             + ", ".join(f"{rate / 1e9:.1f} ({threads})" for threads, rate in rates.items())]  # fmt: skip
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        rows = draw(Path(folder) / "vectors.npy", options.photos, options.dim, rng)
        chosen = rng.choice(options.photos, options.queries, replace=False)
        queries = unit(rows[chosen] + 0.5 / options.dim**0.5 * rng.standard_normal((len(chosen), options.dim)))
        truth = best_of(rows, queries)
        for way in options.ways:
            ways[way] = found = compare(Path(folder), rows, queries, truth, way, rates)
            lines.append(f"{way}: {found['bytes_a_photo']:.0f} bytes a photo")
            for name, row in found["searches"].items():
                limit = f", {row['fraction_of_limit']:.2f} of the limit" if "limit_ms" in row else ""
                right = f"recall@1 {row['recall_at_1']:.3f}, @10 {row['recall_at_10']:.3f}"
                lines.append(f"  {name} thread(s): {row['median_ms']:.1f} ms, {right}{limit}")
    result = {"photos": options.photos, "dim": options.dim, "seed": options.seed, "top": TOP, "ways": ways}
    rounded = {str(threads): round(rate / 1e9, 2) for threads, rate in rates.items()}
    publish({**result, "bandwidth_gb_per_s": rounded}, options.output, lines)


if __name__ == "__main__":
    main()
