"""Are the probabilities of hits right, and does an archive say "nothing certain" of what it does not hold?

Every photo of a scene of ``gnd.json`` is a query, twice: of the archive as it is, and of the archive without the other
photos of its scene. Its first 50 hits are judged by their scores, by the matches among them, and by inliers.

- recall at a precision: of all pairs of a query and another photo of its scene, those above the threshold at which that
  share of what is above it is right;
- reliability: of hits of about the same probability, which share is right; over both runs of all queries;
- nothing: queries without their scene for which no hit is found (``ctxdeploy.judgement.FOUND``).

    python benchmarks/judgement.py --data minibench --model lite-small
    python benchmarks/judgement.py --data landmarks --model run1.ctxbundle --fit       # the constants of the judgement

The network describes each photo once; ``--descriptors FILE.npz`` keeps that for the next time.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench import publish
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.scoring import GROUND_TRUTH, read_ground_truth
from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.index import DescriptorSource, Features, Index, IndexConfig, VerificationConfig, verify
from ctxdeploy.indexing.codebook import codebook_of
from ctxdeploy.judgement import FOUND, LINKS, Judgement, judge_archive
from ctxdeploy.models import find_bundle
from ctxdeploy.runtime import Extractor, PhotoDescriptors, find_photos

HITS = 50
PRECISIONS = (0.95, 0.99)
EDGES = (0.0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98, 1.0)
KINDS = ("words", "codes", "descriptors")
WAYS = ("scores", *KINDS, "scores and links", *(f"{kind} and links" for kind in KINDS))
# What the constants assume: photos of the same in the archive for a query that has any; half of the queries have none.
PARTNERS = 1.0
# Photos of one landmark may show its other side, which no score can know: those are fitted that a map explains, or that
# score e times the best of unrelated photos.
VISIBLE_INLIERS, VISIBLE_HEIGHT = 38, 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Photos:
    """The photos of a data set.

    Attributes:
        names: N.
        descriptors: of each.
        sizes: (width, height) of each in pixels.
        scenes: of each, -1 for one of no scene.
        excluded: N×N, pairs that count neither way; the diagonal among them.
    """

    names: list[str]
    descriptors: list[LocalDescriptors]
    sizes: list[tuple[int, int]]
    scenes: NDArray[np.int64]
    excluded: NDArray[np.bool_]

    @property
    def queries(self) -> NDArray[np.int64]:
        """Numbers of the photos that are queries."""
        return np.flatnonzero(self.scenes >= 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """The first hits of a query, and what is known of them.

    Attributes:
        query: its number.
        photos: H, their numbers.
        scores: H.
        right: H.
        ranking: the query's best scores.
        links: L×H.
        partners: photos of the query's scene in the archive.
        held: photos in the archive.
    """

    query: int
    photos: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    ranking: NDArray[np.float64]
    links: NDArray[np.float64]
    partners: int
    held: int


def main() -> None:
    """Judge the hits in every way and publish the figures."""
    options = _arguments()
    bundle = bundles.open(find_bundle(options.model))
    photos = _read(options.data, bundle, options.descriptors)
    result: dict[str, Any] = {"data": options.data.name, "model": bundle.model_id, "photos": len(photos.names)}
    lines = []
    with tempfile.TemporaryDirectory() as folder, _archive(Path(folder), photos, bundle) as index:
        judgement, times = judge_archive(index), []  # the first time numba compiles
        for _ in range(3):
            start = time.perf_counter()
            judge_archive(index)
            times.append(time.perf_counter() - start)
        result["judgement"] = {**vars(judgement), "seconds": min(times)}
        lines.append(f"{len(photos.names)} photos were judged in {result['judgement']['seconds']:.2f} s")
        inside = index.scores(photos.names, photos.names)
        for label, table in (("outside", _outside(index, photos)), ("stored", inside)):
            stored = label == "stored"
            runs = [_hits(photos, judgement, (table, inside), left_out=left_out) for left_out in (False, True)]
            inliers = _inliers(photos, index, runs, stored=stored)
            if options.fit:
                constants = _constants(judgement, runs, inliers, stored=stored)
                result[f"constants, {label}"] = constants
                lines += [f"{label}, {kind}: base, height, matched {odds}" for kind, odds in constants.items()]
            result[label] = _figures(judgement, runs, inliers, stored=stored)
            lines += [f"{label}, {way}: {_line(found)}" for way, found in result[label].items()]
    publish(result, options.output, [*lines, "the limit is 1"], lambda axes: _plot(axes, result["outside"]))


def _read(data: Path, bundle: Bundle, kept: Path | None) -> Photos:
    """Return the photos of a folder with ``gnd.json``, described by the network or read from a file."""
    columns = _described(data, bundle) if kept is None or not kept.exists() else dict(np.load(kept))
    if kept is not None and not kept.exists():
        np.savez(kept, **columns)
    names = [str(name) for name in columns["names"]]
    parts = (np.split(columns[name], columns["offsets"][1:-1]) for name in ("vectors", "positions", "scales"))
    truth = read_ground_truth(data / GROUND_TRUTH)
    short = [Path(name).name for name in names]
    scene_of = {Path(file).name: number for number, files in enumerate(truth.scenes.values()) for file in files}
    excluded = np.eye(len(names), dtype=bool)
    for one, others in truth.junk.items():
        for other in others:
            excluded[short.index(Path(one).name), short.index(Path(other).name)] = True
    return Photos(
        names=names,
        descriptors=[
            LocalDescriptors(vectors=vectors, positions=positions, scales=scales)
            for vectors, positions, scales in zip(*parts, strict=True)
        ],
        sizes=[(int(width), int(height)) for width, height in columns["sizes"]],
        scenes=np.array([scene_of.get(name, -1) for name in short]),
        excluded=excluded,
    )


def _described(data: Path, bundle: Bundle) -> dict[str, Any]:
    found = []
    for result in Extractor(bundle).extract(find_photos(data)):
        if not isinstance(result, PhotoDescriptors):
            raise SystemExit(f"{result.name}: {result.reason}")
        found.append(result)
    found.sort(key=lambda photo: photo.name)
    of = [photo.descriptors for photo in found]
    return {
        "names": np.array([photo.name for photo in found]),
        "sizes": np.array([photo.size for photo in found]),
        "offsets": np.cumsum([0, *map(len, of)]),
        **{name: np.concatenate([getattr(one, name) for one in of]) for name in ("vectors", "positions", "scales")},
    }


def _archive(folder: Path, photos: Photos, bundle: Bundle) -> Index:
    codebook = codebook_of(bundle)
    if codebook is None:
        raise SystemExit(f"{bundle.path} carries no codebook: give a bundle that does with --model")
    # A judgement knows the built-in models by the source of an archive.
    source = DescriptorSource(model=bundle.model_id, preprocessing=bundle.preprocessing.hash)
    config = IndexConfig(geometry="descriptors")
    index = Index.create(folder / "archive", codebook, config=config, source=source)
    together = zip(photos.names, photos.descriptors, photos.sizes, strict=True)
    index.add_many(
        PhotoDescriptors(name=name, descriptors=descriptors, size=size) for name, descriptors, size in together
    )
    index.commit()
    return index


def _outside(index: Index, photos: Photos) -> NDArray[np.float64]:
    """Return the scores of all photos for the queries, N×N, asked with their descriptors; other rows are 0."""
    place = {name: number for number, name in enumerate(photos.names)}
    table = np.zeros((len(place), len(place)))
    for query, hits in zip(
        photos.queries,
        index.search_batch([photos.descriptors[query] for query in photos.queries], len(place)),
        strict=True,
    ):
        table[query, [place[hit.name] for hit in hits]] = [hit.score for hit in hits]
    return table


def _hits(
    photos: Photos, judgement: Judgement, tables: tuple[NDArray[np.float64], ...], *, left_out: bool
) -> list[Hits]:
    """Return the hits of each query, from its scores and those of stored photos."""
    table, inside = tables
    found = []
    for query in photos.queries:
        same = photos.scenes == photos.scenes[query]
        asked = ~photos.excluded[query] & ~(same & left_out)
        held = len(photos.names) - int((same & left_out).sum())
        scores = np.where(asked, table[query], 0.0)
        order = np.argsort(-scores, kind="stable")[:HITS]
        order = order[scores[order] > 0]
        links = inside[np.ix_(order[:LINKS], order)]
        np.fill_diagonal(links, 0.0)
        found.append(
            Hits(
                query=int(query),
                photos=order,
                scores=scores[order],
                right=same[order],
                ranking=scores[order][: judgement.depth(held)],
                links=links,
                partners=int((same & asked).sum()),
                held=held,
            )
        )
    return found


def _inliers(photos: Photos, index: Index, runs: list[list[Hits]], *, stored: bool) -> dict[str, NDArray[np.int64]]:
    """Return the inliers of the hits of both runs by each kind of matches, N×N; -1 where nothing was verified."""
    tables = {kind: np.full((len(photos.names),) * 2, -1, np.int64) for kind in KINDS}
    kept: dict[int, Features | None] = {}
    for rows in zip(*runs, strict=True):
        query = rows[0].query
        asked = photos.names[query] if stored else photos.descriptors[query]
        features = index.features(asked, size=None if stored else photos.sizes[query])
        wanted = np.unique(np.concatenate([row.photos for row in rows]))
        for number in wanted:
            if int(number) not in kept:
                kept[int(number)] = index.features(photos.names[int(number)])
        others = [photo for photo in (kept[int(number)] for number in wanted) if photo is not None]
        if features is None or len(others) < len(wanted):
            raise SystemExit("the archive keeps no geometry")
        for kind in KINDS:
            found = verify(features, others, VerificationConfig(matches=kind))
            tables[kind][query, wanted] = [one.inliers for one in found]
    return tables


def _judged(
    judgement: Judgement, rows: list[Hits], way: str, tables: dict[str, NDArray[np.int64]], *, stored: bool
) -> list[NDArray[np.float64]]:
    """Return the probabilities of each query's hits; ``way`` is among ``WAYS``."""
    kind = next((kind for kind in KINDS if kind in way), None)
    return [
        judgement.probabilities(
            row.scores,
            photos=row.held,
            ranking=row.ranking,
            stored=stored,
            inliers=None if kind is None else tables[kind][row.query, row.photos],
            matches=kind or "codes",
            links=row.links if "links" in way else None,
        )
        for row in rows
    ]


