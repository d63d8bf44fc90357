"""How fast is every network in every precision and runtime, how near is that to what the processor can do?

    python benchmarks/networks.py export --photos minibench/images --calibrate trainphotos   # half an hour, once
    python benchmarks/networks.py precisions --photos minibench/images                       # a quarter of an hour
    python benchmarks/networks.py extract --photos minibench/images                          # a few minutes
    python benchmarks/networks.py limits                                                     # a few minutes and 4 GB

- `export` makes a bundle of each network for ONNX Runtime and OpenVINO in fp32, bf16 and int8, int8 being fitted to
  photos of another folder. Networks are untrained (statistics and whitening fitted to the photos): their speed and
  memory are those of trained ones, their parity is an indication. The figures of parity are those that `ctxdeploy
  export` measures and judges. On R50- no convolution is searched for that had better stay fp32: all are int8. What is
  rejected is measured too, and marked.
- `precisions` runs each artefact, and the network in PyTorch, with one photo of 768×1024. Seconds are medians of the
  network alone; memory is the peak of the process.
- `extract` runs one network on several photos: PyTorch fp32 one at a time, as HOW's own code does, ONNX Runtime fp32,
  OpenVINO fp32 and bf16.
- `limits` exports a checkpoint of 100 MB (HOW on ResNet-50) through `ctxdeploy export` with its defaults, comparison
  with PyTorch included, and runs the ctx network with graph refinement on ResNet-50 without its last block at one scale
  of 2 on a photo of 2048×1536: 49,152 positions whose pairs are all compared. Seconds and peak memory of each process.

Cases are those of `ctxdeploy.bench`: each in a process of its own, in turns. The limit is the operations of a network
at the rate of large convolutions in the same runtime and precision.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ctxdeploy.bench import (
    RATED,
    BundleEngine,
    Case,
    CompanionConfig,
    ExtractMeasurement,
    Question,
    Record,
    WindowConfig,
    convolution_rate,
    count_operations,
    extraction_question,
    measure,
    peak_memory,
    photo_case,
    photo_files,
    publish,
    pytorch_case,
)
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import INPUT_NAME, OUTPUT_NAMES, Artefact, Bundle, Extraction
from ctxdeploy.core.files import move
from ctxdeploy.core.progress import Display
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.core.types import Precision, Preprocessing
from ctxdeploy.evaluation import AsmkRetrieval
from ctxdeploy.export import ExportConfig, export_bundle, save_checkpoint, untrained_network
from ctxdeploy.export.int8 import Int8Config
from ctxdeploy.export.networks import Architecture, Lit, NetworkConfig, Refinement, Smoothing
from ctxdeploy.export.parity import ParityPhotos, folder_calibration, folder_parity_photos
from ctxdeploy.runtime import decode_photo, find_photos

NETWORKS: dict[str, dict[str, Any]] = {
    "how": {"family": "how"},
    "ctx smoothing": {"family": "ctx", "smoothing": Smoothing(kind="gaussian")},
    "ctx graph": {"family": "ctx", "refinement": Refinement()},
    "ctx both": {"family": "ctx", "smoothing": Smoothing(kind="gaussian"), "refinement": Refinement()},
    "fire": {"family": "fire", "smoothing": Smoothing(kind="none"), "lit": Lit()},
}
TRUNKS = {"R18": (Architecture.RESNET18, 0), "R50-": (Architecture.RESNET50, 1)}
NAMES = [f"{network} {trunk}" for trunk in TRUNKS for network in NETWORKS]
PYTORCH, EXTRACTED = "PyTorch fp32", "ctx both R18"
SHAPE, LARGE = (768, 1024), (1536, 2048)
SAMPLES = ("coffee", "rocket", "astronaut", "chelsea")
DISPLAY = Display(quiet=False)


def export(options: argparse.Namespace) -> None:
    """Make the bundle of each network unless an earlier run left it."""
    if options.calibrate is None:
        raise SystemExit("export needs --calibrate")
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.networks:
        checkpoint, path = _places(name, options)
        if path.exists():
            continue
        family, _, trunk = name.rpartition(" ")
        architecture, skip_layer = TRUNKS[trunk]
        config = NetworkConfig(architecture=architecture, skip_layer=skip_layer, **NETWORKS[family])
        chosen = [photo.path for photo in find_photos(options.photos)[::40][:6] if photo.path]
        pixels = [decode_photo(place, Preprocessing(image_size=640)).pixels for place in chosen]
        save_checkpoint(untrained_network(config, Extraction(dim=config.descriptor_dim), pixels), checkpoint)
        parity_photos = folder_parity_photos(options.photos, Preprocessing())
        few = dict(list(parity_photos.parity.items())[:: len(parity_photos.parity) // 2][:2])
        retrieval = dict(list(parity_photos.retrieval.items())[:24])
        int8 = Int8Config(max_kept=0.5 if trunk == "R18" else 0.0)
        precisions = (Precision.FP32, Precision.BF16, Precision.INT8)
        exported = export_bundle(
            checkpoint,
            path,
            ExportConfig(targets=("onnxruntime", "openvino"), precisions=precisions, int8=int8),
            retrieval=AsmkRetrieval,
            photos=ParityPhotos(parity=few, retrieval=retrieval, ground_truth=parity_photos.ground_truth),
            calibration=folder_calibration(options.calibrate, Preprocessing(), 8),
            display=DISPLAY,
        )
        take_in_rejected(exported.bundle, exported.rejected)


def take_in_rejected(bundle: Bundle, rejected: Sequence[Artefact]) -> None:
    """Put rejected artefacts back, so that their speed and memory are measured too; ``parity`` says what they are."""
    for artefact in rejected:
        kept = bundle.path / f"{artefact.file}.rejected"
        if kept.exists():
            move(kept, bundle.path / artefact.file)
    replace(bundle, artefacts=(*bundle.artefacts, *rejected)).write_manifest()


def precisions(options: argparse.Namespace) -> None:
    """Measure every artefact of every network, and PyTorch."""
    rates = {f"{target} {precision}": convolution_rate(target, precision) / 1e9 for target, precision in RATED}
    photo = _photo_of_shape(options.photos)
    networks = {name: _network(name, photo, options, rates) for name in options.networks}
    lines = [
        f"{name} {label}: {row['seconds']:.2f} s, {row['fraction_of_convolution_rate']:.2f} of the limit"
        for name, rows in networks.items()
        for label, row in rows.items()
        if label != "gflop"
    ]
    result = {"shape": SHAPE, "rounds": options.rounds, "convolution_gflops": rates, "networks": networks}
    publish(result, options.output or _result("precisions"), lines)


def _network(name: str, photo: Path, options: argparse.Namespace, rates: dict[str, float]) -> dict[str, Any]:
    return rows_of(*_places(name, options), photo, options, rates)


def rows_of(
    checkpoint: Path, path: Path, photo: Path, options: argparse.Namespace, rates: dict[str, float]
) -> dict[str, Any]:
    """Measure every artefact of a bundle, and its checkpoint in PyTorch, on a photo."""
    opened = bundles.open(path)
    with Pillow.open(photo) as picture:
        width, height = picture.size
    factor = min(1.0, opened.preprocessing.image_size / max(width, height))
    shape = (round(height * factor), round(width * factor))
    artefacts = {f"{a.target} {a.precision}": a for a in opened.artefacts}
    engines = {
        label: BundleEngine(bundle=opened, backend=a.target, precision=str(a.precision), threads=None)
        for label, a in artefacts.items()
    }
    cases: list[Case] = [photo_case(label, "sweep", engine, [photo]) for label, engine in engines.items()]
    cases.append(replace(pytorch_case(opened, [photo], None, checkpoint), label=PYTORCH))
    question = Question(kind="extract", settings={"photo": photo.name}, cases=cases, known={})
    file = options.work / f"{path.stem}.json"
    record = measure(question, file, WindowConfig(windows=options.rounds, block=options.rounds), DISPLAY, restart=True)
    seconds = {case.label: _network_seconds(record, case.label) for case in cases}
    operations = count_operations(opened, [shape])[shape]
    rows: dict[str, Any] = {"gflop": operations / 1e9}
    for label in (PYTORCH, *artefacts):
        median = float(np.median(seconds[label]))
        rate = rates.get(label, rates["onnxruntime fp32"])
        rows[label] = {
            "seconds": median,
            "times_pytorch": float(np.median(seconds[PYTORCH] / seconds[label])),
            "peak_mb": record.content["results"]["cases"][label]["memory"]["peak"] >> 20,
            "fraction_of_convolution_rate": operations / median / 1e9 / rate,
        }
        if label in artefacts:
            parity, details = artefacts[label].parity, artefacts[label].details
            names = ("cosine_min", "cosine_mean", "overlap_min", "overlap_mean", "ranking", "verdict")
            rows[label] |= {key: parity[key] for key in names if key in parity}
            rows[label]["kept_fp32"] = details.get("kept_fp32")
            if "by_scale" in parity:
                rows[label]["by_scale"] = {entry["scale"]: entry["cosine_min"] for entry in parity["by_scale"]}
            if "global" in parity:
                rows[label]["global"] = {key: value for key, value in parity["global"].items() if key != "photos"}
    return rows


def extract(options: argparse.Namespace) -> None:
    """Measure one network on several photos."""
    checkpoint, path = _places(EXTRACTED, options)
    engine = BundleEngine(bundle=bundles.open(path), backend="onnxruntime", precision="fp32", threads=None)
    photos = photo_files(options.photos, options.count, options.work)
    besides = CompanionConfig(against=["backend=openvino", "backend=openvino,precision=bf16"])
    measurement = ExtractMeasurement(batch_sizes=(), thread_counts=(), checkpoint=checkpoint)
    question = extraction_question(engine, photos, measurement, besides, DISPLAY)
    file = options.work / "extract.json"
    record = measure(question, file, WindowConfig(windows=options.rounds, block=options.rounds), DISPLAY, restart=True)
    meter = np.concatenate([window["cases"]["meter: convolutions"]["seconds"] for window in record.windows])
    rate = record.content["about"]["meter: convolutions"]["facts"]["operations"] / meter.min()
    operations = np.array(question.known["operations"])
    seconds = {}
    for case in question.cases:
        if case.role != "meter":
            label = f"{case.identity['backend']} {case.identity['precision']}"
            seconds[label] = _network_seconds(record, case.label)
    results = {}
    for label, times in seconds.items():
        low, median, high = np.percentile(times, [5, 50, 95])
        results[label] = {
            "seconds_median": float(median),
            "seconds_p05": float(low),
            "seconds_p95": float(high),
            "times_pytorch": float(np.median(seconds[PYTORCH] / times)),
            "fraction_of_fp32_convolution_rate": float(np.median(operations[None] / times) / rate),
        }
    result = {
        "family": "ctx",
        "photos": len(photos),
        "rounds": options.rounds,
        "gflop_median": float(np.median(operations)) / 1e9,
        "fp32_convolution_gflops": rate / 1e9,
        "results": results,
    }
    lines = [
        f"{label}: {found['seconds_median']:.2f} s a photo, {found['fraction_of_fp32_convolution_rate']:.2f} of the "
        "limit (large fp32 convolutions)"
        for label, found in results.items()
    ]
    publish(result, options.output or _result("extract"), lines)


def limits(options: argparse.Namespace) -> None:
    """Run each part in a process of its own: tracing has a peak of its own."""
    options.work.mkdir(parents=True, exist_ok=True)
    found = {part: _in_process(part, options.work) for part in LIMITS}
    result = {"export of 100 MB": found["checkpoint"], "R50- graph at 2048×1536, scale 2": found["run"]}
    lines = [f"{name}: {of['seconds']:.0f} s, peak {of['peak_mb']} MB" for name, of in result.items()]
    publish(result, options.output or _result("export_limits"), [*lines, "no limit was measured"])


def _in_process(part: str, work: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "limits", "--work", str(work), "--part", part]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _export_checkpoint(work: Path) -> dict[str, Any]:
    from ctxdeploy.cli.main import run

    checkpoint = work / "r50.pth"
    if not checkpoint.exists():  # made in a process of its own, which leaves its peak of memory with it
        config = NetworkConfig(family="how", architecture=Architecture.RESNET50)
        save_checkpoint(untrained_network(config, Extraction(), [sample_photo(name) for name in SAMPLES]), checkpoint)
        return _in_process("checkpoint", work)
    output = work / f"r50-{time.time_ns()}.ctxbundle"
    start = time.perf_counter()
    code = run(["export", str(checkpoint), "-o", str(output), "-q"])
    if code:
        raise SystemExit(code)
    return {"checkpoint_mb": checkpoint.stat().st_size / 1e6, "seconds": time.perf_counter() - start, **_peak()}


def _graph(work: Path) -> dict[str, Any]:
    from ctxdeploy.export.graph import build_graph, save_graph

    config = NetworkConfig(
        family="ctx", architecture=Architecture.RESNET50, skip_layer=1, refinement=Refinement(), dim=128
    )
    network = untrained_network(config, Extraction(scales=(2.0,)), [sample_photo(name) for name in SAMPLES])
    save_graph(build_graph(network), work / "graph.onnx")
    return {"bytes": (work / "graph.onnx").stat().st_size}


def _run(work: Path) -> dict[str, Any]:
    import onnxruntime

    from ctxdeploy.runtime.backends import session_options

    session = onnxruntime.InferenceSession(
        str(work / "graph.onnx"), session_options(onnxruntime, None), providers=["CPUExecutionProvider"]
    )
    loaded, photo = _peak()["peak_mb"], sample_photo("rocket")
    image = np.tile(photo, (-(-LARGE[0] // photo.shape[0]), -(-LARGE[1] // photo.shape[1]), 1))[: LARGE[0], : LARGE[1]]
    start = time.perf_counter()
    descriptors = session.run(list(OUTPUT_NAMES), {INPUT_NAME: image[None]})[0]
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "loaded_mb": loaded, **_peak(), "finite": bool(np.isfinite(descriptors).all())}


LIMITS = {"checkpoint": _export_checkpoint, "graph": _graph, "run": _run}


def _peak() -> dict[str, int]:
    return {"peak_mb": (peak_memory() or 0) >> 20}


def _network_seconds(record: Record, label: str) -> NDArray[np.float64]:
    """Return the network's seconds, windows × photos."""
    return np.array([window["cases"][label]["stages"]["network"] for window in record.windows])


