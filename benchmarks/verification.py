"""Does our verification decide as well as OpenCV's MAGSAC and pydegensac on the same matches, and how fast?

For every query of a data set the first 50 photos are compared with it: mutual nearest descriptors are matched once,
then each method fits its map to those matches, on one thread, in one process, method after method for each pair.
Quality: mAP when the score is multiplied by 1 + Σ cosine⁸ over the method's inliers, and the share of right pairs that
a threshold on that product finds where 95 of 100 found ones are right. Peers run with several thresholds; what counts
is the one with the best mAP. Matching is timed too, and whole verifications of 100 photos from stored features.

    pip install opencv-python-headless pydegensac
    python benchmarks/verification.py minibench descriptors.npz codebook.safetensors    # as for ranking.py
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydegensac
from numpy.typing import NDArray
from ranking import Dump

from ctxdeploy.bench import milliseconds, publish, timed
from ctxdeploy.evaluation import Ranked, open_set
from ctxdeploy.evaluation.judging import figures, judge
from ctxdeploy.index import Hit, Index, SearchThreads, VerificationConfig, verify
from ctxdeploy.index.kernels import matches as match_kernels
from ctxdeploy.index.kernels import verification as kernels
from ctxdeploy.index.verification import _TOLERANCE

COMPARED = 50
# Pairs whose times are left out: kernels are compiled or loaded with the first.
WARM_UP = 20
LEAST = 0.95
Points = NDArray[np.float32]
# Takes matched places of query and photo, returns which of them the map explains.
Fit = Callable[[Points, Points], NDArray[np.bool_]]


def magsac_affine(threshold: float) -> Fit:
    def fit(query: Points, photo: Points) -> NDArray[np.bool_]:
        _, mask = cv2.estimateAffine2D(
            query, photo, method=cv2.USAC_MAGSAC, ransacReprojThreshold=threshold, maxIters=1000, confidence=0.99
        )
        return np.zeros(len(query), bool) if mask is None else mask.ravel().astype(bool)

    return fit


def ransac_affine(threshold: float) -> Fit:
    def fit(query: Points, photo: Points) -> NDArray[np.bool_]:
        _, mask = cv2.estimateAffine2D(
            query, photo, method=cv2.RANSAC, ransacReprojThreshold=threshold, maxIters=1000, confidence=0.99
        )
        return np.zeros(len(query), bool) if mask is None else mask.ravel().astype(bool)

    return fit


def magsac_homography(threshold: float) -> Fit:
    def fit(query: Points, photo: Points) -> NDArray[np.bool_]:
        _, mask = cv2.findHomography(query, photo, cv2.USAC_MAGSAC, threshold, maxIters=1000, confidence=0.99)
        return np.zeros(len(query), bool) if mask is None else mask.ravel().astype(bool)

    return fit


def degensac(threshold: float) -> Fit:
    def fit(query: Points, photo: Points) -> NDArray[np.bool_]:
        _, mask = pydegensac.findHomography(query, photo, threshold, 0.99, 1000)
        return np.asarray(mask).ravel().astype(bool)

    return fit


PEERS: dict[str, Fit] = {
    **{f"OpenCV affine RANSAC, {t} px": ransac_affine(t) for t in (16, 32, 64)},
    **{f"OpenCV affine MAGSAC, {t} px": magsac_affine(t) for t in (16, 32, 64)},
    **{f"OpenCV homography MAGSAC, {t} px": magsac_homography(t) for t in (16, 32, 64)},
    **{f"pydegensac homography, {t} px": degensac(t) for t in (16, 32, 64)},
}


class Pairs:
    """Queries, the photos that they found, and what every method says about each pair."""

    def __init__(self, index: Index, dump: Dump, names: list[str]) -> None:
        self.hits = {name: index.search(dump.photos[name], len(index)) for name in names}
        self._numbers = {name: match_kernels.quantised(photo.vectors) for name, photo in dump.photos.items()}
        self._dump = dump
        self.seconds: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS, "matching")}
        self.similarity: dict[str, dict[tuple[str, str], float]] = {name: {} for name in ("ours", *PEERS)}

    def compare(self, query: str, photo: str) -> None:
        left, right = self._dump.photos[query], self._dump.photos[photo]
        start = time.perf_counter()
        packed = match_kernels.packed(self._numbers[photo])
        pairs, weights = match_kernels.mutual(self._numbers[query], len(left), packed, len(right))
        self.seconds["matching"].append(time.perf_counter() - start)
        places = [side.positions[pairs[:, column]] for column, side in enumerate((left, right))]
        points = [np.column_stack([side.positions, side.scales]).astype(np.float32) for side in (left, right)]
        frame = np.array([0.0, 0.0, *self._dump.sizes[query]])
        spent, found = timed(lambda: kernels.fit(*points, pairs, weights, frame, _TOLERANCE, True))
        self.seconds["ours"].append(spent)
        self.similarity["ours"][query, photo] = found[3] / kernels.FULL
        for name, fit in PEERS.items():
            if len(pairs) < kernels.FEWEST:
                spent, inliers = 0.0, np.zeros(len(pairs), bool)
            else:
                spent, inliers = timed(lambda fit=fit: fit(*places))
            self.seconds[name].append(spent)
            weight = float(weights[inliers].sum() / kernels.FULL) if inliers.sum() >= kernels.FEWEST else 0.0
            self.similarity[name][query, photo] = weight

    def ranked(self, query: str, method: str) -> list[Ranked]:
        found = [
            Hit(hit.name, hit.score * (1 + self.similarity[method].get((query, hit.name), 0.0)))
            for hit in self.hits[query]
        ]
        return [Ranked(hit.name, hit.score) for hit in sorted(found, key=lambda hit: (-hit.score, hit.name))]


def recall(scores: NDArray[np.float64], right: NDArray[np.bool_], count: int) -> float:
    """Return the share of ``count`` right pairs found by the threshold that finds most with precision LEAST."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(right[order])
    precise = found / np.arange(1, len(order) + 1) >= LEAST
    return float(found[precise].max() / count) if precise.any() else 0.0


