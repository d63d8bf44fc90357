"""The sections of docs/performance.md on the service, from ``serve.json``, ``latency.json`` and ``names.json``."""

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
        parts += [_goals(of)] if kind == "photos" else []
    return "\n\n".join([*parts, _memory(found["endless"])])


def _goals(of: dict[str, Any]) -> str:
    """What was aimed at, and what came of it."""
    name = "ctxdeploy serve"
    share = median(row["of_library"] for row in of["throughput"][name])
    rows = of["loads"]["50"][name]
    added, client = (", ".join(f"{value:.1f}" for value in values) for values in _added(rows))
    return (
        f"Goals: 0.95 of the library's throughput ({share:.3f} here), and 3 ms added at a load of 50 % (medians of the "
        f"rounds here: {added} ms, in which the client's own processor time of {client} ms a request is counted too)."
    )


def _added(rows: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [row["added_ms"]["p50"] for row in rows], [row["client_ms"] for row in rows]


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


def longer_memory(r: dict[str, Any]) -> str:
    """Memory over more requests, measured by themselves."""
    of = r["serve-memory"]["endless"]
    sizes = ", ".join(f"{row['own_mb']:.1f} MB after {percent} %" for percent, row in of["memory"].items())
    return f"In a run by itself (`serve.py --only-memory`), {of['requests']:,} requests by name: {sizes} of them."


def _memory(of: dict[str, Any]) -> str:
    sizes = ", ".join(f"{row['own_mb']:.1f} MB after {percent} %" for percent, row in of["memory"].items())
    return (
        f"### Memory\n\n{of['requests']:,} requests by name, {of['per_second']:.1f} a second: memory of all processes "
        f"that is not mapped from files is {sizes} of them."
    )


def stages(r: dict[str, Any]) -> str:
    """Where a request with a photo spends its time."""
    found = r["latency"]
    http, direct, paired = (found["ms"][name] for name in ("http", "in_process", "of_requests"))
    said = {
        "body": "until the body is there",
        "queue": "until a thread takes it",
        "extract": "decoding and network",
        "search": "search and judgement",
        "between": "checks, JSON",
        "outside": "connection, routing, reply",
        "added": "whole without queue, extract, search",
        "whole": "all",
        "processor": "of it, processor time of this process",
    }
    lines = ["| stage | | by HTTP, ms | in process, ms | paired difference |", "|---|---|---|---|---|"]
    for name, text in said.items():
        cells = [f"{of[name]:.2f}" if name in of else "" for of in (http, direct, paired)]
        lines.append(f"| {name} | {text} | {' | '.join(cells)} |")
    decoding = found["ms"]["decoding"]
    about = (
        f"`latency.py`: {found['photos']} photos, {found['rounds']} times each, one at a time with a pause of "
        f"{found['pause_s']:g} s, by HTTP and by `PhotoIndex.answer` in turns, with the same network and the same "
        "decoding processes; medians."
    )
    hop = (
        f"Decoding one in a process of its own takes {decoding['process']:.2f} ms, and {decoding['thread']:.2f} ms in "
        f"the thread that asks: {decoding['difference']:.2f} ms is what it costs that a bad photo harms nobody else."
    )
    return "\n\n".join([about, "\n".join(lines), hop])


def many_names(r: dict[str, Any]) -> str:
    """What lists and restricted searches cost among very many names."""
    found = r["names"]
    small, large = found["runs"][0], found["runs"][-1]
    few, many = f"{small['photos']:,} names", f"{large['photos']:,} names"
    lines = [f"| | {few}, ms | {many}, ms | p95 | processor, {few} | processor, {many} |", "|---|---|---|---|---|---|"]
    for what, of in large["ms"].items():
        cells = [small["ms"][what]["median_ms"], of["median_ms"], of["p95_ms"]]
        cells += [run["processor_ms"][what] for run in (small, large)]
        lines.append(f"| {what} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    commits, memory = large["commits"], [large[f"memory_{when}"]["own_mb"] for when in ("when_ready", "after_commits")]
    seen, meanwhile = commits["until_seen_ms"]["median_ms"], commits["meanwhile_ms"]["median_ms"]
    about = (
        f"`names.py`: {found['requests']} requests of each kind on loopback, one after the other, with their "
        "connection; synthetic archives of tiny photos, so that names and not postings are what counts. Processor time "
        "is that of the service for a request, which says more where the machine was busy."
    )
    end = (
        f"Of {large['photos']:,} names it is ready after {large['seconds_until_ready']:.1f} s, with {memory[0]:.0f} MB "
        f"that are not mapped from files, {memory[1]:.0f} MB at the end. A commit of another process is seen after "
        f"{seen:.0f} ms; requests meanwhile take {meanwhile:.2f} ms, the slowest {commits['slowest_ms']:.0f} ms."
    )
    return "\n\n".join([about, "\n".join(lines), end])
