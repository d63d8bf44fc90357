"""What does a cluster cost? Workers through Ray beside processes without it, memory over time, and very many names.

    python benchmarks/cluster.py rate --photos 1200 --rounds 1       # two minutes; the whole: rate
    python benchmarks/cluster.py memory --photos 2000                # two minutes; the whole: memory
    python benchmarks/cluster.py ledger --names 100000 1000000       # a minute; the whole: ledger

- `rate`: the same lists of small views are extracted by n workers of a Ray cluster of this machine, and by n processes
  that know nothing of Ray, in turns. Both are the same code (`SegmentWorker`). A worker's photos count from the end of
  its first list, when its network is loaded, to the end of its last one; the rates of the workers are added up.
- `memory`: `ctxdeploy index --cluster local` with very small photos. Memory of the driver (anonymous pages in RAM) and
  of the object store (what of it is in use), once a second: the means of the second tenth of the photos and of the
  last, which should be the same, and the most while the segments are published.
- `ledger`: so many names are planned, cut into lists, given out and counted, by the driver's own code; no photo is
  there, and Ray is played: each list is done at once. And segments of one photo each are published.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
from cluster_kills import write_photos
from indexing import children, resident, small_bundle

from ctxdeploy.bench import publish
from ctxdeploy.cluster.config import ClusterConfig, SegmentConfig
from ctxdeploy.cluster.lists import MAX_LISTS, NameList, cut_lists, name_lists
from ctxdeploy.cluster.ray_pool import RayPool
from ctxdeploy.cluster.worker import Reply, SegmentWorker, WorkerSpec
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Codebook, Index, write_segment
from ctxdeploy.indexing.plan import make_plan
from ctxdeploy.runtime import BackendConfig, ExtractorConfig, find_photos
from ctxdeploy.runtime.sources import FolderPhotos, NameTable, PhotoList, RemoteConfig, Selection

LONGEST = 160
QUIET = Display(quiet=True)
DONE = (0, 19)


def prepare(options: argparse.Namespace) -> tuple[Path, Path]:
    """Return the photos and an archive of some of them, which gives the codebook; made unless they are there."""
    work = options.work
    photos, bundle = work / f"photos-{options.photos}", small_bundle(work / "small.ctxbundle", LONGEST)
    write_photos(photos, work / "sources", options.photos)
    archive = work / "settings.ctxindex"
    if not archive.exists():
        few = work / "few"
        few.mkdir(exist_ok=True)
        for path in sorted(photos.rglob("view_*.jpg"))[:100]:
            shutil.copyfile(path, few / path.name)
        command = [sys.executable, "-m", "ctxdeploy", "index", few, "-o", archive, "--model", bundle.path]
        subprocess.run([*map(str, command), "--words", "1024", "-q"], check=True)
    return photos, archive


def spec_of(photos: Path, archive: Path, parts: Path) -> WorkerSpec:
    """Return what a worker with one processor needs to know."""
    return WorkerSpec(
        place=str(photos),
        folder=photos,
        recursive=True,
        selection=Selection(),
        remote=RemoteConfig(),
        backend=BackendConfig(threads=1),
        extraction=ExtractorConfig(workers=1),
        parts=parts,
        model=archive / "model",
        segment=SegmentConfig(codebook=archive),
    )


def lists_of(photos: Path, size: int) -> list[NameList]:
    """Return the lists of the photos."""
    return cut_lists([photo.name for photo in find_photos(photos)], size)


def through_ray(options: argparse.Namespace, photos: Path, archive: Path, parts: Path) -> dict[str, list[Any]]:
    """Extract with workers of a cluster; return for each worker when it finished how many photos."""
    found: dict[str, list[Any]] = {}
    config = ClusterConfig(address="local", worker_cpus=1)
    pool = RayPool(config, spec_of(photos, archive, parts), QUIET)
    try:
        for reply in pool.run(lists_of(photos, options.list_size)):
            found.setdefault(reply.worker, []).append((time.monotonic(), receipt_photos(reply)))
    finally:
        pool.close()
    return found


def receipt_photos(reply: Reply) -> int:
    """Return how many photos a reply is about."""
    if reply.receipt is None:
        raise SystemExit(reply.text)
    return reply.receipt.photos


def without_ray(options: argparse.Namespace, photos: Path, archive: Path, parts: Path) -> dict[str, list[Any]]:
    """As ``through_ray``, with processes that each have every n-th list."""
    processes = []
    for number in range(options.workers):
        command = [sys.executable, __file__, "worker", photos, archive, parts, options.list_size]
        command += [number, options.workers]
        processes.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True))
    found = {}
    for number, process in enumerate(processes):
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"process {number} ended with {process.returncode}")
        found[str(number)] = [tuple(json.loads(line)) for line in out.splitlines()]
    return found


def worker(options: argparse.Namespace) -> None:
    """Be one of the processes: the clock is the machine's."""
    photos, archive, parts = (Path(path) for path in options.paths[:3])
    size, number, count = map(int, options.paths[3:])
    worker = SegmentWorker(spec_of(photos, archive, parts))
    for names in lists_of(photos, size)[number::count]:
        reply = worker.make(names)
        print(json.dumps([time.monotonic(), receipt_photos(reply)]), flush=True)


