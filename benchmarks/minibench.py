"""Does the whole pipeline retrieve as well as PyTorch with the reference package ``asmk``?

The same checkpoint, codebook and photos go through both ways:

- ours: export to a bundle, ONNX Runtime, ``ctxdeploy.index``;
- peer: the network in PyTorch, one photo at a time, photos decoded as HOW does it, and ``asmk`` from PyPI.

The data set is a folder with ``gnd.json``, ``images/`` and ``distractors/`` (minibench). Without ``--checkpoint`` the
network is untrained (random weights, statistics and whitening fitted to the training photos): what counts here is that
both columns agree, not how high they are.

    python benchmarks/minibench.py --data minibench --training trainphotos
"""

import argparse
import json
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.progress import Display
from ctxdeploy.core.scoring import GROUND_TRUTH, GroundTruth, read_ground_truth
from ctxdeploy.evaluation.retrieval import AsmkRetrieval
from ctxdeploy.export import ExportConfig, export_bundle, load_checkpoint, save_checkpoint, untrained_network
from ctxdeploy.export.networks import Architecture, NetworkConfig, Refinement, Smoothing
from ctxdeploy.export.parity import torch_runner
from ctxdeploy.index import Codebook, Index
from ctxdeploy.runtime import Extractor, PhotoDescriptors, find_photos

Vectors = NDArray[np.float32]
Rankings = dict[str, list[str]]
FAMILIES = {
    "how": (Smoothing(), None),
    "ctx": (Smoothing(kind="gaussian"), Refinement()),
}


def main() -> None:
    """Run both ways and print their scores."""
    arguments = _arguments()
    work: Path = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    checkpoint = arguments.checkpoint or _untrained(arguments, work / "untrained.pth")
    config = ExportConfig(scales=arguments.scales, top_k=arguments.top_k, image_size=arguments.image_size)
    bundle = export_bundle(
        checkpoint, work / "model.ctxbundle", config, retrieval=AsmkRetrieval, display=Display(quiet=False)
    ).check()
    codebook = _codebook(bundle, arguments)
    names = [photo.name for photo in find_photos(arguments.data)]
    truth = read_ground_truth(arguments.data / GROUND_TRUTH)
    queries = [f"images/{name}" for files in truth.scenes.values() for name in files]
    results = {}
    for label, run in (("ctxdeploy", ours), ("PyTorch + asmk", peer)):
        rankings = run(arguments, checkpoint, config, codebook, names, queries)
        results[label] = score(rankings, truth)
        print(label, json.dumps(results[label]), flush=True)
    difference = {key: results["ctxdeploy"][key] - value for key, value in results["PyTorch + asmk"].items()}
    print("difference", json.dumps({key: round(value, 4) for key, value in difference.items()}))
    _write(arguments, bundle, codebook, results)


def ours(
    arguments: argparse.Namespace,
    checkpoint: Path,
    config: ExportConfig,
    codebook: Codebook,
    names: list[str],
    queries: list[str],
) -> Rankings:
    """Index the photos and query with some of them through the bundle."""
    extractor = Extractor(bundles.open(arguments.work / "model.ctxbundle"))
    found = {}
    with Index.create(arguments.work / "ours.ctxindex", codebook) as index:
        for result in extractor.extract(find_photos(arguments.data)):
            if not isinstance(result, PhotoDescriptors):
                raise SystemExit(f"{result.name}: {result.reason}")
            index.add(result.name, result.descriptors)
            if result.name in queries:
                found[result.name] = result.descriptors
        return {name: [hit.name for hit in index.search(found[name], len(names))] for name in queries}


