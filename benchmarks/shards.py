"""What does search over shards cost? A front and 1, 2, 4 and 8 shard servers, beside one service that has all.

    python benchmarks/shards.py                                    # a quarter of an hour: 65,536 synthetic photos
    python benchmarks/shards.py --photos 800 --queries 20 --quick  # a minute or two: its figures mean nothing
    python benchmarks/shards.py --archive photos.ctxindex          # of at least as many shards as servers

Everything runs on this machine: what servers win that have machines of their own is not measured, and what a search
costs besides is (`added_ms`). Queries are photos of the archive, by name, so that no network runs. Answers are compared
with those of the one service, to the last bit. Bytes are those of messages, as the front counts them.
"""

import argparse
import json
import re
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from serving.load import closed_loop, indexed_request
from serving.subjects import Subject, load_average, service

from ctxdeploy import PhotoIndex
from ctxdeploy.bench import WORDS, build_archive, publish
from ctxdeploy.core.progress import Display

SERVERS = (1, 2, 4, 8)
CLIENTS = 8
# Of which answers are compared in full.
COMPARED = 20


def main() -> None:
    """Measure all and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, help="that is searched; one of synthetic photos without it")
    parser.add_argument("--photos", type=int, default=65_536, help="of the synthetic archive")
    parser.add_argument("--descriptors", type=int, default=1000, help="of a synthetic photo")
    parser.add_argument("--queries", type=int, default=200, help="photos to ask with")
    parser.add_argument("--count", type=int, default=1000, help="requests of each measurement")
    parser.add_argument("--servers", type=int, nargs="+", default=SERVERS)
    parser.add_argument("--quick", action="store_true", help="few requests: the figures mean nothing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "shards.json")
    options = parser.parse_args()
    count = 2 * options.queries if options.quick else options.count
    with tempfile.TemporaryDirectory() as folder:
        archive = options.archive
        if archive is None:
            archive = Path(folder) / "archive.ctxindex"
            shards = max(*options.servers, 2)
            sizes = [options.photos * (number + 1) // shards for number in range(shards)]
            words = WORDS if options.photos > 10_000 else 4096
            build_archive(archive, sizes, options.descriptors, words, options.seed, Display(quiet=False))
        with PhotoIndex.open(archive) as index:
            held = index.names()
        names = [held[i * len(held) // options.queries] for i in range(options.queries)]
        result = measure(archive.absolute(), names, options.servers, count)
    result = {"archive_photos": len(held), "requests": count, **result, "load_average_at_the_end": load_average()}
    publish(result, options.output, lines(result))


def measure(archive: Path, names: Sequence[str], servers: Sequence[int], count: int) -> dict[str, Any]:
    """Return the figures of one service and of each number of servers."""
    with service(archive, name="one service") as whole:
        wanted = [answer(whole, name) for name in names[:COMPARED]]
        alone = figures(whole, names, count)
    found: dict[str, Any] = {"clients": CLIENTS, "whole": alone, "fronts": {}}
    for number in servers:
        with ExitStack() as opened:
            parts = [
                opened.enter_context(service(archive, "--shards", f"{part}/{number}", name=f"part {part}/{number}"))
                for part in range(1, number + 1)
            ]
            urls = [flag for part in parts for flag in ("--shard", f"http://127.0.0.1:{part.port}")]
            front = opened.enter_context(service(archive, *urls, name=f"front of {number}"))
            same = sum(answer(front, name) == one for name, one in zip(names, wanted, strict=False))
            before = wire(front)
            of_front = figures(front, names, count)
            after = wire(front)
        requests = after["requests"] - before["requests"]
        asked = len(names) + 2 * count
        of_front["wire"] = {
            "requests": requests / asked,
            "bytes_to_a_server": (after["out"] - before["out"]) / asked / number,
            "bytes_from_a_server": (after["in"] - before["in"]) / asked / number,
        }
        of_front["same_answers"] = f"{same} of {len(wanted)}"
        of_front["added_ms"] = round(of_front["one_client_ms"]["p50"] - alone["one_client_ms"]["p50"], 3)
        found["fronts"][str(number)] = of_front
    return found


def figures(subject: Subject, names: Sequence[str], count: int) -> dict[str, Any]:
    """Return the latency of one client, and what several get through."""
    requests = [indexed_request(name) for name in names]
    closed_loop(subject.port, requests, len(requests), 2)
    one = closed_loop(subject.port, requests, count, 1).figures()
    several = closed_loop(subject.port, requests, count, CLIENTS).figures()
    return {
        "one_client_ms": one["ms"],
        "per_second": several["per_second"],
        "refused": {**one["refused"], **several["refused"]},
    }


def answer(subject: Subject, name: str) -> Any:
    """Return an answer without what is another thing each time."""
    query = urllib.parse.urlencode({"indexed": name, "top": 100})
    with urllib.request.urlopen(f"http://127.0.0.1:{subject.port}/v1/search?{query}", timeout=600) as reply:
        found = json.load(reply)
    del found["seconds"]
    return found


def wire(front: Subject) -> dict[str, float]:
    """Return how many requests a front has sent, and bytes out and in, of all parts."""
    with urllib.request.urlopen(f"http://127.0.0.1:{front.port}/metrics", timeout=600) as reply:
        text = reply.read().decode()
    total = dict.fromkeys(("requests", "out", "in"), 0.0)
    for name, labels, value in re.findall(r"^ctxdeploy_front_part_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        if name == "seconds_count":
            total["requests"] += float(value)
        elif name == "bytes_total":
            total["out" if 'direction="out"' in labels else "in"] += float(value)
    return total


def lines(result: dict[str, Any]) -> list[str]:
    """Return the figures for people."""
    whole = result["whole"]
    found = [
        f"{result['archive_photos']:,} photos; one service: {whole['one_client_ms']['p50']:.2f} ms, "
        f"{whole['per_second']:.0f}/s with {result['clients']} clients"
    ]
    for number, one in result["fronts"].items():
        median, sent = one["one_client_ms"]["p50"], one["wire"]
        found.append(
            f"{number} servers: {median:.2f} ms ({one['added_ms']:+.2f}), {one['per_second']:.0f}/s; "
            f"{sent['requests']:.1f} requests a search, {sent['bytes_to_a_server']:,.0f} bytes to a server and "
            f"{sent['bytes_from_a_server']:,.0f} from it; {one['same_answers']} answers the same"
        )
    return found


if __name__ == "__main__":
    main()
