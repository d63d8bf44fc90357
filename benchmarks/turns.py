"""How much of the processors' time does `ctxdeploy index` take for a photo, with one built-in model and another?

The whole command runs on the same photos with each model and engine in turns. Counted is the processors' time of its
processes, which other work on the machine lengthens less than it lengthens seconds on the clock.

    python benchmarks/turns.py --photos minibench/images --count 40 --rounds 3
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from ctxdeploy.bench import publish

RUNS = {
    f"{model}, {runtime} {precision}": (model, runtime, precision)
    for runtime, precision in (("onnxruntime", "fp32"), ("openvino", "bf16"))
    for model in ("lite-small", "ctx-small")
}


def main() -> None:
    """Run all in turns and publish medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "turns.json")
    options = parser.parse_args()
    files = sorted(options.photos.resolve().glob("*.jpg"))
    chosen = files[:: max(1, len(files) // options.count)][: options.count]
    measured: dict[str, list[float]] = {label: [] for label in RUNS}
    with tempfile.TemporaryDirectory(prefix="ctxdeploy-turns-") as work:
        photos = Path(work, "photos")
        photos.mkdir()
        for file in chosen:
            (photos / file.name).symlink_to(file)
        for turn in range(options.rounds):
            for label, run in RUNS.items():
                measured[label].append(_index(photos, Path(work, f"{turn}-{label}.ctxindex"), *run) / len(chosen))
                sys.stderr.write(f"{label}: {measured[label][-1]:.3f} s of processors a photo\n")
    results = {label: {"processor_seconds": median(of)} for label, of in measured.items()}
    content = {"photos": len(chosen), "rounds": options.rounds, "results": results}
    lines = [f"{label}: {of['processor_seconds']:.3f} s of processors a photo" for label, of in results.items()]
    publish(content, options.output, lines)


def _index(photos: Path, archive: Path, model: str, runtime: str, precision: str) -> float:
    """Return the seconds of processors that the command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["index", photos, "-o", archive, "--model", model, "--backend", runtime, "--precision", precision, "-q"]
    subprocess.run([sys.executable, "-m", "ctxdeploy", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
