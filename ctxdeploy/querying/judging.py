"""How sure the hits of a query are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.index import Hit
from ctxdeploy.judgement import LINKS, Judgement
from ctxdeploy.querying.found import Found
from ctxdeploy.querying.verifying import Verified

if TYPE_CHECKING:
    from ctxdeploy.index import Index


def judged(
    item: Found,
    hits: Sequence[Hit],
    own: Sequence[Hit],
    verified: Verified,
    judgement: Judgement,
    index: "Index",
) -> list[Hit]:
    """Return hits with their probabilities: by their own scores, by their inliers, by the hits that they match.

    Args:
        item: the query.
        hits: best first.
        own: its ranking of all photos, not expanded; empty if it is not known.
        verified: what was verified of the hits.
        judgement: of the archive.
        index: the archive.
    """
    if not hits:
        return []
    names = [hit.name for hit in hits]
    stored = item.photo is None
    ranking = [hit.score for hit in own if not (stored and hit.name == item.query.photo.name)]
    links = index.scores(names[:LINKS], names)
    links[np.arange(len(links)), np.arange(len(links))] = 0.0
    found = np.zeros(len(hits))
    kinds = [verified.matches.get(name, "") for name in names]
    for kind in set(kinds):
        inliers = [-1 if hit.verification is None else hit.verification.inliers for hit in hits]
        probabilities = judgement.probabilities(
            np.array([hit.score for hit in hits]),
            photos=len(index),
            ranking=np.array(ranking),
            stored=stored,
            inliers=np.array(inliers, np.int64) if kind else None,
            matches=kind or "codes",
            links=links,
            turned=item.turn != 0,
        )
        found = np.where(np.array([other == kind for other in kinds]), probabilities, found)
    return [replace(hit, probability=float(value)) for hit, value in zip(hits, found, strict=True)]
