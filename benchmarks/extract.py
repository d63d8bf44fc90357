"""How long does a photo take, and how near is that to what the processor can do?

The same photos, decoded once, go through PyTorch fp32 one at a time (what HOW's own code runs) and through a bundle in
each backend and precision, in turn, so that a drift of the machine touches all alike. Reported for each: seconds a
photo (median, p05, p95), the ratio to PyTorch photo by photo, and the fraction of the rate of one large fp32
convolution, measured in the same run. Multiply-adds are counted by PyTorch's own counter on the network before export.

    python benchmarks/extract.py --photos minibench/images
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from ctxdeploy.bench.roofline import convolution_rate
from ctxdeploy.core.bundle import Bundle, Extraction
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.evaluation.retrieval import AsmkRetrieval
from ctxdeploy.export import export_bundle, load_checkpoint, save_checkpoint, untrained_network
from ctxdeploy.export.networks import Architecture, NetworkConfig, Refinement, RetrievalNetwork, Smoothing
from ctxdeploy.export.parity import torch_runner
from ctxdeploy.runtime import BackendConfig, decode_photo, find_photos
from ctxdeploy.runtime.backends import Backend, open_backend

Image = NDArray[np.uint8]
Run = Callable[[Image], object]
ENGINES = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))


def main() -> None:
    """Measure, print and write."""
    arguments = _arguments()
    photos = [photo.path for photo in find_photos(arguments.photos) if photo.path][: arguments.count]
    pixels = [decode_photo(path, Preprocessing()).pixels for path in photos]
    network = _network(arguments.family, pixels)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "untrained.pth"
        save_checkpoint(network, checkpoint)
        bundle = export_bundle(
            checkpoint, Path(folder) / "b.ctxbundle", retrieval=AsmkRetrieval, display=Display(quiet=False)
        ).check()
        network = load_checkpoint(checkpoint).network()
        runs: dict[str, Run] = {"PyTorch fp32": torch_runner(network)}
        runs |= {f"{backend.name} {backend.precision}": backend.run for backend in _backends(bundle)}
        seconds = _measure(runs, pixels, arguments.rounds)
    operations = np.array([_operations(network, photo) for photo in pixels])
    peak = convolution_rate("onnxruntime", "fp32")
    results = {label: _summary(times, seconds["PyTorch fp32"], operations, peak) for label, times in seconds.items()}
    for label, figures in results.items():
        print(label, json.dumps(figures))
    record = {
        "family": arguments.family,
        "photos": len(pixels),
        "rounds": arguments.rounds,
        "shapes": sorted({photo.shape[:2] for photo in pixels}),
        "gflop_median": float(np.median(operations)) / 1e9,
        "fp32_convolution_gflops": peak / 1e9,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "results": results,
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "versions": {name: version(name) for name in ("ctxdeploy", "torch", "onnxruntime", "openvino", "numpy")},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    _plot(results, arguments.out.with_suffix(".svg"))


def _measure(runs: dict[str, Run], pixels: list[Image], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Return rounds×photos seconds of each; a photo goes through all before the next. Round 0 is not counted."""
    seconds = {label: np.zeros((rounds + 1, len(pixels))) for label in runs}
    for turn in range(rounds + 1):
        for number, photo in enumerate(pixels):
            for label, run in runs.items():
                start = time.perf_counter()
                run(photo[None])
                seconds[label][turn, number] = time.perf_counter() - start
        print(f"round {turn} of {rounds}", flush=True)
    return {label: times[1:] for label, times in seconds.items()}


def _summary(
    times: NDArray[np.float64], reference: NDArray[np.float64], operations: NDArray[np.float64], peak: float
) -> dict[str, float]:
    p05, median, p95 = np.percentile(times, [5, 50, 95])
    return {
        "seconds_median": float(median),
        "seconds_p05": float(p05),
        "seconds_p95": float(p95),
        "times_pytorch": float(np.median(reference / times)),
        "fraction_of_fp32_convolution_rate": float(np.median(operations[None] / times) / peak),
    }


def _backends(bundle: Bundle) -> list[Backend]:
    backends = []
    for name, precision in ENGINES:
        try:
            backends.append(open_backend(bundle, BackendConfig(name=name, precision=precision)))
        except BackendError as error:
            print(f"left out: {error}")
    return backends


def _network(family: str, pixels: list[Image]) -> RetrievalNetwork:
    context = family == "ctx"
    config = NetworkConfig(
        family=family,
        architecture=Architecture.RESNET18,
        smoothing=Smoothing(kind="gaussian") if context else Smoothing(),
        refinement=Refinement() if context else None,
    )
    return untrained_network(config, Extraction(), pixels[:6])


def _operations(network: RetrievalNetwork, photo: Image) -> int:
    """Return floating-point operations of one photo, two for a multiply-add."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.from_numpy(np.array(photo))[None])
    total: int = counter.get_total_flops()
    return total


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _plot(results: dict[str, dict[str, float]], path: Path) -> None:
    """Draw medians, with p05 and p95 as whiskers."""
    from matplotlib.figure import Figure

    labels = list(results)
    medians = np.array([results[label]["seconds_median"] for label in labels])
    low = medians - [results[label]["seconds_p05"] for label in labels]
    high = np.array([results[label]["seconds_p95"] for label in labels]) - medians
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.barh(labels, medians, xerr=(low, high), color="#2f6fde", ecolor="#555", capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel("seconds a photo (median, p05 to p95 over photos and rounds)")
    figure.savefig(path, metadata={"Date": None})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder")
    parser.add_argument("--count", type=int, default=12, help="photos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--family", choices=("how", "ctx"), default="ctx")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "extract.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
