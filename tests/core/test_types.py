"""The values that cross the walls between the rooms."""

import numpy as np
import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import GlobalDescriptor, LocalDescriptors, PhotoDescriptors

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


def test_a_pooled_descriptor_is_the_weighted_sum_of_the_local_ones() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((50, 16)).astype(np.float32)
    attention = random.random(50).astype(np.float32)
    total = np.zeros(16)
    for weight, vector in zip(attention, vectors, strict=True):
        total += float(weight) * vector.astype(np.float64)
    found = GlobalDescriptor.pooled(LocalDescriptors(vectors=vectors, attention=attention)).vector
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, total / np.sqrt((total**2).sum()), rtol=1e-6, atol=1e-7)
    # What attention is divided by does not count.
    other = GlobalDescriptor.pooled(LocalDescriptors(vectors=vectors, attention=attention / attention.max())).vector
    np.testing.assert_allclose(other, found, atol=1e-6)


def test_a_pooled_descriptor_of_nothing_is_0() -> None:
    for vectors in (np.empty((0, 8), np.float32), np.float32([[1, -1], [-1, 1]])):
        found = GlobalDescriptor.pooled(LocalDescriptors(vectors=vectors)).vector
        assert found.shape == vectors.shape[1:] and not found.any()


def test_a_photo_keeps_the_global_descriptor_of_its_network() -> None:
    own = GlobalDescriptor(vector=np.float32([0, 1]))
    local = LocalDescriptors(vectors=VECTORS)
    photo = PhotoDescriptors(name="a", descriptors=local, global_descriptor=own)
    assert photo.with_global().global_descriptor is own
    pooled = PhotoDescriptors(name="a", descriptors=local).with_global().global_descriptor
    assert pooled is not None and np.allclose(pooled.vector, VECTORS[0] / np.sqrt(8))
