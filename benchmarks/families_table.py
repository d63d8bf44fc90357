"""The table of the families of networks, for docs/families.md."""

from typing import Any

from figures import LABELS, REWRITTEN, RUNTIMES, Results, cores, of_former_graphs


def families(r: Results) -> str:
    """Every family in every precision and runtime: seconds, fraction of the limit, memory, parity."""
    result = r["families"]
    found = result["families"]
    heads = ["PyTorch fp32", *(f"{RUNTIMES[label.split()[0]]} {label.split()[1]}" for label in LABELS)]
    rows = [f"| | GFLOP | {' | '.join(heads)} |", f"|---|{'---|' * (len(heads) + 1)}"]
    for name, of in found.items():
        cells = [_cell(of[label]) if label in of else "" for label in ("PyTorch fp32", *LABELS)]
        rows.append(f"| {name} | {of['gflop']:.0f} | {' | '.join(cells)} |")
    former = (
        f" The rows how and ctx are of graphs before {REWRITTEN}, which computed more "
        "([how much](gpu.md#what-a-cpu-gains))."
    )
    passed = sorted({label for label in LABELS if all(of[label]["verdict"] == "passed" for of in found.values())})
    return "\n".join(
        [
            f"Seconds a photo of 1024×768 on {cores(result)} (`benchmarks/families.py --quick --rounds "
            f"{result['rounds']}`), trunk {result['architecture']}, random weights; in brackets the fraction of what "
            "the rate of large convolutions allows, and MB of memory at most. Local families run at seven scales with "
            f"1,000 descriptors, global ones at three.{former if of_former_graphs(result) else ''}",
            "",
            *rows,
            "",
            f"*In italics: rejected*, on {result['compared_on']}. A network of random weights spreads its descriptors "
            "over little, so that rounding moves them more than those of a trained one: measure yours "
            f"(`--checkpoint NAME=FILE`). Accepted for every family: {', '.join(passed) or 'none'}.",
        ]
    )


def _cell(row: dict[str, Any]) -> str:
    """Return a row's figures."""
    text = f"{row['seconds']:.2f} ({row['fraction_of_convolution_rate']:.2f}, {row['peak_mb']})"
    return text if row.get("verdict", "passed") == "passed" else f"*{text}*"
