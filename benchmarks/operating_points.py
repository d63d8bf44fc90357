"""mAP against seconds a photo: which longest side, which scales, how many descriptors?

    python benchmarks/operating_points.py minibench                              # lite-small; half an hour or more
    python benchmarks/operating_points.py minibench --sizes 512 --sets 1.0 --output point.json

The model's checkpoint is exported with each set of scales, for the largest size. What a set, a size and a number of
descriptors give is taken from one run of all scales that keeps every position: the strongest so many of its scales are
those that a graph for them would give. The codebook is the model's own.

- Seconds are those of decoding and network for one photo after the other, as a query has them: ONNX Runtime fp32, two
  threads, median over some photos of the data set; all points take turns. They hold for every number of descriptors.
- mAP is that of the search's defaults, without expansion. The data set confirms, it does not choose: training photos
  have at most 512 pixels, so that no size could be chosen on them; differences of less than a point may be chance.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.bench import publish
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.types import LocalDescriptors, PhotoDescriptors
from ctxdeploy.evaluation import DataSet, Query, Ranked, open_set
from ctxdeploy.evaluation.judging import figures, judge
from ctxdeploy.index import Codebook, Index
from ctxdeploy.indexing.codebook import codebook_of
from ctxdeploy.models import find_bundle
from ctxdeploy.runtime import BackendConfig, Extractor

SETS = ("1.414,1.0,0.707,0.5,0.353", "1.0,0.707,0.5,0.353", "1.0,0.707,0.5", "1.0")
MARKS = "osD^v"
# More than the positions of any photo: 1024×1024 pixels at stride 16 and the five scales have 16,000.
_EVERY = 20_000


def main() -> None:
    """Export, score, time, publish."""
    options = _arguments()
    dataset, model = open_set(options.dataset), bundles.open(find_bundle(options.model))
    codebook = codebook_of(model)
    if codebook is None:
        raise SystemExit(f"{options.model} has no codebook of its own")
    options.work.mkdir(parents=True, exist_ok=True)
    photos = list(dataset.photo_list().photos)
    every = _exported(model, max(options.sizes), _all_scales(options.sets), _EVERY, options.work)
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        for (scales, count), scores in _scores(dataset, photos, _sized(every, size), codebook, options).items():
            rows.append({"size": size, "scales": scales, "descriptors": count, "mAP": scores})
            sys.stderr.write(f"{rows[-1]}\n")
    most = max(options.counts)
    made = {scales: _exported(model, max(options.sizes), scales, most, options.work) for scales in options.sets}
    points = {(size, scales): _sized(made[scales], size) for size in options.sizes for scales in options.sets}
    seconds = _seconds(points, [photo.path for photo in photos], options.timed, options.rounds)
    for row in rows:
        row["seconds"] = seconds[row["size"], row["scales"]]
    default = {"size": model.preprocessing.image_size, "scales": list(model.extraction.scales)}
    result = {"set": dataset.name, "photos": len(photos), "model": options.model, "default": default, "points": rows}
    publish(result, options.output, [_line(row) for row in rows], lambda axes: plot(rows, axes))


def _all_scales(sets: Sequence[str]) -> str:
    return ",".join(dict.fromkeys(scale for scales in sets for scale in scales.split(",")))


def _exported(model: Bundle, size: int, scales: str, count: int, work: Path) -> Bundle:
    path = work / f"{model.path.name}-{size}-{scales.replace(',', '_')}-{count}.ctxbundle"
    if not path.exists():
        flags = ["--image-size", str(size), "--scales", scales, "--top-k", str(count), "--top-share", "1"]
        command = [sys.executable, "-m", "ctxdeploy", "export", str(next(model.path.glob("*.pth"))), "-o", str(path)]
        subprocess.run([*command, *flags], check=True, stdout=subprocess.DEVNULL)
    return bundles.open(path)


def _sized(bundle: Bundle, size: int) -> Bundle:
    """Return the bundle for a smaller longest side: its graph takes any."""
    return replace(bundle, preprocessing=replace(bundle.preprocessing, image_size=size))


def _first(found: LocalDescriptors, scales: str, count: int) -> LocalDescriptors:
    """Return the strongest of some scales; the graph gives them in this order."""
    wanted = np.array([float(scale) for scale in scales.split(",")], np.float32)
    rows = np.flatnonzero(np.isclose(found.scales[:, None], wanted, atol=1e-3).any(axis=1))[:count]
    return LocalDescriptors(
        vectors=found.vectors[rows],
        attention=found.attention[rows],
        positions=found.positions[rows],
        scales=found.scales[rows],
    )


def _scores(
    dataset: DataSet, photos: list[Any], bundle: Bundle, codebook: Codebook, options: argparse.Namespace
) -> dict[tuple[str, int], dict[str, float]]:
    """Return mAP in percent, by task, for every set of scales and number of descriptors."""
    points = [(scales, count) for scales in options.sets for count in options.counts]
    asking = {query.name for query in dataset.queries}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        indexes = {
            point: opened.enter_context(Index.create(Path(folder) / f"{number}.ctxindex", codebook))
            for number, point in enumerate(points)
        }
        queries: dict[tuple[str, int], dict[str, LocalDescriptors]] = {point: {} for point in points}
        for result in Extractor(bundle).extract(photos):
            if not isinstance(result, PhotoDescriptors):
                raise SystemExit(f"{result.name}: {result.reason}")
            for point, index in indexes.items():
                found = _first(result.descriptors, *point)
                index.add(result.name, found)
                if result.name in asking:
                    queries[point][result.name] = found
        return {point: _mean(dataset, index, queries[point]) for point, index in indexes.items()}


def _mean(dataset: DataSet, index: Index, asked: Mapping[str, LocalDescriptors]) -> dict[str, float]:
    index.commit()

    def rankings() -> Iterator[tuple[Query, list[Ranked]]]:
        for query in dataset.queries:
            hits = index.search(asked[query.name], len(index))
            yield query, [Ranked(hit.name, hit.score) for hit in hits]

    found = figures(dataset, judge(dataset, rankings()))
    return {task: round(100 * value.mean_average_precision, 2) for task, value in found.items()}


def _seconds(made: Mapping[Any, Bundle], paths: list[Path], count: int, rounds: int) -> dict[Any, float]:
    """Return the median seconds of a photo for each point; all points take turns with each photo."""
    extractors = {point: Extractor(bundle, backend=BackendConfig(threads=2)) for point, bundle in made.items()}
    spent: dict[Any, list[float]] = {point: [] for point in made}
    chosen = [path.read_bytes() for path in paths[:: max(len(paths) // count, 1)][:count]]
    for turn in range(rounds + 1):
        for data in chosen:
            for point, extractor in extractors.items():
                start = time.perf_counter()
                extractor.extract_one(data)
                if turn:  # the first round warms up
                    spent[point].append(time.perf_counter() - start)
    return {point: float(np.median(of)) for point, of in spent.items()}


def _line(row: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{task} {score:.1f}" for task, score in row["mAP"].items())
    return (
        f"{row['size']} px, scales {row['scales']}, {row['descriptors']} descriptors: {row['seconds']:.3f} s, {scores}"
    )


def plot(rows: list[dict[str, Any]], axes: Any) -> None:
    """Draw mAP against seconds: a line for each set of scales, a point for each size, with the most descriptors."""
    most = max(row["descriptors"] for row in rows if row["descriptors"] <= 1000)
    for mark, scales in zip(MARKS, dict.fromkeys(row["scales"] for row in rows), strict=False):
        line = [row for row in rows if row["scales"] == scales and row["descriptors"] == most]
        axes.plot([r["seconds"] for r in line], [r["mAP"]["all"] for r in line], f"{mark}-", label=scales)
        for row in line:
            axes.annotate(row["size"], (row["seconds"], row["mAP"]["all"]), fontsize=6)
    axes.set(xlabel="seconds a photo, two threads", ylabel="mAP, percent")
    axes.legend(title=f"scales, {most} descriptors", fontsize=6, title_fontsize=6)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", default="lite-small", help="with a checkpoint and a codebook")
    parser.add_argument("--sizes", type=int, nargs="+", default=(512, 640, 768, 1024), metavar="PIXELS")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="S,S,…", help="of scales")
    parser.add_argument("--counts", type=int, nargs="+", default=(500, 1000, 2000), help="descriptors of a photo")
    parser.add_argument("--timed", type=int, default=12, help="photos")
    parser.add_argument("--rounds", type=int, default=3)
    here = Path(__file__).parent
    parser.add_argument("--work", type=Path, default=here / "work" / "operating_points")
    parser.add_argument("--output", type=Path, default=here / "results" / "operating_points.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
