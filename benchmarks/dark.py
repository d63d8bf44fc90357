"""Are photos found that were taken in the dark? Queries made dark by rule, asked of an archive of photos by day.

Every query of a data set is asked four times: as they are; at dusk (tone curve 1.6, 0.8 of the light); at
night (curve 2.2, half of the light, warm, noise of 2 % of white); and by lamps, which is night with light that differs
by place as ``ctxdeploy train`` draws it, by a seed. A real night has other shadows, lit windows and cars: expect less
of it.

    python benchmarks/dark.py minibench --models ctx-small lite-small
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ctxdeploy.bench import publish
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.evaluation import DataSet, Query, Ranked, open_set
from ctxdeploy.evaluation.judging import figures, judge
from ctxdeploy.index import Index
from ctxdeploy.indexing.codebook import codebook_of
from ctxdeploy.models import find_bundle
from ctxdeploy.runtime import Extractor, find_photos

# Exponent of the tone curve, gain, gains of red, green and blue, deviations of the noise and of the light's logarithm.
LIGHTS: dict[str, tuple[float, float, tuple[float, float, float], float, float]] = {
    "as it is": (1.0, 1.0, (1.0, 1.0, 1.0), 0.0, 0.0),
    "dusk": (1.6, 0.8, (1.0, 1.0, 1.0), 0.01, 0.0),
    "night": (2.2, 0.5, (1.15, 1.0, 0.75), 0.02, 0.0),
    "lamps": (2.2, 0.5, (1.15, 1.0, 0.75), 0.02, 0.8),
}
_GRID = 5


def main() -> None:
    """Ask every model in every light."""
    options = _arguments()
    dataset = open_set(options.dataset)
    chosen = sorted({query.name for query in dataset.queries})
    result: dict[str, Any] = {"set": dataset.name, "queries": len(chosen), "lights": LIGHTS}
    lines = []
    for model in options.models:
        scores = _scores(dataset, chosen, model)
        result[model] = scores
        lines += [f"{model}, {light}: {_line(of)}" for light, of in scores.items()]
    publish(result, options.output, lines)


def darkened(pixels: np.ndarray, light: str, seed: int) -> np.ndarray:
    """Return a photo H×W×3 uint8 in another light."""
    curve, gain, tint, noise, lamps = LIGHTS[light]
    rng = np.random.default_rng(seed)
    values = (pixels / 255.0) ** curve * gain * np.array(tint)
    if lamps:
        points = Image.fromarray(rng.normal(0, lamps, (_GRID, _GRID)).astype(np.float32))
        size = (pixels.shape[1], pixels.shape[0])
        values *= np.exp(np.asarray(points.resize(size, Image.Resampling.BICUBIC)))[..., None]
    values = values + rng.normal(0, noise, values.shape)
    return np.round(255 * values.clip(0, 1)).astype(np.uint8)


def _scores(dataset: DataSet, chosen: list[str], model: str) -> dict[str, Any]:
    bundle = bundles.open(find_bundle(model))
    codebook = codebook_of(bundle)
    if codebook is None:
        raise SystemExit(f"{model} has no codebook of its own")
    extractor, photos = Extractor(bundle), list(dataset.photo_list().photos)
    with tempfile.TemporaryDirectory() as folder, Index.create(Path(folder, "a.ctxindex"), codebook) as index:
        index.add_many(_described(extractor, photos))
        index.commit()
        found = {}
        for light in LIGHTS:
            asked = Path(folder, light)
            asked.mkdir()
            names = _write(dataset, photos, chosen, light, asked)
            vectors = {names[photo.name]: photo.descriptors for photo in _described(extractor, find_photos(asked))}
            found[light] = _judged(dataset, index, vectors)
        return found


def _described(extractor: Extractor, photos: Any) -> Iterator[PhotoDescriptors]:
    for photo in extractor.extract(photos):
        if not isinstance(photo, PhotoDescriptors):
            raise SystemExit(f"{photo.name}: {photo.reason}")
        yield photo


def _write(dataset: DataSet, photos: list[Any], chosen: list[str], light: str, folder: Path) -> dict[str, str]:
    """Write the queries in a light, without loss, and return their names by those of the files."""
    paths = {photo.name: photo.path for photo in photos}
    names = {}
    for number, name in enumerate(chosen):
        with Image.open(paths[name]) as image:
            pixels = np.asarray(image.convert("RGB"))
        Image.fromarray(darkened(pixels, light, number)).save(folder / f"{number}.png")
        names[f"{number}.png"] = name
    return names


def _judged(dataset: DataSet, index: Index, asked: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return mAP by task, and how often a photo of the scene comes first, in percent."""

    def rankings() -> Iterator[tuple[Query, list[Ranked]]]:
        for query in dataset.queries:
            yield query, [Ranked(hit.name, hit.score) for hit in index.search(asked[query.name], len(index))]

    found = figures(dataset, judge(dataset, rankings()))
    means = {task: round(100 * value.mean_average_precision, 2) for task, value in found.items()}
    return {"mAP": means, "first": {task: round(100 * value.precision[1], 2) for task, value in found.items()}}


def _line(scores: dict[str, dict[str, float]]) -> str:
    means = ", ".join(f"{task} {score:.1f}" for task, score in scores["mAP"].items())
    return f"mAP {means}; right first {scores['first']['all']:.1f} %"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--models", nargs="+", default=["ctx-small", "lite-small"])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "dark.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
