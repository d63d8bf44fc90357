"""Writes docs/performance.md and the figures of README.md and of guides from the JSON files in `results/`.

Every figure on the page, and between the marks in README and guides (`<!-- figures: quality -->` to
`<!-- end of figures -->`), is taken from those files: to change one, measure again (`benchmarks/all.sh`) and run this.

    python benchmarks/performance.py            # write them
    python benchmarks/performance.py --check    # exit code 1 and the files' names if they do not fit the results
"""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster_page import clustered, sharded
from families_table import families
from figures import (
    LABELS,
    REWRITTEN,
    RUNTIMES,
    Results,
    ablation,
    archives,
    assignment,
    batches,
    cell,
    comparison,
    cores,
    expansion,
    frameworks,
    geometry,
    million,
    of_former_graphs,
    precisions,
    quality,
    sureness,
    verification,
)
from h200.page import gpu
from operator_page import graph_forms, operators
from serving.page import longer_memory, many_names, serving, stages
from simulating.page import simulated, worked

from ctxdeploy.bench import FORMAT, Record, compare_files, comparison_text, markdown, results_of

ROOT = Path(__file__).parents[1]
# The blocks of figures of each guide in docs/, in order.
_GUIDES = {
    "queries.md": (frameworks, expansion, verification),
    "indexing.md": (geometry,),
    "families.md": (families,),
    "capacity.md": (worked, simulated),
    "gpu.md": (operators, graph_forms, gpu),
    "many-machines.md": (clustered, sharded),
}
# Results that hold seconds of networks of HOW and ctx as they are exported.
_OF_NETWORKS = ("bench-end-to-end", "bench-engines", "bench-extract", "extract", "precisions", "whole")
_MARKED = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
# Results of `benchmarks/slowdown.py`, and what their comparison is to show.
_PAIRS: dict[tuple[str, str | None], str] = {
    ("bench-same-a", "bench-same-b"): "Two runs of the same command",
    ("bench-same-a", "bench-slower"): "The same command, and while each photo's network takes a tenth longer",
    ("bench-turns", None): "Both of these, in turns in one run",
}


