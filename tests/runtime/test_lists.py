"""Lists of photos: plain lines, CSV and TSV, JSON lines."""

import csv
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.core.types import Box
from ctxdeploy.runtime.photo import PhotoSource
from ctxdeploy.runtime.sources import Selection, list_photos
from ctxdeploy.runtime.sources.base import clean_name

# As os.listdir returns them: any bytes but zero; those that are no UTF-8 as surrogates.
NAMES = st.one_of(st.text(min_size=1), st.binary(min_size=1).map(os.fsdecode))
REUSED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(tmp_path: Path, name: str, text: str | bytes) -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return str(path)


def found(place: str) -> dict[str, PhotoSource]:
    return {photo.name: photo for photo in list_photos(place).photos}


def test_lines(tmp_path: Path) -> None:
    lines = ["b.jpg", "# a remark", "#", "#1.jpg", "", "  ", "./sub//a.jpg", "/abs/c.jpg", " d .jpg", "../e", "b.jpg"]
    place = write(tmp_path, "list.txt", "\ufeff" + "\r\n".join(lines))
    photos = found(place)
    assert list(photos) == sorted(["b.jpg", "#1.jpg", "sub/a.jpg", "/abs/c.jpg", " d .jpg", "../e"])
    assert photos["sub/a.jpg"].path == tmp_path / "sub" / "a.jpg"
    assert photos["/abs/c.jpg"].path == Path("/abs/c.jpg")
    assert photos["../e"].path == tmp_path / ".." / "e"
    assert all(photo.box is None for photo in photos.values())


def test_the_place_is_the_list_and_what_it_names_no_more_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    listing = list_photos(write(tmp_path, "list.LST", "a.jpg\n"))
    assert listing.place == str(tmp_path.resolve() / "list.LST")
    assert listing.folder is None
    assert not listing.is_gone("a.jpg")
    assert listing.is_gone("b.jpg")


def test_a_line_with_bytes_that_are_no_utf8_names_that_file(tmp_path: Path) -> None:
    name = b"caf\xe9\x1b\xe2\x80\xa8.jpg"
    (tmp_path / os.fsdecode(name)).write_bytes(b"photo")
    (photo,) = list_photos(write(tmp_path, "list.txt", name + b"\n")).photos
    assert os.fsencode(photo.name) == name
    assert photo.path is not None
    assert photo.path.read_bytes() == b"photo"


CSV_TEXT = """path,ignored,x0,y0,x1,y1,name
a.jpg,1,,,,,
a.jpg,2,0,0,10,20.5,
a.jpg,3,0,0,10.000001,20.5,
"b,""c.jpg",4,1,2,3,4,my cat
"""


def test_csv(tmp_path: Path) -> None:
    photos = found(write(tmp_path, "list.csv", CSV_TEXT))
    assert {name: photo.box for name, photo in photos.items()} == {
        "a.jpg": None,
        "a.jpg#0,0,10,20.5": Box(x0=0, y0=0, x1=10, y1=20.5),
        "a.jpg#0,0,10.000001,20.5": Box(x0=0, y0=0, x1=10.000001, y1=20.5),
        "my cat": Box(x0=1, y0=2, x1=3, y1=4),
    }
    assert photos["my cat"].path == tmp_path / 'b,"c.jpg'


def test_a_column_box(tmp_path: Path) -> None:
    tsv = found(write(tmp_path, "list.tsv", "path\tbox\r\na.jpg\t1,2,3,4\r\nb.jpg\t\r\n"))
    quoted = found(write(tmp_path, "list.csv", 'box,path\n"1,2,3,4",a.jpg\n,b.jpg\n'))
    assert list(tsv) == list(quoted) == ["a.jpg#1,2,3,4", "b.jpg"]
    assert tsv["a.jpg#1,2,3,4"].box == Box(x0=1, y0=2, x1=3, y1=4)


