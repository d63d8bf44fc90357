"""How fast is every network in every precision and runtime, how much memory does it take, and what does it cost?

Networks are untrained (statistics and whitening fitted to the photos): their speed and memory are those of trained
ones, their parity is an indication. Two steps:

1. Each network is exported for ONNX Runtime and OpenVINO in fp32, bf16 and int8, int8 being fitted to photos of another
   folder. The parity figures are those that ``export`` measures and judges; nothing here judges.
   On R50- nothing is searched for: all its convolutions are int8. What is rejected is measured too, and marked.
2. Each artefact, and the network in PyTorch, runs in a process of its own; the processes take turns with one photo of
   768×1024, so that a drift of the machine touches all alike. Seconds are medians; memory is the peak of the process.

Multiply-adds are counted by PyTorch's own counter; what is attainable is the rate of one large convolution in the same
runtime and precision, measured in the same run.

    python benchmarks/precisions.py --photos minibench/images --calibrate trainphotos
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import own_memory_mb, provenance, publish
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from ctxdeploy.bench.roofline import RATED, convolution_rate
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Artefact, Bundle, Extraction
from ctxdeploy.core.files import move
from ctxdeploy.core.progress import Display
from ctxdeploy.core.types import Precision, Preprocessing
from ctxdeploy.evaluation.retrieval import AsmkRetrieval
from ctxdeploy.export import ExportConfig, export_bundle, load_checkpoint, save_checkpoint, untrained_network
from ctxdeploy.export.int8 import Int8Config
from ctxdeploy.export.networks import Architecture, Lit, NetworkConfig, Refinement, Smoothing
from ctxdeploy.export.parity import ParityPhotos, folder_calibration, folder_parity_photos, torch_runner
from ctxdeploy.runtime import BackendConfig, decode_photo, find_photos
from ctxdeploy.runtime.backends import open_backend

Image = NDArray[np.uint8]
NETWORKS: dict[str, dict[str, Any]] = {
    "how": {"family": "how"},
    "ctx smoothing": {"family": "ctx", "smoothing": Smoothing(kind="gaussian")},
    "ctx graph": {"family": "ctx", "refinement": Refinement()},
    "ctx both": {"family": "ctx", "smoothing": Smoothing(kind="gaussian"), "refinement": Refinement()},
    "fire": {"family": "fire", "smoothing": Smoothing(kind="none"), "lit": Lit()},
}
TRUNKS = {"R18": (Architecture.RESNET18, 0), "R50-": (Architecture.RESNET50, 1)}
TARGETS = ("onnxruntime", "openvino")
PRECISIONS = (Precision.FP32, Precision.BF16, Precision.INT8)
PYTORCH = "PyTorch fp32"
SHAPE = (768, 1024)


def main() -> None:
    """Export, measure, print and write."""
    arguments = _arguments()
    if arguments.worker:
        _work(Path(arguments.worker[0]), *arguments.worker[1:])
        return
    names = [name for name in arguments.networks if name.rpartition(" ")[2] in TRUNKS]
    for name in names:
        _export(name, arguments)
    if arguments.export_only:
        return
    rates = {f"{target} {precision}": convolution_rate(target, precision) / 1e9 for target, precision in RATED}
    print(json.dumps(rates), flush=True)
    result: dict[str, Any] = {"shape": SHAPE, "rounds": arguments.rounds, "convolution_gflops": rates, "networks": {}}
    for name in names:
        result["networks"][name] = _measure(name, arguments, rates)
        print(name, json.dumps(result["networks"][name]), flush=True)
    publish({**result, **provenance()}, arguments.out, _plot)


def _places(name: str, work: Path) -> tuple[Path, Path]:
    stem = name.replace(" ", "-")
    return work / f"{stem}.pth", work / f"{stem}.ctxbundle"


def _export(name: str, arguments: argparse.Namespace) -> None:
    """Make a network's bundle unless an earlier run left it."""
    checkpoint, path = _places(name, arguments.work)
    if path.exists():
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    family, _, trunk = name.rpartition(" ")
    architecture, skip_layer = TRUNKS[trunk]
    config = NetworkConfig(architecture=architecture, skip_layer=skip_layer, **NETWORKS[family])
    photos = [
        decode_photo(p.path, Preprocessing(image_size=640)).pixels
        for p in find_photos(arguments.photos)[::40][:6]
        if p.path
    ]
    save_checkpoint(untrained_network(config, Extraction(dim=config.descriptor_dim), photos), checkpoint)
    trial = folder_parity_photos(arguments.photos, Preprocessing())
    few = dict(list(trial.parity.items())[:: len(trial.parity) // 2][:2])
    retrieval = dict(list(trial.retrieval.items())[:24])
    exported = export_bundle(
        checkpoint,
        path,
        ExportConfig(targets=TARGETS, precisions=PRECISIONS, int8=Int8Config(max_kept=0.5 if trunk == "R18" else 0.0)),
        retrieval=AsmkRetrieval,
        photos=ParityPhotos(parity=few, retrieval=retrieval, ground_truth=trial.ground_truth),
        calibration=folder_calibration(arguments.calibrate, Preprocessing(), 8),
        display=Display(quiet=False),
    )
    _take_in_rejected(exported.bundle, exported.rejected)


def _take_in_rejected(bundle: Bundle, rejected: tuple[Artefact, ...]) -> None:
    """Put rejected artefacts back, so that their speed and memory are measured too; ``parity`` says what they are."""
    for artefact in rejected:
        kept = bundle.path / f"{artefact.file}.rejected"
        if kept.exists():
            move(kept, bundle.path / artefact.file)
    replace(bundle, artefacts=(*bundle.artefacts, *rejected)).write_manifest()


def _measure(name: str, arguments: argparse.Namespace, rates: dict[str, float]) -> dict[str, Any]:
    checkpoint, path = _places(name, arguments.work)
    opened = bundles.open(path)
    passed = {f"{a.target} {a.precision}": (path, a.parity, a.details) for a in opened.artefacts}
    photo = _photo(arguments.photos)
    np.save(arguments.work / "photo.npy", photo)
    operations = _operations(load_checkpoint(checkpoint).network(), photo)
    seconds, memory = _turns(checkpoint, path, list(passed), arguments)
    reference = np.array(seconds[PYTORCH])
    rows: dict[str, Any] = {"gflop": operations / 1e9}
    for label, times in seconds.items():
        figures = {
            "seconds": float(np.median(times)),
            "times_pytorch": float(np.median(reference / np.array(times))),
            "peak_mb": memory[label],
        }
        if label in passed:
            _, parity, details = passed[label]
            figures |= {key: parity[key] for key in ("cosine_min", "cosine_mean", "overlap_min", "overlap_mean")}
            figures |= {
                "ranking": parity["ranking"],
                "verdict": parity["verdict"],
                "kept_fp32": details.get("kept_fp32"),
            }
            figures["by_scale"] = {entry["scale"]: entry["cosine_min"] for entry in parity["by_scale"]}
        rate = rates.get(label, rates["onnxruntime fp32"])
        figures["fraction_of_convolution_rate"] = operations / figures["seconds"] / 1e9 / rate
        rows[label] = figures
    return rows


def _turns(
    checkpoint: Path, path: Path, labels: list[str], arguments: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the seconds of each round and the peak memory in MB, of PyTorch and every artefact."""
    seconds: dict[str, list[float]] = {label: [] for label in (PYTORCH, *labels)}
    with _workers(checkpoint, path, list(seconds), arguments) as ask:
        for label in seconds:
            ask(label)  # warm-up
        for _ in range(arguments.rounds):
            for label in seconds:
                seconds[label].append(ask(label)["seconds"])
        memory = {label: int(ask(label)["peak_mb"]) for label in seconds}
    return seconds, memory


@contextmanager
def _workers(
    checkpoint: Path, path: Path, labels: list[str], arguments: argparse.Namespace
) -> Iterator[Callable[[str], dict[str, float]]]:
    processes = {}
    for label in labels:
        command = [sys.executable, __file__, "--photos", "-", "--calibrate", "-"]
        source = checkpoint if label == PYTORCH else path
        worker = ["--worker", str(source), str(arguments.work / "photo.npy"), *label.split()]
        processes[label] = subprocess.Popen(
            [*command, *worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(label: str) -> dict[str, float]:
        process = processes[label]
        if process.stdin is None or process.stdout is None:
            raise SystemExit("a worker has no pipes")
        process.stdin.write("run\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise SystemExit(f"the worker of {label} died")
        found: dict[str, float] = json.loads(answer)
        return found

    try:
        yield ask
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def _work(source: Path, photo: str, target: str, precision: str) -> None:
    """Run one artefact, or PyTorch, each time a line comes."""
    image = np.load(photo)[None]
    run: Callable[[Image], object]
    if target == "PyTorch":
        run = torch_runner(load_checkpoint(source).network())
    else:
        run = open_backend(
            bundles.open(source, check_hashes=False), BackendConfig(name=target, precision=precision)
        ).run
    for _ in sys.stdin:
        start = time.perf_counter()
        run(image)
        print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": own_memory_mb()}), flush=True)


def _photo(folder: Path) -> Image:
    for found in find_photos(folder):
        if found.path is not None:
            pixels = decode_photo(found.path, Preprocessing()).pixels
            if pixels.shape[:2] == SHAPE:
                return pixels
    raise SystemExit(f"{folder} has no photo of {SHAPE[1]}×{SHAPE[0]}")


def _operations(network: Any, photo: Image) -> int:
    """Return floating-point operations of one photo, two for a multiply-add."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.from_numpy(np.array(photo))[None])
    total: int = counter.get_total_flops()
    return total


def _plot(result: dict[str, Any], path: Path) -> None:
    """Draw how many times faster than PyTorch each artefact is."""
    from matplotlib.figure import Figure

    networks = list(result["networks"])
    labels = [f"{target} {precision}" for target, precision in RATED]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(labels)
    for i, label in enumerate(labels):
        times = [result["networks"][name].get(label, {}).get("times_pytorch", 0) for name in networks]
        axes.bar(np.arange(len(networks)) + (i - 2) * width, times, width, label=label)
    axes.set_xticks(range(len(networks)), networks, rotation=20, ha="right")
    axes.axhline(1, color="#555", linewidth=0.8)
    axes.set_ylabel("times PyTorch fp32")
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, metadata={"Date": None})


def _arguments() -> argparse.Namespace:
    here = Path(__file__).parent
    names = [f"{network} {trunk}" for trunk in TRUNKS for network in NETWORKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder, with gnd.json in or above it")
    parser.add_argument("--calibrate", type=Path, required=True, help="folder of other photos, for int8")
    parser.add_argument("--networks", nargs="*", default=names, choices=names)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--export-only", action="store_true", help="make the bundles, measure another time")
    parser.add_argument(
        "--work", type=Path, default=here / "work" / "precisions", help="bundles of an earlier run stay"
    )
    parser.add_argument("--out", type=Path, default=here / "results" / "precisions.json")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
