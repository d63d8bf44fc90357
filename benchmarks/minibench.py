"""Does the whole pipeline retrieve as well as PyTorch with the reference package `asmk`?

The same checkpoint, codebook and photos go through both ways:

- ours: export to a bundle, ONNX Runtime, `ctxdeploy.index`;
- peer: the network in PyTorch, one photo at a time, photos decoded as HOW does it, and `asmk` from PyPI.

The data set is a folder with `gnd.json`, `images/` and `distractors/` (minibench). Without `--checkpoint` the network
is untrained (random weights, statistics and whitening fitted to the training photos): what counts here is that both
columns agree, not how high they are.

    python benchmarks/minibench.py --data minibench --training trainphotos
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.bench import publish
from ctxdeploy.core.bundle import Bundle, Extraction
from ctxdeploy.core.progress import Display
from ctxdeploy.core.scoring import GROUND_TRUTH, read_ground_truth
from ctxdeploy.evaluation import AsmkRetrieval, rankings
from ctxdeploy.export import ExportConfig, export_bundle, load_checkpoint, save_checkpoint, untrained_network
from ctxdeploy.export.networks import Architecture, NetworkConfig, Refinement, Smoothing
from ctxdeploy.export.parity import torch_runner
from ctxdeploy.index import Codebook
from ctxdeploy.runtime import Extractor, PhotoDescriptors, find_photos

Vectors = NDArray[np.float32]
FAMILIES = {"how": (Smoothing(), None), "ctx": (Smoothing(kind="gaussian"), Refinement())}
# Of the package asmk, as HOW evaluates: five words for a query's descriptor, alpha 3, threshold 0, no idf.
PARAMETERS = {
    "index": {"gpu_id": None},
    "build_ivf": {
        "kernel": {"binary": True},
        "ivf": {"use_idf": False},
        "quantize": {"multiple_assignment": 1},
        "aggregate": {},
    },
    "query_ivf": {
        "quantize": {"multiple_assignment": 5},
        "aggregate": {},
        "similarity": {"similarity_threshold": 0.0, "alpha": 3.0},
    },
}


def main() -> None:
    """Run both ways and publish their scores."""
    options = _arguments()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    checkpoint = options.checkpoint or _untrained(options, options.work / "untrained.pth")
    config = ExportConfig(scales=options.scales, top_k=options.top_k, image_size=options.image_size)
    path = options.work / "model.ctxbundle"
    bundle = export_bundle(checkpoint, path, config, retrieval=AsmkRetrieval, display=Display(quiet=False)).check()
    codebook = Codebook.train(np.concatenate(list(_ours(bundle, options.training).values())), words=options.words)
    truth = read_ground_truth(options.data / GROUND_TRUTH)
    loaded = load_checkpoint(checkpoint)
    run = torch_runner(loaded.network(config.extraction(loaded)))
    names, size = [photo.name for photo in find_photos(options.data)], config.preprocessing(loaded).image_size
    queries = [f"images/{name}" for files in truth.scenes.values() for name in files]
    theirs = {name: _torch_descriptors(run, options.data / name, size) for name in names}
    ways = {
        "ctxdeploy": rankings(codebook, _ours(bundle, options.data), queries),
        "PyTorch + asmk": _asmk_rankings(codebook, theirs, queries),
    }
    results = {}
    for label, found in ways.items():
        by_file = {Path(query).name: [Path(name).name for name in ranked] for query, ranked in found.items()}
        scores = {name: 100 * part.mean_average_precision(by_file) for name, part in truth.parts().items()}
        results[label] = {"mAP": scores.pop("map"), **scores}
    result = {
        "network": dict(bundle.network),
        "trained": options.checkpoint is not None,
        "model_id": bundle.model_id,
        "scales": bundle.extraction.scales,
        "top_k": bundle.extraction.top_k,
        "image_size": bundle.preprocessing.image_size,
        "codebook": codebook.id,
        "words": len(codebook),
        "results": results,
    }
    lines = [
        f"{label}: {', '.join(f'{name} {value:.2f}' for name, value in of.items())}" for label, of in results.items()
    ]
    publish(result, options.output, [*lines, "the limit is the other way: both columns agree"])


def _ours(bundle: Bundle, folder: Path) -> dict[str, Vectors]:
    """Return the descriptors of each photo of a folder through the bundle."""
    found = {}
    for result in Extractor(bundle).extract(find_photos(folder)):
        if not isinstance(result, PhotoDescriptors):
            raise SystemExit(f"{result.name}: {result.reason}")
        found[result.name] = result.descriptors.vectors
    return found


def _asmk_rankings(codebook: Codebook, descriptors: dict[str, Vectors], queries: Sequence[str]) -> dict[str, list[str]]:
    """Return for each query all photos, best first, by the package `asmk`."""
    from asmk import asmk_method
    from asmk import codebook as asmk_codebook
    from asmk import index as asmk_index

    names = list(descriptors)
    words = asmk_codebook.Codebook(asmk_index.initialize_index(gpu_id=None), size=len(codebook))
    words.index(np.ascontiguousarray(codebook.centroids))
    search = {**PARAMETERS["query_ivf"], "search": {"topk": len(names)}}
    method = asmk_method.ASMKMethod({**PARAMETERS, "query_ivf": search}, {}, codebook=words)
    method = method.build_ivf(*_joined(list(descriptors.values()), range(len(names))))
    asked = sorted(names.index(name) for name in queries)
    _, images, ranks, _ = method.query_ivf(*_joined([descriptors[names[i]] for i in asked], asked))
    return {names[image]: [names[i] for i in row] for image, row in zip(images, ranks, strict=True)}


def _joined(parts: list[Vectors], numbers: Sequence[int]) -> tuple[Vectors, NDArray[np.int64]]:
    return np.concatenate(parts), np.repeat(np.array(numbers, np.int64), [len(part) for part in parts])


def _torch_descriptors(run: Any, path: Path, size: int) -> Vectors:
    """Decode a photo as HOW's loader does, and extract it alone."""
    with Image.open(path) as file:
        photo = file.convert("RGB")
    photo.thumbnail((size, size), Image.Resampling.LANCZOS)
    descriptors, attention, _, _ = run(np.asarray(photo)[None])
    found: Vectors = descriptors[0][attention[0] > 0]
    return found


