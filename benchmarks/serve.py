"""What does HTTP cost? `ctxdeploy serve` under load, beside the library in process and a bare FastAPI, in one run.

    python benchmarks/serve.py --photos minibench/images --archive work/minibench-pairs.ctxindex   # half an hour
    python benchmarks/serve.py --quick                                      # a minute or two, on sample photos
    python benchmarks/serve.py --only-memory --memory-requests 10000 --archive work/minibench-pairs.ctxindex

First the library says how many photos a second `PhotoIndex.search_many` answers. Then each subject is asked at 25, 50,
80 and 95 % of that, in an open loop: requests come when a seeded Poisson schedule says so, and a latency counts from
that time. The library is called on the same schedules from as many threads as the service has. The same by names of
indexed photos, which takes the search alone, so that the share of HTTP shows. Subjects take turns in every round; the
throughput with eight clients that never pause is compared with the library's before and after it. Then 100,000
requests by name (`--memory-requests`): memory after 10, 25, 50, 75 and 100 % of them.

The client runs on the same machine. Its processor time per request is written down (`client_ms`), and so is how late
it was (`client_late_ms`), which is part of every latency. `--pin` keeps it on the last processor.

clip-retrieval's back end is no subject: it installs PyTorch and CLIP, gigabytes, and answers from embeddings of a
network whose weights no package index has.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from serving.load import arrivals, closed_loop, indexed_request, open_loop, photo_request
from serving.subjects import THREADS, Library, Subject, bare, load_average, service

from ctxdeploy import IndexingConfig, PhotoIndex
from ctxdeploy.bench import photo_files, publish

LOADS = (25, 50, 80, 95)
CLIENTS = 8
# Settings that are tried beside those that a service has untold; the first is what others are compared with.
PHOTO_SERVICES = {"ctxdeploy serve": (), "ctxdeploy serve, --batch-size 4": ("--batch-size", 4)}
NAME_SERVICES = {"ctxdeploy serve": (), "ctxdeploy serve, --no-gather": ("--no-gather",)}
LIBRARY = "library"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long everything takes.

    Attributes:
        seconds: of a load, for photos and for names.
        rounds: in which the subjects take turns.
        closed: requests of a closed loop, for photos and for names.
        endless: requests after which memory is looked at for the last time.
        seed: of all schedules.
    """

    seconds: dict[str, float]
    rounds: int
    closed: dict[str, int]
    endless: int
    seed: int


