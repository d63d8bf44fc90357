"""The section of docs/performance.md on the service, from ``results/serve.json``."""

from statistics import median
from typing import Any

_KINDS = {"photos": "Photos", "indexed": "Names of indexed photos (the search alone)"}


def serving(r: dict[str, Any]) -> str:
    """What HTTP costs, beside the library and a bare FastAPI."""
    found = r["serve"]
    parts = [
        f"`ctxdeploy serve` over an archive of {found['archive_photos']:,} photos, asked on loopback by a client of "
        f"the same machine, beside `PhotoIndex` in process, called from {found['threads']} threads, and a bare FastAPI "
        "with `PhotoIndex` in its handler. Requests come by a Poisson schedule, at a share of what the library answers "
        "when it has all questions at once; latencies count from the schedule, so that waiting is in them, and so is "
        'the client\'s own delay. Subjects took turns; medians over the rounds. "Added" is what a reply took longer '
        "than the library's stages that it names itself (queue, extraction, search): HTTP, JSON and threads."
    ]
    if found.get("share", 1) < 1:
        parts.append(
            f"**A short run**, {found['share']:g} of the times and requests that `serve.py` has by default: so few "
            "requests say little of rare waits, and cells without a figure had too few."
        )
    for kind, title in _KINDS.items():
        of = found[kind]
        parts += [f"### {title}", _throughput(of, found["clients"]), _latencies(of)]
    return "\n\n".join([*parts, _memory(found["endless"])])


def _throughput(of: dict[str, Any], clients: int) -> str:
    lines = [
        f"| without pauses, {clients} clients | a second | of the library's around it | client's processor, ms |",
        "|---|---|---|---|",
        f"| library, all at once | {of['capacity_per_second']:.1f} | | |",
    ]
    for name, rows in of["throughput"].items():
        if name != "library":
            rate, share, client = (
                median(row[word] for row in rows) for word in ("per_second", "of_library", "client_ms")
            )
            lines.append(f"| {name} | {rate:.1f} | {share:.3f} | {client:.2f} |")
    return "\n".join(lines)


def _latencies(of: dict[str, Any]) -> str:
    lines = [
        "| load, % | | median, ms | p90 | p99 | p999 | added, median | added p99 | client late p99 | refused |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for percent, runs in of["loads"].items():
        for name, rows in runs.items():
            cells = [_cell(rows, "ms", at) for at in ("p50", "p90", "p99", "p99.9")]
            cells += [_cell(rows, "added_ms", at, digits=2) for at in ("p50", "p99")]
            refused = sum(count for row in rows for count in row["refused"].values())
            lines.append(
                f"| {percent} | {name} | {' | '.join(cells)} | {_cell(rows, 'client_late_ms', 'p99', digits=2)} "
                f"| {refused} |"
            )
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]], word: str, at: str, digits: int = 1) -> str:
    values = [row[word][at] for row in rows if row.get(word, {}).get(at) is not None]
    return f"{median(values):.{digits}f}" if values else ""


def _memory(of: dict[str, Any]) -> str:
    sizes = ", ".join(f"{row['own_mb']:.1f} MB after {percent} %" for percent, row in of["memory"].items())
    return (
        f"### Memory\n\n{of['requests']:,} requests by name, {of['per_second']:.1f} a second: memory of all processes "
        f"that is not mapped from files is {sizes} of them."
    )