def load(folder: Path) -> dict[str, Any]:
    """Return the results by the names of their files."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def fill(text: str, results: Results, *blocks: Callable[[Results], str]) -> str:
    """Return README or a guide with the blocks of figures between its marks made anew."""
    wanted = {block.__name__: block for block in blocks}
    named = [name for _, name, _ in _MARKED.findall(text)]
    if named != list(wanted):
        needed = f"{', '.join(wanted)} {'is' if len(wanted) == 1 else 'are'} needed, once"
        raise SystemExit(f"the marks are {', '.join(named) or 'missing'}, but {needed}")
    return _MARKED.sub(lambda found: f"{found[1]}{_wrapped(wanted[found[2]](results))}\n{found[3]}", text)


def page(results: Results, folder: Path) -> str:
    """Return docs/performance.md."""
    parts = [
        "# Performance\n\n"
        "Made by `python benchmarks/performance.py` from the files in `benchmarks/results/`; every figure is theirs. "
        f"`benchmarks/all.sh` measures them again. The machine: {_machines(results)}.",
        f"## How well the built-in model finds\n\n{quality(results)}\n\n### Learned smoothing and graph refinement\n\n"
        f"{ablation(results)}",
        f"## How sure a result is\n\n{sureness(results)}",
        f"## Beside what the papers' authors published\n\nEach row side by side in one run.\n\n{comparison(results)}",
        f"## Every precision\n\n{precisions(results)}\n\nAll networks:\n\n{_all(results)}",
        f"## Whole archives\n\n{archives(results)}",
        f"## Archives by size\n\n{million(results)}\n\n{_sizes(results)}\n\n"
        "![Query time and memory against the number of photos](../benchmarks/results/million.svg)",
        f"## Queries\n\n{_stages(results)}\n\n{assignment(results)}\n\n{batches(results)}",
        *_reranking(results),
        *_service(results),
        *_bench(results, folder),
        f"## Where each figure comes from\n\n{_sources(results)}{_former(results)}",
        f"## What the figures do not say\n\n{_LIMITS}",
    ]
    return "\n\n".join(_wrapped(part) for part in parts) + "\n"


_LIMITS = """\
- Times on a shared machine drift. Ratios are of sides that took turns in one run; seconds alone are worth less.
- All networks but the built-in ones are untrained: their speed is that of trained ones, their parity and mAP are not.
- Postings of the large archives are synthetic, with the word statistics of photos; queries are drawn as photos are.
- Archives lie in the page cache when they are queried. A machine without memory for them measures its disk.
- Nothing here ran on a GPU; GPU memory and the energy of processors were not tried where a result does not say so.
- FLOP are those of convolutions and products of matrices. The limit is the rate of large convolutions, which a network
  of smaller ones does not reach."""


def _machines(results: Results) -> str:
    """Return the processors that the results name."""
    found: dict[str, None] = {}
    for result in results.values():
        if isinstance(result, dict) and "processors" in result:
            found[f"{result['processor']}, {cores(result)}"] = None
        elif _is_record(result):
            machine = result["configuration"]["machine"]
            found[f"{machine['processor']}, {cores(machine)}"] = None
    return "; ".join(found)


def _sources(results: Results) -> str:
    """Return a table of the files with their machine, versions and load."""
    rows = ["| result | machine | versions | load average |", "|---|---|---|---|"]
    for name, result in results.items():
        if isinstance(result, dict) and not _is_record(result) and "versions" in result:
            versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
            machine = str(result.get("processor", result.get("machine", "not recorded")))
            machine += f", {cores(result)}" if "processors" in result else ""
            load = result.get("load_average")
            rows.append(f"| `{name}` | {machine} | {versions} | {'' if load is None else f'{load:.2f}'} |")
    return "\n".join(rows)


def _former(results: Results) -> str:
    """Return which results are of graphs that are not exported any more; empty if none."""
    found = [f"`{name}`" for name in _OF_NETWORKS if name in results and of_former_graphs(results[name])]
    if not found:
        return ""
    return (
        f"\n\nGraphs of HOW and ctx compute less since {REWRITTEN} ([how much](gpu.md#what-a-cpu-gains)). Times of "
        f"networks in these results are older: {', '.join(found)}. The built-in models keep the graphs that they were "
        "measured with."
    )


def _all(results: Results) -> str:
    networks = results["precisions"]["networks"]
    heads = "".join(f" {RUNTIMES[label.split()[0]]} {label.split()[1]} |" for label in LABELS)
    rows = [f"| network | GFLOP | PyTorch fp32 |{heads}", f"|{'---|' * (len(LABELS) + 3)}"]
    for name, of in networks.items():
        cells = [cell(of[label]) if label in of else "" for label in ("PyTorch fp32", *LABELS)]
        rows.append(f"| {name} | {of['gflop']:.0f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _sizes(results: Results) -> str:
    rows = [
        "| photos | threads | ms a query | p99 | of the bandwidth | times `asmk` | GB | MB not file-backed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in results["million"]["runs"]:
        times = run["times_faster_than_asmk"]
        cells = [
            f"{run['photos']:,}",
            f"{run['threads']}",
            f"{run['query']['median_ms']:.2f}",
            f"{run['query']['p99_ms']:.2f}",
            f"{run['fraction_of_bandwidth']:.2f}",
            "" if times is None else f"{times:.0f}",
            f"{run['gigabytes']:.2f}",
            f"{run['memory_mb_after_queries']['RssAnon']}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _stages(results: Results) -> str:
    query = results["query"]
    stages = ", ".join(
        f"{name} {found['median_ms']:.2f} ms (p95 {found['p95_ms']:.2f})"
        for name, found in query["stages_one_thread"].items()
    )
    return (
        f"A query of {query['descriptors_a_query']} descriptors ({query['words_a_query']:.0f} words) to "
        f"{query['photos']:,} photos on one thread: {stages}."
    )


def _reranking(results: Results) -> list[str]:
    """Return what expansion and verification find and cost, where that was measured."""
    parts = []
    if "ranking" in results:
        rows = results["ranking"]["rows"]
        tasks = list(rows["none"]["mAP"])
        lines = [f"| | {' | '.join(tasks)} | ms a query | bytes a feature |", "|---" * (len(tasks) + 3) + "|"]
        for name, row in rows.items():
            values = " | ".join(f"{row['mAP'][task]:.2f}" for task in tasks)
            lines.append(f"| {name} | {values} | {row['median_ms']:.1f} | {row['feature_bytes']} |")
        parts.append(
            f"`ctxdeploy eval --expand N --verify {results['ranking']['verified']}`: mAP in percent, one thread, "
            "without the network; bytes besides the postings.\n\n" + "\n".join(lines)
        )
    if "verification" in results:
        found = results["verification"]
        lines = ["| on the same matches | ms a pair | mAP | recall with 95 of 100 right |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {row['median_ms']:.3f} | {next(iter(row['mAP'].values())):.2f} | {row['recall']:.3f} |"
            for name, row in found["rows"].items()
        ]
        parts.append(
            f"{found['pairs']:,} pairs of photos, one thread. Matching the descriptors of a pair takes "
            f"{found['matching']['median_ms']:.2f} ms.\n\n" + "\n".join(lines)
        )
    return ["## Expansion and verification\n\n" + "\n\n".join(parts)] if parts else []


def _service(results: Results) -> list[str]:
    """Return what the service costs, where that was measured."""
    plot = "![Latency against load](../benchmarks/results/serve.svg)"
    parts = [f"## The service\n\n{serving(results)}"] if "serve" in results else []
    if parts and "serve-memory" in results:
        parts[0] += f"\n\n{longer_memory(results)}"
    parts = [f"{part}\n\n{plot}" for part in parts]
    if parts and "latency" in results:
        parts.append(f"### Stages of a request\n\n{stages(results)}")
    if parts and "names" in results:
        parts.append(f"### Very many names\n\n{many_names(results)}")
    return parts


def _bench(results: Results, folder: Path) -> list[str]:
    """Return sections of what `ctxdeploy bench` measured, and of the comparisons."""
    records = {name: Record.read(folder / f"{name}.json") for name, found in results.items() if _is_record(found)}
    parts = []
    for name, record in records.items():
        if not any(name in names for names in _PAIRS):
            record.content["results"] = results_of(record)
            text = markdown(record).partition("\n\n")[2].strip()
            plots = [
                f"![{path.stem}](../benchmarks/results/{path.name})" for path in sorted(folder.glob(f"{name}-*.svg"))
            ]
            parts.append("\n\n".join([f"## `{name}`", text, *plots]))
    compared = []
    for (a, b), title in _PAIRS.items():
        if a in records and (b is None or b in records):
            text = comparison_text(compare_files(records[a], None if b is None else records[b]))
            compared.append(f"{title}:\n\n```\n{text.replace(f'{folder}/', '')}\n```")
    return [*parts, *(["## What `bench compare` finds\n\n" + "\n\n".join(compared)] if compared else [])]


def _is_record(found: Any) -> bool:
    return isinstance(found, dict) and found.get("format") == FORMAT


def _wrapped(text: str, width: int = 120) -> str:
    """Break long lines of running text; tables, lists and code stay as they are."""
    lines, code = [], False
    for line in text.split("\n"):
        code ^= line.startswith("```")
        keep = code or len(line) <= width or line.startswith(("|", "- ", "#", "!", "```"))
        lines += [line] if keep else textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def main() -> None:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file does not fit")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--guides", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    results = load(options.results)
    texts = {options.readme: fill(options.readme.read_text(encoding="utf-8"), results, quality)}
    for name, blocks in _GUIDES.items():
        guide = options.guides / name
        texts[guide] = fill(guide.read_text(encoding="utf-8"), results, *blocks)
    texts[options.page] = page(results, options.results)
    wrong = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if options.check:
        sys.exit(f"not what the results say: {', '.join(str(path) for path in wrong)}" if wrong else 0)
    for path in wrong:
        path.write_text(texts[path], encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