def _figures(
    judgement: Judgement, runs: list[list[Hits]], tables: dict[str, NDArray[np.int64]], *, stored: bool
) -> dict[str, Any]:
    """Return what each way of judging reaches; ``score`` is the score without any judgement."""
    rows, gone = runs
    partners = sum(row.partners for row in rows)
    right = np.concatenate([row.right for row in rows])
    alone = _recalls(np.concatenate([row.scores for row in rows]), right, partners)
    result: dict[str, Any] = {"score": {"recall": alone}}
    for way in WAYS:
        judged = _judged(judgement, rows, way, tables, stored=stored)
        nothing = _judged(judgement, gone, way, tables, stored=stored)
        best = np.array([row.max(initial=0.0) for row in nothing])
        values, of_none = np.concatenate(judged), np.concatenate(nothing)
        found = values >= FOUND
        result[way] = {
            "recall": _recalls(values, right, partners),
            "nothing": float((best < FOUND).mean()),
            "found": {
                "precision": float(right[found].mean()),
                "recall": float(right[found].sum() / partners),
                "queries": float(
                    np.mean([(row[hits.right] >= FOUND).any() for row, hits in zip(judged, rows, strict=True)])
                ),
            },
            "reliability": _reliability(
                np.concatenate([values, of_none]), np.concatenate([right, np.zeros(len(of_none), bool)])
            ),
        }
    return result


