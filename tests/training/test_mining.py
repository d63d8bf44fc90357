"""Hard negatives against the rule in plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.training.mining import hard_negatives


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(4, 30), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_negatives_are_the_most_similar_of_other_landmarks(queries: int, pool: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    asked = rng.standard_normal((queries, 6)).astype(np.float32)
    there = rng.standard_normal((pool, 6)).astype(np.float32)
    landmarks = np.concatenate([np.arange(4), rng.integers(-3, 6, pool - 4)])
    own = rng.integers(-3, 6, queries)
    found = hard_negatives(asked, own, there, landmarks, count)
    for i in range(queries):
        wanted: list[int] = []
        for j in sorted(range(pool), key=lambda j: -float(asked[i] @ there[j])):
            taken = {int(landmarks[k]) for k in wanted}
            if landmarks[j] != own[i] and int(landmarks[j]) not in taken and len(wanted) < count:
                wanted.append(j)
        assert found[i].tolist() == wanted


def test_many_queries_equal_one_by_one() -> None:
    rng = np.random.default_rng(0)
    asked, there = (rng.standard_normal((n, 4)).astype(np.float32) for n in (2500, 40))
    own, landmarks = rng.integers(0, 9, 2500), np.arange(40) % 9
    found = hard_negatives(asked, own, there, landmarks, 3)
    for i in (0, 1023, 1024, 2499):
        assert (found[i] == hard_negatives(asked[i : i + 1], own[i : i + 1], there, landmarks, 3)[0]).all()


def test_too_few_landmarks() -> None:
    x = np.ones((3, 2), np.float32)
    with pytest.raises(
        ConfigError, match=r"3 negatives of other .* the pool has 3 landmarks in all: .*--set negatives="
    ):
        hard_negatives(x, np.arange(3), x, np.arange(3), 3)