def _photo_of_shape(folder: Path) -> Path:
    for found in find_photos(folder):
        if found.path is not None and decode_photo(found.path, Preprocessing()).pixels.shape[:2] == SHAPE:
            return found.path
    raise SystemExit(f"{folder} has no photo of {SHAPE[1]}×{SHAPE[0]}")


def _places(name: str, options: argparse.Namespace) -> tuple[Path, Path]:
    stem = name.replace(" ", "-")
    return options.work / f"{stem}.pth", options.work / f"{stem}.ctxbundle"


def _result(name: str) -> Path:
    return Path(__file__).parent / "results" / f"{name}.json"


MEASUREMENTS = {"export": export, "precisions": precisions, "extract": extract, "limits": limits}


def main() -> None:
    """Read the options, and do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=MEASUREMENTS)
    parser.add_argument("--photos", type=Path, help="folder, with gnd.json in or above it")
    parser.add_argument("--calibrate", type=Path, help="folder of other photos, for int8")
    parser.add_argument("--networks", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--count", type=int, default=6, help="photos of extract")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "precisions")
    parser.add_argument("-o", "--output", type=Path, help="the default is in results/")
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(LIMITS[options.part](options.work)))
    elif options.photos is None and options.measurement != "limits":
        parser.error(f"{options.measurement} needs --photos")
    else:
        MEASUREMENTS[options.measurement](options)


if __name__ == "__main__":
    main()
