"""``extract`` and ``publish``: the archive of one machine, from parts that were made by themselves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy import PhotoIndex
from ctxdeploy.cli.main import run
from ctxdeploy.core.locks import WriterLock
from ctxdeploy.index import Index, open_segment

MODEL = ("--model", "ctx-small")
Call = Callable[..., Any]
Content = Callable[[Path], dict[str, str]]


def extract(call: Call, photos: Path, parts: Path, *options: object) -> dict[str, Any]:
    done = call("extract", photos, "-o", parts, *MODEL, "--json", "--quiet", *options)
    assert done.code == 0, done.err
    receipt: dict[str, Any] = done.json
    return receipt


@pytest.fixture(scope="module")
def shared_parts(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three segments of the photos; not to be changed."""
    parts = tmp_path_factory.mktemp("parts") / "parts"
    for number in (3, 1, 2):
        assert run(["extract", str(photos), "-o", str(parts), *MODEL, "--part", f"{number}/3", "-q"]) == 0
    return parts


@pytest.fixture
def parts(shared_parts: Path, tmp_path: Path) -> Path:
    """Return a copy of the segments that a test may change."""
    return Path(shutil.copytree(shared_parts, tmp_path / "parts"))


def test_published_segments_are_the_archive_of_one_machine(
    call: Call, photos: Path, whole: Path, parts: Path, tmp_path: Path, content: Content
) -> None:
    archive, one = tmp_path / "many.ctxindex", Path(shutil.copytree(whole, tmp_path / "one.ctxindex"))
    done = call("publish", archive, parts, "--json", "-q")
    assert done.code == 19 and "2 photos of the segments could not be read" in done.err
    facts = done.json
    assert (facts["is_new"], facts["changed"], facts["images"], facts["added"], facts["failed"]) == (
        *(True, True, 12, 12),
        2,
    )
    assert [segment["added"] for segment in facts["segments"]] == [4, 4, 4]
    with PhotoIndex.open(archive) as many, PhotoIndex.open(one) as single:
        for photo in sorted(photos.rglob("[0-9].jpg")):
            assert many.search(photo) == single.search(photo)
        assert [(f["name"], f["reason"], f["stage"], f["mtime_ns"]) for f in many.failures()] == [
            (f["name"], f["reason"], f["stage"], f["mtime_ns"]) for f in single.failures()
        ]
        assert many.info()["photos"] == single.info()["photos"] == str(photos)
    for path in (archive, one):
        assert call("compact", path, "-q").code == 0
        assert call("verify", path).code == 0
    assert content(archive) == content(one), "byte for byte"
    plan = call("index", photos, "-o", archive, "--dry-run", "--json").json
    assert (plan["unchanged"], plan["given_up"], plan["new"]) == (12, 2, 0)


def test_doing_it_twice_is_harmless(call: Call, photos: Path, parts: Path, tmp_path: Path) -> None:
    files = {path: path.read_bytes() for path in parts.rglob("*") if path.is_file()}
    receipt = extract(call, photos, parts, "--part", "2/3")
    assert not receipt["is_new"] and (receipt["photos"], receipt["images"], receipt["failed"]) == (5, 4, 1)
    assert {path: path.read_bytes() for path in parts.rglob("*") if path.is_file()} == files
    archive = tmp_path / "a.ctxindex"
    assert call("publish", archive, *sorted(parts.glob("*.ctxsegment")), parts, "-q").code == 19
    current = (archive / "CURRENT").read_bytes()
    again = call("publish", archive, parts)
    assert again.code == 0 and "12 unchanged" in again.out and "all was there already" in again.out
    assert (archive / "CURRENT").read_bytes() == current