def main() -> None:
    """Measure all and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photos to ask with; sample photos without it")
    parser.add_argument("--archive", type=Path, help="made of all the photos where it is not there")
    parser.add_argument("--count", type=int, default=48, help="photos to ask with, spread over the folder")
    parser.add_argument("--quick", action="store_true", help="a minute: says that all runs, and nothing of the speed")
    parser.add_argument("--share", type=float, default=1.0, help="of the times and requests; less says less")
    parser.add_argument(
        "--memory-requests", type=int, metavar="N", help="by name, while memory is looked at; 100,000 times the share"
    )
    parser.add_argument("--only-memory", action="store_true", help="ask these alone, for serve-memory.json")
    parser.add_argument("--pin", action="store_true", help="keep the client on the last processor")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="results/serve.json, or serve-memory.json")
    options = parser.parse_args()
    share = options.share
    name = "serve-memory.json" if options.only_memory else "serve.json"
    output = options.output or Path(__file__).parent / "results" / name
    plan = Plan(
        seconds={"photos": 1.5, "indexed": 1.0} if options.quick else {"photos": 30.0 * share, "indexed": 15.0 * share},
        rounds=1 if options.quick else 2,
        closed={"photos": 6, "indexed": 100}
        if options.quick
        else {"photos": int(150 * share), "indexed": int(4000 * share)},
        endless=options.memory_requests or (1000 if options.quick else int(100_000 * share)),
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        photos = photo_files(options.photos, 3 if options.quick else options.count, Path(folder))
        archive = (options.archive or Path(folder) / "photos.ctxindex").absolute()
        if not archive.exists():
            with PhotoIndex.create(archive, config=IndexingConfig(geometry="codes")) as made:
                made.add(options.photos or Path(folder))
        with PhotoIndex.open(archive) as index:
            held = index.names()
        names = [held[i * len(held) // min(len(held), 500)] for i in range(min(len(held), 500))]
        if options.only_memory:
            result = {"endless": _endless(archive, [indexed_request(name) for name in names], plan.endless)}
            publish({"archive_photos": len(held), **result}, output, _memory_lines(result))
            return
        result = measure(archive, photos, names, plan, pin=options.pin)
    if options.quick:
        print("a quick run: its figures mean nothing")
    publish({"archive_photos": len(held), "share": share, **result}, output, lines(result), plot(result))


def measure(archive: Path, photos: list[Path], names: list[str], plan: Plan, *, pin: bool) -> dict[str, Any]:
    """Return all figures of a run."""
    requests = {
        "photos": [photo_request(photo.read_bytes()) for photo in photos],
        "indexed": [indexed_request(name) for name in names],
    }
    result: dict[str, Any] = {"loads_percent": LOADS, "threads": THREADS, "clients": CLIENTS, "pinned": pin}
    with Library(archive, photos, names) as library:
        if pin:  # after what starts processes of its own; services inherit it and are freed below
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        for kind, settings in (("photos", PHOTO_SERVICES), ("indexed", NAME_SERVICES)):
            result[kind] = _compared(archive, kind, settings, library, requests[kind], plan)
    result["endless"] = _endless(archive, requests["indexed"], plan.endless)
    result["load_average_at_the_end"] = load_average()
    return result


def _compared(
    archive: Path,
    kind: str,
    settings: dict[str, tuple[object, ...]],
    library: Library,
    requests: Sequence[bytes],
    plan: Plan,
) -> dict[str, Any]:
    """Return the figures of the library and of all subjects for one kind of requests."""
    with ExitStack() as opened:
        subjects: list[Subject] = []
        for name, flags in settings.items():
            subjects.append(opened.enter_context(service(archive, *flags, name=name)))
        subjects.append(opened.enter_context(bare(archive)))
        for subject in subjects:
            _free(subject)
            closed_loop(subject.port, requests, len(requests), 2)  # meets every shape
        throughput, capacity = _throughput(kind, library, subjects, requests, plan)
        _say(f"{kind}: the library answers {capacity:.1f} a second")
        found: dict[str, Any] = {"capacity_per_second": capacity, "throughput": throughput, "loads": {}}
        for percent in LOADS:
            rate = capacity * percent / 100
            count = max(4, round(rate * plan.seconds[kind]))
            runs: dict[str, list[dict[str, Any]]] = {}
            for turn in range(plan.rounds):
                schedule = (rate, count, plan.seed + 100 * percent + turn)
                for name in _order([LIBRARY, *(subject.name for subject in subjects)], turn):
                    if name == LIBRARY:
                        outcome = library.scheduled(kind, *schedule)
                    else:
                        port = next(subject.port for subject in subjects if subject.name == name)
                        outcome = open_loop(port, requests, arrivals(*schedule))
                    runs.setdefault(name, []).append(outcome.figures())
                    _say(f"{kind} at {percent} %: {name} {runs[name][-1]}")
            found["loads"][str(percent)] = runs
    return found


def _throughput(
    kind: str, library: Library, subjects: Sequence[Subject], requests: Sequence[bytes], plan: Plan
) -> tuple[dict[str, Any], float]:
    """Return requests a second without pauses, beside the library's around them, and the library's median."""
    count = plan.closed[kind]
    library.many(kind, count)
    of_library, of_subjects = [count / library.many(kind, count)], dict[str, list[dict[str, float]]]()
    for _ in range(plan.rounds):
        for subject in subjects:
            outcome = closed_loop(subject.port, requests, count, CLIENTS)
            of_library.append(count / library.many(kind, count))
            rate = len(outcome.latencies) / outcome.wall
            row = {"per_second": rate, "of_library": rate / (sum(of_library[-2:]) / 2)}
            of_subjects.setdefault(subject.name, []).append({**row, "client_ms": outcome.figures()["client_ms"]})
            _say(f"{kind}: {subject.name} {rate:.1f} a second, the library around it {of_library[-2:]}")
    return {LIBRARY: of_library, **of_subjects}, median(of_library)


def _endless(archive: Path, requests: Sequence[bytes], count: int) -> dict[str, Any]:
    """Return memory while very many requests are answered."""
    with service(archive) as subject:
        closed_loop(subject.port, requests, len(requests), CLIENTS)
        found, done, seconds, refused = {"0": subject.memory()}, 0, 0.0, dict[str, int]()
        for percent in (10, 25, 50, 75, 100):
            part = count * percent // 100 - done
            outcome = closed_loop(subject.port, requests, part, CLIENTS)
            done, seconds = done + part, seconds + outcome.wall
            for status, times in outcome.refused.items():
                refused[status] = refused.get(status, 0) + times
            found[str(percent)] = subject.memory()
            _say(f"after {done:,} requests: {found[str(percent)]}")
    return {"requests": count, "memory": found, "refused": refused, "per_second": count / seconds}


def _order(names: list[str], turn: int) -> list[str]:
    """Return who is asked after whom: forwards, backwards."""
    return names if turn % 2 == 0 else names[::-1]


def _free(subject: Subject) -> None:
    """Let a service that was started by a pinned client run on every processor."""
    os.sched_setaffinity(subject.process.pid, set(range(os.cpu_count() or 1)))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def lines(result: dict[str, Any]) -> list[str]:
    """Return what was found, for people."""
    found = []
    for kind in ("photos", "indexed"):
        of = result[kind]
        found.append(f"{kind}: the library answers {of['capacity_per_second']:.1f} a second")
        for name, rows in of["throughput"].items():
            if name != LIBRARY:
                found.append(f"  {name}: {median(row['of_library'] for row in rows):.3f} of that, without pauses")
        for percent, runs in of["loads"].items():
            for name, rows in runs.items():
                shown = ", ".join(f"{at} {_middle(rows, 'ms', at)}" for at in ("p50", "p99"))
                found.append(f"  at {percent} %: {name} {shown} ms")
    return [*found, *_memory_lines(result)]


def _memory_lines(result: dict[str, Any]) -> list[str]:
    of = result["endless"]
    memory = {percent: row["own_mb"] for percent, row in of["memory"].items()}
    rate = f"{of['per_second']:.1f} a second"
    return [f"{of['requests']:,} requests, {rate}: MB of memory by percent {memory}; refused {of['refused']}"]


def _middle(rows: list[dict[str, Any]], word: str, at: str) -> float | None:
    values = [row[word][at] for row in rows if word in row and row[word][at] is not None]
    return round(median(values), 1) if values else None


def plot(result: dict[str, Any]) -> Callable[[Any], None]:
    """Return what draws latencies against the load."""

    def draw(axes: Any) -> None:
        runs = result["photos"]["loads"]
        for number, name in enumerate(next(iter(runs.values()))):
            for at, style in (("p50", "-"), ("p99", ":")):
                values = [_middle(runs[percent][name], "ms", at) for percent in runs]
                label = name if at == "p50" else None
                axes.plot(
                    [int(percent) for percent in runs], values, style, color=f"C{number}", label=label, marker="."
                )
        axes.set_yscale("log")
        axes.set_xlabel("load, % of what the library answers; line: median, dots: p99")
        axes.set_ylabel("ms from photo to answer")
        axes.legend(fontsize=7)

    return draw


if __name__ == "__main__":
    main()
