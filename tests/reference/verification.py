"""Verification in plain loops and float64: what ``ctxdeploy.index.verification`` has to find, one match at a time."""

import math
from typing import Any

import numpy as np

TOLERANCE, FEWEST, REFINED, REFITS, GRID, FULL = 64.0, 4, 4, 5, 16, 4096
Match = tuple[int, int]


def mutual(left: Any, right: Any) -> dict[Match, float]:
    """Return the pairs of rows that are each the other's nearest by cosine, and the cosines."""

    def cosine(a: Any, b: Any) -> float:
        dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))

    table = [[cosine(a, b) for b in right] for a in left]
    forth = [max(range(len(right)), key=lambda j: row[j]) for row in table]
    back = [max(range(len(left)), key=lambda i: table[i][j]) for j in range(len(right))]
    return {(i, j): table[i][j] for i, j in enumerate(forth) if back[j] == i}


def of_words(left: Any, right: Any, codes: Any, others: Any, furthest: int, limit: int) -> dict[Match, int]:
    """Return the pairs of features of one word with their differing bits, 0 without codes."""
    found = {}
    for i, word in enumerate(left):
        for j, other in enumerate(right):
            if word != other or list(left).count(word) * list(right).count(word) > limit:
                continue
            differing = (
                0
                if codes is None
                else sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(codes[i], others[j], strict=True))
            )
            if codes is None or differing <= furthest:
                found[i, j] = differing
    return found


def fit(
    query: Any, photo: Any, matches: list[Match], weights: list[int], frame: Any
) -> tuple[Any, list[int], int, int]:
    """Return the affine map (a, b, c, d, e, f), the matches that it explains, cells and weight; as the kernel."""
    proposals = []
    for m, (q, p) in enumerate(matches):
        scale = query[q][2] / photo[p][2]
        if 0.25 <= scale <= 4:
            shift = (photo[p][0] - scale * query[q][0], photo[p][1] - scale * query[q][1])
            found = (scale, 0.0, shift[0], 0.0, scale, shift[1])
            explained = [i for i, match in enumerate(matches) if misses(found, query, photo, match) <= TOLERANCE]
            proposals.append((-sum(weights[i] for i in explained), m, found))
    best: tuple[Any, list[int], int] = (None, [], 0)
    for _ in range(REFINED):
        if not proposals:
            break
        votes, m, current = min(proposals)
        if 2 * -votes < best[2]:
            break
        kept = one_to_one(current, query, photo, matches, weights)
        for _ in range(REFITS):
            if len(kept) < 2:
                break
            refined = least_squares([query[matches[i][0]] for i in kept], [photo[matches[i][1]] for i in kept])
            others = one_to_one(refined, query, photo, matches, weights) if allowed(refined) else []
            gain = sum(weights[i] for i in others) - sum(weights[i] for i in kept)
            if gain < 0:
                break
            current, kept = refined, others
            if gain == 0:
                break
        proposals = [proposal for proposal in proposals if proposal[1] != m and proposal[1] not in kept]
        weight = sum(weights[i] for i in kept)
        if weight > best[2] and len(kept) >= FEWEST:
            best = (current, kept, weight)
    x0, y0, x1, y1 = frame
    cells = set()
    for i in best[1]:
        x, y, _ = query[matches[i][0]]
        column, row = int((x - x0) / (x1 - x0) * GRID), int((y - y0) / (y1 - y0) * GRID)
        cells.add((min(max(column, 0), GRID - 1), min(max(row, 0), GRID - 1)))
    return narrowed(best[0], best[1], query, photo, matches), best[1], len(cells), best[2]


def narrowed(found: Any, kept: list[int], query: Any, photo: Any, matches: list[Match]) -> Any:
    """Return the least-squares map of those matches that agree within a half, a quarter, an eighth of the tolerance."""
    near, limit = kept, TOLERANCE
    for _ in range(3):
        if len(near) < 6:
            break
        refined = least_squares([query[matches[i][0]] for i in near], [photo[matches[i][1]] for i in near])
        limit /= 2
        a, b, c, d, e, f = refined
        near = []
        for i in kept:
            (x, y, _), (u, v, _) = query[matches[i][0]], photo[matches[i][1]]
            if math.hypot(a * x + b * y + c - u, d * x + e * y + f - v) <= limit:
                near.append(i)
        if not allowed(refined) or 4 * len(near) < len(kept) or len(near) < 6:
            break
        found = refined
    return found


def misses(found: Any, query: Any, photo: Any, match: Match) -> float:
    """Return the larger of the distances by which a map misses a match, in the photo and in the query."""
    a, b, c, d, e, f = found
    (x, y, _), (u, v, _) = query[match[0]], photo[match[1]]
    forward = np.array([a * x + b * y + c - u, d * x + e * y + f - v])
    backward = np.linalg.solve(np.array([[a, b], [d, e]]), forward)
    return max(math.hypot(*forward), math.hypot(*backward))


def one_to_one(found: Any, query: Any, photo: Any, matches: list[Match], weights: list[int]) -> list[int]:
    """Return the matches that a map explains, by rising number, the heaviest first where a feature has several."""
    kept: list[int] = []
    for i in sorted(range(len(matches)), key=lambda i: (-weights[i], i)):
        taken = any(matches[i][side] == matches[k][side] for k in kept for side in (0, 1))
        if not taken and misses(found, query, photo, matches[i]) <= TOLERANCE:
            kept.append(i)
    return sorted(kept)


def least_squares(query: Any, photo: Any) -> tuple[float, ...]:
    """Return the affine map of at least three points that do not lie on a line, or else the similarity."""
    points, targets = np.array(query)[:, :2], np.array(photo)[:, :2]
    centred = points - points.mean(axis=0)
    spread = np.linalg.det(centred.T @ centred)
    if len(points) >= 3 and spread > 1e-4 * (centred**2).sum() ** 2:
        solved = np.linalg.lstsq(np.column_stack([points, np.ones(len(points))]), targets, rcond=None)[0]
        return (*solved[:, 0], *solved[:, 1])
    if not (centred**2).sum() > 0:
        return (0.0, 0.0, *targets.mean(axis=0)[:1], 0.0, 0.0, *targets.mean(axis=0)[1:])
    rows = [[x, -y, 1, 0] for x, y in points] + [[y, x, 0, 1] for x, y in points]
    p, q, e, f = np.linalg.lstsq(np.array(rows), np.concatenate([targets[:, 0], targets[:, 1]]), rcond=None)[0]
    return (p, -q, e, q, p, f)


def allowed(found: Any) -> bool:
    """Tell whether a map keeps orientation and lengths within a factor of 4."""
    linear = np.array([[found[0], found[1]], [found[3], found[4]]])
    values = np.linalg.svd(linear)[1]
    return bool(np.linalg.det(linear) > 0 and values[0] <= 4 and values[1] >= 0.25)
