"""Every kind of place goes through one door, and says what is wrong with it in one line."""

import copy
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import Box, FileState
from ctxdeploy.core.urls import is_url, without_secrets
from ctxdeploy.runtime import Extractor, PhotoDescriptors
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource
from ctxdeploy.runtime.sources import PhotoList, list_photos
from ctxdeploy.runtime.sources.folder import FilePhoto


def listing(*names: str, folder: Path | None = None, closed: tuple[str, ...] = ()) -> PhotoList:
    photos = [PhotoSource(name=name, data=b"x") for name in names]
    failures = tuple(PhotoFailure(name=name, reason="closed", stage="list", file=None) for name in closed)
    return PhotoList(place="/there", photos=photos, unreadable=failures, folder=folder)


def test_a_folder(tmp_path: Path) -> None:
    for name in ("b.jpg", "sub/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"photo")
    found = list_photos(str(tmp_path))
    assert [photo.name for photo in found.photos] == ["b.jpg", "sub/a.png"]
    assert [photo.path for photo in found.photos] == [tmp_path / "b.jpg", tmp_path / "sub" / "a.png"]
    assert found.place == str(tmp_path.resolve())
    assert found.folder == tmp_path
    assert [photo.name for photo in list_photos(str(tmp_path), recursive=False).photos] == ["b.jpg"]


def test_a_folder_is_one_whatever_its_name(tmp_path: Path) -> None:
    for name in ("x.tar", "list.txt", "shards-{0..1}.tar", "a.tar.gz"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").touch()
        assert list_photos(str(tmp_path / name)).photos[0].path == tmp_path / name / "a.jpg"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "nowhere is not a folder, there is no such place: give a folder"),
        ("photo.jpg", "photo.jpg is not a folder: give a folder with photos, a list"),
        ("nowhere.csv", r"nowhere.csv cannot be read \(No such file or directory\)"),
        ("nowhere.tar", r"nowhere.tar: the tar file cannot be read \(No such file or directory\)"),
        ("nowhere.zip", r"nowhere.zip: the zip file cannot be read \(No such file or directory\)"),
        ("x-*.tar", r"no file matches .*x-\*.tar"),
        ("*.jpg", r"\*.jpg: only patterns that end with .tar"),
        ("x.tar.gz", "x.tar.gz is compressed, .* decompress it to a plain .tar"),
        ("X.TGZ", "X.TGZ is compressed"),
        ("x" * 5000, r"x+ cannot be read \(File name too long\)"),
    ],
)
def test_what_is_no_place(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ConfigError, match=message) as caught:
        list_photos(str(tmp_path / place))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_tar_and_zip_files_on_servers_are_refused_without_a_request(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"^s3://bucket/x.{kind}: tar and zip files are not read from servers"):
        list_photos(f"s3://user:secret@bucket/x.{kind}")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_folder_of_tar_or_zip_files_says_how_to_name_them(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"a.{kind}").touch()
    (tmp_path / f"b.{kind}").touch()
    with pytest.raises(NoPhotosError, match=rf"2 {kind} files.*'\*\.{kind}'"):
        list_photos(str(tmp_path))