def rate_of(found: dict[str, list[Any]]) -> float:
    """Return photos a second of all workers, each from the end of its first list on."""
    rates = 0.0
    for times in found.values():
        if len(times) > 1:
            rates += sum(photos for _, photos in times[1:]) / (times[-1][0] - times[0][0])
    return rates


def rate(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Measure workers of a cluster beside processes."""
    options.workers = options.workers or os.cpu_count() or 1
    photos, archive = prepare(options)
    rates: dict[str, list[float]] = {"ray": [], "processes": []}
    ways = {"ray": through_ray, "processes": without_ray}
    for turn in range(options.rounds):
        for way in list(ways) if turn % 2 else list(ways)[::-1]:
            parts = options.work / "parts"
            shutil.rmtree(parts, ignore_errors=True)
            rates[way].append(rate_of(ways[way](options, photos, archive, parts)))
            shutil.rmtree(parts)
    ratios = [ray / plain for ray, plain in zip(rates["ray"], rates["processes"], strict=True)]
    ratio = float(np.median(ratios))
    result = {
        "photos": options.photos,
        "list_size": options.list_size,
        "workers": options.workers,
        "photos_per_second": rates,
        "ratios": ratios,
        "ratio": ratio,
        "goal": 0.97,
    }
    line = f"{options.workers} workers through Ray: {ratio:.3f} of the photos a second of as many processes (goal 0.97)"
    return result, [f"{line}; rounds: {', '.join(f'{one:.3f}' for one in ratios)}"]


def memory(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Follow the memory of a driver and of its object store."""
    photos, settings = prepare(options)
    archive = options.work / "memory.ctxindex"
    for path in options.work.glob("memory.ctxindex*"):
        shutil.rmtree(path)
    command = [sys.executable, "-m", "ctxdeploy", "index", photos, "-o", archive, "--model", settings / "model"]
    flags = ["--codebook", settings / "codebook.safetensors", "--cluster", "local", "--worker-cpus", 1, "--json"]
    flags += ["--list-size", options.list_size]
    start = time.monotonic()
    process = subprocess.Popen(
        list(map(str, [*command, *flags])), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    samples = _followed(process)
    if process.returncode not in DONE:
        raise SystemExit(f"it ended with {process.returncode}")
    result = {"photos": options.photos, "list_size": options.list_size, "seconds": time.monotonic() - start}
    growth = _growth(samples)
    lines = [
        f"{key}: {of['after_first_tenth']:.1f} after the first tenth, {of['last_tenth']:.1f} in the last tenth, "
        f"{of['publishing']:.1f} at most while it publishes"
        for key, of in growth.items()
    ]
    step = max(1, len(samples) // 200)
    return {**result, **growth, "samples": samples[::step]}, [f"{line}; the limit is no growth" for line in lines]


def _growth(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return means of the second tenth of the photos and of the last, and the peak when all are extracted."""
    total, found = samples[-1]["done"], {}
    for key in ("driver_mb", "store_mb"):
        early = [one[key] for one in samples if 0.1 * total < one["done"] <= 0.2 * total]
        late = [one[key] for one in samples if 0.9 * total < one["done"] < total]
        publishing = [one[key] for one in samples if one["done"] == total]
        found[key] = {
            "after_first_tenth": float(np.mean(early)),
            "last_tenth": float(np.mean(late)),
            "publishing": max(publishing),
        }
    return found


def _followed(process: "subprocess.Popen[str]") -> list[dict[str, float]]:
    done, samples, raylet = [0], list[dict[str, float]](), 0

    def follow() -> None:
        for line in process.stderr or ():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("task") == "indexing":
                done[0] = event["done"]

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    while process.poll() is None:
        raylet = raylet or next((child for child in children(process.pid) if _name(child) == "raylet"), 0)
        if done[0]:
            store = _shared(raylet) / 1e6
            samples.append({"done": done[0], "driver_mb": resident(process.pid) / 1e6, "store_mb": store})
        time.sleep(1)
    reader.join()
    process.communicate()
    return samples


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


def _shared(process: int) -> int:
    """Return the bytes of shared memory that a process has touched, which is where a raylet keeps objects."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssShmem"))


def ledger(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Measure each number of names in a process of its own."""
    sizes, lines = {}, []
    for count in options.names:
        command = [sys.executable, __file__, "names", str(count), str(options.list_size)]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        steps = sizes[str(count)] = json.loads(out)
        text = ", ".join(f"{name} {of['seconds']:.1f} s" for name, of in steps.items())
        lines.append(f"{count:,} names: {text}; peak {steps['give out']['peak_mb']:,.0f} MB")
    command = [sys.executable, __file__, "segments", str(options.segments), "--work", str(options.work)]
    published = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    each = {key: published[key] / options.segments for key in ("seconds", "maps")}
    text = f"{1e3 * each['seconds']:.1f} ms and {each['maps']:.1f} maps each"
    most = f"of 65,530 maps {MAX_LISTS:,} segments take {each['maps'] * MAX_LISTS:,.0f}"
    lines.append(f"publishing {options.segments:,} segments: {text}; {most}")
    return {"list_size": options.list_size, "names": sizes, "segments": {"count": options.segments, **published}}, lines


def names(options: argparse.Namespace) -> None:
    """Be the process that plans, cuts and gives out so many names."""
    count, size = map(int, options.paths)
    steps: dict[str, dict[str, float]] = {}
    clock = [time.monotonic()]

    def note(step: str) -> None:
        now = time.monotonic()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        steps[step] = {"seconds": now - clock[0], "mb": resident(os.getpid()) / 1e6, "peak_mb": peak}
        clock[0] = now

    note("start")
    photos = PhotoList(place="/nowhere", photos=FolderPhotos("/nowhere", NameTable(_names(count))))
    note("list")
    plan = make_plan(None, photos)
    note("plan")
    for _ in name_lists(photos, plan, size):
        pass
    note("cut")
    sys.modules["ray"] = _PlayedRay()  # type: ignore[assignment]
    pool = RayPool(ClusterConfig(address="auto", worker_cpus=1), SimpleNamespace(), QUIET)  # type: ignore[arg-type]
    replies = sum(1 for _ in pool.run(name_lists(photos, plan, size)))
    note("give out")
    if replies != min(max(-(-count // size), 1), MAX_LISTS):  # lists are longer where there would be more
        raise SystemExit(f"{replies} replies")
    print(json.dumps(steps))


def segments(options: argparse.Namespace) -> None:
    """Be the process that publishes so many segments of one photo each."""
    count, chance = int(options.paths[0]), np.random.default_rng(0)
    with TemporaryDirectory(dir=options.work) as folder:
        paths = [Path(folder, f"{number}.ctxsegment") for number in range(count)]
        codebook = Codebook.from_centroids(chance.standard_normal((64, 32)).astype(np.float32))
        for path in paths:
            with Index.create(Path(folder, "work"), codebook) as index:
                index.add(path.name, chance.standard_normal((20, 32)).astype(np.float32))
                index.commit()
                write_segment(index.state, index.path, path, path.name, {})
            shutil.rmtree(Path(folder, "work"))
        with Index.create(Path(folder, "archive"), codebook) as index:
            maps, start = _maps(), time.monotonic()
            index.publish(paths)
            seconds = time.monotonic() - start
            print(json.dumps({"seconds": seconds, "maps": _maps() - maps, "mb": resident(os.getpid()) / 1e6}))


def _maps() -> int:
    return Path("/proc/self/maps").read_text().count("\n")


def _names(count: int) -> Iterator[str]:
    """Yield names of 23 letters."""
    for number in range(count):
        yield f"{number // 10_000:05d}/IMG_{number:09d}.jpg"


class _PlayedRay:
    """A cluster of 1,000 workers, which do a list at once."""

    exceptions = SimpleNamespace(RayError=OSError, RayTaskError=OSError)

    def __init__(self) -> None:
        self._replies: dict[int, Any] = {}
        self._count = 0

    def init(self, **_: Any) -> None:
        """Join."""

    def put(self, value: Any) -> Any:
        return value

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1000.0}}]

    def remote(self, **_: Any) -> Any:
        from ctxdeploy import __version__

        version = SimpleNamespace(remote=lambda: self._task(("here", __version__)))
        make = SimpleNamespace(remote=lambda names, is_repeat: self._task(Reply(part=names.part, described=0)))
        return lambda _: SimpleNamespace(remote=lambda _: SimpleNamespace(version=version, make=make))

    def _task(self, reply: Any) -> int:
        self._count += 1
        self._replies[self._count] = reply
        return self._count

    def wait(self, tasks: list[int], timeout: float) -> tuple[list[int], list[int]]:
        return tasks[:1], tasks[1:]

    def get(self, task: int) -> Any:
        return self._replies.pop(task)


MEASUREMENTS = {"rate": rate, "memory": memory, "ledger": ledger}
CHILDREN = {"worker": worker, "names": names, "segments": segments}


def main() -> None:
    """Read the options, measure, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=[*MEASUREMENTS, *CHILDREN])
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--photos", type=int, help="6,000 of rate, 20,000 of memory")
    parser.add_argument("--list-size", type=int, help="50 of rate, 100 of memory, 2,000 of ledger")
    parser.add_argument("--workers", type=int, help="of rate; the default is one for each processor")
    parser.add_argument("--rounds", type=int, default=5, help="of rate")
    parser.add_argument("--names", type=int, nargs="+", default=[10**5, 10**6, 10**7, 10**8], help="of ledger")
    parser.add_argument("--segments", type=int, default=1000, help="of ledger")
    here = Path(__file__).parent
    parser.add_argument("--work", type=Path, default=here / "work" / "cluster")
    parser.add_argument("-o", "--output", type=Path, help="the default is results/cluster_MEASUREMENT.json")
    options = parser.parse_args()
    name = options.measurement
    options.work.mkdir(parents=True, exist_ok=True)
    if name in CHILDREN:
        CHILDREN[name](options)
        return
    options.photos = options.photos or {"rate": 6000, "memory": 20_000}.get(name)
    options.list_size = options.list_size or {"rate": 50, "memory": 100, "ledger": 2000}[name]
    result, lines = MEASUREMENTS[name](options)
    publish(result, options.output or here / "results" / f"cluster_{name}.json", lines)


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    main()
