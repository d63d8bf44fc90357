"""An indexing that is killed every few seconds: does it end with the archive of an undisturbed run?

Views of photos are indexed by ``ctxdeploy index`` once in peace, and once while the process (or one of the workers that
decode for it) gets SIGKILL at random moments; it is started again until it says that it is done. Then: the same names,
the same failures, the same answers to queries (every score of every photo), the same bytes after ``ctxdeploy compact``,
no process and no spool left behind.

    python benchmarks/kills.py --photos minibench/images trainphotos --count 10000
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bulk import children, is_alive, kill, small_bundle, start_index, waited, write_views
from common import provenance, publish

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.index import Index
from ctxdeploy.runtime import Extractor, find_photos

OPTIONS = ("--json", "-q", "--commit-seconds", "1", "--training-photos", "2000", "--words", "1024")


def main() -> None:
    """Make the photos, run, compare, write."""
    arguments = _arguments()
    folder = arguments.work / "photos"
    sources = [photo.path for place in arguments.photos for photo in find_photos(place) if photo.path]
    count = write_views(folder, sources, [arguments.size] * arguments.count)
    for number in range(arguments.bad):  # cut, empty, no photo
        whole = (folder / "00" / "view_000000.jpg").read_bytes()
        content = (whole[: len(whole) // 2], b"", b"no photo")[number % 3]
        (folder / f"{number % 100:02d}" / f"bad_{number:04d}.jpg").write_bytes(content)
    bundle = small_bundle(arguments.work / "small.ctxbundle", arguments.size, 100)
    calm, shaken = arguments.work / "calm.ctxindex", arguments.work / "shaken.ctxindex"
    for archive in (calm, shaken):
        for path in (archive, archive.with_name(f"{archive.name}.training")):
            shutil.rmtree(path, ignore_errors=True)
    peace = _in_peace(folder, calm, bundle)
    trouble = _in_trouble(folder, shaken, bundle, random.Random(arguments.seed), arguments.between)
    equal = _compare(calm, shaken, bundle, sorted(folder.glob("*/view_*.jpg"))[:: max(1, count // 100)][:100])
    record = {"photos": count, "unreadable": arguments.bad, "undisturbed": peace, "killed": trouble, "equal": equal}
    publish({**record, **provenance()}, arguments.out, lambda result, path: None)
    if not all(equal.values()):
        raise SystemExit("the archives differ")


def _in_peace(folder: Path, archive: Path, bundle: Bundle) -> dict[str, Any]:
    start = time.monotonic()
    process = start_index(folder, archive, "--model", bundle.path, *OPTIONS)
    out, err = process.communicate()
    if process.returncode not in (0, 19):
        raise SystemExit(err)
    report = json.loads(out)
    counts = {key: report[key] for key in ("found", "indexed", "failed", "stages")}
    return {"seconds": time.monotonic() - start, **counts}


def _in_trouble(
    folder: Path, archive: Path, bundle: Bundle, chance: random.Random, between: tuple[float, float]
) -> dict[str, Any]:
    start = time.monotonic()
    runs = kills = worker_kills = orphans = 0
    code = None
    while code not in (0, 19):
        process = start_index(folder, archive, "--model", bundle.path, *OPTIONS)
        runs += 1
        known: set[int] = set()
        end = time.monotonic() + chance.uniform(*between)
        strike = time.monotonic() + chance.uniform(*between) / 2 if chance.random() < 0.5 else float("inf")
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
            known.update(children(process.pid))
            if time.monotonic() > strike and known:
                kill(chance.choice(sorted(known)))
                worker_kills += 1
                strike = float("inf")
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
        code = process.returncode
        if not waited(lambda known=known: not any(map(is_alive, known)), 5):
            orphans += sum(map(is_alive, known))
        if code not in (0, 19, -9):
            raise SystemExit(f"the run ended with {code}")
        print(f"run {runs}: {code}", file=sys.stderr)
    figures = {"runs": runs, "kills": kills, "worker_kills": worker_kills, "orphans": orphans}
    return {"seconds": time.monotonic() - start, **figures}


def _compare(calm: Path, shaken: Path, bundle: Bundle, queries: list[Path]) -> dict[str, bool]:
    extractor = Extractor(bundle)
    with Index.open(calm) as one, Index.open(shaken) as other:
        names = list(one.names()), list(other.names())
        failures = [
            [{k: f[k] for k in ("name", "reason", "stage")} for f in index.failures()] for index in (one, other)
        ]
        answers = True
        for query in queries:
            descriptors = extractor.extract_one(query)
            found = [{h.name: h.score for h in index.search(descriptors, len(names[0]))} for index in (one, other)]
            answers = answers and found[0] == found[1]
        sound = not one.verify() and not other.verify()
    for archive in (calm, shaken):
        subprocess.run([sys.executable, "-m", "ctxdeploy.cli.main", "compact", str(archive), "-q"], check=True)
        with Index.open(archive, writable=True) as index:
            index.collect_garbage()
    return {
        "names": sorted(names[0]) == sorted(names[1]) and len(names[1]) == len(set(names[1])),
        "failures": sorted(failures[0], key=str) == sorted(failures[1], key=str),
        "answers": answers,
        "sound": sound,
        "bytes_after_compaction": _content(calm) == _content(shaken),
        "no_spool_left": not shaken.with_name(f"{shaken.name}.training").exists(),
    }


def _content(archive: Path) -> dict[str, str]:
    files = [*archive.glob("shards/*"), *archive.glob("names/*"), archive / "codebook.safetensors"]
    return {str(path.relative_to(archive)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--bad", type=int, default=60, help="files that cannot be read")
    parser.add_argument("--size", type=int, default=160, help="longest side")
    parser.add_argument("--between", type=float, nargs=2, default=(4.0, 12.0), help="seconds from start to kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "kills")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kills.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
