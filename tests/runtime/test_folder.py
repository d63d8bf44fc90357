"""Photos are found by extension, once each, under stable names."""

import os
from pathlib import Path

import pytest

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.runtime import find_photos


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(root: Path, recursive: bool = True) -> list[str]:
    return [photo.name for photo in find_photos(root, recursive)]


def test_by_extension_sorted_and_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.jpeg", "sub/c.png", "sub/deep/d.webp", "e.tif", "f.TIFF", "g.bmp", "h.gif", "i.ppm")
    touch(
        tmp_path, "j.pgm", "notes.txt", "noextension", ".hidden.jpg", ".cache/x.jpg", "sub/.y.png", "jpg", "k.jpg.part"
    )
    expected = [
        "a.jpeg",
        "b.JPG",
        "e.tif",
        "f.TIFF",
        "g.bmp",
        "h.gif",
        "i.ppm",
        "j.pgm",
        "sub/c.png",
        "sub/deep/d.webp",
    ]
    assert names(tmp_path) == expected
    assert names(tmp_path, recursive=False) == expected[:-2]
    assert names(tmp_path / "sub") == ["c.png", "deep/d.webp"]


def test_the_paths_lead_to_the_files(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.jpg")
    (photo,) = find_photos(str(tmp_path))
    assert photo.path == tmp_path / "sub" / "a.jpg"
    assert photo.data is None


def test_links_and_loops(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    touch(root, "z/real.jpg")
    touch(other, "outside.jpg", "below/more.jpg")
    (root / "z" / "loop").symlink_to(root)
    (root / "a").symlink_to(root / "z")
    (root / "linked").symlink_to(other)
    (root / "twice").symlink_to(other / "below")
    (other / "back").symlink_to(root / "z")
    (root / "link.jpg").symlink_to(other / "outside.jpg")
    (root / "broken.jpg").symlink_to(root / "nowhere")
    found = names(root)
    assert found == ["broken.jpg", "link.jpg", "linked/below/more.jpg", "linked/outside.jpg", "z/real.jpg"]


def test_a_folder_named_like_a_photo_is_no_photo(tmp_path: Path) -> None:
    touch(tmp_path, "album.jpg/inside.jpg")
    assert names(tmp_path) == ["album.jpg/inside.jpg"]


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    raw = b"caf\xe9.jpg"
    Path(os.fsdecode(bytes(tmp_path) + b"/" + raw)).touch()
    (photo,) = find_photos(tmp_path)
    assert os.fsencode(photo.name) == raw
    assert photo.path is not None
    assert photo.path.exists()


def test_heif_is_listed_where_nothing_reads_it_too(tmp_path: Path) -> None:
    touch(tmp_path, "a.heic", "b.jpg", "c.HIF")
    assert names(tmp_path) == ["a.heic", "b.jpg", "c.HIF"]


def test_an_empty_folder_is_named_with_the_extensions(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(NoPhotosError, match=rf"{tmp_path} holds no photos \(looked for \.jpg \.jpeg"):
        find_photos(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    for path in (tmp_path / "missing", tmp_path / "a.jpg"):
        with pytest.raises(ConfigError, match=f"{path} is not a folder"):
            find_photos(path)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "private/b.jpg")
    scandir = os.scandir

    def refuse(path: os.PathLike[str]) -> object:
        if Path(path).name == "private":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match=r"private cannot be listed \(Permission denied\)"):
        find_photos(tmp_path)


def test_a_link_in_a_circle_hides_no_photo(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "below"):
        folder.mkdir(exist_ok=True)
        (folder / "a.jpg").touch()
        (folder / "circle.jpg").symlink_to("circle.jpg")
    names = [photo.name for photo in find_photos(tmp_path)]
    assert names == ["a.jpg", "below/a.jpg", "below/circle.jpg", "circle.jpg"]


def test_names_come_in_order_whatever_they_are(tmp_path: Path) -> None:
    """A folder stands where its name with a slash stands, which is not where its name does."""
    parts = ("a", "a-b", "a.jpg", "a0", "é", "\udce9", "日", "\U0010ffff")
    wanted = [f"{first}/{second}/x.jpg" for first in parts for second in parts]
    wanted += [f"{first}!.jpg" for first in parts] + [f"{first}/{second}z.jpg" for first in parts for second in parts]
    touch(tmp_path, *(os.fsdecode(os.fsencode(name)) for name in wanted))
    (tmp_path / "a" / "link").symlink_to(tmp_path)  # in a circle
    assert names(tmp_path) == sorted(wanted)


def test_links_high_up_name_what_links_far_down_lead_to_as_well(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    touch(other, "inside.jpg", "deep/more.jpg")
    touch(root, "a/b/c.jpg")
    (root / "a" / "b" / "link").symlink_to(other)
    (root / "z").symlink_to(other)
    (other / "again").symlink_to(root / "a")
    assert names(root) == ["a/b/c.jpg", "z/deep/more.jpg", "z/inside.jpg"]
