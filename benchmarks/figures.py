"""The sentences and tables of figures that README.md and docs/performance.md share, each made of the results alone."""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]
SHOWN = ("how R18", "ctx both R18", "how R50-")
LABELS = ("onnxruntime fp32", "openvino fp32", "openvino bf16", "onnxruntime int8", "openvino int8")
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
# Since this commit graphs of HOW and ctx whiten before they smooth, and graph refinement has fewer blocks of rows.
_REWRITTEN = "2026-11-30T18:01:47"
REWRITTEN = "commit f3e19a6 of 30 November 2026"


def of_former_graphs(result: Mapping[str, Any]) -> bool:
    """Return whether networks of HOW and ctx were measured before their graphs were rewritten.

    Results that do not say when they were measured are older.
    """
    sessions = result.get("sessions") or [{}]
    return str(result.get("measured") or sessions[0].get("started", "")) < _REWRITTEN


def comparison(r: Results) -> str:
    """With what the papers' authors published."""
    search, add, assign, extract = r["search"], r["add"], r["assign"], r["extract"]
    times, added, found = search["times"], add["ours_with_commit"]["median_ms"], assign["searches"]
    fp32, bf16, peer = (extract["results"][name] for name in ("onnxruntime fp32", "openvino bf16", "PyTorch fp32"))
    maps = [r["minibench"]["results"][side]["mAP"] for side in ("ctxdeploy", "PyTorch + asmk")]
    flat, ours = found["faiss flat"]["median_ms"], found["ctxdeploy"]
    rows = [
        (
            f"search of {search['photos']:,} photos, {search['query_words']} query words, one thread",
            f"{times['ours']['median_ms']:.2f} ms",
            f"{times['reference']['median_ms']:.1f} ms",
            f"{search['ratio']:.0f} times faster; {search['giga_postings_per_s']['1']:.2f} G postings/s, "
            f"{search['bandwidth']['1']['fraction']:.2f} of the memory bandwidth",
        ),
        (
            "the same, two threads",
            f"{times['ours_2_threads']['median_ms']:.2f} ms",
            f"{times['reference']['median_ms']:.1f} ms (it uses one)",
            f"{search['ratio_2_threads']:.0f} times faster",
        ),
        (
            f"aggregate and add a photo of {add['descriptors']} descriptors",
            f"{added:.2f} ms",
            f"{add['reference']['median_ms']:.1f} ms",
            f"{add['ratio']:.0f} times faster, the write to disk included",
        ),
        (
            f"{assign['question'].removeprefix('one thread: ')} of {assign['words']:,}, one thread",
            f"{ours['median_ms']:.1f} ms",
            f"{flat:.0f} ms (faiss, flat)",
            f"{flat / ours['median_ms']:.0f} times faster; {ours['recall_at_5']:.3f} of the same five words",
        ),
        (
            f"seconds a photo, {extract['gflop_median']:.0f} GFLOP, fp32, ONNX Runtime",
            f"{fp32['seconds_median']:.2f}",
            f"{peer['seconds_median']:.2f}",
            f"{fp32['times_pytorch']:.1f} times faster, {fp32['fraction_of_fp32_convolution_rate']:.2f} of the rate of "
            "one large convolution",
        ),
        (
            "the same, bf16, OpenVINO",
            f"{bf16['seconds_median']:.2f}",
            "",
            f"{bf16['times_pytorch']:.1f} times faster, not exact (see below)",
        ),
        (
            f"minibench mAP, same checkpoint ({_trained(r['minibench'])} {r['minibench']['network']['family']}) and "
            "codebook",
            f"{maps[0]:.2f}",
            f"{maps[1]:.2f}",
            f"{abs(maps[0] - maps[1]):.3f} points apart",
        ),
    ]
    head = ["| | ctxdeploy | PyTorch as HOW runs it, and `asmk` | |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def precisions(r: Results) -> str:
    """Networks in every precision, three of them, and what is rejected."""
    result, networks = r["precisions"], r["precisions"]["networks"]
    height, width = result["shape"]
    heads = [f"{name}, {networks[name]['gflop']:.0f} GFLOP" for name in SHOWN]
    rows = [_network_row("PyTorch fp32", "PyTorch fp32, one photo at a time as HOW runs it", networks, SHOWN)]
    for label in LABELS:
        runtime, precision = label.split()
        rows.append(_network_row(label, f"{RUNTIMES[runtime]} {precision}", networks, SHOWN))
    r18 = networks["how R18"]
    scales = len(r18["onnxruntime fp32"]["by_scale"])
    kept = len(r18["onnxruntime int8"]["kept_fp32"])
    rejected = [
        f"{name} in {label}"
        for name, rows_of in networks.items()
        for label in LABELS
        if label in rows_of and rows_of[label]["verdict"] != "passed"
    ]
    return "\n".join(
        [
            f"Seconds a photo of {height}×{width} at {scales} scales on {cores(result)}, untrained networks, each in a "
            "process of its own and in turn (in brackets: times PyTorch fp32, and minimum and mean cosine to it):",
            "",
            f"| | {' | '.join(heads)} | peak memory |",
            f"|---|{'---|' * (len(SHOWN) + 1)}",
            *rows,
            "",
            f"*In italics: rejected.* In int8 {kept} convolutions of how R18 stay fp32; on R50- all are int8, because "
            "no others were tried. On how R18 bf16 reaches "
            f"{r18['openvino bf16']['fraction_of_convolution_rate']:.2f} of the rate of large convolutions in OpenVINO "
            f"in the same run, and int8 {r18['openvino int8']['fraction_of_convolution_rate']:.2f}. Of the "
            f"{sum(label in of for of in networks.values() for label in LABELS)} artefacts of all {len(networks)} "
            f"networks, untrained as they are, {len(rejected)} are rejected.",
        ]
    )


def archives(r: Results) -> str:
    """Whole archives, kills, shapes."""
    whole, kills, shapes = r["whole"], r["kills"], r["shapes"]
    fp32, bf16 = (whole["results"][name] for name in ("onnxruntime fp32", "openvino bf16"))
    shrunk = sorted(-100 * engine["growth"] for engine in shapes["engines"].values())
    equal = "" if kills["equal"]["bytes_after_compaction"] else " not"
    change = f"{shrunk[0]:.0f} to {shrunk[-1]:.0f} % below" if shrunk[0] > 0 else f"{-shrunk[0]:.0f} % above"
    return (
        f"Whole archives ({whole['photos']} photos, {cores(whole)}): `ctxdeploy index` makes "
        f"{fp32['photos_per_second']:.2f} photos/s in fp32 (ONNX Runtime) and {bf16['photos_per_second']:.2f} in bf16 "
        f"(OpenVINO), {fp32['fraction_of_network_alone']:.2f} and {bf16['fraction_of_network_alone']:.2f} of what the "
        f"network alone makes with decoded photos in memory; that is {fp32['times_hows_way']:.1f} and "
        f"{bf16['times_hows_way']:.1f} times HOW's way, PyTorch on one photo at a time, in the same run "
        f"({whole['how']['photos_per_second']:.2f} photos/s). {kills['photos']:,} small photos while the command was "
        f"killed {kills['killed']['kills']} times and one of its workers {kills['killed']['worker_kills']} times: the "
        f"archive is{equal} that of an undisturbed run, byte for byte after `compact`, in "
        f"{kills['killed']['seconds']:.0f} s instead of {kills['undisturbed']['seconds']:.0f}. "
        f"{shapes['photos']:,} photos "
        f"of {shapes['shapes']} shapes: memory in the last tenth is {change} that after the first."
    )


def million(r: Results) -> str:
    """A million photos."""
    result = r["million"]
    one, two = (next(run for run in result["runs"][::-1] if run["threads"] == count) for count in (1, 2))
    return (
        f"{one['photos']:,} photos ({one['postings'] / 1e6:.0f}M synthetic postings): "
        f"{result['build_seconds']:.0f} s to "
        f"build from aggregated photos; {one['gigabytes']:.1f} GB, {one['bytes_a_posting_without_names']:.2f} bytes a "
        f"posting and the names; ready for a query {one['open_until_ready_ms']:.0f} ms after opening and with "
        f"{one['memory_mb_before_first_query']['VmRSS']} MB resident (the libraries loaded before: "
        f"{(one['import_ms'] + one['load_loops_ms']) / 1000:.1f} s); a query takes "
        f"{one['query']['median_ms']:.0f} ms on "
        f"one thread (p99 {one['query']['p99_ms']:.1f}) and {two['query']['median_ms']:.0f} on two (p99 "
        f"{two['query']['p99_ms']:.1f}), once the files are in the page cache."
    )


def quality(r: Results) -> str:
    """How well the built-in models find, and how fast they are."""
    found, former = r["eval-minibench"], r["eval-minibench-ctx-small"]
    small, turns = r["whole-small"], r["turns"]
    taken = {label: of["seconds"] for label, of in turns["results"].items()}
    engines = [label.removeprefix("lite-small, ") for label in taken if label.startswith("lite-small")]
    seconds = [
        f"{taken[f'lite-small, {engine}']:.3f} s a photo in {RUNTIMES[engine.split()[0]]} {engine.split()[1]} "
        f"(`ctx-small` in the same turns {taken[f'ctx-small, {engine}']:.3f} s)"
        for engine in engines
    ]
    rows = [
        f"| {name} | {part['queries']} of {part['scenes']} | "
        + " | ".join(f"{part[figure]:.1f}" for figure in ("mAP", "mP@1", "mP@5", "mP@10"))
        + f" | {former['figures'][name]['mAP']:.1f} |"
        for name, part in found["figures"].items()
    ]
    return "\n".join(
        [
            f"`lite-small`, the built-in model, on {found['set']}: {found['photos']} photos, {found['queries']} "
            f"queries, `ctxdeploy eval` with default settings, its own codebook of {found['codebook']['words']:,} "
            "words, in percent; in the last column the mAP of `ctx-small`, the smaller one:",
            "",
            "| | queries, scenes | mAP | mP@1 | mP@5 | mP@10 | `ctx-small` |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"The whole command, photo to archive, takes `ctx-small` on {cores(small)} ({small['photos']} photos of at "
            f"most 1024 pixels) {_seconds(small)}. `lite-small`, which looks at 768 pixels, "
            f"takes {' and '.join(seconds)} ({turns['photos']} photos).",
        ]
    )


def _seconds(whole: Any) -> str:
    """Return the seconds a photo of each engine, and of PyTorch."""
    speeds = [
        f"{1 / engine['photos_per_second']:.3f} s a photo in {RUNTIMES[label.split()[0]]} {label.split()[1]}"
        for label, engine in whole["results"].items()
    ]
    return f"{', '.join(speeds)}, {1 / whole['how']['photos_per_second']:.3f} s in PyTorch one by one"


def ablation(r: Results) -> str:
    """Learned smoothing and graph refinement beside neither."""
    record = r["ablation"]
    settings, scores = record["settings"], record["scores"]
    config, validation = settings["config"], settings["validation"]
    seeds = {label: len(runs) for label, runs in scores.items()}
    names = list(next(iter(next(iter(scores.values())).values())))
    rows = []
    for label, runs in scores.items():
        cells = []
        for name in names:
            values = [100 * run[name] for run in runs.values()]
            spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{sum(values) / len(values):.1f}{spread}")
        rows.append(f"| {label} | {seeds[label]} | {' | '.join(cells)} |")
    return "\n".join(
        [
            f"Each variant trained for {config['steps']} steps of the recipe `{config['recipe']['kind']}` from one "
            "network (`start`, that is `none` without them), learning rate "
            f"{config['optimiser']['learning_rate']:g}, the trunk's {config['optimiser']['backbone_factor']:g} of it; "
            f"mAP in percent at {validation['image_size']} pixels, "
            f"{validation['top_k']} descriptors, {validation['words']:,} words: mean (minimum to maximum) over seeds.",
            "",
            f"| | seeds | {' | '.join(names)} |",
            f"|---|---|{'---|' * len(names)}",
            *rows,
        ]
    )


def batches(r: Results) -> str:
    """Queries together."""
    runs = r["query"]["runs"]
    count = runs[0]["queries"]
    search = [run["ratio"] for run in r["batch"]["runs"] if run["queries"] == count]
    return (
        f"A batch of {count} queries reads each posting once. Its search is {search[0]:.1f} times as fast as {count} "
        f"searches on one thread, {search[1]:.1f} times on two; from descriptors to hits, assignment included, it is "
        f"{runs[0]['ratio']:.1f} and {runs[1]['ratio']:.1f} times as fast."
    )


def assignment(r: Results) -> str:
    """Descriptors to words, at equal recall."""
    result, found = r["assign"], r["assign"]["searches"]
    ours, names = found["ctxdeploy"], ("flat", "IVF", "HNSW", "FastScan")

    def both(name: str) -> str:
        other = found.get(f"{name}, 2 threads")
        return f"{found[name]['median_ms']:.1f} ms on one thread" + (
            f" and {other['median_ms']:.1f} on two" if other else ""
        )

    peers = ", ".join(
        f"{name} {found[f'faiss {name}']['median_ms']:.1f} ms" for name in names if f"faiss {name}" in found
    )
    question = result["question"].removeprefix("one thread: ")
    return (
        f"{question} of {result['words']:,} take {both('ctxdeploy')}, and {ours['recall_at_5']:.3f} of the nearest "
        f"five are found; the products alone take {result['limit_ms']:.1f} ms. faiss, set to find as many: "
        f"{peers}."
    )


def _network_row(label: str, name: str, networks: Results, shown: tuple[str, ...]) -> str:
    cells = [cell(networks[network][label]) for network in shown]
    peaks = [networks[network][label]["peak_mb"] for network in shown]
    return f"| {name} | {' | '.join(cells)} | {min(peaks)} to {max(peaks)} MB |"


def cell(found: Mapping[str, Any]) -> str:
    seconds = f"{found['seconds']:.2f}"
    if "verdict" not in found:
        return seconds
    cosines = ", ".join(_cosine(found[name]) for name in ("cosine_min", "cosine_mean"))
    text = f"{seconds} ({found['times_pytorch']:.1f}×; {cosines})"
    return text if found["verdict"] == "passed" else f"*{text}*"


def _cosine(value: float) -> str:
    return "1" if value > 0.99995 else f"{value:.3f}".lstrip("0")


def _trained(result: Mapping[str, Any]) -> str:
    return "trained" if result["trained"] else "untrained"


def cores(result: Mapping[str, Any]) -> str:
    return f"{result['processors']} cores"


# What results are judged by, in the words of the page.
_JUDGED = {
    "score": "score, without any judgement",
    "scores": "score",
    "scores and links": "score, and what its matches are: a query without `--verify`",
    "codes and links": "and inliers of matches by word and code (`--geometry codes`)",
    "descriptors and links": "and inliers of matches by descriptor (`--geometry descriptors`)",
}


def sureness(r: Results) -> str:
    """How right the probabilities of results are."""
    files = {"lite-small": "judgement", "ctx-small": "judgement-ctx-small"}
    models = {model: r[file] for model, file in files.items() if file in r}
    head = [
        "",
        *(
            f"recall at a precision of {100 * float(precision):.0f} %"
            for precision in models["lite-small"]["outside"]["score"]["recall"]
        ),
    ]
    head += ["of the found, right", "queries with a photo of their scene found", "nothing certain without the scene"]
    parts = [
        f"{models['lite-small']['photos']} photos of minibench's dev split. The constants were fitted on landmarks "
        "that the network had not seen, the form of the judgement was chosen with a look at these photos too: on "
        "others it may be a little less right. Each photo of a scene is a query, of the archive as it is and of the "
        "archive without the rest of its scene; its first 50 results count. Recall is of all pairs of a scene, "
        "small scenes included. Found: a probability of 80 % or more."
    ]
    for model, result in models.items():
        rows = [f"| {' | '.join([f'`{model}`', *head[1:]])} |", "|---" * len(head) + "|"]
        for way, label in _JUDGED.items():
            found = result["outside"][way]
            cells = [f"{value:.3f}" for value in found["recall"].values()]
            if "found" in found:
                sure = found["found"]
                cells += [f"{value:.3f}" for value in (sure["precision"], sure["queries"], found["nothing"])]
            rows.append(f"| {label} | {' | '.join(cells + [''] * (len(head) - 1 - len(cells)))} |")
        parts.append("\n".join(rows))
    bins = models["lite-small"]["outside"]["scores and links"]["reliability"]
    shares = ", ".join(f"{one['right']:.2f} where it is {one['probability']:.2f}" for one in bins[1:])
    parts.append(
        "Of results of about the same probability (`lite-small`, without `--verify`, both runs together) this share is "
        f"right: {shares}.\n\n"
        "![Share of results that are right against their probability](../benchmarks/results/judgement.svg)"
    )
    seconds = models["lite-small"]["judgement"]["seconds"]
    parts.append(f"An archive of {models['lite-small']['photos']} photos is judged in {seconds:.2f} s.")
    return "\n\n".join(parts)


def expansion(r: Results) -> str:
    """What is found when the first hits ask too."""
    files = {"lite-small": "ranking", "ctx-small": "ranking-ctx-small"}
    tasks = ("all", "wild", "capture", "planar", "small")
    lines = [f"| | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for model, file in files.items():
        for name, label in {"none": model, **{f"expand {count}": f"--expand {count}" for count in (1, 3, 5)}}.items():
            precision = r[file]["rows"][name]["mAP"]
            lines.append(f"| `{label}` | {' | '.join(f'{precision[task]:.2f}' for task in tasks)} |")
    return "\n".join(lines)


def frameworks(r: Results) -> str:
    """What the three frameworks find, keep and take."""
    labels = {
        "global": "`--rank global`",
        "global, 100 refined": "`--rank global --refine-global 100`",
        "global, then 20 by ASMK": "`--rank global-then-local --rerank 20`",
        "global, then 100 by ASMK": "`--rerank 100`",
        "global, then 400 by ASMK": "`--rerank 400`",
        "global, then 100 by geometry": "`--rerank 100 --rerank-by geometry`",
        "global, then 100 by ASMK and geometry": "`--rerank 100 --verify 100`",
        "local": "`--rank local`",
        "local, 100 by geometry": "`--rank local --verify 100`",
    }
    tasks = ("all", "wild", "capture", "planar", "small")
    parts = []
    for model, file in {"lite-small": "frameworks", "ctx-small": "frameworks-ctx-small"}.items():
        rows = r[file]["rows"]
        lines = [f"| {model} | {' | '.join(tasks)} | ms | bytes |", "|---" * (len(tasks) + 3) + "|"]
        for name, label in labels.items():
            values = " | ".join(f"{rows[name]['mAP'][task]:.2f}" for task in tasks)
            lines.append(f"| {label} | {values} | {rows[name]['median_ms']:.0f} | {rows[name]['photo_bytes']:,} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def verification(r: Results) -> str:
    """What is found when the first hits are verified, and what an archive keeps for it."""
    labels = {
        "none": "none",
        "verify words": "by words",
        "verify codes": "by words and codes (`--geometry`)",
        "verify descriptors": "by descriptors (`--geometry descriptors`)",
        "expand 3, verify codes": "by words and codes, `--expand 3`",
        "expand 3, verify descriptors": "by descriptors, `--expand 3`",
    }
    rows, count, tasks = r["ranking"]["rows"], r["ranking"]["verified"], ("all", "wild", "small")
    lines = [f"| | {' | '.join(tasks)} | bytes a feature |", "|---" * (len(tasks) + 2) + "|"]
    for name, label in labels.items():
        values = " | ".join(f"{rows[name]['mAP'][task]:.2f}" for task in tasks)
        lines.append(f"| {label} | {values} | {rows[name]['feature_bytes']} |")
    codes, vectors = (
        rows[f"verify {kind}"]["median_ms"] - rows["none"]["median_ms"] for kind in ("codes", "descriptors")
    )
    return (
        f"The first {count} are verified:\n\n"
        + "\n".join(lines)
        + f"\n\nTo read and compare {count} photos takes {codes:.0f} ms by codes and {vectors:.0f} by descriptors, on "
        "one thread."
    )


def geometry(r: Results) -> str:
    """What an archive keeps of its features, and what that takes."""
    found, kept = r["geometry"], r["geometry"]["kept"]
    labels = {
        "none": ("without", "nothing; answers can be verified only from the photos"),
        "positions": ("`--geometry positions`", "word, position, scale"),
        "codes": (
            "`--geometry`, `--geometry codes`",
            "also a code, the signs of its residual, and the photo's size",
        ),
        "descriptors": ("`--geometry descriptors`", "also the descriptor in int8"),
    }
    lines = [
        "| | kept of each feature | bytes each | bytes a photo | added in | features of 100 photos read in |",
        "|---|---|---|---|---|---|",
    ]
    for name, (label, what) in labels.items():
        row = found["settings"][name]
        read = "" if row["read_100_photos_ms"] is None else f"{row['read_100_photos_ms']:.1f} ms"
        size = f"{round(row['bytes_a_photo'], -3):,.0f}"
        lines.append(
            f"| {label} | {what} | {row['bytes_a_feature']} | {size} | {row['add_ms_a_photo']:.0f} ms | {read} |"
        )
    return "\n".join(lines) + (
        f"\n\nMeasured on {found['photos']} photos of minibench with the built-in model "
        f"({found['descriptors_a_photo']:.0f} descriptors a photo, {found['dim']} dimensions), in turns "
        "(`benchmarks/geometry.py`); the network's time is not in it, and other things than geometry take the same.\n\n"
        f"Descriptors are kept in int8, each with a step of its own. Of {found['matches']:,} mutual nearest neighbours "
        f"of two photos, one in full and one as it is kept, {100 * kept['int8']:.1f} % are the same; in float16, at "
        f"twice the bytes, {100 * kept['float16']:.1f} %; with one step for a photo "
        f"{100 * kept['int8, one step a photo']:.1f} %."
    )
