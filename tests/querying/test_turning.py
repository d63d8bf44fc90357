"""Which turn of a query is answered."""

from dataclasses import dataclass

import pytest

from ctxdeploy.querying.turning import choose, further_turns


@dataclass(frozen=True)
class Found:
    """What a query found."""

    best_score: float
    surest: float | None = None


@pytest.mark.parametrize(
    ("upright", "turn", "turns"),
    [
        (Found(0.1, 0.99), "auto", ()),
        (Found(0.001, 0.5), "auto", (90, 180, 270)),
        (Found(0.1), "auto", (90, 180, 270)),  # nobody judged
        (Found(0.0), "auto", (90, 180, 270)),
        (Found(0.1, 0.99), "all", (90, 180, 270)),
        (Found(0.0), "none", ()),
    ],
)
def test_turns_are_asked_where_nothing_is_certain(upright: Found, turn: str, turns: tuple[int, ...]) -> None:
    assert further_turns(upright, turn) == turns


@pytest.mark.parametrize(
    ("upright", "turned", "chosen"),
    [
        (Found(0.002, 0.5), [Found(0.003, 0.7)], 0),  # neither certain nor far higher
        (Found(0.002, 0.5), [Found(0.003, 0.7), Found(0.0035, 0.9)], 2),
        (Found(0.002, 0.5), [Found(0.003, 0.7), Found(0.0041, 0.75)], 2),
        (Found(0.002), [Found(0.0035), Found(0.003)], 0),
        (Found(0.002), [Found(0.005), Found(0.006)], 2),
        (Found(0.004, 0.95), [Found(0.005, 0.9)], 0),
        (Found(0.0), [Found(0.0)], 0),
        (Found(0.0), [Found(0.001)], 1),
        (Found(0.1, 0.9), [], 0),
    ],
)
def test_upright_is_given_up_for_what_is_sure_or_scores_far_higher(
    upright: Found, turned: list[Found], chosen: int
) -> None:
    assert choose(upright, turned) is [upright, *turned][chosen]
