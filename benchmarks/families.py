"""How fast is every family of networks, global ones too, in every precision and runtime, and how near to the limit?

    python benchmarks/families.py --photo photo.jpg                     # an hour on two cores, once
    python benchmarks/families.py --photo photo.jpg --families gem mac  # some of them
    python benchmarks/families.py --photo photo.jpg --families --checkpoint delg=delg.pth --calibrate photos/

Families × {fp32, bf16, int8} × {ONNX Runtime, OpenVINO}: seconds a photo, parity with PyTorch fp32 and whether it
passed, peak memory of the process, the fraction of what the rate of large convolutions allows. The checkpoints are made
here with random weights (statistics and whitening fitted to photos of scikit-image): their speed and memory are those
of trained ones, their parity is an indication. `--checkpoint NAME=FILE` measures one of yours beside them. Cases are
those of `ctxdeploy.bench`: each in a process of its own, in turns.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from networks import DISPLAY, rows_of, take_in_rejected

from ctxdeploy.bench import RATED, convolution_rate, publish
from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.core.types import Precision, Preprocessing
from ctxdeploy.evaluation import AsmkRetrieval
from ctxdeploy.export import ExportConfig, export_bundle, save_checkpoint, untrained_network
from ctxdeploy.export.int8 import Int8Config
from ctxdeploy.export.networks import Architecture, Lit, NetworkConfig, Pooling, Refinement, Smoothing
from ctxdeploy.export.parity import folder_calibration

NONE = Smoothing(kind="none")
ROOT2 = math.sqrt(2)
SCALES = (1.0, ROOT2, 1.0 / ROOT2)
PRECISIONS = (Precision.FP32, Precision.BF16, Precision.INT8)
SAMPLES = ("coffee", "rocket", "astronaut", "chelsea", "retina", "page", "hubble_deep_field", "stereo_motorcycle")
# Of networks with local descriptors seven scales and K = 1000, of global ones the three of cirtorch.
FAMILIES: dict[str, dict[str, Any]] = {
    "how": {"family": "how", "skip_layer": 1},
    "ctx": {"family": "ctx", "skip_layer": 1, "smoothing": Smoothing(kind="gaussian"), "refinement": Refinement()},
    "fire": {"family": "fire", "skip_layer": 1, "smoothing": NONE, "lit": Lit()},
    "mac": {"family": "gem", "dim": None, "smoothing": NONE, "pooling": Pooling(kind="mac")},
    "rmac": {"family": "gem", "dim": None, "smoothing": NONE, "pooling": Pooling(kind="rmac")},
    "gem": {"family": "gem", "dim": None, "smoothing": NONE, "pooling": Pooling(dim=2048)},
    "ap-gem": {
        "family": "gem",
        "dim": None,
        "smoothing": NONE,
        "pooling": Pooling(dim=2048, norm="floored", norm_pooled=False),
    },
}


def main() -> None:
    """Read the options, make what is missing, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, required=True, help="that every network runs on")
    parser.add_argument("--calibrate", type=Path, help="folder of photos for int8; photos of scikit-image without")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="NAME=FILE", help="checkpoints besides")
    parser.add_argument("--architecture", default="resnet50", help="trunk of the networks that are made here")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "families")
    default = Path(__file__).parent / "results" / "families.json"
    parser.add_argument("-o", "--output", type=Path, default=default)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoints = {name: _untrained(name, options) for name in options.families}
    for given in options.checkpoint:
        name, _, file = given.partition("=")
        checkpoints[name] = Path(file)
    rates = {f"{target} {precision}": convolution_rate(target, precision) / 1e9 for target, precision in RATED}
    rows = {}
    for name, checkpoint in checkpoints.items():
        rows[name] = rows_of(checkpoint, _bundle(name, checkpoint, options), options.photo, options, rates)
    lines = [
        f"{name} {label}: {row['seconds']:.2f} s, {row['fraction_of_convolution_rate']:.2f} of the limit, "
        f"{row['peak_mb']} MB, {row.get('verdict', 'the reference')}"
        for name, found in rows.items()
        for label, row in found.items()
        if label != "gflop"
    ]
    result = {
        "architecture": options.architecture,
        "image_size": options.image_size,
        "rounds": options.rounds,
        "convolution_gflops": rates,
        "families": rows,
    }
    publish(result, options.output, lines)


def _untrained(name: str, options: argparse.Namespace) -> Path:
    """Return the checkpoint of a family with random weights, made unless an earlier run left it."""
    path: Path = options.work / f"{name}-{options.architecture}-{options.image_size}.pth"
    if not path.exists():
        config = NetworkConfig(architecture=Architecture.parse(options.architecture), **FAMILIES[name])
        if config.pooling is not None and config.pooling.dim is not None:
            dim = min(config.pooling.dim, config.channels)
            config = replace(config, pooling=replace(config.pooling, dim=dim))
        scales = SCALES if config.pooling is not None else ()
        extraction = config.fitted(Extraction(global_dim=int(bool(scales)), global_scales=scales))
        photos = [sample_photo(sample)[:480, :640] for sample in SAMPLES]
        save_checkpoint(untrained_network(config, extraction, photos), path, image_size=options.image_size)
    return path


def _bundle(name: str, checkpoint: Path, options: argparse.Namespace) -> Path:
    """Return the bundle of a checkpoint in all precisions, made unless an earlier run left it; nothing is left out."""
    path: Path = options.work / f"{checkpoint.stem}.ctxbundle"
    if not path.exists():
        DISPLAY.say(f"exporting {name}")
        calibrate = options.calibrate
        exported = export_bundle(
            checkpoint,
            path,
            ExportConfig(
                targets=("onnxruntime", "openvino"),
                precisions=PRECISIONS,
                int8=Int8Config(max_kept=0.0),
                image_size=options.image_size,
            ),
            retrieval=AsmkRetrieval,
            calibration=None if calibrate is None else folder_calibration(calibrate, Preprocessing(), 8),
            display=DISPLAY,
        )
        take_in_rejected(exported.bundle, exported.rejected)
    return path


if __name__ == "__main__":
    main()
