"""Losses against their definitions, written as loops in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxdeploy.training import losses


def normalised(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    x = rng.standard_normal(shape)
    return torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True))


def cross_entropy(row: list[float], right: int) -> float:
    largest = max(row)
    return -(row[right] - largest - math.log(sum(math.exp(value - largest) for value in row)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.floats(0.02, 1))
def test_info_nce(count: int, seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-1, 1, (count, count))
    related = rng.random((count, count)) < 0.3
    wanted = 0.0
    for matrix, ignored in ((similarity, related), (similarity.T, related.T)):
        for i in range(count):
            kept = [j for j in range(count) if j == i or not ignored[i, j]]
            wanted += cross_entropy([matrix[i, j] / temperature for j in kept], kept.index(i)) / count / 2
    found = losses.info_nce(torch.from_numpy(similarity), torch.from_numpy(related), temperature)
    assert float(found) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_contrastive() -> None:
    rng = np.random.default_rng(0)
    queries, positives, negatives = normalised(rng, 4, 8), normalised(rng, 4, 8), normalised(rng, 4, 3, 8)
    negatives[0, 0] = queries[0] + 0.1
    wanted = 0.0
    for i in range(4):
        wanted += 0.5 * float(((queries[i] - positives[i]) ** 2).sum()) / 4
        for j in range(3):
            distance = math.dist(queries[i].tolist(), negatives[i, j].tolist())
            wanted += 0.5 * max(0.0, 1.2 - distance) ** 2 / 4
    assert float(losses.contrastive(queries, positives, negatives, 1.2)) == pytest.approx(wanted, rel=1e-9)


def test_the_gradient_at_a_negative_that_equals_its_query_is_finite() -> None:
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    losses.contrastive(query, query.detach(), query.detach()[:, None], 0.8).backward()  # type: ignore[no-untyped-call]
    assert query.grad is not None and bool(query.grad.isfinite().all())


def test_aggregated_is_the_weighted_sum() -> None:
    rng = np.random.default_rng(1)
    vectors, attention = torch.from_numpy(rng.standard_normal((2, 5, 3, 4))), torch.from_numpy(rng.random((2, 3, 4)))
    for b in range(2):
        wanted = np.zeros(5)
        for row in range(3):
            for column in range(4):
                wanted += vectors[b, :, row, column].numpy() * float(attention[b, row, column])
        wanted /= np.linalg.norm(wanted)
        np.testing.assert_allclose(losses.aggregated(vectors, attention)[b].numpy(), wanted, rtol=1e-12)


def test_strongest_takes_the_largest_attention_and_no_more_than_there_is() -> None:
    rng = np.random.default_rng(2)
    vectors, attention = torch.from_numpy(rng.standard_normal((2, 5, 3, 4))), torch.from_numpy(rng.random((2, 3, 4)))
    chosen, weights = losses.strongest(vectors, attention, 4)
    for b in range(2):
        flat = attention[b].flatten().tolist()
        order = sorted(range(12), key=lambda i: -flat[i])[:4]
        for i, position in enumerate(order):
            vector = vectors[b].flatten(1)[:, position]
            torch.testing.assert_close(chosen[b, i], vector / vector.norm())
            assert float(weights[b, i]) == pytest.approx(flat[position] / sum(flat[p] for p in order))
    assert losses.strongest(vectors, attention, 99)[0].shape == (2, 12, 5)


def test_match_kernel() -> None:
    rng = np.random.default_rng(3)
    x, y = normalised(rng, 2, 4, 6), normalised(rng, 3, 4, 6)
    x_weights, y_weights = torch.from_numpy(rng.random((2, 4))), torch.from_numpy(rng.random((3, 4)))

    def kernel(a: torch.Tensor, a_weights: torch.Tensor, b: torch.Tensor, b_weights: torch.Tensor) -> float:
        total = 0.0
        for i in range(4):
            for j in range(4):
                total += float(a_weights[i] * b_weights[j]) * max(0.0, float(a[i] @ b[j])) ** 3
        return total

    found = losses.match_kernel(x, x_weights, y, y_weights)
    for i in range(2):
        for j in range(3):
            own = kernel(x[i], x_weights[i], x[i], x_weights[i]) * kernel(y[j], y_weights[j], y[j], y_weights[j])
            wanted = kernel(x[i], x_weights[i], y[j], y_weights[j]) / math.sqrt(own)
            assert float(found[i, j]) == pytest.approx(wanted, rel=1e-9)
    same = losses.match_kernel(x, x_weights, x, x_weights)
    assert torch.diagonal(same).tolist() == pytest.approx([1, 1])
