"""The table of docs/gpu.md that says what kernels of our own could save, from `results/operator_limits.json`."""

from typing import Any

_TRUNKS = {"R18": "ResNet-18", "R50-": "ResNet-50 without layer4", "lite": "EfficientNet-Lite0"}


def operators(results: Any) -> str:
    """What counting says of kernels of our own for smoothing and graph convolution."""
    found = results["operator_limits"]
    head = (
        "fp16",
        "the rest of the network",
        "operator, before",
        "operator",
        "in one kernel",
        "one kernel saves",
        "and launches, 1 photo",
        "and launches, 8 photos",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, row in found["operators"].items():
        part, _, trunk = key.rpartition(", ")
        rest, former, now = found["trunks"][trunk]["fp16"], row["former"]["fp16"], row["now"]["fp16"]
        cells = [
            f"{part}, {_TRUNKS[trunk]}",
            _figures(rest, "fused"),
            _figures(former, "fused"),
            _figures(now, "fused"),
            f"{now['single']['us']:,.0f} µs",
            *(f"{100 * saved(found['device'], rest, now, batch):.0f} %" for batch in (None, 1, 8)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def saved(device: Any, trunk: Any, operator: Any, batch: int | None = None) -> float:
    """Return which part of a photo's least time single kernels save; with launches, those of a batch are shared."""
    usual, best = operator["fused"], operator["single"]
    launch = 0.0 if batch is None else device["launch"] * 1e6 / batch
    whole = trunk["fused"]["us"] + usual["us"] + launch * (trunk["fused"]["kernels"] + usual["kernels"])
    return float((usual["us"] - best["us"] + launch * (usual["kernels"] - best["kernels"])) / whole)


def _figures(row: Any, way: str) -> str:
    return f"{row[way]['us']:,.0f} µs, {row[way]['kernels']} kernels"


def graph_forms(results: Any) -> str:
    """What a CPU gains by the graphs' new form."""
    found = results["graph_forms"]
    head = ("ONNX Runtime fp32", "processor seconds a photo, before", "now", "of that before (least to most)")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in found["networks"].items():
        family, _, trunk = name.rpartition(" ")
        spread = f"{row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})"
        seconds = [f"{row[form]['processor_seconds']:.2f}" for form in ("former", "now")]
        cells = (f"{family}, {_TRUNKS[trunk]}", *seconds, spread)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
