"""The order of SuperGlobal's refined vectors, in plain loops."""

import numpy as np


def refined(query, vectors, together=3):
    """Return the places of the photos, best first, that are given best first."""
    query, photos = query.astype(np.float64), [vector.astype(np.float64) for vector in vectors]

    def unit(vector):
        return vector / np.sqrt(sum(x * x for x in vector))

    scores = []
    asked = unit(sum([query, *photos[: together - 1]]))
    for photo in photos:
        others = sorted(photos, key=lambda other: -float(photo @ other))
        scores.append((float(unit(sum(others[:together])) @ query) + float(photo @ asked)) / 2)
    return sorted(range(len(photos)), key=lambda place: -scores[place])
