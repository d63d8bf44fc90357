"""Queries to 1M and 10M photos on the GPU: times, share of the memory's rate, and whether the hits are the CPU's."""

import statistics
import time
from dataclasses import replace
from typing import Any

from archive import queries, state_of
from rows import Rows, needed, run_step

TOP = 10
BATCHES = (1, 16, 64)


def run(rows: Rows) -> None:
    needed("numba.cuda", "numba-cuda is not installed")
    needed("ctxdeploy.index.gpu.searcher", "there is no search on a GPU")
    from ctxdeploy.index.gpu import memory

    memory.TILING = _tilings(rows)["usual"]
    for times, name in ((1, "1M"), (10, "10M")):
        if rows.rehearse and times > 1:
            name, times = "twice as many", 2
        searcher: dict[str, Any] = {}
        rows.measure(f"{name}, equal", lambda t=times, s=searcher: _equal(rows, _placed(rows, t, s), s))  # type: ignore[misc]
        for batch in (1, 2) if rows.rehearse else BATCHES:
            call = lambda t=times, s=searcher, b=batch: _asked(rows, _placed(rows, t, s), b)  # noqa: E731
            rows.measure(f"{name}, {batch} at once", call)  # type: ignore[arg-type]
        searcher.clear()  # what of it lies on the GPU is given back
    for name, tiling in list(_tilings(rows).items())[1:]:
        rows.measure(f"1M, {name}", lambda tiling=tiling: _divided(rows, tiling))  # type: ignore[misc]


def _tilings(rows: Rows) -> dict[str, Any]:
    """Return divisions of work among threads: the usual one, and others that might be faster on this GPU."""
    from ctxdeploy.index.gpu.tiling import Tiling

    if rows.rehearse:  # the simulator takes a thread of Python for each
        small = Tiling(photos=64, threads=4, staged=64, ahead=2, wide=4, blocks=2, bins=64)
        return {"usual": small, "two threads": replace(small, threads=2)}
    return {
        "usual": Tiling(),
        "512 photos": Tiling(photos=512),
        "2048 photos, 64 threads": Tiling(photos=2048, threads=64, staged=1024),
        "2048 photos, 128 threads": Tiling(photos=2048, threads=128, staged=2048),
        "8 ahead": Tiling(ahead=8),
        "2 ahead": Tiling(ahead=2),
    }


def _divided(rows: Rows, tiling: Any) -> dict[str, Any]:
    """Return milliseconds a query with another division of work."""
    from ctxdeploy.core.device import Device
    from ctxdeploy.index.gpu import memory
    from ctxdeploy.index.gpu.searcher import open_gpu

    before = memory.TILING
    memory._MEMORIES.clear()
    memory.TILING = tiling
    try:
        return _asked(rows, open_gpu(Device.parse("cuda"), state_of(rows)), 1)
    finally:
        memory._MEMORIES.clear()
        memory.TILING = before


def _placed(rows: Rows, times: int, kept: dict[str, Any]) -> Any:
    """Return the searcher whose postings are on the GPU."""
    from ctxdeploy.core.device import Device
    from ctxdeploy.index.gpu.searcher import open_gpu

    if "searcher" not in kept:
        began = time.perf_counter()
        kept["searcher"] = open_gpu(Device.parse("cuda"), state_of(rows, times))
        _ask(kept["searcher"], queries(rows, 1))
        kept["seconds"] = time.perf_counter() - began
    return kept["searcher"]


def _ask(searcher: Any, asked: list[Any]) -> Any:
    return searcher.search(asked, TOP, scoring=searcher.state.manifest.config.scoring())


def _equal(rows: Rows, searcher: Any, kept: dict[str, Any]) -> dict[str, Any]:
    """Compare names and scores with the CPU's, bit by bit."""
    from ctxdeploy.index import Searcher, SearchThreads

    asked = queries(rows, 2 if rows.rehearse else 20)
    given = searcher.search(asked, TOP, scoring=searcher.state.manifest.config.scoring())
    cpu, threads = Searcher(searcher.state), SearchThreads(2 if rows.rehearse else 16)
    wanted = cpu.search(asked, TOP, scoring=searcher.state.manifest.config.scoring(), threads=threads)
    pairs = [
        ([(h.name, h.score) for h in a], [(h.name, h.score) for h in b]) for a, b in zip(given, wanted, strict=True)
    ]
    return {
        "photos": len(searcher.state),
        "queries": len(asked),
        "equal": all(a == b for a, b in pairs),
        "load_seconds": kept["seconds"],
    }


def _asked(rows: Rows, searcher: Any, batch: int) -> dict[str, Any]:
    """Return milliseconds a query, and the bytes of the postings asked for beside the rate of a copy."""
    count, warm = (1, 1) if rows.rehearse else (40, 3)
    drawn = queries(rows, batch * (count + warm))
    asked = [drawn[i * batch : (i + 1) * batch] for i in range(count + warm)]
    seconds = []
    for one in asked:
        began = time.perf_counter()
        _ask(searcher, one)
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[warm:])
    scanned = statistics.mean(_postings(searcher.state, one) for one in asked[warm : warm + 3])
    rate = scanned * searcher.state.posting_bytes / median
    copied = rows.of("machine").get("copy", {}).get("bytes_per_second")
    return {
        "photos": len(searcher.state),
        "milliseconds_a_query": 1000 * median / batch,
        "milliseconds_a_call": 1000 * median,
        "p95_milliseconds_a_call": 1000 * sorted(seconds[warm:])[int(0.95 * (count - 1))],
        "postings_a_query": scanned / batch,
        "bytes_per_second": rate,
        "fraction_of_bandwidth": None if copied is None else rate / copied,
    }


def _postings(state: Any, asked: list[Any]) -> int:
    """Return the postings of the words of queries, all of which a search has to look at."""
    offsets = [shard.word_offsets for shard in state.shards]
    return sum(int((of[q.words + 1].astype("int64") - of[q.words]).sum()) for q in asked for of in offsets)


if __name__ == "__main__":
    run_step(run)
