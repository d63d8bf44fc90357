"""Photos in zip files: names, places, damage, encryption, bombs."""

import io
import os
import random
import stat
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError, NoPhotosError, PhotoError
from ctxdeploy.core.types import FileState
from ctxdeploy.runtime.sources import PhotoList, list_photos

Member = tuple[str, bytes]
TIME = (2001, 9, 9, 1, 46, 40)  # 10^9 s after 1970 in UTC


def write_zip(path: Path, members: Sequence[Member], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in members:
            info = zipfile.ZipInfo(name, TIME)
            info.compress_type = method
            packed.writestr(info, data)
    return path


def directory(data: bytes) -> int:
    """Return where the first entry of the directory begins."""
    return data.index(b"PK\1\2")


def contents(listing: PhotoList) -> dict[str, bytes]:
    return {photo.name: photo.reader.read() for photo in listing.photos if photo.reader is not None}


def reason_of(listing: PhotoList) -> str:
    """Return why the only photo of a list cannot be read."""
    (photo,) = listing.photos
    assert photo.reader is not None
    with pytest.raises(PhotoError) as caught:
        photo.reader.read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_photos_by_extension(tmp_path: Path, method: int) -> None:
    members = [
        ("b.JPG", b"b" * 1000),
        ("./a/c.png", b"c" * 513),
        ("/d/é.webp", b""),
        ("b.json", b"{}"),
        ("e.jpg/", b""),
    ]
    listing = list_photos(str(write_zip(tmp_path / "x.zip", members, method)))
    assert contents(listing) == {"x.zip/b.JPG": b"b" * 1000, "x.zip/a/c.png": b"c" * 513, "x.zip/d/é.webp": b""}
    assert listing.place == str(tmp_path.resolve() / "x.zip")
    assert (listing.unreadable, listing.folder) == ((), None)
    assert {photo.state() for photo in listing.photos} == {
        FileState(size=size, mtime_ns=10**18) for size in (1000, 513, 0)
    }
    assert not listing.is_gone("x.zip/b.JPG")
    assert listing.is_gone("x.zip/gone.jpg")


def test_neither_links_nor_hidden_members(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", [(".a.jpg", b""), ("__MACOSX/._a.jpg", b""), ("a.jpg", b"a")])
    with zipfile.ZipFile(place, "a") as packed:
        link = zipfile.ZipInfo("link.jpg", TIME)
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "a.jpg")
    assert contents(list_photos(str(place))) == {"x.zip/a.jpg": b"a"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_one_name_the_last_counts(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", [("a.jpg", b"old"), ("b.jpg", b"b"), ("a.jpg", b"new")])
    assert contents(list_photos(str(place))) == {"x.zip/a.jpg": b"new", "x.zip/b.jpg": b"b"}


def test_a_time_that_no_calendar_has_is_none(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", [("a.jpg", b"a")])
    data = bytearray(place.read_bytes())
    data[directory(data) + 12 : directory(data) + 16] = bytes(4)  # month 0, day 0
    place.write_bytes(data)
    assert [photo.state() for photo in list_photos(str(place)).photos] == [FileState(size=1, mtime_ns=0)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=5))
def test_any_name_survives(tmp_path: Path, names: list[str]) -> None:
    stems = {"".join(c for c in name if c not in "\0/").lstrip(".") for name in names}
    members = [(f"{stem}x.jpg", str(number).encode()) for number, stem in enumerate(sorted(stems))]
    place = write_zip(tmp_path / "x.zip", [*members, ("always.jpg", b"")])
    expected = {f"x.zip/{name}": data for name, data in members} | {"x.zip/always.jpg": b""}
    assert contents(list_photos(str(place))) == expected


@pytest.mark.parametrize(("stored", "name"), [("é".encode(), "é"), (b"\x82x", "éx")])
def test_names_without_a_mark_are_utf8_or_code_page_437(tmp_path: Path, stored: bytes, name: str) -> None:
    place = write_zip(tmp_path / "x.zip", [("zz.jpg", b"a")])
    place.write_bytes(place.read_bytes().replace(b"zz.jpg", stored + b".jpg"))
    assert contents(list_photos(str(place))) == {f"x.zip/{name}.jpg": b"a"}


def test_threads_read_from_more_files_than_stay_open(tmp_path: Path) -> None:
    rng = random.Random(5)
    for number in range(20):
        write_zip(tmp_path / f"{number:02d}.zip", [(f"{i}.jpg", rng.randbytes(rng.randrange(3000))) for i in range(5)])
    listing = list_photos(str(tmp_path / "{00..19}.zip"))
    expected = contents(listing)
    assert len(expected) == 100
    photos = listing.photos * 5
    rng.shuffle(photos)
    with ThreadPoolExecutor(16) as pool:
        read = pool.map(lambda photo: photo.reader is not None and photo.reader.read(), photos)
        assert list(read) == [expected[photo.name] for photo in photos]


def test_patterns_and_what_is_missing(tmp_path: Path) -> None:
    write_zip(tmp_path / "a-0.zip", [("a.jpg", b"0")])
    listing = list_photos(str(tmp_path / "a-{0..1}.zip"))
    assert contents(listing) == {"a-0.zip/a.jpg": b"0"}
    (failure,) = listing.unreadable
    assert (failure.name, failure.stage) == ("a-1.zip/", "list")
    assert failure.reason == "the zip file cannot be read (No such file or directory)"
    assert not listing.is_gone("a-1.zip/a.jpg")


def test_without_its_end_it_is_truncated(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "whole.zip", [("a.jpg", b"a" * 700), ("b.jpg", b"b")]).read_bytes()
    cut = tmp_path / "cut.zip"
    for length in range(1, len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"cut\.zip: the zip file is truncated or damaged \([^\n]*\)$"):
            list_photos(str(cut))


def test_random_damage_neither_hangs_nor_crashes(tmp_path: Path) -> None:
    members = [("a.jpg", b"a" * 20), ("b" * 150 + ".jpg", random.Random(3).randbytes(300)), ("é.jpg", b"c")]
    whole = write_zip(tmp_path / "whole.zip", members).read_bytes()
    expected = [data for _, data in members]
    rng = random.Random(11)
    place = tmp_path / "x.zip"
    for number in range(600):
        data = bytearray(whole)
        first = directory(data) if number % 2 else 0
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(first, len(data))] = rng.randrange(256)
        place.write_bytes(data)
        try:
            photos = list_photos(str(place)).photos
        except (ConfigError, NoPhotosError) as error:
            assert "\n" not in str(error)
            continue
        for photo in photos:
            assert photo.reader is not None
            try:
                assert photo.reader.read() in expected
            except PhotoError as error:
                assert "\n" not in str(error)


def test_an_encrypted_member_says_so(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", [("a.jpg", b"a")])
    data = bytearray(place.read_bytes())
    data[directory(data) + 8] |= 1
    place.write_bytes(data)
    assert reason_of(list_photos(str(place))) == (
        "it is encrypted: unpack the zip file with its password, and index the folder"
    )


def test_a_method_that_is_not_read_is_named(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", [("a.jpg", b"a" * 100)], zipfile.ZIP_BZIP2)
    assert reason_of(list_photos(str(place))) == (
        "it is compressed with bzip2, which is not read: pack it with store or deflate"
    )


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", [("a.jpg", bytes(65 << 20))])
    assert reason_of(list_photos(str(place))).endswith("bytes would become 68,157,440, which no photo does")


def test_a_member_that_unpacks_to_more_than_it_says_is_cut_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_zip(tmp_path / "x.zip", [("a.jpg", bytes(1 << 20))])
    data = bytearray(place.read_bytes())
    struct.pack_into("<L", data, directory(data) + 24, 1000)
    place.write_bytes(data)
    limits: list[int] = []
    original = zlib.decompressobj

    class Watched:
        def __init__(self, bits: int) -> None:
            self._inner = original(bits)

        def decompress(self, packed: bytes, limit: int) -> bytes:
            limits.append(limit)
            return self._inner.decompress(packed, limit)

    monkeypatch.setattr("zlib.decompressobj", Watched)
    assert "its size or checksum differs" in reason_of(list_photos(str(place)))
    assert limits == [1001]


def test_what_is_too_large_for_a_photo_is_not_read(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", [("a.jpg", b"a" * 100)], zipfile.ZIP_STORED)
    data = bytearray(place.read_bytes())
    struct.pack_into("<LL", data, directory(data) + 20, 3 << 30, 3 << 30)
    place.write_bytes(data)
    assert "it has 3,221,225,472 bytes, more than" in reason_of(list_photos(str(place)))


def test_a_photo_with_a_wrong_byte_is_not_taken(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        place = write_zip(tmp_path / "x.zip", [("a.jpg", random.Random(1).randbytes(100))], method)
        data = bytearray(place.read_bytes())
        data[60] ^= 1
        place.write_bytes(data)
        assert reason_of(list_photos(str(place))).startswith("it is damaged in the zip file")


def test_a_file_that_changed_is_not_read_at_old_places(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "x.zip", [("a.jpg", b"a")])
    listing = list_photos(str(place))
    write_zip(place, [("b.jpg", b"secret"), ("a.jpg", b"a")])
    os.utime(place, ns=(0, time.time_ns() + 10**9))
    assert reason_of(listing) == "the zip file has changed since it was listed: run the command again"
    place.unlink()
    assert reason_of(listing) == "the zip file cannot be read (No such file or directory)"


def empty() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", ConfigError, "x.zip: the file is empty"),
        (b"no zip" * 1000, ConfigError, r"x.zip: the zip file is truncated or damaged \(File is not a zip file\)"),
        (empty(), NoPhotosError, "x.zip holds no photos"),
    ],
)
def test_what_is_no_zip(tmp_path: Path, data: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(error, match=message):
        list_photos(str(tmp_path / "x.zip"))


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(ConfigError, match="it is not a regular file"):
        list_photos(str(tmp_path / "x.zip"))


@pytest.mark.parametrize("wide", [False, True])
def test_a_directory_that_has_more_bytes_than_memory(tmp_path: Path, wide: bool) -> None:
    size, length = (6 << 30, 7 << 30) if wide else (3 << 30, 4 << 30)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 0xFFFFFFFF if wide else size, 0xFFFFFFFF if wide else 0, 0)
    if wide:
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, 0)
        end = record + struct.pack("<4sLQL", b"PK\6\7", 0, length - 98, 1) + end
    with (tmp_path / "x.zip").open("wb") as file:
        file.truncate(length)
        file.seek(length - len(end))
        file.write(end)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=rf"x.zip: its directory has {size:,} bytes, more than the"):
            list_photos(str(tmp_path / "x.zip"))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
