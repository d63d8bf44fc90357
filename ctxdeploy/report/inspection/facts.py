"""An inspection as JSON prints it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.report.inspection.pictures import Picture

if TYPE_CHECKING:
    from ctxdeploy.runtime import Pixels
    from ctxdeploy.runtime.inspection import BlockEdges, Chosen, Inspection, LevelMaps

FORMAT_NAME, FORMAT_VERSION = "ctxdeploy-inspection", 1


def facts_of(
    found: "Inspection", pictures: Sequence[Picture], bundle: Bundle, photo: Path, edges: int
) -> dict[str, Any]:
    """Return everything but the pictures themselves; every value fits into JSON."""
    return {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "photo": os.fspath(photo),
        "model": {
            "path": os.fspath(bundle.path),
            "model_id": bundle.model_id,
            "source": bundle.source.get("file"),
            "network": dict(bundle.network),
        },
        "preprocessing": found.preparation.metadata(),
        "descriptors": len(found.descriptors),
        "scales": [_level(level, len(found.descriptors)) for level in found.levels],
        "scale": found.levels[found.level].scale,
        "chosen": None if found.chosen is None else _chosen(found, found.chosen, edges),
        "missing": list(found.missing),
        "pictures": [picture.metadata() for picture in pictures],
        "seconds": found.seconds,
    }


def _level(level: "LevelMaps", total: int) -> dict[str, Any]:
    shape = None if level.attention is None else list(level.attention.shape)
    return {
        "scale": level.scale,
        "size": list(level.size),
        "map": shape,
        "positions": level.positions,
        "selected": level.selected,
        "share": level.selected / total if total else 0.0,
        "attention": _range(level.attention),
        "bandwidth": _range(level.bandwidth),
        "confidence": _range(level.confidence),
    }


def _chosen(found: "Inspection", chosen: "Chosen", edges: int) -> dict[str, Any]:
    level = found.levels[chosen.level]
    cell = (chosen.row, chosen.column)
    kernel = level.kernel(*cell)
    return {
        "asked": None if chosen.asked is None else list(chosen.asked),
        "position": list(chosen.position),
        "scale": level.scale,
        "row": chosen.row,
        "column": chosen.column,
        "rank": chosen.rank,
        "attention": _at(level.attention, cell),
        "relative_attention": None if level.attention is None else float(level.attention[cell]) / found.strongest,
        "bandwidth": _at(level.bandwidth, cell),
        "confidence": _at(level.confidence, cell),
        "kernel": None if kernel is None else kernel.tolist(),
        "blocks": [_block(block, edges, found.photo) for block in chosen.blocks],
    }


def _block(block: "BlockEdges", edges: int, photo: "Pixels") -> dict[str, Any]:
    strongest = block.strongest(edges)
    rows, columns = block.weights.shape
    height, width = photo.pixels.shape[:2]
    centres = [((e.column + 0.5) * width / columns, (e.row + 0.5) * height / rows) for e in strongest]
    positions = photo.to_original(centres).tolist() if centres else []
    return {
        "edges": block.block.edges,
        "parameter": block.block.parameter,
        "neighbours": block.block.neighbours,
        "count": block.count,
        "own": block.own,
        "strongest": [
            {"position": position, "similarity": edge.similarity, "weight": edge.weight}
            for edge, position in zip(strongest, positions, strict=True)
        ],
    }


def _at(values: NDArray[np.float32] | None, cell: tuple[int, int]) -> float | None:
    return None if values is None else float(values[cell])


def _range(values: NDArray[np.float32] | None) -> dict[str, float] | None:
    if values is None:
        return None
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}
