"""Thumbnails and files over HTTP: cached, in ranges, and of the archive's photos alone."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from ctxdeploy import PhotoIndex
from ctxdeploy.service.media import media_type

NAME = "first/chelsea.jpg"


def url(kind: str, name: str, query: str = "") -> str:
    return f"/v1/{kind}/{quote(name.encode('utf-8', 'surrogateescape'), safe='')}{query}"


@pytest.mark.parametrize("size", [160, 320, 640, 1280])
def test_a_thumbnail(client, album, size: int) -> None:
    reply = client.get(f"/v1/thumbnails/{NAME}?size={size}")
    assert reply.status_code == 200 and reply.headers["content-type"] == "image/jpeg"
    assert reply.headers["x-content-type-options"] == "nosniff" and "private" in reply.headers["cache-control"]
    with Image.open(io.BytesIO(reply.content)) as small, Image.open(album.photos / NAME) as photo:
        assert max(small.size) == min(size, max(photo.size))
    again = client.get(f"/v1/thumbnails/{NAME}?size={size}", headers={"If-None-Match": reply.headers["etag"]})
    assert again.status_code == 304 and not again.content and again.headers["etag"] == reply.headers["etag"]
    assert client.get(f"/v1/thumbnails/{NAME}?size={size}").content == reply.content


def test_sizes_that_there_are_not(client) -> None:
    for size in ("0", "321", "1e3", "-160", ""):
        assert client.get(f"/v1/thumbnails/{NAME}?size={size}").status_code == 422


def test_another_file_has_another_tag(connect, own_album) -> None:
    client = connect(own_album.archive)
    first = client.get(f"/v1/thumbnails/{NAME}")
    (own_album.photos / NAME).write_bytes((own_album.photos / "first/coffee.jpg").read_bytes())
    second = client.get(f"/v1/thumbnails/{NAME}", headers={"If-None-Match": first.headers["etag"]})
    assert second.status_code == 200 and second.headers["etag"] != first.headers["etag"]
    assert second.content != first.content


def test_an_original(client, album) -> None:
    data = (album.photos / NAME).read_bytes()
    reply = client.get(f"/v1/originals/{NAME}")
    assert reply.status_code == 200 and reply.content == data and reply.headers["content-type"] == "image/jpeg"
    assert reply.headers["content-disposition"] == "inline" and reply.headers["accept-ranges"] == "bytes"
    assert (
        reply.headers["x-content-type-options"] == "nosniff" and "sandbox" in reply.headers["content-security-policy"]
    )
    modified = parsedate_to_datetime(reply.headers["last-modified"]).timestamp()
    assert modified == int((album.photos / NAME).stat().st_mtime)
    tag = reply.headers["etag"]
    for known in (tag, f'"x", {tag}', f"W/{tag}", "*"):
        assert client.get(f"/v1/originals/{NAME}", headers={"If-None-Match": known}).status_code == 304
    assert client.get(f"/v1/originals/{NAME}", headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    ("given", "part"),
    [("0-99", slice(0, 100)), ("100-", slice(100, None)), ("-50", slice(-50, None)), ("0-99999999999", slice(None))],
)
def test_a_range_of_an_original(client, album, given: str, part: slice) -> None:
    data = (album.photos / NAME).read_bytes()
    reply = client.get(f"/v1/originals/{NAME}", headers={"Range": f"bytes={given}"})
    assert reply.status_code == 206 and reply.content == data[part]
    start = part.indices(len(data))[0]
    assert reply.headers["content-range"] == f"bytes {start}-{start + len(reply.content) - 1}/{len(data)}"
    changed = client.get(f"/v1/originals/{NAME}", headers={"Range": f"bytes={given}", "If-Range": '"x"'})
    assert changed.status_code == 200 and changed.content == data


@pytest.mark.parametrize(
    "given", ["bytes=9-3", "bytes=0-1,5-6", "bytes=-", "pages=1-2", "bytes=x-y", "bytes=" + "9" * 500]
)
def test_ranges_that_are_none_give_the_whole_file(client, album, given: str) -> None:
    reply = client.get(f"/v1/originals/{NAME}", headers={"Range": given})
    assert reply.status_code == 200 and reply.content == (album.photos / NAME).read_bytes()


def test_a_range_behind_the_end(client, album) -> None:
    size = (album.photos / NAME).stat().st_size
    for given in (f"{size}-", "-0"):
        reply = client.get(f"/v1/originals/{NAME}", headers={"Range": f"bytes={given}"})
        assert reply.status_code == 416 and reply.headers["content-range"] == f"bytes */{size}"


def test_a_large_original_comes_in_pieces(connect, own_album) -> None:
    path = own_album.photos / NAME
    path.write_bytes(path.read_bytes() + os.urandom(5 << 20))
    client = connect(own_album.archive)
    data = path.read_bytes()
    reply = client.get(f"/v1/originals/{NAME}")
    assert reply.status_code == 200 and reply.content == data and reply.headers["content-length"] == str(len(data))
    part = client.get(f"/v1/originals/{NAME}", headers={"Range": "bytes=7-4000006"})
    assert part.status_code == 206 and part.content == data[7:4_000_007]


def test_odd_names(connect, own_album) -> None:
    """Markup, bytes that are not UTF-8, signs that mean something in a URL."""
    odd = ("<i>&'\" é.jpg", "caf\udce9.jpg", "a?b#c%41.jpg", "%2e%2e/x.jpg", "back\\slash.jpg", "+ plus.jpg")
    for name in odd:
        path = own_album.photos / os.fsdecode(name.encode("utf-8", "surrogateescape"))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((own_album.photos / NAME).read_bytes())
    with PhotoIndex.open(own_album.archive, writable=True) as index:
        index.add(own_album.photos)
        assert set(odd) < set(index.names())
    client = connect(own_album.archive)
    data = (own_album.photos / NAME).read_bytes()
    for name in odd:
        assert client.get(url("originals", name)).content == data, name
        assert client.get(url("photos", name)).json()["name"].replace("\\\\", "\\") is not None
    listed = client.get("/v1/photos?prefix=caf").json()
    assert listed["photos"] == ["caf\\udce9.jpg"] and len(listed["photos_bytes"]) == 1


@pytest.mark.parametrize(
    "name",
    [
        *("nothing.jpg", "../album.ctxindex/CURRENT", "/etc/passwd", "first/../../album.ctxindex/CURRENT", "first"),
        *("", "first/chelsea.jpg/", "first//chelsea.jpg", "./first/chelsea.jpg", "first/chelsea.jpg\0", "\ud800"),
    ],
)
@pytest.mark.parametrize("kind", ["thumbnails", "originals", "photos"])
def test_names_that_the_archive_does_not_hold(client, kind: str, name: str) -> None:
    data = quote(name.encode("utf-8", "surrogatepass"), safe="")
    reply = client.get(f"/v1/{kind}/{data}")
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/problem+json"


def test_what_lies_in_the_folder_and_is_not_indexed_is_not_given_out(connect, own_album) -> None:
    (own_album.photos / "private.jpg").write_bytes((own_album.photos / NAME).read_bytes())
    assert connect(own_album.archive).get("/v1/originals/private.jpg").status_code == 404


def test_links_and_other_things_in_the_place_of_a_photo(connect, own_album, tmp_path) -> None:
    """The archive holds the names, and somebody has put something else there: all are answered alike."""
    (tmp_path / "secret.jpg").write_bytes((own_album.photos / NAME).read_bytes())
    photos = own_album.photos
    replaced: dict[str, Callable[[Path], object]] = {
        "first/chelsea.jpg": lambda path: path.symlink_to(tmp_path / "secret.jpg"),
        "first/coffee.jpg": lambda path: path.mkdir(),
        "first/coins.jpg": lambda path: os.mkfifo(path),
        "first/rocket.jpg": lambda path: path.write_text("<script>alert(1)</script>"),
        "first/camera.jpg": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        "first/astronaut.jpg": lambda path: None,
    }
    for name, put in replaced.items():
        (photos / name).unlink()
        put(photos / name)
    (photos / "second").rename(tmp_path / "moved")
    (photos / "second").symlink_to(tmp_path / "moved")
    client = connect(own_album.archive)
    details = set()
    for name in (*replaced, "second/chelsea.jpg"):
        for kind in ("thumbnails", "originals"):
            reply = client.get(f"/v1/{kind}/{name}")
            assert reply.status_code == 404 and reply.json()["code"] == "NoSuchPhoto", name
            details.add(reply.json()["detail"].replace(name, "NAME"))
    assert details == {"there is no photo 'NAME'"} and str(tmp_path) not in str(details)


def test_a_link_within_the_folder_is_followed(connect, own_album) -> None:
    (own_album.photos / NAME).unlink()
    (own_album.photos / NAME).symlink_to("coffee.jpg")
    reply = connect(own_album.archive).get(f"/v1/originals/{NAME}")
    assert reply.content == (own_album.photos / "first/coffee.jpg").read_bytes()


def test_a_hostile_photo_costs_itself_alone(connect, own_album) -> None:
    path = own_album.photos / NAME
    path.write_bytes(path.read_bytes()[:2000])
    client = connect(own_album.archive)
    reply = client.get(f"/v1/thumbnails/{NAME}")
    assert reply.status_code == 404 and reply.json()["code"] == "PictureUnreadable"
    assert client.get("/v1/thumbnails/first/coffee.jpg").status_code == 200
    assert client.get(f"/v1/originals/{NAME}").status_code == 200


def test_where_the_folder_is_gone(connect, own_album, tmp_path) -> None:
    own_album.photos.rename(tmp_path / "elsewhere")
    client = connect(own_album.archive)
    for kind in ("thumbnails", "originals"):
        reply = client.get(f"/v1/{kind}/{NAME}")
        assert reply.status_code == 404 and reply.json()["code"] == "NoPictures"
    assert client.get("/v1/archives/album").json()["pictures"] == "elsewhere"
    assert client.get(f"/v1/search?indexed={NAME}").status_code == 200


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_photos_in_a_tar_or_zip_file(connect, album, tmp_path, kind: str) -> None:
    place = tmp_path / f"p.{kind}"
    names = ("chelsea.jpg", "coffee.jpg")
    if kind == "tar":
        with tarfile.open(place, "w") as tar:
            for name in names:
                tar.add(album.photos / "first" / name, name)
    else:
        with zipfile.ZipFile(place, "w") as packed:
            for name in names:
                packed.write(album.photos / "first" / name, name)
    archive = tmp_path / "packed.ctxindex"
    with PhotoIndex.create(archive) as index:
        index.add(place)
        listed = index.names()
    client = connect(archive)
    assert client.get("/v1/archives/packed").json()["pictures"] == "packed"
    (name,) = (name for name in listed if name.endswith("chelsea.jpg"))
    reply = client.get(f"/v1/originals/{name}")
    assert reply.content == (album.photos / NAME).read_bytes() and reply.headers["etag"]
    assert client.get(f"/v1/thumbnails/{name}?size=160").status_code == 200
    place.unlink()
    assert client.get(f"/v1/originals/{name}").status_code == 404


def test_media_types() -> None:
    written: dict[str, str] = {}
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, kind)
        written[kind] = media_type(file.getvalue()[:64]) or ""
    assert written == {
        **{"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "BMP": "image/bmp", "TIFF": "image/tiff"},
        **{"WEBP": "image/webp", "PPM": "image/x-portable-anymap", "JPEG2000": "image/jp2", "AVIF": "image/avif"},
    }
    hostile = (
        b"",
        b"P6",
        b"<svg",
        b"<!DOCTYPE html>",
        b"%PDF-1.4",
        b"\0\0\0\x18ftypmp42",
        b"GIF8",
        b"Py",
        b" \xff\xd8\xff",
    )
    assert [media_type(head) for head in hostile] == [None] * len(hostile)
