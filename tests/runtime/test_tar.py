"""Photos in tar files: names, places, damage."""

import io
import os
import random
import tarfile
import time
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError, NoPhotosError, PhotoError
from ctxdeploy.core.types import FileState
from ctxdeploy.runtime.sources import PhotoList, list_photos
from ctxdeploy.runtime.sources.packed import OpenFiles, expand, has_pattern

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
Member = tuple[str, bytes]


def write_tar(path: Path, members: Sequence[Member], form: int = tarfile.PAX_FORMAT, mtime: float = 1e9) -> Path:
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime  # type: ignore[assignment]
            tar.addfile(info, io.BytesIO(data))
    return path


def contents(listing: PhotoList) -> dict[str, bytes]:
    return {photo.name: photo.reader.read() for photo in listing.photos if photo.reader is not None}


@pytest.mark.parametrize("form", FORMATS)
def test_members_are_photos_by_extension(tmp_path: Path, form: int) -> None:
    deep = "/".join(["a-folder-with-a-long-name"] * 5) + "/é.webp"
    members = [("b.JPG", b"b" * 1000), ("./a/c.png", b"c" * 513), (deep, b""), ("b.json", b"{}"), ("b.cls", b"7")]
    place = write_tar(tmp_path / "x.tar", members, form)
    listing = list_photos(str(place))
    assert contents(listing) == {"x.tar/b.JPG": b"b" * 1000, "x.tar/a/c.png": b"c" * 513, f"x.tar/{deep}": b""}
    assert listing.place == str(tmp_path.resolve() / "x.tar")
    assert listing.unreadable == ()
    assert {photo.state() for photo in listing.photos} == {
        FileState(size=size, mtime_ns=10**18) for size in (1000, 513, 0)
    }
    assert not listing.is_gone("x.tar/b.JPG")
    assert listing.is_gone("x.tar/gone.jpg")


def test_only_plain_files_that_are_not_hidden(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"special{number}.jpg")
            info.type, info.linkname = kind, "plain.jpg"
            tar.addfile(info)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        sparse = tarfile.TarInfo("sparse.jpg")
        sparse.pax_headers = {"GNU.sparse.map": "0,4,996,4", "GNU.sparse.size": "1000"}
        sparse.size = 8
        tar.addfile(sparse, io.BytesIO(b"12345678"))
        for name in (".hidden.jpg", "._plain.jpg", ".folder/a.jpg", "folder/.b.jpg", "plain.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"data"))
    listing = list_photos(str(tmp_path / "x.tar"))
    assert contents(listing) == {"x.tar/plain.jpg": b"data"}
    assert listing.unreadable == ()


def test_of_one_name_the_last_counts(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "x.tar", [("a.jpg", b"old"), ("b.jpg", b"b"), ("./a.jpg", b"new")])
    assert contents(list_photos(str(place))) == {"x.tar/a.jpg": b"new", "x.tar/b.jpg": b"b"}


def test_fractions_of_seconds_and_times_out_of_range(tmp_path: Path) -> None:
    states = []
    for number, mtime in enumerate((1.5, -5.0, 1e30)):
        place = write_tar(tmp_path / f"{number}.tar", [("a.jpg", b"")], mtime=mtime)
        states.append(list_photos(str(place)).photos[0].state())
    assert [state.mtime_ns for state in states if state is not None] == [1_500_000_000, 0, (1 << 63) - 1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.one_of(st.text(min_size=1), st.binary(min_size=1).map(os.fsdecode)), max_size=5),
    form=st.sampled_from(FORMATS[1:]),
)
def test_any_name_survives(tmp_path: Path, names: list[str], form: int) -> None:
    # Two bytes that are not UTF-8 may be when they stand together.
    bare = ("".join(c for c in name if c not in "\0/").lstrip(".") for name in names)
    stems = {os.fsdecode(os.fsencode(name)) for name in bare}
    members = [(f"{stem}x.jpg", str(number).encode()) for number, stem in enumerate(sorted(stems))]
    place = write_tar(tmp_path / "x.tar", [*members, ("always.jpg", b"")], form)
    expected = {f"x.tar/{name}": data for name, data in members} | {"x.tar/always.jpg": b""}
    assert contents(list_photos(str(place))) == expected


