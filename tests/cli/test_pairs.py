"""``ctxdeploy pairs``, ``duplicates`` and ``eval-pairs``: files, what is printed, exit codes."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy import PhotoIndex
from ctxdeploy.cli.main import run
from ctxdeploy.index import Codebook, Index
from ctxdeploy.pairs import PairsConfig

NAMES = [f"day{day}/{n}.jpg" for day in (1, 2) for n in range(4)]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two scenes of four photos, and one photo without descriptors."""
    rng = np.random.default_rng(0)
    scenes = rng.standard_normal((2, 20, 16))
    path = tmp_path / "a.ctxindex"
    with Index.create(path, Codebook(rng.standard_normal((32, 16)).astype(np.float32))) as index:
        for place, name in enumerate(NAMES):
            index.add(name, (scenes[place // 4] + 0.2 * rng.standard_normal((20, 16))).astype(np.float32))
        index.add("empty.jpg", np.empty((0, 16), np.float32))
    return path


def lines_of(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_of_pairs_and_what_is_said(call: Callable[..., Any], archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.txt"
    done = call("pairs", archive, "-o", out, "--top", 2)
    assert (done.code, done.err) == (0, "")
    with PhotoIndex.open(archive) as index:
        wanted = [[name, other] for name, other, _ in index.pairs(PairsConfig(top=2))]
    assert lines_of(out) == wanted
    assert done.out == f"{out}: {len(wanted)} pairs of 8 photos; 9 looked for others\n"


@pytest.mark.parametrize(
    ("target", "why"),
    [("none/pairs.txt", "No such file or directory"), ("", "Is a directory"), ("a.txt/b", "Not a directory")],
)
def test_a_file_without_a_place_is_refused_before_the_search(
    call: Callable[..., Any], archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, why: str
) -> None:
    monkeypatch.setattr(PhotoIndex, "pairs", lambda *_args, **_settings: pytest.fail("it was searched"))
    (tmp_path / "a.txt").touch()
    done = call("pairs", archive, "-o", tmp_path / target)
    assert done.code == 18 and f"cannot be written: {why}; choose another -o" in done.err


def test_pairs_on_stdout_are_the_bytes_of_the_file(call: Callable[..., Any], archive: Path, tmp_path: Path) -> None:
    for form in ("hloc", "colmap", "kapture", "csv"):
        assert call("pairs", archive, "-o", tmp_path / "pairs", "--format", form).code == 0
        done = call("pairs", archive, "-o", "-", "--format", form)
        assert done.out == (tmp_path / "pairs").read_text(encoding="utf-8")
        assert "pairs of 8 photos" in done.err
    assert call("pairs", archive, "-o", "-", "--quiet").err == ""


def test_connected_says_what_it_added_and_what_is_left(call: Callable[..., Any], archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.csv"
    options = ("-o", out, "--format", "csv", "--top", 3, "--min-score", 0.2, "--connected")
    done = call("pairs", archive, *options)
    assert done.code == 0
    assert "1 bridge added: day1/" in done.out and " day2/" in done.out
    assert "! 1 photo in no pair, 1 of them without any descriptor: empty.jpg" in done.out
    assert "! 2 parts are left that nothing joins" in done.out
    (facts,) = call("pairs", archive, *options, "--json").json
    (bridge,) = facts["bridges"]
    assert {bridge["name"][:5], bridge["other"][:5]} == {"day1/", "day2/"} and 0 < bridge["score"] < 0.2
    assert (facts["parts"], facts["alone"], facts["without_descriptors"]) == (2, ["empty.jpg"], 1)
    assert (facts["pairs"], facts["paired"], facts["photos"]) == (len(out.read_text().splitlines()) - 1, 8, 9)


def test_names_with_blanks_are_refused_before_anything_is_written(
    call: Callable[..., Any], archive: Path, tmp_path: Path
) -> None:
    with Index.open(archive, writable=True) as index:
        index.add("two words.jpg", np.random.default_rng(3).standard_normal((9, 16)).astype(np.float32))
    out = tmp_path / "pairs.txt"
    done = call("pairs", archive, "-o", out)
    assert done.code == 2 and not out.exists()
    assert "'two words.jpg' has a blank" in done.err and "--format csv" in done.err and "--allow-spaces" in done.err
    assert len(done.err.splitlines()) == 1
    some = call("pairs", archive, "-o", out, "--queries", "two*")
    assert some.code == 2 and not out.exists() and "'two words.jpg' has a blank" in some.err
    assert call("pairs", archive, "-o", out, "--allow-spaces").code == 0 and "two words.jpg" in out.read_text()
    assert call("pairs", archive, "-o", out, "--format", "kapture").code == 0
    done = call("pairs", archive, "-o", out, "--queries", "day1/", "--mapped", "day1/")
    assert done.code == 0, "a name that is in no pair harms nobody"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--json", "-o", "-"], "--json and -o -"),
        (["-o", "x", "--queries", "gone.txt"], "--queries gone.txt cannot be read"),
        (["-o", "x", "--mapped", "day3/"], "--mapped day3/: no photo of the archive begins so"),
        (["-o", "x", "--top", "0"], "--top 0 is not positive"),
        (["-o", "x", "--connected", "--queries", "day1/"], "--connected is for pairs within one set"),
        (["-o", "x", "--format", "csv", "--allow-spaces"], "--allow-spaces is for --format hloc and colmap"),
        ([], "Missing option '-o'"),
    ],
)
def test_mistakes_are_said_in_one_line(call: Callable[..., Any], archive: Path, options: list[str], text: str) -> None:
    done = call("pairs", archive, *options)
    assert (done.code, done.out) == (2, "")
    assert text in done.err and "Traceback" not in done.err


def test_a_folder_that_cannot_be_written_is_said(call: Callable[..., Any], archive: Path, tmp_path: Path) -> None:
    done = call("pairs", archive, "-o", tmp_path / "gone" / "pairs.txt")
    assert done.code == 18 and "choose another -o" in done.err


def test_duplicates_are_printed_as_groups_as_json_and_as_names(call: Callable[..., Any], archive: Path) -> None:
    with Index.open(archive, writable=True) as index:
        vectors = np.random.default_rng(9).standard_normal((30, 16)).astype(np.float32)
        for name, kept in (("orig.jpg", 30), ("x\udcff.jpg", 29), ("copy.jpg", 28)):
            index.add(name, vectors[:kept])
    done = call("duplicates", archive, "--min-score", 0.8)
    assert done.code == 0
    (head, kept, *rest, total) = done.out.splitlines()
    assert (head, kept) == ("3 photos", "  keep      copy.jpg")
    assert sorted(line.split()[1] for line in rest) == ["orig.jpg", r"x\udcff.jpg"]
    assert total == f"{archive}: 1 group, 2 photos besides those to keep, of 12"
    (facts,) = call("duplicates", archive, "--min-score", 0.8, "--json").json
    assert facts["groups"][0][0]["name"] == "copy.jpg" and len(facts["redundant"]) == 2
    assert call("duplicates", archive, "--redundant", "--json").code == 2


def test_redundant_names_are_what_remove_takes(
    archive: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with Index.open(archive, writable=True) as index:
        vectors = np.random.default_rng(9).standard_normal((30, 16)).astype(np.float32)
        for name in ("a b.jpg", "x\udcff.jpg", "é.jpg"):
            index.add(name, vectors)
    assert run(["duplicates", str(archive), "--min-score", "0.9", "--redundant"]) == 0
    printed = capfdbinary.readouterr()
    assert printed.out == b"x\xff.jpg\n\xc3\xa9.jpg\n"
    assert printed.err == b"1 group, 2 photos besides those to keep, of 12\n"
    (tmp_path / "names").write_bytes(printed.out)
    assert run(["remove", str(archive), "--from", str(tmp_path / "names")]) == 0
    with Index.open(archive) as index:
        assert sorted(index.names()) == sorted([*NAMES, "empty.jpg", "a b.jpg"])


def model_of(path: Path) -> Path:
    """A model in which the photos of each day share 15 points, and those of both days 14."""
    data = struct.pack("<Q", 8)
    for number, name in enumerate(NAMES):
        points = [*range(14), 100 + number // 4]
        data += struct.pack("<I7dI", number + 1, *[0.0] * 7, 1) + name.encode() + b"\0" + struct.pack("<Q", len(points))
        data += b"".join(struct.pack("<ddq", 0.0, 0.0, point) for point in points)
    path.mkdir()
    (path / "images.bin").write_bytes(data)
    return path


def test_pairs_are_judged_by_a_model(call: Callable[..., Any], archive: Path, tmp_path: Path) -> None:
    model, files = model_of(tmp_path / "0"), [tmp_path / "all.csv", tmp_path / "all.txt"]
    for file, form in zip(files, ("csv", "hloc"), strict=True):
        assert call("pairs", archive, "-o", file, "--format", form, "--top", 7).code == 0
    done = call("eval-pairs", model, *files)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == f"{model}: 8 photos, 12 covisible pairs (15 points or more)"
    pairs = len(lines_of(files[1]))
    assert f"{'all':>6s}{pairs:10d}{'1.000':>9s}{1 - 12 / pairs:9.3f}" in lines
    (facts,) = call("eval-pairs", model, *files, "--json").json
    scored, plain = (file["figures"] for file in facts["files"])
    assert [one["top"] for one in plain] == [None] and [one["top"] for one in scored] == [1, 2, 5, 10, 20, 50, None]
    assert scored[1]["useless"] == 0 and 0.5 < scored[1]["recall"] < 1
    (facts,) = call("eval-pairs", model, files[0], "--min-points", 14, "--json").json
    assert facts["files"][0]["figures"][-1]["covisible"] == 28
    assert json.dumps(facts)


@pytest.mark.parametrize("missing", ["model", "pairs"])
def test_what_is_not_there_is_said(call: Callable[..., Any], tmp_path: Path, missing: str) -> None:
    model = model_of(tmp_path / "0")
    (tmp_path / "pairs.txt").write_text("day1/0.jpg day1/1.jpg\n")
    arguments = {"model": model, "pairs": tmp_path / "pairs.txt"} | {missing: tmp_path / "gone"}
    done = call("eval-pairs", *arguments.values())
    assert done.code == 2 and f"{tmp_path / 'gone'}" in done.err and len(done.err.splitlines()) == 1
