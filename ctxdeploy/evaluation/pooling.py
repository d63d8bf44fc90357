"""The global descriptor that a network of local descriptors is trained with, from what its graph gives."""

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.types import LocalDescriptors


def pooled(descriptors: LocalDescriptors) -> NDArray[np.float32] | None:
    """Return Σ attention · descriptor over the selected descriptors of all scales, divided by its length: D float32.

    In training the sum runs over all positions of the feature maps; a graph returns the K with the largest attention.
    What attention is divided by (the maximum of the photo) does not matter, since the length is divided out. None
    without descriptors, and where they cancel out.
    """
    total = descriptors.attention.astype(np.float64) @ descriptors.vectors.astype(np.float64)
    length = float(np.linalg.norm(total))
    if not len(descriptors) or length == 0.0:
        return None
    return (total / length).astype(np.float32)
