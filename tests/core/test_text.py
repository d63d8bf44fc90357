"""Text for people and for programs."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.files import write_json
from ctxdeploy.core.text import json_text

LATIN, MIXED = os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"\\ \xe2\x98\x95 \xff")


def strict(text: str) -> Any:
    """Read JSON as parsers do that take no half of a surrogate pair."""
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def encoded(name: str) -> str:
    return base64.b64encode(os.fsencode(name)).decode("ascii")


@pytest.mark.parametrize(
    "value",
    [
        {"name": "a.jpg", "score": 0.5, "none": None},
        {"name": "☕ 😀 \\udce9", "names": ["a", "b\n"], "nested": [{"é": [1, True]}]},
        [],
        "😀",
    ],
)
def test_what_is_unicode_is_as_it_is(value: Any) -> None:
    assert strict(json_text(value)) == value


def test_a_name_that_is_not_utf_8_is_readable_and_whole() -> None:
    read = strict(json_text({"name": LATIN, "score": 1, "more": [{"file": MIXED}, {"file": "a"}]}))
    assert read == {
        "name": r"caf\udce9.jpg",
        "name_bytes": encoded(LATIN),
        "score": 1,
        "more": [{"file": r"\\ ☕ \udcff", "file_bytes": encoded(MIXED)}, {"file": "a"}],
    }
    assert os.fsdecode(base64.b64decode(read["name_bytes"])) == LATIN


def test_names_in_lists_of_any_depth() -> None:
    read = strict(json_text({"names": ["a", LATIN], "ranked": (("b", 0.5), (LATIN, 0.25, ["x"])), "counts": [1, 2]}))
    assert read["names"] == ["a", r"caf\udce9.jpg"] and read["names_bytes"] == [None, encoded(LATIN)]
    assert read["ranked"] == [["b", 0.5], [r"caf\udce9.jpg", 0.25, ["x"]]]
    assert read["ranked_bytes"] == [None, [encoded(LATIN), None, None]]
    assert "counts_bytes" not in read


def test_keys_and_texts_that_are_no_bytes() -> None:
    assert strict(json_text({LATIN: {"name": "a"}})) == {r"caf\udce9.jpg": {"name": "a"}}
    assert strict(json_text({"name": "half \ud83d"})) == {"name": r"half \ud83d"}
    assert strict(json_text(LATIN)) == r"caf\udce9.jpg"
    with pytest.raises(ValueError, match="JSON"):
        json_text({"name": LATIN, "score": float("nan")})


def test_a_file_of_json_is_utf_8_whatever_it_names(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"file": LATIN, "note": "é"})
    read = strict((tmp_path / "a.json").read_bytes().decode("utf-8"))
    assert read == {"file": r"caf\udce9.jpg", "file_bytes": encoded(LATIN), "note": "é"}
