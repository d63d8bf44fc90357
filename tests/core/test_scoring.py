"""Scores are those of the published evaluation, to the last bit, on any ranking."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.scoring import Relevance, load_ground_truth, mean, score_query

DEPTHS = (1, 5, 10)


@st.composite
def problems(draw) -> tuple[list[list[int]], list[dict[str, list[int]]]]:
    """Return rankings of up to 40 photos, positives and junk of each; some queries have none, lists may overlap."""
    count = draw(st.integers(1, 40))
    photos = list(range(count))
    rankings, truths = [], []
    for _ in range(draw(st.integers(1, 6))):
        rankings.append(draw(st.permutations(photos)))
        subsets = [draw(st.lists(st.sampled_from(photos), unique=True, max_size=12)) for _ in range(2)]
        truths.append({"ok": subsets[0], "junk": subsets[1]})
    truths[0]["ok"] = truths[0]["ok"] or [0]
    return rankings, truths


def _relevance(truth: dict[str, list[int]]) -> Relevance:
    return Relevance(positives=tuple(map(str, truth["ok"])), junk=frozenset(map(str, truth["junk"])))


@given(problems())
def test_scores_are_the_published_ones(load_reference, problem) -> None:
    rankings, truths = problem
    expected_map, expected_precision, values, precisions = load_reference("retrieval_scores").revisited(
        rankings, truths, DEPTHS
    )
    scores = [score_query(map(str, r), _relevance(t), DEPTHS) for r, t in zip(rankings, truths, strict=True)]
    assert [None if s is None else s.average_precision for s in scores] == values
    assert [None if s is None else list(s.precision.values()) for s in scores] == precisions
    scored = [score for score in scores if score is not None]
    assert mean([score.average_precision for score in scored]) == expected_map
    assert [mean([score.precision[depth] for score in scored]) for depth in DEPTHS] == expected_precision


@given(problems())
def test_average_precision_is_the_area_of_the_trapezoids(load_reference, problem) -> None:
    exact = load_reference("retrieval_scores").exact_average_precision
    for ranking, truth in zip(*problem, strict=True):
        truth["junk"] = [photo for photo in truth["junk"] if photo not in truth["ok"]]
        score = score_query(map(str, ranking), _relevance(truth))
        if score is not None:
            assert abs(score.average_precision - float(exact(ranking, truth["ok"], truth["junk"]))) < 1e-12


@given(problems(), st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_what_is_not_ranked_comes_after_everything(load_reference, problem, cut: int) -> None:
    """As the published code on a ranking in which other photos, and then the missing ones, follow."""
    published = load_reference("retrieval_scores").revisited
    for ranking, truth in zip(*problem, strict=True):
        score = score_query(map(str, ranking[:cut]), _relevance(truth), DEPTHS)
        if score is None:
            continue
        others = [1000 + number for number in range(10**4)] if set(truth["ok"]) - set(ranking[:cut]) else []
        value, precision, _, _ = published([ranking[:cut] + others + ranking[cut:]], [truth], DEPTHS)
        assert list(score.precision.values()) == precision
        assert score.average_precision <= value <= score.average_precision + 2e-3


def test_junk_before_a_positive_does_not_count() -> None:
    relevance = Relevance(positives=("right",), junk=frozenset({"junk", "worse"}))
    score = score_query(["junk", "worse", "right", "wrong"], relevance)
    assert (score.average_precision, score.precision[1], score.ranks) == (1.0, 1.0, (0,))
    score = score_query(["wrong", "junk", "right"], relevance)
    assert (score.average_precision, score.ranks) == ((0.0 + 1 / 2) / 2, (1,))


def test_precision_looks_no_further_than_the_last_positive() -> None:
    relevance = Relevance(positives=("a", "b"))
    score = score_query(["a", "x", "b", "y", "z"], relevance)
    assert score.precision == {1: 1.0, 5: 2 / 3, 10: 2 / 3}
    assert score_query(["a", "x", "y"], relevance).precision == {1: 1.0, 5: 1 / 5, 10: 1 / 10}
    assert score_query(["x", "y"], relevance).precision == {1: 0.0, 5: 0.0, 10: 0.0}


def test_a_query_without_answers_is_not_scored() -> None:
    assert score_query(["a", "b"], Relevance(positives=(), junk=frozenset({"a"}))) is None


def _write(folder: Path, content: object) -> None:
    (folder / "gnd.json").write_text(json.dumps(content), encoding="utf-8")


def test_ground_truth_of_scenes(tmp_path: Path) -> None:
    scenes = {"tower": ["images/a.jpg", "images/b.jpg", "images/c.jpg"], "gate": ["d.jpg"]}
    _write(tmp_path, {"scenes": scenes, "small_scenes": {"s": ["e.jpg", "f.jpg"]}, "junk_pairs": [["a.jpg", "c.jpg"]]})
    truth = load_ground_truth(tmp_path)
    assert truth.scenes["tower"] == ("a.jpg", "b.jpg", "c.jpg") and truth.small == {"s"}
    assert truth.relevance("a.jpg", truth.scenes["tower"]) == Relevance(
        positives=("b.jpg",), junk=frozenset({"a.jpg", "c.jpg"})
    )
    restricted = truth.restricted(["a.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"])
    assert set(restricted.scenes) == {"s"}  # a and c are a junk pair, d is alone
    rankings = {"e.jpg": ["e.jpg", "x.jpg", "f.jpg"], "f.jpg": ["e.jpg"]}
    assert restricted.mean_average_precision(rankings) == pytest.approx((0.25 + 1.0) / 2)


@pytest.mark.parametrize("content", ["[", {}, {"scenes": [1]}, {"scenes": {"a": 1}}, {"scenes": {}, "junk_pairs": [1]}])
def test_ground_truth_of_another_form(tmp_path: Path, content: object) -> None:
    (tmp_path / "gnd.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match=r"gnd\.json is not a ground truth"):
        load_ground_truth(tmp_path)


_TWO = {"a": ["1.jpg", "2.jpg"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "the file is a list, not an object"),
        ({}, "it has no 'scenes'"),
        ({"scenes": {"a": "1.jpg"}}, "the scene 'a' is text, not a list"),
        ({"scenes": {"a": ["1.jpg", 2]}}, "a photo of the scene 'a' is a number, not a name"),
        ({"scenes": {"a": [["1.jpg"]]}}, "a photo of the scene 'a' is a list, not a name"),
        ({"scenes": {"a": ["1.jpg", ""]}}, "a photo of the scene 'a' is empty"),
        ({"scenes": _TWO, "small_scenes": _TWO}, "'a' stands in 'scenes' and in 'small_scenes'"),
        ({"scenes": _TWO, "small_scenes": ["a"]}, "'small_scenes' is a list, not an object"),
        ({"scenes": _TWO, "kinds": {"b": "wild"}}, "'kinds' has 'b', which is not a scene"),
        ({"scenes": _TWO, "kinds": {"a": 5}}, "the kind of the scene 'a' is a number"),
        ({"scenes": _TWO, "kinds": {"a": float("nan")}}, "the kind of the scene 'a' is a number"),
        ({"scenes": _TWO, "junk_pairs": None}, "'junk_pairs' is null, not a list"),
        ({"scenes": _TWO, "junk_pairs": [["1.jpg"]]}, "'junk_pairs' [0] has 1 photos: a pair has two"),
        ({"scenes": _TWO, "junk_pairs": ["12"]}, "'junk_pairs' [0] is text, not a list"),
        ({"scenes": _TWO, "junk_pairs": [["1.jpg", None]]}, "a photo of 'junk_pairs' [0] is null, not a name"),
        ('{"scenes": {"a": ["1", "2"], "a": ["3", "4"]}}', "'a' stands there twice"),
        ('{"scenes": {"\\u001b[31m' + "x" * 999 + '": 5}}', r"'\x1b[31mxxx"),
        ("[" * 100_000, "recursion"),
        (b"\xff\xfe{", "can't decode"),
    ],
)
def test_every_part_of_a_ground_truth_is_checked(tmp_path: Path, content: object, words: str) -> None:
    data = content.encode() if isinstance(content, str) else content
    (tmp_path / "gnd.json").write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    with pytest.raises(ConfigError) as caught:
        load_ground_truth(tmp_path)
    assert words in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_byte_order_mark_and_other_facts_are_no_mistakes(tmp_path: Path) -> None:
    content = {"scenes": {"a": ["x/1.jpg", "2.jpg"], "b": []}, "junk_pairs": [["x/1.jpg", "2.jpg"]], "licence": None}
    (tmp_path / "gnd.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    truth = load_ground_truth(tmp_path)
    assert truth.scenes == {"a": ("1.jpg", "2.jpg"), "b": ()}
    assert truth.relevance("1.jpg", truth.scenes["a"]).positives == ()
