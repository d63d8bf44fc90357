"""Buckets of shapes: what photos of the common aspects measure once they are scaled to a bundle's image size.

The longer side of a scaled photo is the image size, unless it was smaller to begin with. So a bucket has one side
fixed, and the other within a range that ends a little above what its aspect gives: cameras say 3:2 of 3872×2592, which
is 1 % squarer. What lies in no bucket (panoramas, small photos) runs with the profile of the whole range.
"""

from collections.abc import Sequence
from math import ceil

from ctxdeploy.core.profiles import Profile, Shape

_ALLOWANCE = 1.01
# The flattest aspect is tuned for photos of up to twice its width to height, and no flatter ones.
_FLATTEST = 2


def buckets(whole: Profile, image_size: int, aspects: Sequence[tuple[int, int]]) -> list[Profile]:
    """Return a profile for each aspect and orientation that an engine's range holds, the flattest first.

    Args:
        whole: profile of the whole range; its typical batch is that of the buckets too.
        image_size: longer side of a scaled photo, pixels.
        aspects: longer and shorter side, such as (4, 3).
    """
    found: dict[tuple[Shape, Shape], Profile] = {}
    below = image_size // _FLATTEST
    for long, short in sorted(set(aspects), key=lambda aspect: aspect[1] / aspect[0]):
        exact = image_size * short / long
        high = min(ceil(exact * _ALLOWANCE), image_size)
        side = (min(below + 1, round(exact)), round(exact), high)
        fixed = (image_size,) * 3
        below = max(below, high)
        # What is nearly square is one bucket, whichever way up.
        kinds = [(side, side)] if long == short else [(side, fixed), (fixed, side)]
        for rows, columns in kinds:
            profile = _within(whole, rows, columns)
            if profile is not None:
                found.setdefault((profile.low, profile.high), profile)
    return [profile for profile in found.values() if (profile.low, profile.high) != (whole.low, whole.high)]


def _within(whole: Profile, rows: tuple[int, int, int], columns: tuple[int, int, int]) -> Profile | None:
    """Return the part of a bucket that lies in the whole range; None where its typical shape does not."""
    sides = []
    for index, (low, typical, high) in ((1, rows), (2, columns)):
        if not whole.low[index] <= typical <= whole.high[index]:
            return None
        sides.append((max(low, whole.low[index]), typical, min(high, whole.high[index])))
    (low_rows, typical_rows, high_rows), (low_columns, typical_columns, high_columns) = sides
    return Profile(
        low=(whole.low[0], low_rows, low_columns, 3),
        typical=(whole.typical[0], typical_rows, typical_columns, 3),
        high=(whole.high[0], high_rows, high_columns, 3),
    )
