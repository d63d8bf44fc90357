"""Figures of a parity check on one line."""

from collections.abc import Mapping
from typing import Any

from ctxdeploy.core.text import printable


def parity_line(parity: Mapping[str, Any]) -> str:
    """Return the figures of an artefact's ``parity`` for people."""
    if not parity:
        return "not measured"
    parts = [
        f"cosine ≥ {_number(parity['cosine_min'])} (mean {_number(parity['cosine_mean'])})",
        f"positions in common ≥ {_number(parity['overlap_min'])}",
    ]
    ranking = parity["ranking"]
    if ranking is not None and ranking["map"] is not None:
        parts.append(f"mAP {ranking['map']:.4f} (reference {ranking['reference_map']:.4f})")
    elif ranking is not None:
        parts.append(f"best ten in common {ranking['overlap']:.3f}")
    return printable(f"{parity['verdict']}; {', '.join(parts)}")


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.5f}"
