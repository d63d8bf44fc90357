"""Does our verification decide as well as OpenCV's MAGSAC and pydegensac on the same matches, and how fast?

For every query of a data set the first photos are compared with it: features are matched once, then each method fits
its map to those matches, on one thread, in one process, method after method for each pair; the faster of two runs
counts. Quality: mAP when the score is multiplied by 1 + the weight of the method's inliers, and the share of right
pairs that a threshold on that product finds where 95 of 100 found ones are right. Peers run with several thresholds;
what counts is the one with the best mAP. Matching is timed too, and whole verifications of 100 photos.

    pip install opencv-python-headless pydegensac
    python benchmarks/verification.py minibench descriptors.npz codebook.safetensors    # as for ranking.py
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ranking import Dump

try:
    import cv2
    import pydegensac
except ImportError:
    cv2 = pydegensac = None

from ctxdeploy.bench import milliseconds, publish, timed
from ctxdeploy.evaluation import Ranked, open_set
from ctxdeploy.evaluation.judging import figures, judge
from ctxdeploy.index import Features, Hit, Index, SearchThreads, VerificationConfig, verify
from ctxdeploy.index.kernels import verification as kernels
from ctxdeploy.index.verification import _TOLERANCE, _matches, _Side

COMPARED = 50
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


def faster(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of the faster of two calls, and the result."""
    first, _ = timed(work)
    second, result = timed(work)
    return min(first, second), result


def _given(features: Features | None) -> Features:
    if features is None:
        raise SystemExit("the archive keeps no geometry")
    return features


class Pairs:
    """Queries, the photos that they found, and what every method says about each pair."""

    def __init__(self, index: Index, dump: Dump, names: list[str], kind: str) -> None:
        self._features = {name: _given(index.features(name)) for name in dump.photos}
        self._config, self._kind = VerificationConfig(matches=kind), kind
        self.hits = {name: index.search(dump.photos[name], len(index)) for name in names}
        self._dump = dump
        self.seconds: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS, "matching")}
        self.similarity: dict[str, dict[tuple[str, str], float]] = {name: {} for name in ("ours", *PEERS)}

    def compare(self, query: str, photo: str) -> None:
        sides = [_Side.of(self._features[name], self._config, self._kind) for name in (query, photo)]
        left, right = (self._features[name] for name in (query, photo))
        spent, (pairs, weights) = timed(partial(_matches, *sides, self._config, self._kind))
        self.seconds["matching"].append(spent)
        places = [side.positions[pairs[:, column]] for column, side in enumerate((left, right))]
        points = [side.points for side in sides]
        frame = np.array([0.0, 0.0, *self._dump.sizes[query]])
        spent, found = faster(lambda: kernels.fit(*points, pairs, weights, frame, _TOLERANCE, True))
        self.seconds["ours"].append(spent)
        self.similarity["ours"][query, photo] = found[3] / kernels.FULL
        for name, fit in PEERS.items():
            if len(pairs) < kernels.FEWEST:
                spent, inliers = 0.0, np.zeros(len(pairs), bool)
            else:
                spent, inliers = faster(lambda fit=fit: fit(*places))
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
    photos = [_given(index.features(name)) for name in names[:100]]
    query = _given(index.features(dump.photos[names[0]], size=dump.sizes[names[0]]))
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
    parser.add_argument("--by", choices=("descriptors", "codes", "words"), default="descriptors")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "verification.json")
    given = parser.parse_args()
    if cv2 is None:
        parser.error("the peers are missing: pip install opencv-python-headless pydegensac")
    cv2.setNumThreads(1)
    dataset, dump = open_set(given.dataset), Dump.load(given.descriptors)
    names = [query.name for query in dataset.queries]
    truth = {key: set(found.positives) for task in dataset.tasks for key, found in task.relevance.items()}
    with tempfile.TemporaryDirectory() as folder, dump.index(Path(folder) / "a.ctxindex", given.codebook) as index:
        pairs = Pairs(index, dump, names, given.by)
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
            "median_ms": round(1000 * float(np.median(pairs.seconds[method])), 4),
        }
    lines = [f"{len(asked)} pairs; recall at precision {LEAST} by score alone {recall(plain, right, count):.3f}"]
    lines += [
        f"{name:36s} {row['median_ms']:8.4f} ms  recall {row['recall']:.3f}  {row['mAP']}" for name, row in rows.items()
    ]
    lines += [f"matching: {1000 * float(np.median(pairs.seconds['matching'])):.3f} ms (median)"]
    lines += [f"{name}: {found['median_ms']:.2f} ms" for name, found in times.items()]
    matching = milliseconds(pairs.seconds["matching"])
    publish(
        {"pairs": len(asked), "matched_by": given.by, "rows": rows, "matching": matching, "whole": times},
        given.output,
        lines,
    )


if __name__ == "__main__":
    main()