def _recalls(values: NDArray[np.float64], right: NDArray[np.bool_], partners: int) -> dict[str, float]:
    """Return recall at each precision: of the lowest threshold above which that share is right."""
    order = np.argsort(-values, kind="stable")
    found = np.cumsum(right[order])
    shares = found / np.arange(1, len(order) + 1)
    last = np.append(np.diff(values[order]) != 0, True)  # a threshold does not divide equal values
    return {
        f"{precision}": float(max(found[last & (shares >= precision)], default=0) / partners)
        for precision in PRECISIONS
    }


def _reliability(values: NDArray[np.float64], right: NDArray[np.bool_]) -> list[dict[str, float]]:
    bins = np.clip(np.searchsorted(EDGES, values, side="right") - 1, 0, len(EDGES) - 2)
    parts = [bins == number for number in range(len(EDGES) - 1)]
    return [
        {"probability": float(values[part].mean()), "right": float(right[part].mean()), "hits": int(part.sum())}
        for part in parts
        if part.any()
    ]


def _constants(
    judgement: Judgement, runs: list[list[Hits]], tables: dict[str, NDArray[np.int64]], *, stored: bool
) -> dict[str, list[float]]:
    """Return base, height and matched of ``ctxdeploy.judgement``, by logistic regression on the hits of both runs."""
    rows, gone = runs
    heights = [
        judgement.heights(row.scores, photos=row.held, ranking=row.ranking, stored=stored) for row in (*rows, *gone)
    ]
    height = np.concatenate(heights)
    right = np.concatenate([row.right for row in (*rows, *gone)])
    of = {
        kind: np.concatenate([table[row.query, row.photos] for row in (*rows, *gone)]) for kind, table in tables.items()
    }
    visible = (of["descriptors"] >= VISIBLE_INLIERS) | (height > VISIBLE_HEIGHT)
    owner = np.repeat(np.arange(len(heights)), [len(part) for part in heights])
    result = {}
    for kind in ("none", *KINDS):
        kept = ~right | (visible if kind != "descriptors" else True)
        partners = np.bincount(owner[kept & right], minlength=len(heights))
        weights = np.where(right, PARTNERS / np.maximum(partners[owner], 1), 1.0)[kept]
        columns = [np.ones(kept.sum()), height[kept]]
        if kind != "none":
            columns.append(np.log1p(of[kind][kept]))
        result[kind] = [round(value, 2) for value in _logistic(np.array(columns).T, right[kept], weights)]
    return result


