"""Does an archive that many workers make, of which everything is killed, equal that of one machine?

    python benchmarks/cluster_kills.py --count 300 --kills 12      # two minutes
    nice -n 10 python benchmarks/cluster_kills.py                  # the whole: 10,000 views, 36 and 36 kills

Views of sample photos, made by rule, and some files that cannot be read are indexed by one machine, and

- `ray`: by a Ray cluster of four nodes on this machine. Workers, nodes (a raylet with all that it started), drivers and
  the whole cluster are killed at random moments, seeded, when there is something to lose;
- `parts`: by `ctxdeploy extract --part` in processes that are killed at random moments, and `ctxdeploy publish`.

Then: the same names, failures and answers (every score of every photo for a hundred queries), the same bytes after
`ctxdeploy compact --by-name`, nothing left behind. The suite runs the same code with a dozen photos.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from indexing import small_bundle
from PIL import Image

from ctxdeploy.bench import publish
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.files import write_file
from ctxdeploy.core.samples import NAMES, sample_photo
from ctxdeploy.index import Index
from ctxdeploy.runtime import Extractor

ROOT = Path(__file__).parents[1]
NODES = ROOT / "tests" / "cluster" / "children" / "nodes.py"
LONGEST, UNREADABLE = 160, 60
# Exit codes of a run that is done: all photos, or all but those that cannot be read.
DONE = (0, 19)


def write_photos(folder: Path, sources: Path, count: int) -> None:
    """Write so many views of the sample photos, and files that cannot be read, unless they are there."""
    from indexing import write_views

    sources.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        if not (sources / f"{name}.png").exists():
            Image.fromarray(sample_photo(name)).save(sources / f"{name}.png")
    write_views(folder, sorted(sources.glob("*.png")), [LONGEST] * count)
    view = (folder / "00" / "view_000000.jpg").read_bytes()
    for number in range(min(UNREADABLE, count // 100)):  # cut, empty, not a photo
        content = (view[: len(view) // 2], b"", b"not a photo")[number % 3]
        path = folder / f"{number % 100:02d}" / f"bad_{number:04d}.jpg"
        if not path.exists():
            write_file(path, [content])


def run(command: str, *arguments: object) -> dict[str, Any]:
    """Run a command that ends well; return its seconds."""
    start = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "ctxdeploy", command, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if process.returncode not in DONE:
        raise SystemExit(process.stderr)
    return {"seconds": round(time.monotonic() - start, 1)}


def on_ray(options: argparse.Namespace, photos: Path, archive: Path, flags: list[object]) -> dict[str, Any]:
    """Index on a cluster whose parts are killed."""
    command: list[object] = [sys.executable, "-W", "ignore", NODES, "disturb", photos, archive]
    limits = ["--kills", options.kills, "--all", 2, "--nodes", options.nodes, "--seed", options.seed]
    times = ["--pause", options.pause, "--patience", 7200]
    more = ["--", *flags, "--list-size", options.list_size, "--max-failures", "20%"]
    done = subprocess.run(
        list(map(str, [*command, *limits, *times, *more])), stdout=subprocess.PIPE, text=True, check=True
    )
    counts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"nodes": options.nodes, **counts}


def by_parts(options: argparse.Namespace, photos: Path, archive: Path, flags: list[object]) -> dict[str, Any]:
    """Extract parts in processes that are killed, and publish them."""
    chance, folder = random.Random(options.seed), archive.with_name("parts")
    todo, killed, start = list(range(1, options.parts + 1)), 0, time.monotonic()
    running: dict[int, subprocess.Popen[bytes]] = {}
    while todo or running:
        while todo and len(running) < options.processes:
            part = todo.pop(0)
            command = [sys.executable, "-m", "ctxdeploy", "extract", photos, "-o", folder, *flags, "-q"]
            command += ["--part", f"{part}/{options.parts}", "--commit-seconds", "0.5"]
            running[part] = subprocess.Popen(list(map(str, command)))
        time.sleep(chance.uniform(0.5, 2.0) if killed < options.kills else 0.2)
        if killed < options.kills and running:
            part = chance.choice(sorted(running))
            if running[part].poll() is None:
                running[part].send_signal(signal.SIGKILL)
                killed += 1
        for part, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[part]
            if process.returncode == -signal.SIGKILL:
                todo.append(part)
            elif process.returncode:
                raise SystemExit(f"part {part} ended with {process.returncode}")
    left = [path.name for path in folder.glob(".work-*")]
    run("publish", archive, folder, "-q")
    segments = len(list(folder.glob("*.ctxsegment")))
    shutil.rmtree(folder)
    seconds = round(time.monotonic() - start, 1)
    return {
        "parts": options.parts,
        "segments": segments,
        "killed": {"process": killed},
        "left": left,
        "seconds": seconds,
    }


def compared(whole: Path, many: Path, bundle: Bundle, queries: list[Path]) -> dict[str, bool]:
    """Compare an archive with that of one machine."""
    extractor = Extractor(bundle)
    with Index.open(whole) as one, Index.open(many) as other:
        names = [list(index.names()) for index in (one, other)]
        failures = [sorted((f["name"], f["reason"], f["stage"]) for f in index.failures()) for index in (one, other)]
        answers = True
        for query in queries:
            descriptors = extractor.extract_one(query)
            found = [
                {hit.name: hit.score for hit in index.search(descriptors, len(names[0]))} for index in (one, other)
            ]
            answers = answers and found[0] == found[1]
    for archive in (whole, many):
        run("compact", archive, "--by-name", "-q")
        with Index.open(archive, writable=True) as index:
            index.collect_garbage()
            sound = not index.verify()
    return {
        "nothing_lost_nothing_twice": sorted(names[0]) == sorted(names[1]) and not _doubled(names[1]),
        "failures": failures[0] == failures[1],
        "answers": answers,
        "sound": sound,
        "bytes_after_compaction": content(whole) == content(many),
        "nothing_left_behind": not list(many.parent.glob(f"{many.name}.parts")),
    }


def _doubled(names: list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def content(archive: Path) -> dict[str, str]:
    """Return the hash of every file that archives of the same photos have in common."""
    files = [*archive.glob("shards/*"), *archive.glob("names/*"), archive / "codebook.safetensors"]
    return {str(path.relative_to(archive)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> None:
    """Read the options, index, compare, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="photos")
    parser.add_argument("--kills", type=int, default=36, help="of each way")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--list-size", type=int, default=100)
    parser.add_argument("--parts", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2, help="of ctxdeploy extract at a time")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds at most from something to lose to a kill")
    parser.add_argument("--words", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=("ray", "parts"), default=["ray", "parts"])
    here = Path(__file__).parent
    parser.add_argument("--work", type=Path, default=here / "work" / "cluster_kills")
    parser.add_argument("-o", "--output", type=Path, default=here / "results" / "cluster_kills.json")
    options = parser.parse_args()
    work = options.work
    photos, bundle = work / f"photos-{options.count}", small_bundle(work / "small.ctxbundle", LONGEST)
    write_photos(photos, work / "sources", options.count)
    whole = work / "whole.ctxindex"
    for path in work.glob("*.ctxindex*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    training = ["--training-photos", 2000, "--words", options.words]
    undisturbed = run("index", photos, "-o", whole, "--model", bundle.path, *training, "-q")
    queries = sorted(photos.glob("*/view_*.jpg"))[:: max(1, options.count // 100)][:100]
    result: dict[str, Any] = {"photos": options.count, "one_machine": undisturbed, "seed": options.seed}
    lines, is_equal = [], True
    for way in options.ways:
        archive = work / f"{way}.ctxindex"
        one = Path(shutil.copytree(whole, work / "one.ctxindex", dirs_exist_ok=False))
        if way == "ray":
            counts = on_ray(options, photos, archive, ["--model", bundle.path, *training])
        else:
            counts = by_parts(options, photos, archive, ["--codebook", whole])
        equal = compared(one, archive, bundle, queries)
        shutil.rmtree(one)
        result[way] = {**counts, "equal": equal}
        is_equal = is_equal and all(equal.values())
        kills = sum(counts["killed"].values())
        lines += [f"{way}: {kills} kills {counts['killed']} in {counts['seconds']:.0f} s; no limit was measured"]
        lines += [f"  {name}: {'as one machine' if same else 'DIFFERENT'}" for name, same in equal.items()]
    if not is_equal:
        raise SystemExit("\n".join(lines))
    publish(result, options.output, lines)


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    main()
