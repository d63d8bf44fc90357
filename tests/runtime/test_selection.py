"""Which names are photos: by extension, not hidden, not a system's, as patterns say; what is left out is counted."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.runtime.decode import formats
from ctxdeploy.runtime.sources import PhotoList, Selection, list_photos
from ctxdeploy.runtime.sources.selection import NameFilter

NAMES = (
    *("a.jpg", "2024/b.JPG", "2024/may/c.png", "2023/may/d.jpg", "trash/e.jpg"),
    *("x.CR2", "2024/x.cr2", "y.dng", "z.jxl", "notes.txt", "README"),
    *("@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg", "@eaDir/b.JPG/SYNOFILE_THUMB_M.jpg", "2024/@EADIR/b.JPG/x.jpg"),
    *("#recycle/g.jpg", "$RECYCLE.BIN/$R1.jpg", "__MACOSX/h.jpg", "Mine.photoslibrary/resources/derivatives/i.jpg"),
    *("Mine.photoslibrary/originals/j.jpg", ".thumbnails/k.jpg", ".thumbnails/l.jpg", "2024/._b.JPG"),
)
PHOTOS = {
    "a.jpg",
    "2024/b.JPG",
    "2024/may/c.png",
    "2023/may/d.jpg",
    "trash/e.jpg",
    "Mine.photoslibrary/originals/j.jpg",
}


@pytest.fixture
def without_rawpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no reader of raw files is installed."""
    monkeypatch.setattr(formats, "reads_raw", lambda: False)


def make(root: Path, kind: str) -> str:
    """Make the same files in a folder, a tar or zip file, or a file system in memory; return the place."""
    if kind == "memory":
        fsspec = pytest.importorskip("fsspec")
        for name in NAMES:
            fsspec.filesystem("memory").pipe_file(f"/test-selection/{name}", b"x")
        return "memory://test-selection"
    for name in NAMES:
        path = root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    if kind == "tar":
        with tarfile.open(root / "photos.tar", "w") as tar:
            for name in NAMES:
                tar.add(root / "photos" / name, name)
        return str(root / "photos.tar")
    if kind == "zip":
        with zipfile.ZipFile(root / "photos.zip", "w") as packed:
            for name in NAMES:
                packed.write(root / "photos" / name, name)
        return str(root / "photos.zip")
    return str(root / "photos")


def listed(found: PhotoList, kind: str) -> set[str]:
    prefix = f"photos.{kind}/" if kind in ("tar", "zip") else ""
    return {photo.name.removeprefix(prefix) for photo in found.photos}


@pytest.mark.usefixtures("without_rawpy")
@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "memory"])
def test_what_is_left_out_is_counted_the_same_everywhere(tmp_path: Path, kind: str) -> None:
    found = list_photos(make(tmp_path, kind))
    assert listed(found, kind) == PHOTOS
    told = found.left_out.metadata()
    assert {extension.lower(): count for extension, count in told["other"].items()} == {
        **{".cr2": 2, ".dng": 1, ".jxl": 1, ".txt": 1},
        "without an extension": 1,
    }
    assert told["system"] == {
        **{"#recycle": 1, "$RECYCLE.BIN": 1, "@eaDir": 2, "__MACOSX": 1},
        "*.photoslibrary/resources": 1,
    }
    assert (told["hidden"], told["excluded"]) == (2, 0)
    assert ["djxl" in hint or "rawpy" in hint for hint in told["hints"]] == [True, True]
    assert found.left_out.lines()[0].lower().startswith("6 files are not photos: 2 .cr2, 1 .dng")


@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "memory"])
@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), ("TRASH",), PHOTOS - {"trash/e.jpg"}),
        ((), ("trash/", "a.jpg/"), PHOTOS - {"trash/e.jpg"}),
        ((), ("*.png", "2023/**"), PHOTOS - {"2024/may/c.png", "2023/may/d.jpg"}),
        ((), ("may",), PHOTOS - {"2024/may/c.png", "2023/may/d.jpg"}),
        ((), ("202[!3]/*/?.png",), PHOTOS - {"2024/may/c.png"}),
        (("2024",), (), {"2024/b.JPG", "2024/may/c.png"}),
        (("2024/*.jpg",), (), {"2024/b.JPG"}),
        (("**/may/*", "a.jpg"), ("*.png",), {"2023/may/d.jpg", "a.jpg"}),
        (("@eaDir",), ("2024",), {"@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg", "@eaDir/b.JPG/SYNOFILE_THUMB_M.jpg"}),
        ((".thumbnails/k*",), (), {".thumbnails/k.jpg"}),
    ],
)
def test_patterns(
    tmp_path: Path, kind: str, include: tuple[str, ...], exclude: tuple[str, ...], expected: set[str]
) -> None:
    if "@eaDir" in include:  # the thumbnails have a system's name themselves
        include = (*include, "SYNOFILE_THUMB_*")
    found = list_photos(make(tmp_path, kind), selection=Selection(include=include, exclude=exclude))
    assert listed(found, kind) == expected
    assert found.left_out.excluded > 0


