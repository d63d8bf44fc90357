"""The pictures of a graph's edges from one position."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.report.inspection.colours import colour_of
from ctxdeploy.report.inspection.drawing import Frame, Line, Mark, grey, marked, normalised, over_photo
from ctxdeploy.report.inspection.picture import Drawn, cell_edges, centre, frame, three

if TYPE_CHECKING:
    from ctxdeploy.report.inspection.drawing import Picture
    from ctxdeploy.runtime.inspection import BlockEdges, Edge

# Colours of edges begin here in the map: darker ones vanish on the photo.
FAINTEST = 0.5
_THIN, _THICK = 1.6, 7.0
# Brightness of the photo under the edges.
_GROUND = 0.42


def draw_edges(photo: "Picture", number: int, block: "BlockEdges", strongest: "Sequence[Edge]") -> Iterator[Drawn]:
    """Yield the strongest edges of a block, and the similarities that they are made from."""
    weights = np.array([edge.weight for edge in strongest])
    low, high = (float(weights.min()), float(weights.max())) if strongest else (0.0, 0.0)
    shape = block.similarity.shape
    marks: list[Mark] = []
    here = centre(block.row, block.column, shape)
    for edge in reversed(strongest):
        share = float(normalised(np.array(edge.weight), low, high))
        colour = colour_of(FAINTEST + (1 - FAINTEST) * share)
        there = centre(edge.row, edge.column, shape)
        marks.append(Line(start=here, end=there, width=_THIN + (_THICK - _THIN) * share, colour=colour))
        marks.append(Frame(edges=cell_edges(edge.row, edge.column, shape), width=2, colour=colour))
    marks += frame(block.row, block.column, shape)
    yield Drawn(
        file=f"edges-{number}.png",
        section="edges",
        title=f"block {number}: the strongest edges",
        image=marked(grey(photo, _GROUND), marks),
        large=True,
        values=three(weights) if strongest else None,
        ends=(low, high) if strongest else None,
        percent=True,
        note=f"{len(strongest):,} of {block.count:,} edges; {100 * block.own:.1f} % is its own",
    )
    # Its similarity to itself, 1, would leave the others in the dark.
    others = np.delete(block.similarity.reshape(-1), block.row * shape[1] + block.column)
    least, most = (float(others.min()), float(others.max())) if len(others) else (0.0, 1.0)
    ground = over_photo(normalised(block.similarity, least, most), photo)
    yield Drawn(
        file=f"similarity-{number}.png",
        section="edges",
        title=f"block {number}: similarity of the others to the position",
        image=marked(ground, frame(block.row, block.column, shape)),
        large=True,
        values=three(others if len(others) else block.similarity),
        ends=(least, most),
        note=_rule(block),
    )


def _rule(block: "BlockEdges") -> str:
    kind = block.block
    if kind.edges == "softmax":
        return f"every position is joined to every other, by softmax(similarity / {kind.parameter:.4g})"
    if kind.edges == "topk":
        return f"edges go to the {kind.neighbours} most similar positions, by their similarity"
    return f"edges go to positions more similar than τ = {kind.parameter:.4g}, by how much they exceed it"