def peer(
    arguments: argparse.Namespace,
    checkpoint: Path,
    config: ExportConfig,
    codebook: Codebook,
    names: list[str],
    queries: list[str],
) -> Rankings:
    """Do the same with PyTorch and the package ``asmk``."""
    from asmk import asmk_method
    from asmk import codebook as asmk_codebook
    from asmk import index as asmk_index

    loaded = load_checkpoint(checkpoint)
    run = torch_runner(loaded.network(config.extraction(loaded)))
    parts = [_torch_descriptors(run, arguments.data / name, config.preprocessing(loaded).image_size) for name in names]
    words = asmk_codebook.Codebook(asmk_index.initialize_index(gpu_id=None), size=len(codebook))
    words.index(np.ascontiguousarray(codebook.centroids))
    parameters = {
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
            "search": {"topk": len(names)},
            "similarity": {"similarity_threshold": 0.0, "alpha": 3.0},
        },
    }
    method = asmk_method.ASMKMethod(parameters, {}, codebook=words)
    vectors, numbers = _joined(parts, range(len(parts)))
    method = method.build_ivf(vectors, numbers)
    positions = {name: i for i, name in enumerate(names)}
    asked = sorted(positions[name] for name in queries)
    vectors, numbers = _joined([parts[i] for i in asked], asked)
    _, images, ranks, _ = method.query_ivf(vectors, numbers)
    return {names[image]: [names[i] for i in row] for image, row in zip(images, ranks, strict=True)}


def score(rankings: Rankings, truth: GroundTruth) -> dict[str, float]:
    """Return minibench's figures in percent: mAP over scenes, by kind, and of the small scenes."""
    by_file = {Path(query).name: [Path(name).name for name in ranked] for query, ranked in rankings.items()}
    large = [scene for scene in truth.scenes if scene not in truth.small]
    parts = {"mAP": large}
    for kind in sorted(set(truth.kinds.values())):
        parts[kind] = [scene for scene in large if truth.kinds[scene] == kind]
    parts["small"] = sorted(truth.small)
    of_part = {name: replace(truth, scenes={s: truth.scenes[s] for s in scenes}) for name, scenes in parts.items()}
    return {name: 100 * part.mean_average_precision(by_file) for name, part in of_part.items()}


def _torch_descriptors(run: Callable[..., tuple[Vectors, ...]], path: Path, size: int) -> Vectors:
    """Decode a photo as HOW's loader does, and extract it alone."""
    with Image.open(path) as file:
        photo = file.convert("RGB")
    photo.thumbnail((size, size), Image.Resampling.LANCZOS)
    descriptors, attention, _, _ = run(np.asarray(photo)[None])
    return descriptors[0][attention[0] > 0]


def _joined(parts: list[Vectors], numbers: Iterator[int] | range | list[int]) -> tuple[Vectors, NDArray[np.int64]]:
    repeated = np.repeat(np.fromiter(numbers, np.int64), [len(part) for part in parts])
    return np.concatenate(parts), repeated


def _untrained(arguments: argparse.Namespace, path: Path) -> Path:
    smoothing, refinement = FAMILIES[arguments.family]
    network_config = NetworkConfig(
        family=arguments.family, architecture=Architecture.RESNET18, smoothing=smoothing, refinement=refinement
    )
    photos = find_photos(arguments.training)[:: max(1, len(find_photos(arguments.training)) // 40)]
    pixels = [np.asarray(Image.open(photo.path).convert("RGB")) for photo in photos if photo.path]
    extraction = Extraction(scales=arguments.scales, top_k=arguments.top_k)
    save_checkpoint(untrained_network(network_config, extraction, pixels), path, image_size=arguments.image_size)
    return path


def _codebook(bundle: bundles.Bundle, arguments: argparse.Namespace) -> Codebook:
    extracted = Extractor(bundle).extract(find_photos(arguments.training))
    vectors = [result.descriptors.vectors for result in extracted if isinstance(result, PhotoDescriptors)]
    return Codebook.train(np.concatenate(vectors), words=arguments.words)


def _write(
    arguments: argparse.Namespace, bundle: bundles.Bundle, codebook: Codebook, results: dict[str, dict[str, float]]
) -> None:
    record = {
        "network": dict(bundle.network),
        "trained": arguments.checkpoint is not None,
        "model_id": bundle.model_id,
        "scales": bundle.extraction.scales,
        "top_k": bundle.extraction.top_k,
        "image_size": bundle.preprocessing.image_size,
        "codebook": codebook.id,
        "words": len(codebook),
        "results": results,
        "versions": {name: version(name) for name in ("ctxdeploy", "asmk", "torch", "onnxruntime", "numpy")},
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    print("wrote", arguments.out)


def _scales(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


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
    parser.add_argument("--out", type=Path, default=here / "results" / "minibench.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
