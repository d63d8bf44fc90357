"""What do the three frameworks find, keep and take: global vectors, these and then local descriptors, local ones?

All queries of a data set are asked on one thread in each way: by the global vector that comes free with local
descriptors, their sum; by it and then, of the first N, by ASMK, by geometry, or by both; and by ASMK among all photos.
A query costs its searches, its words and its verification; its photo has been described before. Bytes are those that a
photo takes as it is searched.

    python benchmarks/frameworks.py minibench descriptors.npz codebook.safetensors    # as for ranking.py
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ranking import Dump, extract

from ctxdeploy.bench import publish
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.evaluation import DataSet, Query, Ranked, Reranking, open_set
from ctxdeploy.evaluation.comparison import memory_of
from ctxdeploy.evaluation.frameworks import Method
from ctxdeploy.evaluation.judging import figures, judge
from ctxdeploy.evaluation.ranking import rankings
from ctxdeploy.index import Index, VerificationConfig, refined_scores
from ctxdeploy.querying.first_stage import vector_of

COUNTS = (20, 50, 100, 200, 400)
VERIFIED = 100


class Asked:
    """The queries of a data set with the descriptors of a dump, as an evaluation asks for them."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump

    def photo(self, query: Query) -> PhotoDescriptors:
        return PhotoDescriptors(name=query.name, descriptors=self._dump.photos[query.name])


def methods() -> dict[str, Method]:
    """Return what is compared, by name."""
    verified = Reranking(verify=VERIFIED, verification=VerificationConfig(matches="descriptors"))
    two = Method(rank="global-then-local")
    return {
        "global": Method(rank="global"),
        **{f"global, then {count} by ASMK": replace(two, rerank=count) for count in COUNTS},
        **{
            f"global, then {count} by ASMK, 5 of them asking": replace(two, rerank=count, reranking=Reranking(expand=5))
            for count in (100, 400)
        },
        f"global, then {VERIFIED} by geometry": replace(two, rerank_by="geometry", reranking=verified),
        f"global, then {VERIFIED} by ASMK and geometry": replace(two, reranking=verified),
        "local": Method(rank="local"),
        "local, 5 asking": Method(rank="local", reranking=Reranking(expand=5)),
        f"local, {VERIFIED} by geometry": Method(rank="local", reranking=verified),
    }


def refined(index: Index, dataset: DataSet, asked: Asked, seconds: list[float]) -> Iterator[tuple[Query, list[Ranked]]]:
    """Yield the ranking by global vectors, its first photos ordered by refined ones; not the query's own photo."""
    for query in dataset.queries:
        start = time.perf_counter()
        vector = vector_of(asked.photo(query))
        names = [hit.name for hit in index.search_global(vector[np.newaxis], len(index))[0] if hit.name != query.name]
        first = names[:VERIFIED]
        order = np.argsort(-refined_scores(vector, index.global_vectors(first)), kind="stable")
        seconds.append(time.perf_counter() - start)
        yield query, [Ranked(name, 0.0) for name in [*(first[place] for place in order), *names[VERIFIED:]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("descriptors", type=Path)
    parser.add_argument("codebook", type=Path)
    parser.add_argument("--model", default="lite-small")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "frameworks.json")
    given = parser.parse_args()
    dataset = open_set(given.dataset)
    if not given.descriptors.exists():
        extract(given.model, dataset, given.descriptors)
    dump = Dump.load(given.descriptors)
    asked, rows = Asked(dump), dict[str, Any]()
    with (
        tempfile.TemporaryDirectory() as folder,
        dump.index(Path(folder) / "a.ctxindex", given.codebook, global_vectors="fp16") as index,
    ):
        index.prepare()
        for name, method in methods().items():
            seconds: list[float] = []
            found = figures(dataset, judge(dataset, rankings(method, index, None, dataset.queries, asked, seconds)))
            rows[name] = row(found, seconds, memory_of(method, index))
            print(name, rows[name], flush=True)
            if name == "global":
                seconds = []
                found = figures(dataset, judge(dataset, refined(index, dataset, asked, seconds)))
                rows[f"global, {VERIFIED} refined"] = row(found, seconds, memory_of(method, index))
    tasks = list(rows["global"]["mAP"])
    lines = [f"{'':44s}" + "".join(f"{task:>9s}" for task in (*tasks, "ms", "bytes"))]
    for name, made in rows.items():
        values = "".join(f"{made['mAP'][task]:9.2f}" for task in tasks)
        lines.append(f"{name:44s}{values}{made['median_ms']:9.2f}{made['photo_bytes']:9d}")
    publish({"set": dataset.name, "model": given.model, "rows": rows}, given.output, lines)


def row(found: Any, seconds: list[float], gib_at_1m: float) -> dict[str, Any]:
    return {
        "mAP": {task: round(100 * value.mean_average_precision, 2) for task, value in found.items()},
        "median_ms": round(1000 * float(np.median(seconds)), 2),
        "photo_bytes": round(gib_at_1m * 2**30 / 1e6),
    }


if __name__ == "__main__":
    main()
