"""What do expansion and verification find, what do they cost, and what must an archive keep for them?

All queries of a data set are asked on one thread: plainly, with the first 1, 3 and 5 hits asking too, with the first
100 hits verified by words, by words and codes, and by descriptors, and with both. A query costs its assignment,
searches and verification; its photo has been described before. Bytes are those that an archive keeps for each feature
besides the postings.

    python benchmarks/ranking.py minibench descriptors.npz codebook.safetensors

Descriptors of the data set's photos: `vectors` (n×D float32), `positions` (n×2, pixels), `scales` (n), `offsets`
(photos + 1), `names` as in the data set, `sizes` (width, height) and perhaps `attention` (n). `--model` extracts them
if the file is not there.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.bench import publish, timed
from ctxdeploy.core.types import GlobalDescriptor, LocalDescriptors
from ctxdeploy.evaluation import DataSet, Query, Ranked, Reranking, open_set
from ctxdeploy.evaluation.judging import figures, judge
from ctxdeploy.index import Codebook, Index, IndexConfig, SearchThreads, VerificationConfig
from ctxdeploy.judgement import judge_archive

VERIFIED = 100
KINDS = ("words", "codes", "descriptors")


@dataclass(frozen=True, kw_only=True, eq=False)
class Dump:
    """Descriptors of many photos.

    Attributes:
        photos: by name.
        sizes: width and height in pixels, by name.
    """

    photos: dict[str, LocalDescriptors]
    sizes: dict[str, tuple[int, int]]

    @classmethod
    def load(cls, path: Path) -> "Dump":
        with np.load(path) as file:
            found = {key: file[key] for key in ("vectors", "positions", "scales", "offsets", "names", "sizes")}
            attention = file["attention"] if "attention" in file else np.ones(len(found["vectors"]), np.float32)
        photos, sizes = {}, {}
        for row, name in enumerate(found["names"].tolist()):
            part = slice(found["offsets"][row], found["offsets"][row + 1])
            photos[name] = LocalDescriptors(
                vectors=found["vectors"][part],
                attention=attention[part],
                positions=found["positions"][part],
                scales=found["scales"][part],
            )
            width, height = found["sizes"][row].tolist()
            sizes[name] = (width, height)
        return cls(photos=photos, sizes=sizes)

    def index(self, folder: Path, codebook: Path, *, global_vectors: str = "none") -> Index:
        """Return an archive of the photos that keeps all there is of them; searches of it use one thread."""
        words = Codebook.load(codebook)
        dim = 0 if global_vectors == "none" else words.dim
        config = IndexConfig(geometry="descriptors", global_vectors=global_vectors, global_dim=dim)
        with Index.create(folder, words, config=config) as index:
            for name, found in self.photos.items():
                vector = GlobalDescriptor.pooled(found) if dim else None
                index.add(name, found, global_descriptor=vector, size=self.sizes[name])
        return Index.open(folder, threads=1)


def extract(model: str, dataset: DataSet, path: Path) -> None:
    """Write the descriptors of a data set's photos."""
    from ctxdeploy.core import bundle
    from ctxdeploy.core.types import PhotoDescriptors
    from ctxdeploy.models import find_model
    from ctxdeploy.runtime import Extractor

    results = Extractor(bundle.open(find_model(model))).extract(dataset.photo_list().photos)
    found = [result for result in results if isinstance(result, PhotoDescriptors)]
    parts = [result.descriptors for result in found]
    arrays: dict[str, Any] = {
        "vectors": np.concatenate([part.vectors for part in parts]),
        "attention": np.concatenate([part.attention for part in parts]),
        "positions": np.concatenate([part.positions for part in parts]),
        "scales": np.concatenate([part.scales for part in parts]),
        "offsets": np.cumsum([0, *map(len, parts)]),
        "names": np.array([result.name for result in found]),
        "sizes": np.array([result.size for result in found]),
    }
    np.savez(path, **arrays)


def variants(*, verified: bool) -> dict[str, Reranking]:
    """Return what is compared, by name; verifications among them."""
    plain = {"none": Reranking(), **{f"expand {count}": Reranking(expand=count) for count in (1, 3, 5)}}
    if not verified:
        return plain
    by = {kind: VerificationConfig(matches=kind) for kind in KINDS}
    return {
        **plain,
        **{f"verify {kind}": Reranking(verify=VERIFIED, verification=by[kind]) for kind in KINDS},
        **{f"expand 3, verify {kind}": Reranking(expand=3, verify=VERIFIED, verification=by[kind]) for kind in KINDS},
        "expand 3, verify descriptors, similarity": Reranking(
            expand=3, verify=VERIFIED, verification=VerificationConfig(matches="descriptors", model="similarity")
        ),
    }


def feature_bytes(reranking: Reranking, dim: int) -> int:
    """Return what an archive keeps of a feature: word, place and scale; code; descriptor in int8 and its step."""
    if not reranking.verify:
        return 0
    parts = {"positions": 8, "codes": 8 * -(-dim // 64), "descriptors": dim + 4}
    kept = list(parts)[: list(parts).index(reranking.geometry) + 1]
    return sum(parts[part] for part in kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("descriptors", type=Path)
    parser.add_argument("codebook", type=Path)
    parser.add_argument("--model", default="lite-small")
    parser.add_argument("--expansion", action="store_true", help="verify nothing")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "ranking.json")
    given = parser.parse_args()
    dataset = open_set(given.dataset)
    if not given.descriptors.exists():
        extract(given.model, dataset, given.descriptors)
    dump = Dump.load(given.descriptors)
    threads = SearchThreads(1)
    rows = {}
    with tempfile.TemporaryDirectory() as folder, dump.index(Path(folder) / "a.ctxindex", given.codebook) as index:
        unit = judge_archive(index).unit(len(index))
        for name, reranking in variants(verified=not given.expansion).items():
            seconds: list[float] = []

            def ask(reranking: Reranking, query: Query) -> list[Ranked]:
                asked = dump.photos[query.name]
                hits = index.search(asked, len(index), expand=reranking.expand, unit=unit)
                hits = reranking.ranked(index, asked, hits, threads, part=query.box)
                return [Ranked(hit.name, hit.score) for hit in hits]

            def asked(reranking: Reranking, seconds: list[float]) -> Iterator[tuple[Query, list[Ranked]]]:
                for query in dataset.queries:
                    spent, ranked = timed(lambda query=query: ask(reranking, query))
                    seconds.append(spent)
                    yield query, ranked

            found = figures(dataset, judge(dataset, asked(reranking, seconds)))
            rows[name] = {
                "mAP": {task: round(100 * value.mean_average_precision, 2) for task, value in found.items()},
                "median_ms": round(1000 * float(np.median(seconds)), 2),
                "feature_bytes": feature_bytes(reranking, index.codebook.dim),
            }
            print(name, rows[name], flush=True)
    tasks = list(rows["none"]["mAP"])
    lines = [f"{'':42s}" + "".join(f"{task:>9s}" for task in (*tasks, "ms", "bytes"))]
    for name, row in rows.items():
        values = "".join(f"{row['mAP'][task]:9.2f}" for task in tasks)
        lines.append(f"{name:42s}{values}{row['median_ms']:9.2f}{row['feature_bytes']:9d}")
    publish({"set": dataset.name, "verified": VERIFIED, "rows": rows}, given.output, lines)


if __name__ == "__main__":
    main()