def test_a_photo_gives_the_same_descriptors_wherever_it_is(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, size in enumerate(((60, 40), (40, 60), (60, 40))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.jpg")
    (photos / "broken.jpg").write_bytes((photos / "0.jpg").read_bytes()[:500])
    (tmp_path / "list.txt").write_text("".join(f"photos/{path.name}\n" for path in photos.iterdir()))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(photos, "photos")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in photos.iterdir():
            packed.write(path, f"photos/{path.name}")
    extractor = Extractor(make_bundle(image_size=48))
    results = []
    for place in ("photos", "list.txt", "x.tar", "x.zip"):
        found = list(extractor.extract(list_photos(str(tmp_path / place)).photos))
        failures = [result for result in found if isinstance(result, PhotoFailure)]
        assert [Path(failure.name).name for failure in failures] == ["broken.jpg"]
        results.append({Path(one.name).name: one.descriptors for one in found if isinstance(one, PhotoDescriptors)})
    folder, *others = results
    assert sorted(folder) == ["0.jpg", "1.jpg", "2.jpg"]
    for other in others:
        assert other.keys() == folder.keys()
        for name, descriptors in other.items():
            np.testing.assert_allclose(descriptors.vectors, folder[name].vectors, atol=1e-6)


def test_names_are_unique_and_sorted() -> None:
    with pytest.raises(ConfigError, match="/there names 'a' twice"):
        listing("a", "a", "b")
    with pytest.raises(ConfigError, match="'b' comes before 'a'"):
        listing("b", "a")


def test_gone_is_what_is_known_not_to_be_there(tmp_path: Path) -> None:
    found = listing("a.jpg", "m/b.jpg", "z.jpg", closed=("closed/", "x.tar/"))
    assert not any(map(found.is_gone, ("a.jpg", "m/b.jpg", "z.jpg", "closed/a.jpg", "x.tar/deep/a.jpg")))
    assert all(map(found.is_gone, ("A.jpg", "b.jpg", "closed.jpg", "zz.jpg", "")))
    (tmp_path / "there.jpg").touch()
    on_disk = listing("a.jpg", folder=tmp_path)
    assert not on_disk.is_gone("there.jpg")
    assert on_disk.is_gone("gone.jpg")
    assert not on_disk.is_gone("zero\0byte")


def test_a_file_photo_is_a_photo(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12345")
    box = Box(x0=0, y0=0, x1=1, y1=1)
    photo = FilePhoto(name="cat", folder=str(tmp_path), file="a.jpg", box=box)
    assert (photo.path, photo.data, photo.reader, photo.box) == (tmp_path / "a.jpg", None, None, box)
    state = photo.state()
    assert isinstance(state, FileState)
    assert state == PhotoSource(name="cat", path=tmp_path / "a.jpg").state()
    assert state.size == 5
    for file in ("gone.jpg", "zero\0byte.jpg"):
        assert FilePhoto(name="x", folder=str(tmp_path), file=file).state() is None
    assert photo == FilePhoto(name="cat", folder=str(tmp_path), file="a.jpg", box=box)
    assert photo != FilePhoto(name="cat", folder=str(tmp_path), file="b.jpg", box=box)
    assert "a.jpg" in repr(photo)
    for again in (copy.copy(photo), pickle.loads(pickle.dumps(photo))):  # noqa: S301 (as multiprocessing does)
        assert again == photo
    with pytest.raises(AttributeError):
        photo.name = "dog"  # type: ignore[misc]


@dataclass(frozen=True)
class Shown:
    url: str
    expected: str


@pytest.mark.parametrize(
    "case",
    [
        Shown("https://me:secret@host:81/a/b.jpg", "https://host:81/a/b.jpg"),
        Shown("https://host/a?X-Amz-Signature=1&x=2&X-Amz-Credential=3#top", "https://host/a?x=2"),
        Shown("https://host/a?sv=1&sig=2&se=3&access_token=4&key=5&id=6", "https://host/a?id=6"),
        Shown("http://host/photo.php?id=5", "http://host/photo.php?id=5"),
        Shown("s3://key:secret@bucket/a?b#c@d.jpg", "s3://bucket/a?b#c@d.jpg"),
        Shown("s3://bucket", "s3://bucket"),
        Shown("https://h/a.jpg?jwt=eyJ0.eyJ1.c&session=1&sid=2&width=80", "https://h/a.jpg?width=80"),
        Shown("https://h/a.jpg?id=eyJhbGci.eyJzdWIi.c", "https://h/a.jpg"),
        Shown("https://h/a.jpg;jsessionid=ABC?hmac=1;ticket=2", "https://h/a.jpg"),
        Shown("https://h/a;b/c.jpg;v=2", "https://h/a;b/c.jpg;v=2"),
        Shown("https://h/a.jpg?Hash=1&code=2&s=3&u=4&apikey=5&%74oken=6&PHPSESSID=7&17", "https://h/a.jpg?17"),
        Shown("https://h/get?url=http%3A%2F%2Fme%3Asecret%40x%2F&name=a.jpg", "https://h/get?name=a.jpg"),
        Shown("https://h/web/http://me:secret@x/a.jpg", "https://h/web/http://x/a.jpg"),
        Shown("zip://a.jpg::http://me:secret@h/a.zip", "zip://a.jpg::http://h/a.zip"),
        Shown("simplecache::ftp://me:secr@et@h/a", "simplecache::ftp://h/a"),
    ],
)
def test_credentials_are_not_shown(case: Shown) -> None:
    assert without_secrets(case.url) == case.expected
    assert without_secrets(case.expected) == case.expected
    assert printable(f"{case.url}: it is not there") == f"{case.expected}: it is not there"
    assert printable(str(Path(case.url))) == str(Path(case.expected))  # has lost a slash
    assert printable(f"(see '{case.url}', or others).") == f"(see '{case.expected}', or others)."


def test_what_is_a_url() -> None:
    assert all(map(is_url, ("s3://b", "HTTP://h/x", "a+b://c")))
    assert not any(map(is_url, ("/a/b", "a:b", "C:/x", "folder/s3://x", "://x")))
