"""How long does `ctxdeploy index` take for a photo, with one built-in model and another?

The whole command runs on the same photos with each model and engine in turns. Counted are the seconds on the clock, and
the processors' time of its processes, which other work on the machine lengthens less. The first run is not counted.

    python benchmarks/turns.py --photos minibench/images --count 200 --rounds 3
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from ctxdeploy.bench import publish

RUNS = {
    f"{model}, {runtime} {precision}": (model, runtime, precision)
    for runtime, precision in (("onnxruntime", "fp32"), ("openvino", "bf16"))
    for model in ("lite-small", "ctx-small")
} | {"lite-small, openvino int8": ("lite-small", "openvino", "int8")}


def main() -> None:
    """Run all in turns and publish medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "turns.json")
    options = parser.parse_args()
    files = sorted(options.photos.resolve().glob("*.jpg"))
    chosen = files[:: max(1, len(files) // options.count)][: options.count]
    measured: dict[str, list[tuple[float, float]]] = {label: [] for label in RUNS}
    with tempfile.TemporaryDirectory(prefix="ctxdeploy-turns-") as work:
        photos = Path(work, "photos")
        photos.mkdir()
        for file in chosen:
            (photos / file.name).symlink_to(file)
        _index(photos, Path(work, "first.ctxindex"), *next(iter(RUNS.values())))
        for turn in range(options.rounds):
            for label, run in RUNS.items():
                measured[label].append(_index(photos, Path(work, f"{turn}-{label}.ctxindex"), *run))
                sys.stderr.write(f"{label}: {measured[label][-1][0] / len(chosen):.3f} s a photo\n")
    results = {
        label: {
            "seconds": median(clock for clock, _ in of) / len(chosen),
            "processor_seconds": median(processors for _, processors in of) / len(chosen),
        }
        for label, of in measured.items()
    }
    content = {"photos": len(chosen), "rounds": options.rounds, "results": results}
    lines = [
        f"{label}: {of['seconds']:.3f} s a photo, {of['processor_seconds']:.3f} s of processors"
        for label, of in results.items()
    ]
    publish(content, options.output, lines)


def _index(photos: Path, archive: Path, model: str, runtime: str, precision: str) -> tuple[float, float]:
    """Return the seconds of the clock and of the processors that the command takes."""
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["index", photos, "-o", archive, "--model", model, "--backend", runtime, "--precision", precision, "-q"]
    subprocess.run([sys.executable, "-m", "ctxdeploy", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