def _logistic(rows: NDArray[np.float64], right: NDArray[np.bool_], weights: NDArray[np.float64]) -> list[float]:
    """Return the coefficients of a weighted logistic regression, by Newton's method."""
    found = np.zeros(rows.shape[1])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-rows @ found))
        slope = rows.T @ (weights * (right - probability)) - 1e-3 * found
        curve = (rows.T * (weights * probability * (1 - probability))) @ rows + 1e-3 * np.eye(len(found))
        found = found + np.linalg.solve(curve, slope)
    return [float(value) for value in found]


def _line(found: dict[str, Any]) -> str:
    recall = ", ".join(f"{value:.3f} at precision {precision}" for precision, value in found["recall"].items())
    if "found" not in found:
        return f"recall {recall}"
    sure = found["found"]
    return (
        f"recall {recall}; found: {sure['recall']:.3f} at precision {sure['precision']:.3f}, for {sure['queries']:.3f} "
        f"of the queries; nothing certain for {found['nothing']:.3f} of those without their scene"
    )


def _plot(axes: Any, found: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for way in ("scores and links", "codes and links", "descriptors and links"):
        if way in found:
            bins = found[way]["reliability"]
            axes.plot(
                [one["probability"] for one in bins], [one["right"] for one in bins], "o-", label=way, markersize=3
            )
    axes.set_xlabel("probability")
    axes.set_ylabel("share of hits that are right")
    axes.legend()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with photos and gnd.json")
    parser.add_argument("--model", default="lite-small", help="bundle with a codebook")
    parser.add_argument("--descriptors", type=Path, help="file that keeps the photos' descriptors")
    parser.add_argument("--fit", action="store_true", help="print the constants that fit these photos")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "judgement.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
