"""What does it take to export a large checkpoint, and to run the largest network on the largest photo?

1. A checkpoint of 100 MB (HOW on ResNet-50, untrained) through ``ctxdeploy export`` with its defaults: seconds and peak
   memory of the process, comparison with PyTorch on photos included.
2. The ctx network with graph refinement on ResNet-50 without its last block, one scale of 2, in ONNX Runtime on a photo
   of 2048×1536 pixels: 49,152 positions whose pairs are all compared. Seconds and peak memory of the process.

    python benchmarks/export_limits.py
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import own_memory_mb, provenance, publish

from ctxdeploy.core.bundle import INPUT_NAME, OUTPUT_NAMES, Extraction
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.export import save_checkpoint, untrained_network
from ctxdeploy.export.networks import Architecture, NetworkConfig, Refinement

PHOTOS = ("coffee", "rocket", "astronaut", "chelsea")
SHAPE = (1536, 2048)


def main() -> None:
    """Run each part in a process of its own, print and write."""
    arguments = _arguments()
    if arguments.part:
        print(json.dumps({"export": _export, "graph": _graph, "run": _run}[arguments.part](arguments.work)))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    result = {"export of 100 MB": _child("export", arguments.work)}
    _child("graph", arguments.work)  # tracing has a peak of its own, in a process of its own
    result["R50- graph at 2048×1536, scale 2"] = _child("run", arguments.work)
    publish({**result, **provenance()}, arguments.out, lambda *_: None)


def _child(part: str, work: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--work", str(work), "--part", part]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(part, json.dumps(found), flush=True)
    return found


def _export(work: Path) -> dict[str, Any]:
    checkpoint = work / "r50.pth"
    if not checkpoint.exists():
        config = NetworkConfig(family="how", architecture=Architecture.RESNET50)
        save_checkpoint(untrained_network(config, Extraction(), [sample_photo(name) for name in PHOTOS]), checkpoint)
    code = (
        "import sys; from common import own_memory_mb; from ctxdeploy.cli.main import run; code = run(sys.argv[1:]); "
        "print(own_memory_mb(), file=sys.stderr); sys.exit(code)"
    )
    output = work / f"r50-{time.time_ns()}.ctxbundle"
    start = time.perf_counter()
    command = [sys.executable, "-c", code, "export", str(checkpoint.resolve()), "-o", str(output.resolve()), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    seconds = time.perf_counter() - start
    return {
        "checkpoint_mb": checkpoint.stat().st_size / 1e6,
        "seconds": seconds,
        "peak_mb": int(done.stderr.splitlines()[-1]),
        "said": done.stdout.splitlines()[-1].strip(),
    }


def _graph(work: Path) -> dict[str, Any]:
    from ctxdeploy.export.graph import build_graph, save_graph

    config = NetworkConfig(
        family="ctx", architecture=Architecture.RESNET50, skip_layer=1, refinement=Refinement(), dim=128
    )
    network = untrained_network(config, Extraction(scales=(2.0,)), [sample_photo(name) for name in PHOTOS])
    save_graph(build_graph(network), work / "graph.onnx")
    return {"bytes": (work / "graph.onnx").stat().st_size}


def _run(work: Path) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False  # as ctxdeploy.runtime has it
    session = onnxruntime.InferenceSession(str(work / "graph.onnx"), options, providers=["CPUExecutionProvider"])
    loaded = own_memory_mb()
    photo = sample_photo("rocket")
    image = np.tile(photo, (-(-SHAPE[0] // photo.shape[0]), -(-SHAPE[1] // photo.shape[1]), 1))[: SHAPE[0], : SHAPE[1]]
    start = time.perf_counter()
    descriptors = session.run(list(OUTPUT_NAMES), {INPUT_NAME: image[None]})[0]
    return {
        "seconds": time.perf_counter() - start,
        "loaded_mb": loaded,
        "peak_mb": own_memory_mb(),
        "finite": bool(np.isfinite(descriptors).all()),
    }


def _arguments() -> argparse.Namespace:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=here / "work" / "export_limits")
    parser.add_argument("--out", type=Path, default=here / "results" / "export_limits.json")
    parser.add_argument("--part", choices=("export", "graph", "run"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
