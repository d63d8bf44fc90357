"""Sets of photos to train on: what is read, what is refused, and by what other data is noticed."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.training.sets import PhotoSet, joined, read_set

SHARED = Path(__file__).parents[3] / "shared" / "data"


def put(folder: Path, *names: str) -> Path:
    """Write small photos, each of another size in bytes."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + number, 8), (number, 0, 0)).save(path, "PNG")
    return folder


def some(count: int, classes: Any = None, **other: Any) -> PhotoSet:
    values = {"name": "some", "paths": tuple(Path(f"/photos/{n}.jpg") for n in range(count))}
    return PhotoSet(**{**values, "classes": np.array([-1] * count if classes is None else classes), **other})


def names(photo_set: PhotoSet, folder: Path) -> dict[str, int]:
    """Return the classes by path."""
    assert all(path.is_absolute() for path in photo_set.paths)
    found = {
        path.relative_to(folder).as_posix(): int(n) for path, n in zip(photo_set.paths, photo_set.classes, strict=True)
    }
    assert len(found) == len(photo_set)
    return found


# ---- PhotoSet


def test_a_set_keeps_its_own_arrays() -> None:
    classes, pairs = np.array([3, 3, -1], np.int32), np.array([[0, 1]], np.uint8)
    found = some(3, classes=classes, pairs=pairs)
    classes[0] = pairs[0, 0] = 2
    assert found.classes.tolist() == [3, 3, -1] and found.classes.dtype == np.int64
    assert found.pairs is not None and found.pairs.tolist() == [[0, 1]] and found.pairs.dtype == np.int64
    for array in (found.classes, found.pairs):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert some(2, pairs=np.empty((0, 2))).pairs is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": [1, 2, 3]}, r"some: classes are int64 of shape \(3,\), not whole numbers of shape \(2,\)"),
        ({"classes": np.array([0.5, 1.5])}, "some: classes are float64"),
        ({"classes": np.array([[0], [1]])}, r"of shape \(2, 1\)"),
        ({"classes": [0, -2]}, "-2 is not a class"),
        ({"classes": np.array([0, 2**63], np.uint64)}, "is too large"),
        ({"pairs": np.array([0, 1])}, r"some: pairs are int64 of shape \(2,\)"),
        ({"pairs": np.array([[0, 2]])}, "a pair names photo 2, of 2"),
        ({"pairs": np.array([[-1, 0]])}, "a pair names photo -1, of 2"),
        ({"pairs": np.array([[0, 1], [1, 1]])}, "photo 1 is paired with itself"),
    ],
)
def test_sets_that_contradict_themselves(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        some(2, **arguments)


def test_a_set_without_photos() -> None:
    with pytest.raises(NoPhotosError, match="the set some holds no photos"):
        some(0)


def test_other_data_is_noticed_and_moved_data_is_not(tmp_path: Path) -> None:
    place = put(tmp_path / "a", "x/0.png", "x/1.png", "y/2.png", "y/3.png")
    facts = read_set("landmarks", place).metadata()
    counts = {"photos": 4, "landmarks": 2, "photos_of_landmarks": 4, "pairs": None}
    assert facts == {"name": "a", **counts, "sha256": facts["sha256"]} and len(facts["sha256"]) == 64
    assert read_set("landmarks", place).metadata() == facts
    moved = tmp_path / "b"
    shutil.copytree(place, moved)
    assert read_set("landmarks", moved).metadata() == {**facts, "name": "b"}

    hashes = {facts["sha256"]}
    (moved / "x" / "0.png").rename(moved / "x" / "00.png")  # renamed
    hashes.add(read_set("landmarks", moved).metadata()["sha256"])
    (moved / "x" / "00.png").write_bytes(b"cut")  # changed
    hashes.add(read_set("landmarks", moved).metadata()["sha256"])
    (moved / "x" / "1.png").rename(moved / "y" / "1.png")  # another class
    hashes.add(read_set("landmarks", moved).metadata()["sha256"])
    paths = read_set("landmarks", place).paths
    for classes, pairs in (([0, 0, 0, 1], None), ([0, 0, 1, 1], [[0, 1]]), ([0, 0, 1, 1], [[1, 0]]), ([-1] * 4, None)):
        changed = some(4, paths=paths, classes=np.array(classes), pairs=pairs and np.array(pairs))
        hashes.add(changed.metadata()["sha256"])
    assert len(hashes) == 8


def test_a_missing_photo_has_no_size(tmp_path: Path) -> None:
    place = put(tmp_path, "0.png", "1.png")
    before = read_set("photos", place)
    whole = before.metadata()["sha256"]
    (place / "1.png").unlink()
    assert before.metadata()["sha256"] != whole
    put(place, "0.png", "1.png")
    assert before.metadata()["sha256"] == whole


# ---- joined


def test_joined_sets_share_no_class(tmp_path: Path) -> None:
    a = some(4, [7, -1, 3, 7])
    b = some(2, paths=(Path("/b/0"), Path("/b/1")))
    c = some(3, [0, 3, 3], paths=tuple(Path(f"/c/{n}") for n in range(3)), pairs=np.array([[1, 2], [2, 1]]))
    found = joined([a, b, c])
    assert found.name == "some + some + some" and found.paths == a.paths + b.paths + c.paths
    assert found.classes.tolist() == [1, -1, 0, 1, -1, -1, 2, 3, 3]
    assert found.pairs is not None and found.pairs.tolist() == [[7, 8], [8, 7]]
    assert joined([a, b]).pairs is None
    again = joined([found])
    assert again.classes.tolist() == found.classes.tolist() and again.metadata() == found.metadata()


def test_a_photo_in_two_sets_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(tmp_path, "x/0.png", "x/1.png", "y/2.png")
    monkeypatch.chdir(tmp_path)
    landmarks = read_set("landmarks", ".")
    with pytest.raises(ConfigError, match=rf"x/0\.png is in both {tmp_path.name} and x: give each photo once"):
        joined([landmarks, read_set("photos", tmp_path / "x")])
    with pytest.raises(ConfigError, match="no photos to train on"):
        joined([])


# ---- landmarks


def test_landmarks_are_the_folders(tmp_path: Path) -> None:
    put(
        tmp_path,
        "b/2.png",
        "b/1.png",
        "b/near/3.png",
        "a-b/1.jpg",
        "a/x/1.webp",
        "a/1.PNG",
        "alone/1.png",
        ".hidden/1.png",
    )
    put(tmp_path, "caf\udce9/1.png", "caf\udce9/2.png")
    for name in ("sources.csv", "README.md", "b/notes.txt"):
        (tmp_path / name).write_text("no photo")
    found = read_set("landmarks", str(tmp_path))
    assert found.name == tmp_path.name and found.pairs is None
    assert names(found, tmp_path) == {
        "a-b/1.jpg": -1,
        "a/1.PNG": 0,
        "a/x/1.webp": 0,
        "alone/1.png": -1,
        "b/1.png": 3,
        "b/2.png": 3,
        "b/near/3.png": 3,
        "caf\udce9/1.png": 4,
        "caf\udce9/2.png": 4,
    }
    assert list(found.paths) == sorted(found.paths, key=lambda path: path.relative_to(tmp_path).as_posix())
    assert [path.is_file() for path in found.paths] == [True] * 9


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        (["0.png", "1.png"], "holds photos and no folders of landmarks: give it as photos without landmarks"),
        (["0.png", "z.png", "a/1.png", "a/2.png"], r"holds 2 photos beside the folders of landmarks, such as 0\.png"),
        (["a/0.png", "b/0.png"], "none of the 2 folders in .* holds two photos of a landmark"),
    ],
)
def test_folders_that_are_no_landmarks(tmp_path: Path, photos: list[str], message: str) -> None:
    put(tmp_path, *photos)
    with pytest.raises(ConfigError, match=message):
        read_set("landmarks", tmp_path)


