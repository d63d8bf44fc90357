"""The figures of docs/many-machines.md, from ``cluster_kills.json``, ``cluster_rate.json``, … and ``shards.json``."""

from typing import Any

_KILLED = {"worker": "workers", "node": "nodes", "driver": "drivers", "everything": "everything at once"}


def clustered(r: dict[str, Any]) -> str:
    """What was killed and what came of it, what Ray costs, memory, very many names."""
    found = [_kills(r["cluster_kills"]), _rate(r["cluster_rate"])]
    found += [_memory(r["cluster_memory"])] if "cluster_memory" in r else []
    return "\n".join(f"- {text}" for text in [*found, _names(r["cluster_ledger"])])


def _kills(of: dict[str, Any]) -> str:
    ray, parts = of["ray"], of["parts"]
    killed = ", ".join(f"{_KILLED[what]} ({count})" for what, count in ray["killed"].items())
    same = all([*ray["equal"].values(), *parts["equal"].values()])
    verdict = "Both archives were that of one machine" if same else "**The archives differ**"
    return (
        f"**Kills** (`cluster_kills.py`): {of['photos']:,} views; on {ray['nodes']} nodes were killed {killed}, "
        f"{sum(ray['killed'].values())} times in all; {ray['given_out_again']:,} lists were given out again. And "
        f"`extract --part` in {parts['parts']} parts, killed {sum(parts['killed'].values())} times. {verdict}: names, "
        "failures, all scores of a hundred queries, and every byte after `compact --by-name`; nothing was left behind."
    )


def _rate(of: dict[str, Any]) -> str:
    ratios = ", ".join(f"{ratio:.3f}" for ratio in of["ratios"])
    return (
        f"**What Ray costs** (`cluster.py rate`): {of['workers']} workers get {of['ratio']:.3f} of the photos a second "
        f"of as many processes without it (goal {of['goal']:g}; rounds: {ratios}; {of['photos']:,} photos, lists of "
        f"{of['list_size']})."
    )


def _memory(of: dict[str, Any]) -> str:
    driver, store = of["driver_mb"], of["store_mb"]
    return (
        f"**Memory** (`cluster.py memory`), {of['photos']:,} photos: the driver has {driver['after_first_tenth']:.1f} "
        f"MB after the first tenth and {driver['last_tenth']:.1f} MB in the last (and "
        f"{driver['publishing']:.0f} MB while it publishes the segments), the object store "
        f"{store['after_first_tenth']:.2f} and {store['last_tenth']:.2f} MB: receipts are small."
    )


def _names(of: dict[str, Any]) -> str:
    published, sizes = of["segments"], []
    for count, steps in sorted(of["names"].items(), key=lambda pair: int(pair[0])):
        seconds = sum(step["seconds"] for step in steps.values())
        sizes.append(f"{int(count):,} in {seconds:.1f} s and {steps['give out']['peak_mb']:,.0f} MB")
    return (
        "**Very many names** (`cluster.py ledger`; no photo is there, and Ray is played), listed, planned, cut into "
        f"lists and given out by the driver: {'; '.join(sizes)}. Publishing {published['count']:,} segments takes "
        f"{1e3 * published['seconds'] / published['count']:.1f} ms each."
    )


def sharded(r: dict[str, Any]) -> str:
    """A front and shard servers beside one service."""
    of = r["shards"]
    whole = of["whole"]
    same = [one["same_answers"] for one in of["fronts"].values()]
    verdict = "All answers that were compared are those of the one service, to the last bit."
    if any(text.split(" of ")[0] != text.split(" of ")[1] for text in same):
        verdict = f"**Answers differ**: {', '.join(same)} are the same."
    lines = [
        f"`benchmarks/shards.py`, {of['archive_photos']:,} synthetic photos, searches by name, front and servers on "
        "one machine of two cores: what is added is the price of messages and processes; what machines of their own "
        f"win is not in it. {verdict}",
        "",
        "| | one client, median | p99 | added | a second, 8 clients | requests to a server | kB to it | kB back |",
        "|---|---|---|---|---|---|---|---|",
        f"| one service | {whole['one_client_ms']['p50']:.1f} ms | {whole['one_client_ms']['p99']:.1f} ms | | "
        f"{whole['per_second']:.1f} | | | |",
    ]
    for count, one in of["fronts"].items():
        ms, wire = one["one_client_ms"], one["wire"]
        lines.append(
            f"| front and {count} | {ms['p50']:.1f} ms | {ms['p99']:.1f} ms | {one['added_ms']:.1f} ms | "
            f"{one['per_second']:.1f} | {wire['requests'] / int(count):.1f} | "
            f"{wire['bytes_to_a_server'] / 1e3:.0f} | {wire['bytes_from_a_server'] / 1e3:.0f} |"
        )
    return "\n".join(lines)
