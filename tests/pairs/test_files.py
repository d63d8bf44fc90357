"""Files of pairs: read back by the rules of the programs that they are for; names that these misread are refused."""

import csv
import io
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError, StorageError
from ctxdeploy.pairs import FORMATS, Pair, check_names, encode_pairs, read_pairs, write_pairs

NAMES = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(' ,#"\n\r\t\udcff'), max_size=12)
PAIRS = st.lists(st.builds(Pair, NAMES, NAMES, st.floats(1e-9, 1)), min_size=1, max_size=6)


def read_hloc(text: str) -> list[tuple[str, str]]:
    """hloc's parse_retrieval: lines, and two words of each."""
    retrieval = defaultdict(list)
    for line in text.rstrip("\n").split("\n"):
        if len(line) == 0:
            continue
        query, other = line.split()
        retrieval[query].append(other)
    return [(query, other) for query, others in retrieval.items() for other in others]


def read_colmap(text: str) -> list[tuple[str, str]]:
    """COLMAP's ReadImagePairsText: trimmed lines, without comments, to the first and the second blank."""
    blanks = " \t\n\v\f\r"
    lines = [line.strip(blanks) for line in text.split("\n")]
    words = [line.split(" ") for line in lines if line and not line.startswith("#")]
    return [(one.strip(blanks), other.strip(blanks)) for one, other, *_ in words]


def read_kapture(text: str) -> list[tuple[str, str]]:
    """kapture's table_from_file: fields between commas, trimmed, without comments."""
    lines = (line.rstrip("\n\r") for line in io.StringIO(text, newline=None).readlines())
    rows = [[field.strip() for field in line.split(",")] for line in lines if line.strip() and line[0] != "#"]
    return [(query, other) for query, other, _ in rows]


def read_csv(text: str) -> list[tuple[str, str]]:
    return [(row["name"], row["other"]) for row in csv.DictReader(io.StringIO(text, newline=""))]


READERS = {"hloc": read_hloc, "colmap": read_colmap, "kapture": read_kapture, "csv": read_csv}


@pytest.mark.parametrize("form", FORMATS)
@given(pairs=PAIRS)
def test_readers_take_each_name_or_it_is_refused(form: str, pairs: list[Pair]) -> None:
    names = [name for pair in pairs for name in pair[:2]]
    try:
        check_names(names, form)
    except ConfigError:
        assert form != "csv"
        return
    text = b"".join(encode_pairs(pairs, form)).decode("utf-8", "surrogateescape")
    found = READERS[form](text)
    if form == "hloc":  # its reader groups by the first name
        assert sorted(found) == sorted((pair.name, pair.other) for pair in pairs)
    else:
        assert found == [(pair.name, pair.other) for pair in pairs]


@pytest.mark.parametrize("form", FORMATS)
def test_ordinary_names_are_taken_by_all_and_are_read_back(form: str, tmp_path: Path) -> None:
    pairs = [Pair("day1/é.jpg", "b-1_(2).JPG", 0.123456789012345), Pair("x\udcff.jpg", "b-1_(2).JPG", 1e-7)]
    check_names([name for pair in pairs for name in pair[:2]], form)
    write_pairs(tmp_path / "pairs", pairs, form)
    scored = form in ("kapture", "csv")
    wanted = [(pair.name, pair.other, pair.score if scored else None) for pair in pairs]
    assert list(read_pairs(tmp_path / "pairs")) == wanted


def test_bytes_of_each_format() -> None:
    pairs = [Pair("a.jpg", "b.jpg", 0.25)]
    assert {form: b"".join(encode_pairs(pairs, form)) for form in FORMATS} == {
        "hloc": b"a.jpg b.jpg\n",
        "colmap": b"a.jpg b.jpg\n",
        "kapture": b"# kapture format: 1.1\n# query_image, map_image, score\na.jpg, b.jpg, 0.25\n",
        "csv": b"name,other,score\na.jpg,b.jpg,0.25\n",
    }
    assert (
        b"".join(encode_pairs([Pair("a b.jpg", 'c,"d".jpg', 1.0)], "csv")).splitlines()[1]
        == b'a b.jpg,"c,""d"".jpg",1.0'
    )


@pytest.mark.parametrize(
    ("form", "name", "text"),
    [
        ("hloc", "two words.jpg", "has a blank.*rename the photo, or use --format csv, --allow-spaces"),
        ("hloc", "two\u00a0words.jpg", "has a blank"),
        ("colmap", "two\twords.jpg", "has a blank"),
        ("colmap", "#1.jpg", "has # at its beginning"),
        ("colmap", "two\nlines.jpg", "has a line end"),
        ("kapture", "a,b.jpg", "has a comma"),
        ("kapture", " a.jpg", "has a blank at its beginning"),
        ("kapture", "", "has no letter"),
    ],
)
def test_a_name_that_is_misread_is_refused(form: str, name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        check_names(["fine.jpg", name], form)


def test_blanks_are_written_where_that_is_wanted() -> None:
    check_names(["two words.jpg"], "hloc", allow_spaces=True)
    with pytest.raises(ConfigError, match="a line end"):
        check_names(["two\nlines.jpg"], "hloc", allow_spaces=True)
    with pytest.raises(ConfigError, match="--allow-spaces is for"):
        check_names([], "kapture", allow_spaces=True)
    check_names(["two words.jpg"], "kapture")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a.jpg b.jpg\none two three\n", "line 2: 'one two three' is not a pair"),
        (b"alone.jpg\n", "line 1: 'alone.jpg' is not a pair"),
        (b"# kapture format: 1.1\na.jpg, b.jpg, much\n", "line 2"),
        (b'name,other,score\n"a,b\n', "is not a file of pairs"),
    ],
)
def test_what_is_not_pairs_is_refused(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "pairs").write_bytes(content)
    with pytest.raises(ConfigError, match=text):
        list(read_pairs(tmp_path / "pairs"))


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_pairs(tmp_path))
    with pytest.raises(StorageError, match="choose another -o"):
        write_pairs(tmp_path / "gone" / "pairs.txt", [Pair("a", "b", 0.5)], "hloc")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, full_disk) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("former\n")
    with full_disk(), pytest.raises(StorageError):
        write_pairs(path, [Pair("a", "b", 0.5)], "hloc")
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.txt"] and path.read_text() == "former\n"