@pytest.mark.slow
def test_what_a_segment_is_called_by(call: Call, photos: Path, parts: Path, tmp_path: Path) -> None:
    """Another state of a file, another setting, or another limit: another one. The same photos elsewhere: the same."""
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["torn.jpg", "rocket/2.jpg", *(f"rocket/{i}.jpg" for i in range(2))]) + "\n\n")
    same = extract(call, folder, parts, "--part", "3/3")
    assert not same["is_new"], "the place does not matter: its photos are the same"
    assert extract(call, folder, parts, "--names", names)["id"] != same["id"]
    seen = {same["id"]}
    for options in (("--geometry",), ("--global",), ("--accept-truncated",)):
        receipt = extract(call, folder, parts, "--part", "3/3", *options)
        assert receipt["is_new"] and receipt["id"] not in seen
        seen.add(receipt["id"])
    os.utime(folder / "rocket" / "1.jpg", ns=(7, 7))
    assert extract(call, folder, parts, "--part", "3/3")["id"] not in seen


@pytest.mark.slow
def test_an_archive_takes_its_own_segments_in(call: Call, photos: Path, whole: Path, tmp_path: Path) -> None:
    """Segments for an archive have its model, codebook and settings, and newer photos replace its own."""
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    archive, parts = tmp_path / "a.ctxindex", tmp_path / "parts"
    assert call("index", folder / "coins", "-o", archive, *MODEL, "--geometry", "-q").code == 0
    (folder / "coins" / "3.jpg").write_bytes((folder / "rocket" / "0.jpg").read_bytes())
    shutil.copyfile(folder / "rocket" / "1.jpg", folder / "coins" / "0.jpg")
    done = call("extract", folder / "coins", "-o", parts, "--codebook", archive, "--json", "-q")
    assert done.code == 0 and done.json["images"] == 4
    published = call("publish", archive, parts)
    assert published.code == 0, published.err
    assert "1 photo added, 1 replaced, 2 unchanged" in published.out
    refused = call("extract", folder / "coins", "-o", parts, "--codebook", archive, "--geometry", "positions", "-q")
    assert refused.code == 2 and "was made with --geometry codes" in refused.err
    assert call("extract", folder, "-o", tmp_path / "other", *MODEL, "--part", "1/3", "-q").code == 0
    other = call("publish", archive, tmp_path / "other")
    assert other.code == 2 and "holds the photos of" in other.err
    mixed = call("publish", archive, tmp_path / "other", "--moved")
    assert mixed.code == 16 and "geometry is none there and codes here" in mixed.err
    assert "extract it anew for this archive" in mixed.err


def test_mistakes_are_refused_with_what_to_do(call: Call, photos: Path, parts: Path, tmp_path: Path) -> None:
    names, out = tmp_path / "names", tmp_path / "out"
    names.write_text("coins/9.jpg\n")
    (tmp_path / "empty").mkdir()
    for arguments, text in (
        (("extract", photos, "-o", out, "--part", "4/3"), "--part '4/3' is not one of 1/3 to 3/3"),
        (("extract", photos, "-o", out, "--part", "0/3"), "--part '0/3' is not one of"),
        (("extract", photos, "-o", out, "--part", "x"), "--part 'x' is not I/N, such as 1/8"),
        (("extract", photos, "-o", out, "--part", "1/3", "--names", names), "--part and --names exclude each other"),
        (("extract", photos, "-o", out, *MODEL, "--names", names), "names photos that are not in"),
        (("extract", photos, "-o", out, *MODEL, "--names", tmp_path / "no"), "--names"),
        (("publish", tmp_path / "a", tmp_path / "empty"), "holds no segment: make some with  ctxdeploy extract -o"),
        (("publish", tmp_path / "a", tmp_path / "no"), "is not a folder with segments"),
    ):
        done = call(*arguments)
        assert done.code == 2 and text in done.err and "Traceback" not in done.err, done.err
    shutil.rmtree(next(parts.glob("model-*")))
    done = call("publish", tmp_path / "a", parts)
    assert done.code == 2 and "name the bundle with --model" in done.err
    done = call("publish", tmp_path / "a", parts, "--model", "lite-small")
    assert done.code == 16 and "but --model" in done.err
    next(parts.glob("codebook-*")).unlink()
    done = call("publish", tmp_path / "a", parts, "--model", "ctx-small")
    assert done.code == 15 and "codebook" in done.err and "is missing" in done.err
    assert not (tmp_path / "a").exists() and not list(tmp_path.glob(".tmp-*")), "a refused archive leaves nothing"


