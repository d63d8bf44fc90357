"""How many photos may fail."""

from collections import Counter

import pytest

from ctxdeploy.core.errors import ConfigError, TooManyFailuresError
from ctxdeploy.indexing.config import MIN_TRIED, FailureLimit


@pytest.mark.parametrize(
    ("text", "count", "share"),
    [("0", 0, None), ("12", 12, None), ("5%", None, 0.05), ("0%", None, 0.0), ("2.5%", None, 0.025)],
)
def test_limits_are_read(text: str, count: int | None, share: float | None) -> None:
    limit = FailureLimit.parse(text)
    assert limit.count == count
    assert limit.share == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize("text", ["", "%", "-1", "1.5", "101%", "-1%", "nan%", "ten", "5 photos"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--max-failures .* is neither"):
        FailureLimit.parse(text)


def test_a_number_of_failures() -> None:
    limit = FailureLimit(count=2)
    limit.check(Counter({"cut": 2}), tried=2)
    with pytest.raises(
        TooManyFailuresError, match=r"3 of 40 photos failed, more than --max-failures 2; most often \(2 times\): cut"
    ):
        limit.check(Counter({"cut": 2, "empty": 1}), tried=40)


def test_a_share_counts_from_a_hundred_photos_on() -> None:
    limit = FailureLimit(share=0.1)
    limit.check(Counter({"cut": MIN_TRIED - 1}), tried=MIN_TRIED - 1)
    limit.check(Counter({"cut": 10}), tried=100)
    with pytest.raises(TooManyFailuresError, match="11 of 100 photos failed, more than --max-failures 10%"):
        limit.check(Counter({"cut": 11}), tried=100)


def test_without_a_limit_everything_may_fail() -> None:
    FailureLimit().check(Counter({"cut": 10**6}), tried=10**6)
