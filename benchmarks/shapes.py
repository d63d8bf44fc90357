"""Does memory stay flat? Small photos of many different shapes through ``ctxdeploy index``, for as long as it takes.

Engines keep something for every shape that they meet, allocators fragment, queues fill. The memory of the command and
of its workers (anonymous pages in RAM) is read twice a second; the figure is the mean of the last tenth of the photos
by the mean of the tenth after the first tenth.

    python benchmarks/shapes.py --photos trainphotos --count 20000 --shapes 300
"""

import argparse
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from bulk import children, resident, small_bundle, start_index, write_views
from common import provenance, publish

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.runtime import find_photos

ENGINES = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))


def main() -> None:
    """Make the photos, run each engine, write."""
    arguments = _arguments()
    folder = arguments.work / "photos"
    sources = [photo.path for photo in find_photos(arguments.photos) if photo.path]
    chance = np.random.default_rng(arguments.seed)
    sides = [(int(w), int(h)) for w, h in chance.integers(48, 161, (4 * arguments.shapes, 2))]
    kinds = list(dict.fromkeys(sides))[: arguments.shapes]
    write_views(folder, sources, [kinds[i] for i in chance.integers(0, len(kinds), arguments.count)])
    bundle = small_bundle(arguments.work / "small.ctxbundle", 160, 100)
    engines = {f"{name} {precision}": _run(folder, bundle, name, precision, arguments) for name, precision in ENGINES}
    record = {"photos": arguments.count, "shapes": len(kinds), "engines": engines}
    publish({**record, **provenance()}, arguments.out, _plot)


def _run(folder: Path, bundle: Bundle, name: str, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    archive = arguments.work / f"{name}-{precision}.ctxindex"
    for path in (archive, archive.with_name(f"{archive.name}.training")):
        shutil.rmtree(path, ignore_errors=True)
    options = ("--model", bundle.path, "--backend", name, "--precision", precision, "--json", "--words", 4096)
    process = start_index(folder, archive, *options, "--training-photos", 1000)
    done, samples = [0], []

    def follow() -> None:
        for line in process.stderr or ():
            if line.startswith("{"):
                event = json.loads(line)
                if event.get("task") == "indexing":
                    done[0] = event["done"]

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    start = time.monotonic()
    while process.poll() is None:
        pids = [process.pid, *children(process.pid)]
        samples.append((done[0], sum(map(resident, pids)) / 1e6, resident(process.pid) / 1e6))
        time.sleep(0.5)
    seconds = time.monotonic() - start
    reader.join(5)
    report = json.loads(process.stdout.read() if process.stdout else "")
    total = arguments.count
    early = [mb for n, mb, _ in samples if 0.1 * total < n <= 0.2 * total]
    late = [mb for n, mb, _ in samples if n > 0.9 * total]
    return {
        "seconds": seconds,
        "photos_per_second": (report["indexed"] + report["failed"]) / seconds,
        "after_first_tenth_mb": float(np.mean(early)),
        "last_tenth_mb": float(np.mean(late)),
        "growth": float(np.mean(late) / np.mean(early) - 1),
        "peak_mb": max(mb for _, mb, _ in samples),
        "stages": report["stages"],
        "samples": [(n, round(mb, 1), round(own, 1)) for n, mb, own in samples[:: max(1, len(samples) // 200)]],
    }


def _plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for engine, figures in result["engines"].items():
        photos, memory, _ = zip(*figures["samples"], strict=True)
        axes.plot(photos, memory, label=f"{engine} ({100 * figures['growth']:+.1f} %)")
    axes.set(xlabel="photos", ylabel="MB, command and workers", ylim=(0, None))
    axes.set_title(f"{result['photos']:,} photos of {result['shapes']} shapes")
    axes.legend()
    figure.savefig(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--shapes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "shapes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "shapes.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