def test_a_pattern_at_the_top(tmp_path: Path) -> None:
    found = list_photos(make(tmp_path, "folder"), selection=Selection(exclude=("/may", "/202*/may", "/trash")))
    assert listed(found, "folder") == PHOTOS - {"2024/may/c.png", "2023/may/d.jpg", "trash/e.jpg"}


def test_what_is_left_out_now_counts_as_gone(tmp_path: Path) -> None:
    """--sync then takes thumbnails of an older archive out; raw files that nothing reads here stay."""
    found = list_photos(make(tmp_path, "folder"), selection=Selection(exclude=("trash",)))
    assert found.is_gone("trash/e.jpg") and found.is_gone("@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg")
    assert not found.is_gone("a.jpg")
    packed = list_photos(make(tmp_path, "zip"))
    assert packed.is_gone("photos.zip/none.jpg")
    assert packed.is_gone("photos.zip/none.nef") == formats.reads_raw()


def test_a_folder_without_photos_says_what_there_is(tmp_path: Path) -> None:
    for name in ("a.jxl", "b.mov", "@eaDir/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(
        NoPhotosError, match=r"2 files are not photos: 1 \.jxl, 1 \.mov; 1 file or .* 1 @eaDir; JPEG XL"
    ):
        list_photos(str(tmp_path))


def test_a_folder_of_descriptor_files_says_how_they_are_indexed(tmp_path: Path) -> None:
    (tmp_path / "a.delg_local").touch()
    with pytest.raises(NoPhotosError, match="--descriptors"):
        list_photos(str(tmp_path))


@pytest.mark.parametrize("pattern", ["", "/", "[z-a]"])
@pytest.mark.parametrize("flag", ["include", "exclude"])
def test_a_pattern_that_means_nothing_is_refused(flag: str, pattern: str) -> None:
    with pytest.raises(ConfigError, match=f"--{flag} "):
        Selection(**{flag: (pattern,)})


@pytest.mark.parametrize("pattern", ["a.b", "a+b", "(a)", "a|b", "a[", "[]", "a\\d", "^a$", "ä", "a\nb", "\udce9"])
def test_signs_without_a_meaning_stand_for_themselves(pattern: str) -> None:
    names = NameFilter(Selection(exclude=(pattern,)))
    assert not names.chosen(f"x/{pattern}") and names.chosen("x/other.jpg") and names.chosen("axb")


def test_the_time_of_a_pattern_does_not_explode() -> None:
    names = NameFilter(Selection(exclude=("**/a*b*c*/**/d", "*a*a*a*")))
    assert names.chosen("/".join(["abc"] * 40) + "/" + "b" * 200)


@pytest.mark.skipif(sys.platform != "linux", reason="the bytes of names are the system's elsewhere")
def test_names_are_the_same_in_every_locale(tmp_path: Path) -> None:
    for name in (b"\xc3\xa9.jpg", b"caf\xe9.jpg", b"\xc3\xa4/x.jpg"):
        path = os.fsencode(tmp_path) + b"/photos/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 (bytes)
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(b"content")
    (tmp_path / "list.txt").write_bytes(b"photos/\xc3\xa9.jpg\nphotos/caf\xe9.jpg\n")
    code = (
        "import json, sys; from pathlib import Path; from ctxdeploy.runtime.decode import read_file\n"
        "from ctxdeploy.runtime.sources import list_photos\n"
        "found = [list_photos(place) for place in sys.argv[1:]]\n"
        "print(json.dumps([(p.name, read_file(p.path).decode(), l.is_gone(p.name)) for l in found for p in l.photos]))"
    )
    answers = []
    for ascii_only in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "photos"), str(tmp_path / "list.txt")],
            capture_output=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", **ascii_only},
            timeout=60,
            check=True,
        )
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    expected = ["caf\udce9.jpg", "ä/x.jpg", "é.jpg", "photos/caf\udce9.jpg", "photos/é.jpg"]
    assert answers[0] == [[name, "content", False] for name in expected]