def test_landmarks_without_photos(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(NoPhotosError, match="holds no photos"):
        read_set("landmarks", tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        read_set("landmarks", tmp_path / "gone")


# ---- plain photos


def test_photos_of_a_folder_and_of_a_list(tmp_path: Path) -> None:
    place = put(tmp_path / "trip", "1.png", "day/2.png", "day/night/0.png")
    found = read_set("photos", place)
    assert names(found, place) == {"1.png": -1, "day/2.png": -1, "day/night/0.png": -1}
    chosen = tmp_path / "some.txt"
    chosen.write_text("# the best\ntrip/day/2.png\n\ntrip/1.png\n")
    listed = read_set("photos", chosen)
    assert names(listed, tmp_path) == {"trip/1.png": -1, "trip/day/2.png": -1} and listed.name == "some.txt"


def test_lists_that_do_not_hold_photos(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    for name, text, message in (
        ("gone.txt", "1.png\n2.png\n3.png\n", r"gone\.txt: 2 photos missing, the first is .*/2\.png: take them out"),
        ("box.csv", 'path,box\n1.png,"0,0,4,4"\n', "has a box: training takes whole photos"),
        ("web.txt", "http://127.0.0.1:9/1.jpg\n", "is not a file of its own|installed"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises((ConfigError, ImportError), match=message):
            read_set("photos", tmp_path / name)


def test_an_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="no sets of the kind 'gldv2': it is one of landmarks, photos, sfm120k"):
        read_set("gldv2", ".")


def test_sets_need_no_pytorch() -> None:
    code = "import sys, ctxdeploy.training.sets; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout == "False\n"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the photos to train on lie beside the checkout, not in it")
def test_the_real_landmarks() -> None:
    found = joined([read_set("landmarks", SHARED / "landmarks"), read_set("photos", SHARED / "trainphotos")])
    facts = found.metadata()
    assert (facts["landmarks"], facts["photos_of_landmarks"]) == (56, 2343) and facts["photos"] > 2343
    golden = {path.parent.name for path, n in zip(found.paths, found.classes, strict=True) if n == found.classes[0]}
    assert golden == {found.paths[0].parent.name}
