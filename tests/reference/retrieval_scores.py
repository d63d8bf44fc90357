"""Scores of rankings in plain loops, written from the definitions of Revisited Oxford and Paris and of minibench.

Independent of ``ctxdeploy.core.scoring``: nothing here imports from the package.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction


def revisited(
    rankings: Sequence[Sequence[int]], truths: Sequence[Mapping[str, Sequence[int]]], depths: Sequence[int]
) -> tuple[float, list[float], list[float | None], list[list[float] | None]]:
    """Return mAP, mP@k, and both by query (None without positives), in the published order of operations.

    Args:
        rankings: for each query photo numbers, best first.
        truths: for each query ``ok`` and ``junk``, photo numbers.
        depths: k.
    """
    total, totals = 0.0, [0.0] * len(depths)
    values: list[float | None] = []
    precisions: list[list[float] | None] = []
    scored = 0
    for ranking, truth in zip(rankings, truths, strict=True):
        if len(truth["ok"]) == 0:
            values.append(None)
            precisions.append(None)
            continue
        scored += 1
        places = _places(ranking, truth["ok"], truth["junk"])
        value = 0.0
        step = 1.0 / len(truth["ok"])
        for j in range(len(places)):
            before = 1.0 if places[j] == 0 else float(j) / places[j]
            after = float(j + 1) / (places[j] + 1)
            value += (before + after) * step / 2.0
        row = []
        for depth in depths:
            last = min(max(places) + 1, depth)
            row.append(len([place for place in places if place + 1 <= last]) / last)
        total = total + value
        totals = [a + b for a, b in zip(totals, row, strict=True)]
        values.append(value)
        precisions.append(row)
    return total / scored, [value / scored for value in totals], values, precisions


def exact_average_precision(ranking: Sequence[int], ok: Sequence[int], junk: Sequence[int]) -> Fraction:
    """Return the area under the precision-recall curve as a fraction: trapezoids between the points before and at each
    positive."""
    kept = [photo for photo in ranking if photo not in set(junk) - set(ok)]
    area = Fraction(0)
    found = 0
    for seen, photo in enumerate(kept):
        if photo in ok:
            before = Fraction(found, seen) if seen else Fraction(1)
            found += 1
            area += (before + Fraction(found, seen + 1)) / 2 * Fraction(1, len(ok))
    return area


def minibench(rankings: Mapping[str, Sequence[str]], truth: Mapping[str, object]) -> dict[str, float]:
    """Return minibench's figures in percent: over all scenes, by kind, and of the small scenes.

    Args:
        rankings: for each query file, names of files, best first.
        truth: the content of ``gnd.json``.
    """
    of_scene = {scene: _scene(files, rankings, truth["junk_pairs"]) for scene, files in truth["scenes"].items()}
    figures = {"all": sum(of_scene.values()) / len(of_scene)}
    for kind in sorted(set(truth["kinds"].values())):
        values = [of_scene[scene] for scene in of_scene if truth["kinds"][scene] == kind]
        figures[kind] = sum(values) / len(values)
    small = [_scene(files, rankings, truth["junk_pairs"]) for files in truth["small_scenes"].values()]
    return {**figures, "small": sum(small) / len(small)}


def _scene(files: Sequence[str], rankings: Mapping[str, Sequence[str]], pairs: Sequence[Sequence[str]]) -> float:
    values = []
    for query in files:
        junk = [query]
        for a, b in pairs:
            if query in (a, b):
                junk.append(b if query == a else a)
        positives = [name for name in files if name not in junk]
        ranked = [name for name in rankings[query] if name not in junk]
        area, found = 0.0, 0
        for rank in range(len(ranked)):
            if ranked[rank] in positives:
                p0 = found / rank if rank > 0 else 1.0
                p1 = (found + 1) / (rank + 1)
                area += (p0 + p1) / (2 * len(positives))
                found += 1
        values.append(100 * area)
    return sum(values) / len(values)


def _places(ranking: Sequence[int], ok: Sequence[int], junk: Sequence[int]) -> list[int]:
    """Return the places of the positives, each less the junk that comes before it."""
    places = []
    for place in range(len(ranking)):
        if ranking[place] in ok:
            before = 0
            for other in ranking[:place]:
                if other in junk:
                    before += 1
            places.append(place - before)
    return places
