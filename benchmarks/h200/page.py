"""The table of docs/gpu.md: what `h200.sh` measured, beside what it is to reach."""

from typing import Any

Results = dict[str, Any]
NOT_MEASURED = "not measured"
# The network and the photos of the goals.
_NETWORK = "how R18"


def gpu(results: Results) -> str:
    """Return what was measured on a GPU, or that nothing was."""
    steps = results.get("h200", {}).get("steps", {})
    rows = {name: step["rows"] for name, step in steps.items()}
    lines = [_said(results), "", "| what | to be reached | measured |", "|---|---|---|"]
    lines += [f"| {what} | {goal} | {_found(rows, call)} |" for what, goal, call in _GOALS]
    parity = _networks(rows)
    return "\n".join([*lines, *(["", *parity] if parity else [])])


def _said(results: Results) -> str:
    if "h200" not in results:
        return (
            "**Nothing has run on a GPU yet.** `benchmarks/h200.sh` measures this table on a machine that has one. "
            "These are goals."
        )
    facts = results["h200"]["steps"].get("machine", {}).get("rows", {}).get("facts", {})
    gpu_facts = facts.get("gpu", {})
    return (
        f"Measured by `benchmarks/h200.sh` on {gpu_facts.get('name', 'a GPU')}, driver "
        f"{gpu_facts.get('driver_version', 'unknown')}, {facts.get('processors', 'unknown')} processors."
    )


def _found(rows: Results, call: Any) -> str:
    """Return a figure as text; what a row lacks, or failed with, counts as not measured."""
    try:
        return str(call(rows))
    except (KeyError, ValueError, TypeError):
        return NOT_MEASURED


def _fastest(rows: Results, ending: str, key: str) -> tuple[float, str]:
    """Return the largest figure among the runtimes and precisions of the network of the goals, and which that is."""
    found = [
        (row[key], name.split(", ")[1])
        for name, row in rows["speed"].items()
        if name.startswith(f"{_NETWORK}, ") and name.endswith(ending) and row.get(key) is not None
    ]
    return max(found)


def _rate(rows: Results) -> str:
    rate, which = _fastest(rows, ", decoding", "photos_per_second")
    return f"{rate:.0f} photos/s ({which})"


def _times_loop(rows: Results) -> str:
    rate, which = _fastest(rows, ", decoding", "photos_per_second")
    return f"{rate / rows['loop'][_NETWORK]['photos_per_second']:.1f} times ({which})"


def _peak(rows: Results) -> str:
    share, which = _fastest(rows, ", batch 32", "fraction_of_peak")
    return f"{share:.2f} ({which})"


def _query(size: str) -> Any:
    return lambda rows: f"{rows['search'][f'{size}, 1 at once']['milliseconds_a_query']:.2f} ms"


def _batch(size: str) -> Any:
    return lambda rows: f"{rows['search'][f'{size}, 64 at once']['milliseconds_a_query']:.3f} ms"


def _bandwidth(rows: Results) -> str:
    return f"{rows['search']['1M, 1 at once']['fraction_of_bandwidth']:.2f}"


def _equal(step: str, *names: str, key: str = "equal") -> Any:
    return lambda rows: "yes" if all(rows[step][name][key] for name in names) else "NO"


def _words(rows: Results) -> str:
    return f"{rows['words']['k-means']['seconds']:.1f} s"


def _training(rows: Results) -> str:
    return " / ".join(f"{rows['training'][f'steps, {p}']['steps_per_second']:.1f} ({p})" for p in ("bf16", "fp32"))


def _decoding(rows: Results) -> str:
    return " / ".join(
        f"{rows['decoding'][name]['photos_per_second']:.0f} ({name})" for name in ("libjpeg", "nvimgcodec")
    )


def _tests(rows: Results) -> str:
    passed = sum(row.get("passed", 0) for row in rows["tests"].values())
    failed = sum(len(row.get("failed", ["the file"])) for row in rows["tests"].values())
    return f"{passed} passed, {failed} failed"


_GOALS: tuple[tuple[str, str, Any], ...] = (
    ("tests that need a GPU", "all pass", _tests),
    ("HOW R18, 1024 px, 7 scales, from JPEG files to descriptors", "500 photos/s or more", _rate),
    ("… beside the authors' loop in PyTorch fp32 on the same GPU", "20 times as many, or more", _times_loop),
    ("… the network alone, 32 photos at once: share of the rate of products of matrices", "0.5 or more", _peak),
    ("query to 1M photos", "1 ms or less", _query("1M")),
    ("… share of the memory's rate", "0.5 or more", _bandwidth),
    ("… a query of 64 at once", "none", _batch("1M")),
    ("query to 10M photos", "none", _query("10M")),
    ("hits and scores are the CPU's, bit by bit", "yes", _equal("search", "1M, equal", "10M, equal")),
    ("65,536 words from 5M descriptors", "60 s or less", _words),
    ("words are the CPU's, bit by bit", "yes", _equal("words", "equal words", key="words")),
    ("training, steps a second (ResNet-18, 24 pairs of 224 px)", "none", _training),
    (
        "an interrupted training gives the weights of one that was not",
        "yes",
        _equal("training", "interrupted, bf16", "interrupted, fp32"),
    ),
    ("decoding 2048 px to 1024 px alone, photos a second", "none", _decoding),
)


def _networks(rows: Results) -> list[str]:
    """Return a table of what every network computes in every runtime and precision, and how fast."""
    if not rows.get("parity"):
        return []
    lines = [
        "| network, runtime | cosine, least | mean | batch 1 | 8 | 32 photos/s | of peak | with decoding |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows["parity"].items():
        if "error" in row:
            lines.append(f"| {name} | {row['error']} |" + " |" * 6)
            continue
        speed = [rows.get("speed", {}).get(f"{name}, batch {batch}", {}) for batch in (1, 8, 32)]
        cells = [f"{row['cosine_min']:.5f}", f"{row['cosine_mean']:.6f}"]
        cells += ["" if "photos_per_second" not in one else f"{one['photos_per_second']:.0f}" for one in speed]
        share = speed[-1].get("fraction_of_peak")
        whole = rows.get("speed", {}).get(f"{name}, decoding", {}).get("photos_per_second")
        cells += ["" if share is None else f"{share:.2f}", "" if whole is None else f"{whole:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
