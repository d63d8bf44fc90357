"""The loops of spatial verification that numba compiles: from matches of two photos' features to one map.

Every match proposes a scale and a shift; how well each proposal explains all matches is an exact integer, and the best
few are refined. 1000 matches are 10⁶ distances of float32, 16 at a time. Sums of the refinement are float64 over rising
matches, so that a map depends neither on the processor nor on what else is verified.
"""

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import compiled, inlined

GRID = 16
# Weight of a match that is as good as can be.
FULL = 4096
# Matches that propose a map, the heaviest: photos of 1000 features have 60 by descriptors, 300 by words. 1024 of them
# take three times as long on words, for the same rankings.
PROPOSALS = 256
# Proposals that are refined, the best by weight: 8 take twice as long, for the same mAP of 150 queries within 0.02.
REFINED = 4
REFITS = 5
# Halvings of the tolerance for the map that says where the query lies. Within the wide one, which ranks best, a scale
# that is a third too large explains all matches of a small part.
NARROWED = 3
# Matches that must be near a narrowed map.
NEAREST = 6
# How much a map may stretch or shrink, in any direction.
LEAST, MOST = 0.25, 4.0
# Matches that a map explains at least: two of them agree by chance in half of all unrelated photos.
FEWEST = 4


@compiled
def points(
    positions: NDArray[np.float32], scales: NDArray[np.float32], factor: float, turn: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return n×3: turned and scaled x and y, and scales as they are."""
    result = np.empty((positions.shape[0], 3), np.float32)
    for row in range(positions.shape[0]):
        x, y = np.float64(positions[row, 0]), np.float64(positions[row, 1])
        result[row, 0] = (turn[0, 0] * x + turn[0, 1] * y) * factor
        result[row, 1] = (turn[1, 0] * x + turn[1, 1] * y) * factor
        result[row, 2] = scales[row]
    return result


@compiled
def fit(
    query: NDArray[np.float32],
    photo: NDArray[np.float32],
    matches: NDArray[np.int32],
    weights: NDArray[np.int32],
    frame: NDArray[np.float64],
    tolerance: float,
    affine: bool,
) -> tuple[NDArray[np.float64], NDArray[np.int32], int, int]:
    """Find the map from query to photo that explains most matches by weight; of equal ones, the one of the first match.

    Args:
        query: n×3, x, y and scale of each feature.
        photo: n'×3, as ``query``.
        matches: m×2, a feature of the query and one of the photo.
        weights: m, above 0: of several matches of a feature the heaviest is taken, then the first.
        frame: x0, y0, x1, y1 of the query.
        tolerance: how far a match may be from where the map has it, in both photos.
        affine: refine to an affine map, not to a similarity.

    Returns:
        2×3 map, narrowed to the matches that agree closely; the matches that it explained before, each feature in one
        of them at most; cells of a 16×16 grid over the frame that have one; the weight of all of them. Without a map
        there are no matches.
    """
    count = matches.shape[0]
    best = np.zeros((2, 3), np.float64)
    kept = np.zeros(0, np.int32)
    heaviest = np.int64(0)
    if count < FEWEST:
        return best, kept, 0, 0
    places = np.empty((4, count), np.float32)
    ratios = np.empty(count, np.float32)
    for m in range(count):
        q, p = matches[m, 0], matches[m, 1]
        places[0, m], places[1, m] = query[q, 0], query[q, 1]
        places[2, m], places[3, m] = photo[p, 0], photo[p, 1]
        ratios[m] = query[q, 2] / photo[p, 2]
    order = np.argsort(-weights, kind="mergesort")
    votes = _vote(places, ratios, weights, order[:PROPOSALS], np.float32(tolerance))
    used = np.zeros((2, max(query.shape[0], photo.shape[0])), np.bool_)
    for _ in range(min(REFINED, count)):
        m = int(np.argmax(votes))
        if votes[m] <= 0 or 2 * np.int64(votes[m]) < heaviest:  # refined it would not overtake
            break
        votes[m] = -1
        scale = np.float64(ratios[m])
        current = np.zeros((2, 3), np.float64)
        current[0, 0] = current[1, 1] = scale
        current[0, 2] = places[2, m] - scale * places[0, m]
        current[1, 2] = places[3, m] - scale * places[1, m]
        inliers, weight = _inliers(current, places, tolerance, matches, weights, order, used)
        for _ in range(REFITS):
            refined = _refined(places, inliers, affine)
            if len(inliers) < 2 or not _allowed(refined):
                break
            others, other = _inliers(refined, places, tolerance, matches, weights, order, used)
            if other < weight:
                break
            gain = other - weight
            current, inliers, weight = refined, others, other
            if gain == 0:
                break
        for i in inliers:
            votes[i] = -1  # they would propose the same
        if weight > heaviest and len(inliers) >= FEWEST:
            best, kept, heaviest = current, inliers, weight
    best = _narrowed(best, places, kept, tolerance, affine)
    return best, kept, _cells(places, kept, frame), int(heaviest)


@compiled
def _vote(
    places: NDArray[np.float32],
    ratios: NDArray[np.float32],
    weights: NDArray[np.int32],
    proposals: NDArray[np.int64],
    tolerance: np.float32,
) -> NDArray[np.int32]:
    """Return the weight of what scale and shift of each proposing match explain; 0 where the scale is out of range."""
    count = ratios.shape[0]
    votes = np.zeros(count, np.int32)
    qx, qy, px, py = places[0], places[1], places[2], places[3]
    for m in proposals:
        scale = ratios[m]
        if not LEAST <= scale <= MOST:
            continue
        dx, dy = px[m] - scale * qx[m], py[m] - scale * qy[m]
        limit = tolerance * tolerance * min(scale * scale, np.float32(1))
        found = np.int32(0)
        for i in range(count):
            x, y = scale * qx[i] + dx - px[i], scale * qy[i] + dy - py[i]
            found += weights[i] if x * x + y * y <= limit else np.int32(0)
        votes[m] = found
    return votes


@inlined
def _inliers(current, places, tolerance, matches, weights, order, used):  # type: ignore[no-untyped-def]
    """Return the matches that a map explains, by rising number, and their weight; each feature counts once."""
    a, b, c, d = current[0, 0], current[0, 1], current[1, 0], current[1, 1]
    determinant = a * d - b * c
    limit = tolerance * tolerance
    back_limit = limit * determinant * determinant
    kept = np.zeros(order.shape[0], np.bool_)
    used[:] = False
    found, weight = 0, np.int64(0)
    for m in order:
        x = a * places[0, m] + b * places[1, m] + current[0, 2] - places[2, m]
        y = c * places[0, m] + d * places[1, m] + current[1, 2] - places[3, m]
        back_x, back_y = d * x - b * y, a * y - c * x  # times the determinant
        if x * x + y * y <= limit and back_x * back_x + back_y * back_y <= back_limit:
            q, p = matches[m, 0], matches[m, 1]
            if not used[0, q] and not used[1, p]:
                used[0, q] = used[1, p] = True
                kept[m] = True
                found += 1
                weight += weights[m]
    inliers = np.empty(found, np.int32)
    at = 0
    for m in range(kept.shape[0]):
        if kept[m]:
            inliers[at] = m
            at += 1
    return inliers, weight


@inlined
def _narrowed(current, places, inliers, tolerance, affine):  # type: ignore[no-untyped-def]
    """Return the least-squares map of those inliers that agree within less and less, while a quarter of them does."""
    count = inliers.shape[0]
    near = inliers
    limit = tolerance
    for _ in range(NARROWED):
        if near.shape[0] < NEAREST:
            break
        refined = _refined(places, near, affine)
        limit /= 2
        kept = np.zeros(count, np.bool_)
        for k in range(count):
            m = inliers[k]
            x = refined[0, 0] * places[0, m] + refined[0, 1] * places[1, m] + refined[0, 2] - places[2, m]
            y = refined[1, 0] * places[0, m] + refined[1, 1] * places[1, m] + refined[1, 2] - places[3, m]
            kept[k] = x * x + y * y <= limit * limit
        closer = inliers[kept]
        if not _allowed(refined) or 4 * closer.shape[0] < count or closer.shape[0] < NEAREST:
            break
        current, near = refined, closer
    return current


@inlined
def _cells(places, inliers, frame):  # type: ignore[no-untyped-def]
    grid = np.zeros(GRID * GRID, np.bool_)
    width, height = max(frame[2] - frame[0], 1e-6), max(frame[3] - frame[1], 1e-6)
    for m in inliers:
        column = min(max(int((places[0, m] - frame[0]) / width * GRID), 0), GRID - 1)
        row = min(max(int((places[1, m] - frame[1]) / height * GRID), 0), GRID - 1)
        grid[row * GRID + column] = True
    return int(np.sum(grid))


@inlined
def _refined(places, inliers, affine):  # type: ignore[no-untyped-def]
    """Return the least-squares map of some matches; a similarity where they do not determine an affine one."""
    count = inliers.shape[0]
    mean = np.zeros(4, np.float64)
    for m in inliers:
        for k in range(4):
            mean[k] += places[k, m]
    mean /= count
    xx = xy = yy = ux = uy = vx = vy = 0.0
    for m in inliers:
        x, y = places[0, m] - mean[0], places[1, m] - mean[1]
        u, v = places[2, m] - mean[2], places[3, m] - mean[3]
        xx += x * x
        xy += x * y
        yy += y * y
        ux += u * x
        uy += u * y
        vx += v * x
        vy += v * y
    result = np.zeros((2, 3), np.float64)
    determinant = xx * yy - xy * xy
    if affine and count >= 3 and determinant > 1e-4 * (xx + yy) * (xx + yy):
        result[0, 0] = (ux * yy - uy * xy) / determinant
        result[0, 1] = (uy * xx - ux * xy) / determinant
        result[1, 0] = (vx * yy - vy * xy) / determinant
        result[1, 1] = (vy * xx - vx * xy) / determinant
    elif xx + yy > 0:
        result[0, 0] = result[1, 1] = (ux + vy) / (xx + yy)
        result[1, 0] = (vx - uy) / (xx + yy)
        result[0, 1] = -result[1, 0]
    for row in range(2):
        result[row, 2] = mean[2 + row] - result[row, 0] * mean[0] - result[row, 1] * mean[1]
    return result


@inlined
def _allowed(current):  # type: ignore[no-untyped-def]
    """Tell whether a map does not mirror, and neither stretches nor shrinks more than fourfold in any direction."""
    a, b, c, d = current[0, 0], current[0, 1], current[1, 0], current[1, 1]
    determinant = a * d - b * c
    # Of the two singular values squared: their sum, and the difference that their product leaves.
    total = a * a + b * b + c * c + d * d
    apart = np.sqrt(max(total * total - 4 * determinant * determinant, 0.0))
    return determinant > 0 and total + apart <= 2 * MOST * MOST and total - apart >= 2 * LEAST * LEAST
