"""How much of the network's speed is left when a whole archive is made, and how much faster is that than HOW's way?

For each engine and precision in turn: the network alone on photos that are decoded already (half of the runs before the
command and half after it, so that a drift of the machine touches both), and ``ctxdeploy index`` as users run it, with a
codebook that is there: start, listing, reading, decoding, network, assignment, shards, commits. Beside them, HOW's way:
PyTorch fp32, one photo at a time, each decoded when its turn comes. Whole photos a second of the command are those of
its indexing, without the start of Python and the loading of the model, which are reported apart.

    python benchmarks/whole.py --photos minibench/images --bundle how.ctxbundle --checkpoint how.pth
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from bulk import start_index
from common import provenance, publish

from ctxdeploy.core import bundle as bundles
from ctxdeploy.export import load_checkpoint
from ctxdeploy.export.parity import torch_runner
from ctxdeploy.index import Codebook
from ctxdeploy.runtime import BackendConfig, decode_photo, find_photos
from ctxdeploy.runtime.backends import open_backend


def main() -> None:
    """Measure, write."""
    arguments = _arguments()
    bundle = bundles.open(arguments.bundle)
    photos = [photo.path for photo in find_photos(arguments.photos) if photo.path][: arguments.count]
    folder = arguments.work / "photos"
    shutil.rmtree(arguments.work, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in photos:
        (folder / path.name).symlink_to(path)
    pixels = [decode_photo(path, bundle.preprocessing).pixels for path in photos]
    codebook = _codebook(bundle, pixels[:20], arguments.words, arguments.work / "codebook.safetensors")
    network = load_checkpoint(arguments.checkpoint).network()
    run = torch_runner(network)
    results: dict[str, Any] = {}
    for engine in arguments.engines:
        name, precision = engine.split(":")
        results[f"{name} {precision}"] = _measure(bundle, name, precision, pixels, folder, codebook, arguments.work)
        print(engine, json.dumps(results[f"{name} {precision}"]), flush=True)
    how = _hows_way(run, photos[:: max(1, len(photos) // arguments.torch_photos)], bundle)
    for figures in results.values():
        figures["times_hows_way"] = figures["photos_per_second"] / how["photos_per_second"]
    record = {"photos": len(photos), "words": arguments.words, "how": how, "results": results}
    publish({**record, **provenance()}, arguments.out, lambda result, path: None)


def _codebook(bundle: bundles.Bundle, pixels: list[np.ndarray], words: int, path: Path) -> Path:
    """Write a codebook of the photos' own descriptors; its quality does not matter here, its size does."""
    backend = open_backend(bundle, BackendConfig())
    vectors = np.concatenate([backend.run(photo[None]).descriptors[0] for photo in pixels])
    chance = np.random.default_rng(0)
    drawn = vectors[chance.integers(0, len(vectors), words)]
    noise = chance.normal(scale=0.3 * vectors.std(), size=drawn.shape)
    Codebook.from_centroids((drawn + noise).astype(np.float32)).save(path)
    return path


def _measure(
    bundle: bundles.Bundle,
    name: str,
    precision: str,
    pixels: list[np.ndarray],
    folder: Path,
    codebook: Path,
    work: Path,
) -> dict[str, Any]:
    config = BackendConfig(name=name, precision=precision)
    backend = open_backend(bundle, config)
    backend.run(pixels[0][None])
    order = np.random.default_rng(0).permutation(len(pixels))
    halves = order[::2], order[1::2]
    seconds = _alone(backend, [pixels[i] for i in halves[0]])
    archive = work / f"{name}-{precision}.ctxindex"
    options = (
        "--model",
        bundle.path,
        "--backend",
        name,
        "--precision",
        precision,
        "--codebook",
        codebook,
        "--json",
        "-q",
    )
    start = time.perf_counter()
    process = start_index(folder, archive, *options)
    out, err = process.communicate()
    command = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(err)
    report = json.loads(out)
    seconds += _alone(backend, [pixels[i] for i in halves[1]])
    alone, whole = len(pixels) / sum(seconds), report["indexed"] / report["seconds"]
    return {
        "network_alone_photos_per_second": alone,
        "photos_per_second": whole,
        "fraction_of_network_alone": whole / alone,
        "command_seconds": command,
        "indexing_seconds": report["seconds"],
        "stages": report["stages"],
        "extraction": report["extraction"],
    }


def _alone(backend: Any, pixels: list[np.ndarray]) -> list[float]:
    seconds = []
    for photo in pixels:
        start = time.perf_counter()
        backend.run(photo[None])
        seconds.append(time.perf_counter() - start)
    return seconds


def _hows_way(run: Any, photos: list[Path], bundle: bundles.Bundle) -> dict[str, float]:
    """One photo at a time, decoded in line; the decoding is ours, whose pixels are those of HOW's loader."""
    run(decode_photo(photos[0], bundle.preprocessing).pixels[None])
    start = time.perf_counter()
    decoding = 0.0
    for path in photos:
        begin = time.perf_counter()
        pixels = decode_photo(path, bundle.preprocessing).pixels
        decoding += time.perf_counter() - begin
        run(pixels[None])
    seconds = time.perf_counter() - start
    return {"photos": len(photos), "photos_per_second": len(photos) / seconds, "decode_share": decoding / seconds}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True, help="with an artefact for each engine")
    parser.add_argument("--checkpoint", type=Path, required=True, help="that the bundle was made from")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--torch-photos", type=int, default=50)
    parser.add_argument("--words", type=int, default=16384)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime:fp32", "openvino:fp32", "openvino:bf16"])
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "whole")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "whole.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