def test_sixteen_threads_read_from_more_files_than_stay_open(tmp_path: Path) -> None:
    rng = random.Random(5)
    for number in range(40):
        write_tar(tmp_path / f"{number:02d}.tar", [(f"{i}.jpg", rng.randbytes(rng.randrange(3000))) for i in range(5)])
    listing = list_photos(str(tmp_path / "{00..39}.tar"))
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    expected = contents(listing)
    assert len(expected) == 200
    photos = listing.photos * 5
    rng.shuffle(photos)
    most = 0

    def read(number: int) -> bool:
        nonlocal most
        most = max(most, len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0)
        photo = photos[number]
        return photo.reader is not None and photo.reader.read() == expected[photo.name]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(len(photos))))
    assert most <= before + 16 + 16 + 2  # kept open, being read, and those that list the folder


def test_a_file_that_is_being_read_stays_open(tmp_path: Path) -> None:
    files = OpenFiles(limit=2)
    with ExitStack() as stack:
        opened = []
        for number in range(5):
            (tmp_path / str(number)).write_bytes(b"%d" % number)
            opened.append(stack.enter_context(files.open(str(tmp_path / str(number)), lambda descriptor: None)))
        for number in range(5):  # a second reader that leaves closes nothing
            with files.open(str(tmp_path / str(number)), lambda descriptor: None) as again:
                assert again == opened[number]
        assert [os.pread(descriptor, 1, 0) for descriptor in opened] == [b"0", b"1", b"2", b"3", b"4"]
    closed = 0
    for descriptor in opened:
        try:
            os.fstat(descriptor)
        except OSError:
            closed += 1
    assert closed == 3


def test_files_are_closed_with_the_last_that_needs_them(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    files = OpenFiles()
    with files.open(str(tmp_path / "a"), lambda descriptor: None) as descriptor:
        os.fstat(descriptor)
    os.fstat(descriptor)
    del files
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_wherever_it_is_cut_what_is_whole_is_read_and_nothing_is_gone(tmp_path: Path) -> None:
    members = [("a.jpg", b"a" * 700), ("b" * 120 + ".jpg", b"b" * 512), ("c.jpg", b"c" * 100)]
    whole = write_tar(tmp_path / "whole.tar", members, tarfile.GNU_FORMAT).read_bytes()
    end = len(whole.rstrip(b"\0"))
    end += -end % 512
    cut = tmp_path / "cut.tar"
    expected = {f"cut.tar/{name}": data for name, data in members}
    for length in [*range(512, end, 128), end]:
        cut.write_bytes(whole[:length])
        listing = list_photos(str(cut))
        (failure,) = listing.unreadable
        assert (failure.name, failure.stage) == ("cut.tar/", "list")
        assert "truncated" in failure.reason
        assert not listing.is_gone("cut.tar/c.jpg")
        assert listing.is_gone("other.tar/c.jpg")
        for photo in listing.photos:
            assert photo.reader is not None
            try:
                assert photo.reader.read() == expected[photo.name]
            except PhotoError as error:
                assert str(error) == "the tar file ends within it"
                assert photo is listing.photos[-1]
    cut.write_bytes(whole[: end + 512])
    assert list_photos(str(cut)).unreadable == ()


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "x.tar", [("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c")], tarfile.USTAR_FORMAT)
    data = bytearray(place.read_bytes())
    data[1024 + 5] ^= 1
    place.write_bytes(data)
    listing = list_photos(str(place))
    assert contents(listing) == {"x.tar/a.jpg": b"a"}
    assert [failure.reason for failure in listing.unreadable] == ["the tar file is damaged at byte 1,024"]


