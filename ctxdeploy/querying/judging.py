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
    from ctxdeploy.index import QueriedIndex


def judged(
    item: Found,
    own: Sequence[Hit],
    verified: Verified,
    judgement: Judgement,
    index: "QueriedIndex",
    *,
    around: Sequence[Hit] = (),
) -> Found:
    """Return a query with the probabilities of its hits: by their scores, their inliers, and hits that they match.

    Args:
        item: the query with its hits, best first, and their own scores.
        own: its ranking of all photos, not expanded; empty if it is not known.
        verified: what was verified of the hits.
        judgement: of the archive.
        index: the archive.
        around: where only some photos may be hits, those that would be hits as well, best first: what matches one of
            them matches the query, so that a probability is that of the question to the whole archive.
    """
    if not item.hits and not around:
        return item
    known = {hit.name: hit for hit in item.hits}
    hits = [known.pop(hit.name, hit) for hit in around[:LINKS]]
    hits += known.values()
    probabilities = dict(
        zip([hit.name for hit in hits], _judge(item, hits, own, verified, judgement, index), strict=True)
    )
    found = [replace(hit, probability=probabilities[hit.name]) for hit in item.hits]
    return replace(item, hits=found, surest=max(probabilities.values()))


def _judge(
    item: Found,
    hits: Sequence[Hit],
    own: Sequence[Hit],
    verified: Verified,
    judgement: Judgement,
    index: "QueriedIndex",
) -> list[float]:
    """Return the probabilities of hits, the first of which pass theirs on to those that they match."""
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
    return [float(value) for value in found]
