"""The file of a calibration: kept, read, and refused where it is not one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.capacity.measurement import Measurement
from ctxdeploy.core.errors import ConfigError

MADE = Measurement(
    machine={"processor": "x", "processors": 4, "memory_bytes": 1 << 34, "system": "Linux"},
    model="a" * 64,
    words=16384,
    photos=12,
    load=0.25,
    costs={"seconds_per_photo": 0.3, "posting_rate": 5e8, "query_words": 1000.0, "skew": 1.5},
    global_rates={"fp32": 2e10, "pq": 1e9},
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    MADE.write(tmp_path / "m.json")
    assert Measurement.read(tmp_path / "m.json") == MADE


def test_photos_of_another_model_do_not_count() -> None:
    photos = {"seconds_per_photo": 0.3, "query_words": 1000.0, "skew": 1.5}
    assert MADE.for_model("a" * 64, "fp32", 16384) == {"posting_rate": 5e8, "global_rate": 2e10, **photos}
    assert MADE.for_model("b" * 64, "none", 16384) == {"posting_rate": 5e8}


def test_a_query_has_more_words_in_a_larger_codebook() -> None:
    larger, tiny = (MADE.for_model("a" * 64, "none", words) for words in (65536, 100))
    assert 1400 < larger["query_words"] < 1600 and 2.1 < larger["skew"] < 2.4 and larger["seconds_per_photo"] == 0.3
    assert tiny["query_words"] == 100


def test_a_busy_machine_is_known() -> None:
    assert not MADE.was_busy and replace(MADE, load=2.5).was_busy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "was not written by"),
        ({"format_version": 2}, "measure again"),
        ({"machine": None}, "machine, model, words or photos"),
        ({"words": "1"}, "machine, model, words or photos"),
        ({"load": None}, "load is not an object of numbers"),
        ({"photos": True}, "machine, model, words or photos"),
        ({"costs": []}, "costs is not an object of numbers"),
        ({"costs": {"seconds_per_photo": "1"}}, "costs is not an object of numbers"),
        ({"costs": {"seconds_per_photo": -1}}, "--seconds-per-photo -1"),
        ({"costs": {"colour": 1}}, "'colour' is not an assumption"),
        ({"global_rates": {"pq": float("nan")}}, "--global-rate"),
    ],
)
def test_what_is_not_one_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({**MADE.metadata(), **change}))
    with pytest.raises(ConfigError, match=message) as refused:
        Measurement.read(path)
    assert "m.json" in str(refused.value)


def test_files_that_are_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist: make it with"):
        Measurement.read(tmp_path / "gone.json")
    for content in (b"{", b"\xff", b"[" * 100_000, b"[]"):
        (tmp_path / "m.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"m\.json"):
            Measurement.read(tmp_path / "m.json")