def test_random_damage_neither_hangs_nor_crashes(tmp_path: Path) -> None:
    members = [("a.jpg", b"a" * 20), ("b" * 150 + ".jpg", b"b" * 600), ("é.jpg", b"c")]
    whole = [write_tar(tmp_path / f"{form}.tar", members, form).read_bytes()[:8192] for form in FORMATS[1:]]
    rng = random.Random(11)
    place = tmp_path / "x.tar"
    for number in range(300):
        data = bytearray(whole[number % 2])
        for _ in range(rng.randint(1, 4)):
            block = rng.randrange(len(data) // 512) * 512
            data[block + rng.randrange(512)] = rng.randrange(256)
            header = data[block : block + 512]
            header[148:156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(header)  # so that the damage is not seen at once
        place.write_bytes(data)
        try:
            for photo in list_photos(str(place)).photos:
                assert photo.reader is not None
                with_reason = photo.reader.read
                try:
                    with_reason()
                except PhotoError as error:
                    assert "\n" not in str(error)
        except (ConfigError, NoPhotosError) as error:
            assert "\n" not in str(error)


def test_a_member_that_leads_back_is_no_circle(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + b"\0" * 1024)
    with pytest.raises(ConfigError, match="truncated or damaged"):
        list_photos(str(tmp_path / "x.tar"))


def test_what_is_too_large_for_a_photo_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = 3 << 30
    place = tmp_path / "x.tar"
    place.write_bytes(info.tobuf())
    os.truncate(place, 512 + info.size + 1024)
    (photo,) = list_photos(str(place)).photos
    assert photo.reader is not None
    with pytest.raises(PhotoError, match="it has 3,221,225,472 bytes, more than"):
        photo.reader.read()


def test_a_file_that_changed_is_not_read_at_old_places(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "x.tar", [("a.jpg", b"a")])
    (photo,) = list_photos(str(place)).photos
    assert photo.reader is not None
    write_tar(place, [("b.jpg", b"secret"), ("a.jpg", b"a")])
    os.utime(place, ns=(0, time.time_ns() + 10**9))
    with pytest.raises(PhotoError, match="the tar file has changed since it was listed"):
        photo.reader.read()
    place.unlink()
    with pytest.raises(PhotoError, match=r"the tar file cannot be read \(No such file or directory\)"):
        photo.reader.read()


def test_a_file_that_is_open_and_written_to_is_not_read_at_old_places(tmp_path: Path) -> None:
    place = write_tar(tmp_path / "x.tar", [("a.jpg", b"a" * 9), ("b.jpg", b"b" * 9)])
    first, second = (photo.reader for photo in list_photos(str(place)).photos)
    assert first is not None
    assert second is not None
    assert first.read() == b"a" * 9
    other = write_tar(tmp_path / "other.tar", [("b.jpg", b"b" * 9), ("a.jpg", b"a" * 9)]).read_bytes()
    with place.open("r+b") as file:
        file.write(other)
    os.utime(place, ns=(0, time.time_ns() + 10**9))
    with pytest.raises(PhotoError, match="the tar file has changed since it was listed"):
        second.read()
    os.truncate(place, 512)
    with pytest.raises(PhotoError, match="the tar file has changed since it was listed"):
        second.read()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", ConfigError, "x.tar: the file is empty"),
        (b"\x1f\x8b\x08" + b"x" * 2000, ConfigError, "x.tar: the file is compressed, whatever its name"),
        (b"no tar" * 1000, ConfigError, "x.tar: the tar file is truncated or damaged"),
        (b"\0" * 10240, NoPhotosError, "x.tar holds no photos"),
    ],
)
def test_what_is_no_tar(tmp_path: Path, data: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(error, match=message):
        list_photos(str(tmp_path / "x.tar"))


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(ConfigError, match="it is not a regular file"):
        list_photos(str(tmp_path / "x.tar"))


def test_patterns_and_what_is_missing(tmp_path: Path) -> None:
    for name in ("s/a-000.tar", "s/a-002.tar", "t/a-000.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / name, [("a.jpg", name.encode())])
    listing = list_photos(str(tmp_path / "s" / "a-{000..002}.tar"))
    assert contents(listing) == {"a-000.tar/a.jpg": b"s/a-000.tar", "a-002.tar/a.jpg": b"s/a-002.tar"}
    assert [failure.name for failure in listing.unreadable] == ["a-001.tar/"]
    assert not listing.is_gone("a-001.tar/a.jpg")
    assert list_photos(str(tmp_path / "s" / "*.tar")).unreadable == ()
    deep = list_photos(str(tmp_path / "*" / "*.tar"))
    assert list(contents(deep)) == ["s/a-000.tar/a.jpg", "s/a-002.tar/a.jpg", "t/a-000.tar/a.jpg"]
    assert deep.place == str(tmp_path.resolve() / "*" / "*.tar")
    assert list(contents(list_photos(str(tmp_path / "{s,t}/a-000.tar")))) == ["s/a-000.tar/a.jpg", "t/a-000.tar/a.jpg"]


def test_expanding_braces() -> None:
    assert expand("{a,b}-{8..11}.tar") == [f"{x}-{n}.tar" for x in "ab" for n in range(8, 12)]
    assert expand("{02..00}") == ["02", "01", "00"]
    assert expand("{x}") == ["{x}"]
    assert not has_pattern("{x}.tar")
    with pytest.raises(ConfigError, match="more than 1,000,000 files"):
        expand("{0..999}{0..9999}")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_that_has_more_bytes_than_memory(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = kind, 6 << 30
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(7 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"x.tar: the tar file is truncated or damaged \(a header of 6,4"):
            list_photos(str(tmp_path / "x.tar"))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
