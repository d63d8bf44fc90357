"""SfM-120k in the form in which cirtorch stores it, small: 32 hexadecimal digits a photo, three folders of its end."""

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.training.sets import read_set, read_sfm120k

CIDS = [hashlib.md5(bytes([n]), usedforsecurity=False).hexdigest() for n in range(9)]


def content() -> dict[str, dict[str, Any]]:
    """Return what the pickle holds: two clusters of three photos, and one of two with a photo of its own."""
    train = {
        "cids": CIDS[:6],
        "cluster": [4, 4, 4, 17, 17, 17],
        "qidxs": [0, 0, 3],
        "pidxs": [1, 2, 5],
        "bbxs": [(0, 0, 8, 8)] * 6,
        "qbbxs": np.zeros((3, 4)),
    }
    val = {"cids": CIDS[6:], "cluster": [1, 1, 2], "qidxs": [0], "pidxs": [1]}
    return {"train": train, "val": val}


def write(root: Path, value: Any, protocol: int = 2) -> Path:
    """Write the data set as it is unpacked, and return its folder."""
    folder = root / "train" / "retrieval-SfM-120k"
    photo = io.BytesIO()
    Image.new("RGB", (8, 8)).save(photo, "JPEG")
    for cid in CIDS:
        path = folder / "ims" / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo.getvalue())
    (folder / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps(value, protocol))
    return folder


@pytest.mark.parametrize("protocol", range(6))
def test_both_halves_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    folder = write(tmp_path, content(), protocol)
    train = read_set("sfm120k", folder)
    assert train.name == "retrieval-SfM-120k train"
    first = CIDS[0]  # 93b885adfe0da089cdf634904fd59f71
    assert train.paths[0] == folder / "ims" / "71" / "9f" / "d5" / first
    assert [path.name for path in train.paths] == CIDS[:6]
    assert all(Image.open(path).size == (8, 8) for path in train.paths)
    assert train.classes.tolist() == [4, 4, 4, 17, 17, 17]
    assert train.pairs is not None and train.pairs.tolist() == [[0, 1], [0, 2], [3, 5]]
    val = read_sfm120k(folder, "val")
    assert [path.name for path in val.paths] == CIDS[6:] and val.classes.tolist() == [1, 1, 2]
    assert val.pairs is not None and val.pairs.tolist() == [[0, 1]]
    facts = train.metadata()
    assert (facts["photos"], facts["landmarks"], facts["pairs"]) == (6, 2, 3)


def test_numbers_and_names_in_arrays(tmp_path: Path) -> None:
    value = content()
    for half in value.values():
        half["cids"] = np.array([cid.encode() for cid in half["cids"]])
        half["cluster"] = np.array(half["cluster"], float)  # as they come out of MATLAB
        half["qidxs"], half["pidxs"] = np.array(half["qidxs"], np.uint16), [np.int64(n) for n in half["pidxs"]]
    found, plain = read_sfm120k(write(tmp_path / "a", value)), read_sfm120k(write(tmp_path / "b", content()))
    assert found.metadata() == plain.metadata()


@pytest.mark.parametrize(
    "place", [".", "train", "train/retrieval-SfM-120k", "train/retrieval-SfM-120k/retrieval-SfM-120k.pkl"]
)
def test_every_place_that_is_understood(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, content())
    monkeypatch.chdir(tmp_path)
    assert read_set("sfm120k", place).paths[0].parent == folder / "ims" / "71" / "9f" / "d5"


