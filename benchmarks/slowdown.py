"""Does `ctxdeploy bench compare` say "no difference" of two runs of one command here, and find a slowdown of a tenth?

Four results of the same photos and bundle: the command, the command again, the command while every run of the network
takes a tenth longer (it keeps its core busy for that time), and one in which the slow and the fast take turns.

    python benchmarks/slowdown.py --bundle how.ctxbundle --photos minibench/images
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ctxdeploy.bench import (
    BundleEngine,
    CompanionConfig,
    ExtractMeasurement,
    Record,
    WindowConfig,
    compare_files,
    comparison_text,
    extraction_question,
    measure,
    photo_files,
)
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.progress import Display

SLOW = """
import time
from ctxdeploy.bench import worker
from ctxdeploy.runtime.backends import Backend

fast = Backend.run


def run(self, images):
    start = time.perf_counter()
    outputs = fast(self, images)
    end = start + {factor} * (time.perf_counter() - start)
    while time.perf_counter() < end:
        pass
    return outputs


Backend.run = run
worker.main()
"""


def main() -> None:
    """Measure what is asked for, and compare what is there."""
    options = _arguments()
    with tempfile.TemporaryDirectory() as work:
        python = _slow_python(Path(work), options.factor)
        for part in options.parts:
            _measure(part, python, options, Path(work))
    files = {part: options.out / f"bench-{part}.json" for part in ("same-a", "same-b", "slower", "turns")}
    pairs = (("same-a", "same-b"), ("same-a", "slower"), ("turns", None))
    for first, second in pairs:
        if files[first].exists() and (second is None or files[second].exists()):
            records = Record.read(files[first]), None if second is None else Record.read(files[second])
            print(comparison_text(compare_files(*records)), "\n")


def _measure(part: str, python: Path, options: argparse.Namespace, work: Path) -> None:
    threads = options.threads
    engine = BundleEngine(
        bundle=bundles.open(options.bundle), backend="auto", precision=options.precision, threads=threads
    )
    photos = photo_files(options.photos, options.count, work)
    extras = CompanionConfig(peer=False, against=[f"python={python}"] if part == "turns" else [])
    question = extraction_question(
        engine.resolved(), photos, ExtractMeasurement(batch_sizes=(), thread_counts=()), extras, Display(quiet=False)
    )
    if part == "slower":
        main, *others = question.cases
        slow = replace(main, python=str(python), identity={**main.identity, "python": python.name})
        question = replace(question, cases=[slow, *others])
    config = WindowConfig(windows=options.windows)
    measure(question, options.out / f"bench-{part}.json", config, Display(quiet=False))


def _slow_python(folder: Path, factor: float) -> Path:
    """Write what is started in place of Python."""
    script, python = folder / "slow.py", folder / f"python-{factor:g}-times"
    script.write_text(SLOW.format(factor=factor))
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}"\n')
    python.chmod(0o755)
    return python


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="folder; sample photos by default")
    parser.add_argument("--count", type=int, default=3, help="photos")
    parser.add_argument("--windows", type=int, default=18)
    parser.add_argument("--factor", type=float, default=1.1, help="how long the slow network takes")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--parts", nargs="*", default=["same-a", "same-b", "slower", "turns"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
