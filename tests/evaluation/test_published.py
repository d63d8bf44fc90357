"""The table of published figures."""

import json

import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.evaluation.published import FRAMEWORKS, GLDV2_CAUTION, PUBLISHED, find_row, rows_of


def test_rows_have_names_of_their_own_and_figures_in_percent() -> None:
    names = [row.name.casefold() for row in PUBLISHED]
    assert len(set(names)) == len(names)
    for row in PUBLISHED:
        assert row.framework in FRAMEWORKS and row.source
        pairs = (row.roxford, row.rparis, row.roxford_1m, row.rparis_1m)
        figures = [figure for pair in pairs for figure in pair if figure is not None]
        assert figures and all(20 < figure < 90 for figure in figures)
        for easier, harder in pairs:
            assert harder is None or (easier is not None and harder < easier)
        # Distractors make every figure worse.
        for alone, among in ((row.roxford, row.roxford_1m), (row.rparis, row.rparis_1m)):
            assert all(a is None or b is None or b < a for a, b in zip(alone, among, strict=True))
        assert row.certain or row.caution is not None
    assert sum(len(rows_of(framework)) for framework in FRAMEWORKS) == len(rows_of(None)) == len(PUBLISHED)


def test_the_rows_of_the_deck_are_as_it_prints_them() -> None:
    row = find_row("delg r101")
    assert (row.framework, row.roxford, row.rparis) == ("global-then-local", (78.5, 59.3), (82.9, 65.5))
    assert find_row("AP-GeM R101").roxford == (67.1, 42.3)
    assert find_row("GeM+SOLAR R101").rparis == (81.6, 64.5)
    assert find_row("DELF-R-ASMK* verified").roxford == (76.0, 52.4)
    assert find_row("R-MAC R101").model is None and "only for Caffe" in str(find_row("R-MAC R101").caution)


def test_figures_of_gldv2_clean_are_printed_with_their_caution() -> None:
    for row in PUBLISHED:
        assert (row.training == "GLDv2-clean") == (row.caution == GLDV2_CAUTION)


def test_a_row_prints_as_json() -> None:
    facts = json.loads(json.dumps(find_row("HOW R50").metadata()))
    assert facts["roxford"] == {"medium": 78.3, "hard": None} and facts["memory_gb"] == 7.9


def test_an_unknown_row_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"--row 'DELG R18' is not a row of the published tables: choose"):
        find_row("DELG R18")