def whole(index: Index, dump: Dump, names: list[str]) -> dict[str, dict[str, float]]:
    """Return the milliseconds of verifying 100 stored photos, on one thread and on two."""
    stored = [index.features(name) for name in names[:100]]
    photos = [photo for photo in stored if photo is not None]
    query = index.features(dump.photos[names[0]], size=dump.sizes[names[0]])
    if query is None:
        raise SystemExit("the archive keeps no geometry")
    result = {}
    for kind in ("words", "codes", "descriptors"):
        for count in (1, 2):
            threads, config = SearchThreads(count), VerificationConfig(matches=kind)
            seconds = [timed(partial(verify, query, photos, config, threads))[0] for _ in range(11)]
            result[f"{len(photos)} photos by {kind}, threads: {count}"] = milliseconds(seconds[1:])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("descriptors", type=Path)
    parser.add_argument("codebook", type=Path)
    parser.add_argument("--compared", type=int, default=COMPARED)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/verification.json"))
    given = parser.parse_args()
    cv2.setNumThreads(1)
    dataset, dump = open_set(given.dataset), Dump.load(given.descriptors)
    names = [query.name for query in dataset.queries]
    truth = {key: set(found.positives) for task in dataset.tasks for key, found in task.relevance.items()}
    with tempfile.TemporaryDirectory() as folder, dump.index(Path(folder) / "a.ctxindex", given.codebook) as index:
        pairs = Pairs(index, dump, names)
        for query in names:
            others = [hit.name for hit in pairs.hits[query] if hit.name != query]
            for photo in others[: given.compared]:
                pairs.compare(query, photo)
        times = whole(index, dump, sorted(dump.photos))
    asked = list(pairs.similarity["ours"])
    scores = {query: {hit.name: hit.score for hit in hits} for query, hits in pairs.hits.items()}
    plain = np.array([scores[query][photo] for query, photo in asked])
    right = np.array([photo in truth[query] for query, photo in asked])
    count = sum(len(truth[query]) for query in names)
    rows: dict[str, Any] = {}
    for method in pairs.similarity:
        outcomes = judge(dataset, ((query, pairs.ranked(query.name, method)) for query in dataset.queries))
        similarity = np.array([pairs.similarity[method][pair] for pair in asked])
        rows[method] = {
            "mAP": {task: round(100 * f.mean_average_precision, 2) for task, f in figures(dataset, outcomes).items()},
            "recall": round(recall(plain * (1 + similarity), right, count), 3),
            "mean_ms": round(1000 * float(np.mean(pairs.seconds[method][WARM_UP:])), 4),
            "median_ms": round(1000 * float(np.median(pairs.seconds[method])), 4),
        }
    lines = [f"{len(asked)} pairs; recall at precision {LEAST} by score alone {recall(plain, right, count):.3f}"]
    lines += [
        f"{name:36s} {row['mean_ms']:8.4f} ms ({row['median_ms']:.4f})  recall {row['recall']:.3f}  {row['mAP']}"
        for name, row in rows.items()
    ]
    lines += [f"matching: {1000 * float(np.median(pairs.seconds['matching'])):.3f} ms (median)"]
    lines += [f"{name}: {found['median_ms']:.2f} ms" for name, found in times.items()]
    matching = milliseconds(pairs.seconds["matching"])
    publish({"pairs": len(asked), "rows": rows, "matching": matching, "whole": times}, given.output, lines)


if __name__ == "__main__":
    main()