def _untrained(options: argparse.Namespace, path: Path) -> Path:
    smoothing, refinement = FAMILIES[options.family]
    config = NetworkConfig(
        family=options.family, architecture=Architecture.RESNET18, smoothing=smoothing, refinement=refinement
    )
    photos = find_photos(options.training)
    chosen = photos[:: max(1, len(photos) // 40)]
    pixels = [np.asarray(Image.open(photo.path).convert("RGB")) for photo in chosen if photo.path]
    extraction = Extraction(scales=options.scales, top_k=options.top_k)
    save_checkpoint(untrained_network(config, extraction, pixels), path, image_size=options.image_size)
    return path


def _arguments() -> argparse.Namespace:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with gnd.json")
    parser.add_argument("--training", type=Path, required=True, help="folder of photos for the codebook")
    parser.add_argument("--checkpoint", type=Path, help="default: an untrained network")
    parser.add_argument("--family", choices=sorted(FAMILIES), default="ctx", help="of the untrained network")
    parser.add_argument(
        "--scales", type=lambda text: tuple(map(float, text.split(","))), default=(1.414, 1.0, 0.707, 0.5)
    )
    parser.add_argument("--top-k", type=int, default=600)
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--words", type=int, default=4096)
    parser.add_argument("--work", type=Path, default=here / "work" / "minibench")
    parser.add_argument("-o", "--output", type=Path, default=here / "results" / "minibench.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