def test_what_is_missing_is_said(call: Call, parts: Path, tmp_path: Path) -> None:
    for segment in parts.glob("*.ctxsegment"):
        if json.loads((segment / "segment.json").read_text())["facts"]["part"] == [2, 3]:
            shutil.rmtree(segment)
    (parts / ".work-0123456789").mkdir()
    done = call("publish", tmp_path / "a.ctxindex", parts)
    assert "no segment of 1 part: 2/3" in done.err and ".work-0123456789 is not finished" in done.err
    assert "8 photos added" in done.out


def test_a_segment_that_is_being_written_is_none_of_those_found(call: Call, parts: Path, tmp_path: Path) -> None:
    (parts / ".tmp-0123abcd-0123456789abcdef0123456789abcdef.ctxsegment").mkdir()  # as a killed process leaves it
    done = call("publish", tmp_path / "a.ctxindex", parts)
    assert done.code == 19, done.err
    assert "12 photos added" in done.out


def test_more_parts_than_photos(call: Call, photos: Path, tmp_path: Path) -> None:
    folder, parts = tmp_path / "photos", tmp_path / "parts"
    folder.mkdir()
    shutil.copyfile(photos / "coins" / "0.jpg", folder / "a.jpg")
    assert [extract(call, folder, parts, "--part", f"{i}/2")["images"] for i in (1, 2)] == [0, 1]
    assert call("publish", tmp_path / "a.ctxindex", parts).code == 0
    assert len(Index.open(tmp_path / "a.ctxindex")) == 1


