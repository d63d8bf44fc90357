"""Times of servers against what queueing theory and draws say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.capacity.service_time import ServiceTime


@given(
    median=st.floats(1e-4, 10),
    spread=st.floats(1, 5),
    slow_share=st.floats(0, 0.2),
    slow_times=st.floats(1, 50),
    share=st.floats(0.01, 0.999),
)
def test_quantile_undoes_share_within(
    median: float, spread: float, slow_share: float, slow_times: float, share: float
) -> None:
    time = ServiceTime(median=median, spread=spread, slow_share=slow_share, slow_times=slow_times)
    found = time.quantile(share)
    assert time.share_within(found * (1 + 1e-9)) >= share - 1e-6
    assert time.share_within(found * (1 - 1e-9)) <= share + 1e-6
    assert time.slowest(8, share) >= found


def test_median_and_spread_are_those_that_are_given() -> None:
    time = ServiceTime(median=0.02, spread=1.5)
    assert time.quantile(0.5) == pytest.approx(0.02)
    assert time.quantile(0.99) == pytest.approx(0.03)
    assert time.share_within(0) == 0


def test_moments_and_the_slowest_are_those_of_draws() -> None:
    time, rng, servers = (
        ServiceTime(median=0.02, spread=1.5, slow_share=0.01, slow_times=10),
        np.random.default_rng(0),
        16,
    )
    body = time.median * np.exp(time.sigma * rng.standard_normal((100_000, servers)))
    drawn = body * np.where(rng.random(body.shape) < 0.01, 10, 1)
    assert time.mean == pytest.approx(drawn.mean(), rel=0.01)
    assert time.second_moment == pytest.approx((drawn**2).mean(), rel=0.03)
    for share in (0.5, 0.9, 0.99):
        assert time.slowest(servers, share) == pytest.approx(np.quantile(drawn.max(axis=1), share), rel=0.03)


def test_waits_are_those_of_a_server_with_constant_times() -> None:
    time = ServiceTime(median=0.1)
    assert time.load(5) == pytest.approx(0.5)
    # M/D/1: ρ / (2 µ (1 − ρ)).
    assert time.mean_wait(5) == pytest.approx(0.5 / (2 * 10 * 0.5))
    assert time.wait_quantile(5, 0.4) == 0
    assert time.wait_quantile(5, 0.99) > time.wait_quantile(5, 0.9) > 0


@pytest.mark.parametrize("rate", [10.0, 11.0])
def test_a_server_that_cannot_keep_up_lets_wait_for_ever(rate: float) -> None:
    time = ServiceTime(median=0.1)
    assert math.isinf(time.mean_wait(rate)) and math.isinf(time.wait_quantile(rate, 0.5))
