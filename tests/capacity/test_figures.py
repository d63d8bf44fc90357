"""Figures for people: two digits and a unit."""

import pytest

from ctxdeploy.capacity.figures import BYTES, COUNT, RATE, SECONDS, SHARE, rounded, shown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, SECONDS, "–"),
        (0.0, SECONDS, "0 µs"),
        (0.0000512, SECONDS, "51 µs"),
        (0.00525, SECONDS, "5.2 ms"),
        (0.9962, SECONDS, "1 s"),
        (95.0, SECONDS, "95 s"),
        (119.6, SECONDS, "2 min"),
        (3599.0, SECONDS, "60 min"),
        (7300.0, SECONDS, "2 h"),
        (86400 * 4.123, SECONDS, "4.1 days"),
        (86400 * 412.3, SECONDS, "410 days"),
        (float("inf"), SECONDS, "never"),
        (999.0, BYTES, "1 kB"),
        (0, BYTES, "0 B"),
        (7_340_000_000, BYTES, "7.3 GB"),
        (999_700_000_000, BYTES, "1 TB"),
        (50_000, COUNT, "50,000"),
        (1526, COUNT, "1,526"),
        (402_000_000.0, COUNT, "400 M"),
        (40_200_000_000.0, COUNT, "40 G"),
        (1.5432, COUNT, "1.5"),
        (0.0123, RATE, "0.012"),
        (0.4567, SHARE, "46 %"),
    ],
)
def test_figures_are_short(value: float | None, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_rounding_keeps_two_digits() -> None:
    assert [rounded(value) for value in (0.0, 123456.0, 0.0012345, -99.6)] == [0.0, 120000.0, 0.0012, -100.0]
