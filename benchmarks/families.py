"""How fast is every family of networks, global ones too, in every precision and runtime, and how near to the limit?

    python benchmarks/families.py --photo photo.jpg                     # an hour or two on two cores, once
    python benchmarks/families.py --photo photo.jpg --families gem mac  # some of them
    python benchmarks/families.py --photo photo.jpg --quick             # compared on two photos: half of that
    python benchmarks/families.py --photo photo.jpg --families --checkpoint delg=delg.pth --calibrate photos/

Families × {fp32, bf16, int8} × {ONNX Runtime, OpenVINO}: seconds a photo, parity with PyTorch fp32 and whether it
passed, peak memory of the process, the fraction of what the rate of large convolutions allows. The checkpoints are made
here with random weights (statistics and whitening fitted to photos of scikit-image): their speed and memory are those
of trained ones, their parity is an indication. `--checkpoint NAME=FILE` measures one of yours beside them. Cases are
those of `ctxdeploy.bench`: each in a process of its own, in turns.

Started again, it goes on: bundles and the rows of families that are there are kept (`--again` measures them anew). A
family that cannot be exported or measured is said, and the others go on; the exit code is then 1.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from networks import DISPLAY, rows_of, take_in_rejected
from PIL import Image as Pillow

from ctxdeploy.bench import RATED, convolution_rate, publish
from ctxdeploy.core.bundle import MANIFEST, Extraction
from ctxdeploy.core.errors import CtxdeployError
from ctxdeploy.core.files import file_sha256
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.core.types import Precision, Preprocessing
from ctxdeploy.evaluation import AsmkRetrieval
from ctxdeploy.export import ExportConfig, export_bundle, save_checkpoint, untrained_network
from ctxdeploy.export.int8 import Int8Config
from ctxdeploy.export.networks import Architecture, Delf, Lit, NetworkConfig, Pooling, Refinement, Smoothing
from ctxdeploy.export.parity import ParityPhotos, folder_calibration

NONE = Smoothing(kind="none")
ROOT2 = math.sqrt(2)
SCALES = (1.0, ROOT2, 1.0 / ROOT2)
PRECISIONS = (Precision.FP32, Precision.BF16, Precision.INT8)
# Of DELF's and DELG's input, as their authors scale it.
CENTRE = (128 / 255,) * 3
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
    "solar": {"family": "gem", "dim": None, "smoothing": NONE, "pooling": Pooling(dim=2048, second_order=(3, 4))},
    "delf": {"family": "delf", "skip_layer": 1, "smoothing": NONE, "delf": Delf(), "mean": CENTRE, "std": CENTRE},
    "delg": {
        "family": "delg",
        "skip_layer": 1,
        "smoothing": NONE,
        "delf": Delf(strides=(2, 1)),
        "mean": CENTRE,
        "std": CENTRE,
        "pooling": Pooling(fixed_p=3.0, dim=2048, norm_pooled=False, norm="floored", beside_local=True),
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
    parser.add_argument("--quick", action="store_true", help="compare with PyTorch on two photos, without retrieval")
    parser.add_argument("--again", action="store_true", help="measure what an earlier run has measured")
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "families")
    default = Path(__file__).parent / "results" / "families.json"
    parser.add_argument("-o", "--output", type=Path, default=default)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoints: dict[str, Path | None] = dict.fromkeys(options.families)
    for given in options.checkpoint:
        name, _, file = given.partition("=")
        checkpoints[name] = Path(file)
    rates = _rates(options)
    rows, failed = {}, {}
    for name, checkpoint in checkpoints.items():
        try:
            rows[name] = _rows(name, checkpoint, options, rates)
        except (CtxdeployError, OSError, RuntimeError) as error:
            failed[name] = f"{type(error).__name__}: {error}"
            DISPLAY.say(f"{name} failed: {failed[name]}")
        _publish(rows, failed, options, rates)
    if failed:
        raise SystemExit(1)


def _publish(
    rows: dict[str, Any], failed: dict[str, str], options: argparse.Namespace, rates: dict[str, float]
) -> None:
    """Write what is measured so far."""
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
        "compared_on": "two photos" if options.quick else "all photos and a retrieval run",
        "convolution_gflops": rates,
        "families": rows,
        "failed": failed,
    }
    publish(result, options.output, lines[-14:])


def _rates(options: argparse.Namespace) -> dict[str, float]:
    """Return GFLOP/s of large convolutions by runtime and precision; an earlier run's, whose rows stand beside."""
    path = options.work / "rates.json"
    if options.again or not path.exists():
        found = {f"{target} {precision}": convolution_rate(target, precision) / 1e9 for target, precision in RATED}
        path.write_text(json.dumps(found), encoding="ascii")
    rates: dict[str, float] = json.loads(path.read_text(encoding="ascii"))
    return rates


def _rows(name: str, given: Path | None, options: argparse.Namespace, rates: dict[str, float]) -> dict[str, Any]:
    """Return what is measured of a family: by an earlier run of the same bundle and rounds, or now."""
    checkpoint = given or _untrained(name, options)
    bundle = _bundle(name, checkpoint, options)
    path, key = options.work / f"{name}.rows.json", f"{file_sha256(bundle / MANIFEST)} {options.rounds} {options.photo}"
    if path.exists() and not options.again:
        kept = json.loads(path.read_text(encoding="ascii"))
        if kept["key"] == key:
            return dict(kept["rows"])
    DISPLAY.say(f"measuring {name}")
    rows = rows_of(checkpoint, bundle, options.photo, options, rates)
    path.write_text(json.dumps({"key": key, "rows": rows}), encoding="ascii")
    return rows


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


def _sample(name: str, size: int) -> Any:
    """Return a photo of scikit-image whose sides are at most ``size``, H×W×3 uint8."""
    picture = Pillow.fromarray(sample_photo(name))
    picture.thumbnail((size, size))
    return np.asarray(picture)


def _bundle(name: str, checkpoint: Path, options: argparse.Namespace) -> Path:
    """Return the bundle of a checkpoint in all precisions, made unless an earlier run left it; nothing is left out."""
    quick = "-quick" if options.quick else ""
    path: Path = options.work / f"{checkpoint.stem}{quick}.ctxbundle"
    if not path.exists():
        DISPLAY.say(f"exporting {name}")
        calibrate, photos = options.calibrate, None
        if options.quick:
            photos = ParityPhotos(
                parity={name: _sample(name, options.image_size) for name in SAMPLES[:2]}, retrieval={}
            )
        exported = export_bundle(
            checkpoint,
            path,
            ExportConfig(
                targets=("onnxruntime", "openvino"),
                precisions=PRECISIONS,
                int8=Int8Config(max_kept=0.0),
                image_size=options.image_size,
            ),
            retrieval=None if options.quick else AsmkRetrieval,
            photos=photos,
            calibration=None if calibrate is None else folder_calibration(calibrate, Preprocessing(), 8),
            display=DISPLAY,
        )
        take_in_rejected(exported.bundle, exported.rejected)
    return path


if __name__ == "__main__":
    main()