def test_jsonl(tmp_path: Path) -> None:
    rows = [
        {"path": "a.jpg", "box": [1, 2, 3.5, 4], "more": {}},
        {"path": "a.jpg", "box": None, "name": None},
        {"path": "b\udce9.jpg", "name": "é\u2028"},
        {"path": "c.jpg", "x0": 1, "y0": 2, "x1": 3, "y1": 4},
    ]
    place = write(tmp_path, "list.jsonl", "\n\n".join(json.dumps(row) for row in rows))
    assert list(found(place)) == sorted(["a.jpg#1,2,3.5,4", "a.jpg", "é\u2028", "c.jpg#1,2,3,4"])
    (photo,) = (photo for photo in list_photos(place).photos if photo.name == "é\u2028")
    assert os.fsencode(str(photo.path)).endswith(b"/b\xe9.jpg")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name,box\nx,\n", "a.csv, line 1: the first row must name the columns, one of them path"),
        ("a.csv", "path,path\nx,y\n", "line 1: there are two columns path"),
        ("a.csv", "path,box\nx.jpg,1,2,3,4\n", "a.csv, line 2: 5 values for 2 columns"),
        ("a.csv", 'path\n"y', "a.csv, line 2: unexpected end of data: nothing from here on can be read"),
        ("a.csv", "path,name\n,x\n", "line 2: the path is empty"),
        ("a.csv", "path\nx\0.jpg\n", "line 2: the path has a zero byte"),
        ("a.csv", "path,x0,y0,x1,y1\n\nx,1,2,,4\n", "line 3: the box has no x1"),
        ("a.csv", "path,x0,y0,x1,y1\nx,1,2,three,4\n", "line 2: 'three' is not a number"),
        ("a.csv", "path,x0,y0,x1,y1\nx,5,2,3,4\n", "line 2: box 5,2,3,4 is empty"),
        ("a.csv", "path,x0,y0,x1,y1\nx,nan,2,3,4\n", "line 2: box .* finite"),
        ("a.csv", 'path,box,x0\nx,"1,2,3,4",5\n', "line 2: the box is given twice"),
        ("a.csv", "path,box\nx,1 2 3 4\n", "line 2: the box '1 2 3 4' is not four numbers"),
        ("a.csv", "path,name\na,x/\n", "line 2: the name 'x/' ends with /"),
        ("a.csv", "\x1b[31m,x\n", r"one of them path: not \\x1b\[31m,x"),
        ("a.csv", "https://me:secret@h/x.jpg?sig=secret,1\n", "one of them path: not https://h/x.jpg,1$"),
        ("a.jsonl", '{"path": "x"\n{path}\n', r"a.jsonl, line 1: this is not JSON .* \(and 1 line more\)"),
        ("a.jsonl", '["x"]', "line 1: this is not a JSON object"),
        ("a.jsonl", '{"name": "x"}', "line 1: there is no path"),
        ("a.jsonl", '{"path": 5}', "line 1: the path 5 is not a text"),
        ("a.jsonl", '{"path": "x", "name": 5}', "line 1: the name 5 is not a text"),
        ("a.jsonl", '{"path": "x", "box": {"x0": 1}}', "line 1: the box .* is not four numbers"),
        ("a.jsonl", '{"path": "x", "box": [1, 2, true, 4]}', "line 1: True is not a number"),
        ("a.jsonl", '{"path": "x", "box": [1, 2, 1e999, 4]}', "line 1: box .* finite"),
        ("a.jsonl", '{"path": "x", "box": [1, 2, 1' + "0" * 400 + ", 4]}", "line 1: 10{59}… is not a number"),
        ("a.jsonl", '{"path": "\\ud800"}', r"line 1: the path .*ud800' cannot be the name of a file"),
        ("a.jsonl", "[" * 100_000, "line 1: this is not JSON"),
        ("a.txt", "\n./\n", "a.txt, line 2: the path './' names a folder"),
        ("a.txt", "a\0b", "line 1: the path has a zero byte"),
        ("a.txt", "\ufeffa.jpg".encode("utf-16-le"), "a.txt is UTF-16: save it as UTF-8"),
    ],
)
def test_what_is_wrong_with_a_list(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        list_photos(write(tmp_path, name, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_an_empty_list(tmp_path: Path, name: str) -> None:
    with pytest.raises(NoPhotosError, match=f"{name} names no photos"):
        list_photos(write(tmp_path, name, ""))


@REUSED
@given(names=st.lists(NAMES, min_size=1, max_size=8))
def test_any_name_survives_csv_and_json(tmp_path: Path, names: list[str]) -> None:
    names = [name for name in names if "\0" not in name and "://" not in name and clean_name(name)]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path"])
    writer.writerows([name] for name in names)
    lines = "\n".join(json.dumps({"path": name}) for name in names)
    expected = sorted({clean_name(name) for name in names})
    for place in (write(tmp_path, "a.csv", text.getvalue()), write(tmp_path, "a.jsonl", lines)):
        if not expected:
            with pytest.raises(NoPhotosError):
                list_photos(place)
            continue
        photos = list_photos(place).photos
        assert [photo.name for photo in photos] == expected
        assert [str(photo.path) for photo in photos] == [str(tmp_path / name) for name in expected]


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("a.csv", 'path\nx\n"y', 3, "unexpected end of data"),
        ("a.csv", "path,box\nx,\ny,1 2 3 4\nz,\n", 3, "the box '1 2 3 4' is not four numbers"),
        ("a.csv", "path,name\nx,\nb,x\n", 3, "an earlier line gives the name 'x' to another photo"),
        ("a.csv", "path\nx\n,,\n", 3, "3 values for 1 columns"),
        ("a.jsonl", '{"path": "x"}\n{path}\n', 2, "this is not JSON"),
        ("a.jsonl", '{"path": "x"}\n{"path": "\\ud800"}\n', 2, "cannot be the name of a file"),
        ("a.txt", "x\n./\n", 2, "the path './' names a folder"),
        ("a.txt", "x\na\0b\n", 2, "the path has a zero byte"),
        ("a.txt", "x\nsftp2://h/a.jpg\n", 2, "sftp2:// is not read from a list"),
    ],
)
def test_a_wrong_line_is_a_failure_of_its_own(tmp_path: Path, name: str, text: str, line: int, reason: str) -> None:
    """The other photos of the list are taken, and none that it does not name counts as gone."""
    listing = list_photos(write(tmp_path, name, text))
    assert "x" in [photo.name for photo in listing.photos]
    (failure,) = listing.unreadable
    assert (failure.name, failure.stage) == (f"{name}, line {line}", "list")
    assert reason in failure.reason and "\n" not in failure.reason
    assert not listing.is_gone("y") and not listing.is_gone("other.jpg")
    assert list_photos(write(tmp_path, "b.txt", "x\n")).is_gone("y")


@pytest.mark.parametrize(
    "text",
    [
        "path;box;name\nä b.jpg;1,2,3,4;\n",
        "Path;X0;Y0;X1;Y1\r\nä b.jpg;1;2;3;4\r\n",
        "sep=;\r\npath;box\r\nä b.jpg;1,2,3,4\r\n",
        '"sep=|"\npath|box\nä b.jpg|1,2,3,4\n',
        '\ufeff"path"\t"box"\nä b.jpg\t1,2,3,4\n',
        'name;"path";box\n;"ä b.jpg";"1,2,3,4"\n',
    ],
)
def test_tables_as_spreadsheets_of_other_countries_write_them(tmp_path: Path, text: str) -> None:
    (photo,) = list_photos(write(tmp_path, "list.csv", text)).photos
    assert (photo.name, photo.box) == ("ä b.jpg#1,2,3,4", Box(x0=1, y0=2, x1=3, y1=4))


def test_quotes_around_a_path_are_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "'kept.jpg'").touch()
    text = "\"my photo.jpg\"\n'other.jpg'\n'kept.jpg'\n\"\n'half.jpg\n\"http://h/a.jpg\"\n"
    names = [photo.name for photo in list_photos(write(tmp_path, "list.txt", text)).photos]
    assert names == sorted(["my photo.jpg", "other.jpg", "'kept.jpg'", '"', "'half.jpg", "http://h/a.jpg"])


def test_patterns_choose_from_lists_too(tmp_path: Path) -> None:
    text = "path,name\n@eaDir/a.jpg,\n2024/b.jpg,other\n/abs/2024/c.jpg,\nd.png,\n"
    place = write(tmp_path, "list.csv", text)
    listing = list_photos(place, selection=Selection(exclude=("2024", "*.PNG")))
    assert [photo.name for photo in listing.photos] == ["@eaDir/a.jpg"]
    assert listing.left_out.excluded == 3
    with pytest.raises(NoPhotosError, match="names no photos; 4 photos or folders left out by --include"):
        list_photos(place, selection=Selection(include=("*.gif",)))
