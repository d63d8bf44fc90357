"""The values that cross the walls between the rooms."""

import numpy as np
import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import LocalDescriptors

VECTORS = np.ones((3, 8), np.float32)


def test_what_is_not_given_of_descriptors_is_filled() -> None:
    found = LocalDescriptors(vectors=VECTORS)
    assert len(found) == 3
    assert found.attention.tolist() == [1, 1, 1] and found.scales.tolist() == [1, 1, 1]
    assert found.positions.shape == (3, 2) and np.isnan(found.positions).all()
    assert {array.dtype for array in vars(found).values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("facts", [{"attention": VECTORS[0]}, {"positions": VECTORS}, {"scales": VECTORS[:, 0:1]}])
def test_shapes_that_do_not_belong_together(facts: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="inconsistent shapes"):
        LocalDescriptors(vectors=VECTORS, **facts)  # type: ignore[arg-type]
