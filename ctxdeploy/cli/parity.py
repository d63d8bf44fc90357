"""Figures of a parity check on one line."""

from collections.abc import Mapping
from typing import Any

from ctxdeploy.core.bundle import Artefact
from ctxdeploy.core.targets import ENGINE_TARGETS
from ctxdeploy.core.text import printable


def parity_line(artefact: Artefact, parity: Mapping[str, Any] | None = None) -> str:
    """Return an artefact's verdict and figures for people, each with what its precision needs.

    Args:
        artefact: whose they are.
        parity: its figures; those that it carries if None.
    """
    parity = artefact.parity if parity is None else parity
    if not parity:
        return "not measured"
    parts = _local(parity) if "cosine_min" in parity else []
    if "global" in parity:
        parts += _global(parity["global"])
    return printable(f"{_verdict(artefact, parity)}; {', '.join(parts)}")


def _local(parity: Mapping[str, Any]) -> list[str]:
    needed: Mapping[str, float] = parity.get("tolerance", {})
    parts = [
        _figure("cosine", parity["cosine_min"], needed.get("cosine")),
        _figure("its 1st percentile", parity.get("cosine_p1"), needed.get("cosine_p1")),
        _figure("its mean", parity["cosine_mean"], needed.get("cosine_mean")),
        _figure("positions in common", parity["overlap_min"], needed.get("overlap")),
    ]
    return [*parts, *_ranking(parity["ranking"], needed)]


def _global(whole: Mapping[str, Any]) -> list[str]:
    """Return the figures of global descriptors."""
    needed: Mapping[str, float] = whole.get("tolerance", {})
    return [
        _figure("cosine of the global descriptors", whole["cosine_min"], needed.get("cosine")),
        _figure("its mean", whole["cosine_mean"], needed.get("cosine_mean")),
        *_ranking(whole["ranking"], needed, " by them"),
    ]


def _ranking(ranking: Mapping[str, Any] | None, needed: Mapping[str, float], by: str = "") -> list[str]:
    if ranking is None:
        return []
    if ranking["map"] is not None:
        return [f"mAP{by} {ranking['map']:.4f} (reference {ranking['reference_map']:.4f})"]
    return [_figure(f"best ten in common{by}", ranking["overlap"], needed.get("top_ten"))]


def _verdict(artefact: Artefact, parity: Mapping[str, Any]) -> str:
    if artefact.target not in ENGINE_TARGETS or artefact.format != "onnx":
        return str(parity["verdict"])
    where = parity.get("measured_with") or "another engine"
    return (
        f"{parity['verdict']} in {where}; {artefact.target} itself did not run, an engine is measured where it is built"
    )


def _figure(what: str, value: float | None, needed: float | None) -> str:
    if value is None:
        return f"{what} is not a number"
    if needed is None:
        return f"{what} ≥ {value:.5f}"
    if needed <= 0:  # of int8: a few wrong descriptors change no answer
        return f"{what} ≥ {value:.5f} (any may do: percentile, mean and answers decide)"
    return f"{what} ≥ {value:.5f} (needed: {needed:g})"