@pytest.mark.parametrize(
    ("half", "key", "value", "message"),
    [
        ("train", "cids", None, "there is no cids, as SfM-120k in cirtorch's form has"),
        ("train", "cluster", None, "there is no cluster"),
        ("train", "cids", "text", "cids is not a list"),
        ("train", "qidxs", np.array(3), "qidxs is not a list"),
        ("train", "qidxs", [[0], [0], [3]], "qidxs is not a list of 3 whole numbers"),
        ("train", "cids", [], "holds no photos"),
        ("train", "cids", [*CIDS[:5], 7], r"cids\[5\], 7, is not the name of a photo"),
        (
            "train",
            "cids",
            [*CIDS[:5], "../../../../etc/passwd"],
            r"cids\[5\], '../../../../etc/passwd', is not the name",
        ),
        ("train", "cids", [*CIDS[:5], "abcd.."], "is not the name of a photo"),
        ("train", "cids", [*CIDS[:5], "a\0bcdef"], "is not the name of a photo"),
        ("train", "cids", [*CIDS[:5], "short"], "is not the name of a photo"),
        ("train", "cluster", [4, 4, 4], "cluster is not a list of 6 whole numbers"),
        ("train", "cluster", [4, 4, 4, 17, 17, "x"], "cluster is not a list of 6 whole numbers"),
        ("train", "cluster", [4, 4, 4, 17, 17, 0.5], "cluster is not a list of 6 whole numbers"),
        ("train", "cluster", [4, 4, 4, 17, 17, float("nan")], "cluster is not a list of 6 whole numbers"),
        ("train", "cluster", [4, 4, 4, 17, 17, 10**30], "cluster is not a list of 6 whole numbers"),
        ("train", "qidxs", [0, 0], "2 qidxs for 3 pidxs"),
        ("train", "qidxs", [0, 6, 0], r"qidxs\[1\] is 6, of 6 photos"),
        ("train", "pidxs", [1, 2, -1], r"pidxs\[2\] is -1, of 6 photos"),
        ("train", "pidxs", [[1, 2], [2], [5]], "pidxs is not a list of 3 whole numbers"),
        ("train", "pidxs", [0, 2, 5], "photo 0 is paired with itself"),
        ("train", None, 5, r"retrieval-SfM-120k\.pkl has no part 'train': it is not SfM-120k in cirtorch's form"),
        ("train", None, {}, "there is no cids and no cluster and no qidxs and no pidxs"),
    ],
)
def test_files_of_another_form(tmp_path: Path, half: str, key: str | None, value: Any, message: str) -> None:
    data: dict[str, Any] = content()
    if key is None:
        data[half] = value
    elif value is None:
        del data[half][key]
    else:
        data[half][key] = value
    if key == "cids" and value == []:
        data[half].update(cluster=[], qidxs=[], pidxs=[])
    with pytest.raises((ConfigError, NoPhotosError), match=message) as caught:
        read_sfm120k(write(tmp_path, data))
    assert "\n" not in str(caught.value)


def test_the_pickle_is_read_as_data(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(canary),)

    data: dict[str, Any] = content()
    data["train"]["bbxs"] = [Payload()]
    folder = write(tmp_path, data)
    with pytest.raises(ConfigError, match=r"asks for posix\.mkdir, which is not plain data"):
        read_set("sfm120k", folder)
    assert not canary.exists()


def test_missing_photos_and_places(tmp_path: Path) -> None:
    folder = write(tmp_path, content())
    found = read_sfm120k(folder)
    for number in (1, 4):
        found.paths[number].unlink()
    with pytest.raises(ConfigError, match=rf"train: 2 photos missing, the first is .*/{CIDS[1]}: unpack all of ims"):
        read_sfm120k(folder)
    assert len(read_sfm120k(folder, "val")) == 3
    (folder / "ims").rename(folder / "photos")
    with pytest.raises(ConfigError, match=r"ims is not a folder: unpack the photos of SfM-120k \(ims\.tar\.gz\) there"):
        read_sfm120k(folder)
    with pytest.raises(ConfigError, match="no half 'test': it is one of train, val"):
        read_sfm120k(folder, "test")
    (folder / "retrieval-SfM-120k.pkl").unlink()
    with pytest.raises(ConfigError, match=r"holds no retrieval-SfM-120k\.pkl, neither itself nor as"):
        read_set("sfm120k", tmp_path)
    with pytest.raises(ConfigError, match="there is no such place"):
        read_set("sfm120k", tmp_path / "gone")