def test_too_many_failures_end_it_and_what_was_done_is_kept(call: Call, photos: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    done = call("extract", photos, "-o", parts, *MODEL, "--max-failures", "1", "-q")
    assert done.code == 20 and not list(parts.glob("*.ctxsegment")) and len(list(parts.glob(".work-*"))) == 1
    assert extract(call, photos, parts)["failed"] == 2
    assert not list(parts.glob(".work-*"))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.slow
def test_told_to_end_it_goes_on_later(call: Call, photos: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    command = ["extract", str(photos), "-o", str(parts), *MODEL, "--json", "--commit-seconds", "3600"]
    process = subprocess.Popen([sys.executable, "-m", "ctxdeploy", *command], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    next(line for line in process.stderr if '"progress"' in line)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    if process.returncode:  # else it was done before
        assert process.returncode == 143 and "run the same command again to continue" in err
        (work,) = parts.glob(".work-*")
        with Index.open(work) as index:
            assert len(index) >= 1, "what was extracted is committed"
    receipt = extract(call, photos, parts)
    assert (receipt["images"], receipt["failed"]) == (12, 2) and not list(parts.glob(".work-*"))


def test_what_killed_processes_left_is_removed_after_a_day(call: Call, parts: Path, tmp_path: Path) -> None:
    young, old = tmp_path / ".tmp-00000001-a.ctxindex", tmp_path / ".tmp-00000002-a.ctxindex"
    other = tmp_path / ".tmp-00000003-b.ctxindex"
    for folder in (young, old, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (0, 0))
    assert call("publish", tmp_path / "a.ctxindex", parts, "-q").code == 19
    assert (young.exists(), old.exists(), other.exists()) == (True, False, True)


def test_what_is_left_of_segments_is_removed_in_time(call: Call, photos: Path, parts: Path) -> None:
    """After a day what nobody goes on with; after a week what is not finished, unless a process has it open."""
    day, hour = 86400, 3600
    left = {".tmp-1-x": day, ".repeat-host-1-2": day, ".work-1": 7 * day, ".work-2": 7 * day}
    for name in left:
        (parts / name).mkdir()
    (parts / ".work-3").mkdir()
    locks = [WriterLock(parts / name) for name in (".work-2", ".work-3")]
    locks.pop().release()
    (parts / ".tmp-2-file").write_text("")

    def age(seconds: int) -> set[str]:
        then = time.time() - seconds
        for path in parts.glob(".*"):
            for inside in (*path.glob("*"), path):
                os.utime(inside, (then, then))
        names = parts.parent / "names"
        names.write_text(f"rocket/{sum(seconds > days * day for days in (1, 2))}.jpg\n")
        assert extract(call, photos, parts, "--names", names)["is_new"], "so that it looks"
        return {path.name for path in parts.glob(".*")}

    assert age(day - hour) == {*left, ".work-3", ".tmp-2-file"}
    assert age(day + hour) == {".work-1", ".work-2", ".work-3"}
    assert age(7 * day + hour) == {".work-2"}
    locks.pop().release()


def test_a_killed_run_may_leave_its_work_beside_its_segment(call: Call, photos: Path, parts: Path) -> None:
    """Killed between the rename of the segment and the removal of what it was made of."""
    receipt = extract(call, photos, parts, "--part", "1/3")
    work = parts / f".work-{receipt['id'][:32]}"
    work.mkdir()
    lock = WriterLock(work)
    assert not extract(call, photos, parts, "--part", "1/3")["is_new"] and work.exists(), "a process has it open"
    lock.release()
    assert not extract(call, photos, parts, "--part", "1/3")["is_new"] and not work.exists()


def test_work_that_is_damaged_is_begun_anew(call: Call, photos: Path, parts: Path) -> None:
    """As a machine leaves it that lost its power, on a file system that keeps no promises."""
    (segment,) = [path for path in parts.glob("*.ctxsegment") if open_segment(path).facts["part"] == [3, 3]]
    before = {path.relative_to(segment): path.read_bytes() for path in segment.glob("shards/*")}
    work = parts / f".work-{segment.stem}"
    shutil.rmtree(segment)
    work.mkdir()
    (work / "CURRENT").write_text("torn")
    receipt = extract(call, photos, parts, "--part", "3/3")
    assert receipt["is_new"] and receipt["stages"]["limit"] and not work.exists()
    assert {path.relative_to(segment): path.read_bytes() for path in segment.glob("shards/*")} == before


@pytest.mark.slow
def test_a_new_archive_has_the_cells_of_its_segments(call: Call, photos: Path, tmp_path: Path) -> None:
    """Words and cells of global vectors lie beside the segments, as the codebook does."""
    first, parts, second = tmp_path / "first.ctxindex", tmp_path / "parts", tmp_path / "second.ctxindex"
    flags = ("--global", "int8", "--global-cells", "2")
    assert call("index", photos / "coins", "-o", first, *MODEL, *flags, "-q").code == 0
    done = call("extract", photos, "-o", parts, "--codebook", first, "--json", "-q")
    assert done.code == 0, done.err
    assert call("publish", second, parts, "-q").code == 19
    with Index.open(first) as one, Index.open(second) as other:
        assert one.state.quantiser is not None and other.state.quantiser is not None
        assert one.state.quantiser.id == other.state.quantiser.id and len(other) == 12
    (quantiser,) = parts.glob("quantiser-*")
    content = bytearray(quantiser.read_bytes())
    content[-1] ^= 1
    quantiser.write_bytes(content)
    done = call("publish", tmp_path / "third", parts)
    assert done.code == 15 and "not the quantiser of its name" in done.err
    quantiser.unlink()
    done = call("publish", tmp_path / "third", parts)
    assert done.code == 15 and "needs the quantiser of its segments" in done.err
