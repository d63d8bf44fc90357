"""Packed folders, sound and hostile."""

import gzip
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from ctxdeploy.core.errors import ConfigError, DownloadError
from ctxdeploy.models import unpacking
from ctxdeploy.models.unpacking import unpack

Member = tuple[tarfile.TarInfo, bytes]


def _member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(content)
    return member, content


def _pack(path: Path, *members: Member, kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w:gz", format=kind) as tar:
        for member, content in members:
            tar.addfile(member, BytesIO(content))
    return path


def test_files_and_folders_come_out_as_they_are(tmp_path: Path) -> None:
    folder = _member("net", kind=tarfile.DIRTYPE)
    packed = _pack(tmp_path / "net.tar.gz", folder, _member("net/variables/a.index", b"x" * 70_000), _member("net/pb"))
    found = unpack(packed, tmp_path / "out")
    assert found == tmp_path / "out" / "net"
    assert (found / "variables" / "a.index").read_bytes() == b"x" * 70_000 and (found / "pb").read_bytes() == b""
    two = _pack(tmp_path / "two.tar.gz", _member("a/x", b"1"), _member("b/y", b"2"))
    assert unpack(two, tmp_path / "both") == tmp_path / "both"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (_member("../outside", b"x"), "nothing of it is used"),
        (_member("a/../../outside", b"x"), "nothing of it is used"),
        (_member("a", kind=tarfile.SYMTYPE, link="/etc"), "holds a, which is neither a plain file nor a folder"),
        (_member("a", kind=tarfile.LNKTYPE, link="b"), "holds a, which is neither"),
        (_member("a", kind=tarfile.FIFOTYPE), "holds a, which is neither"),
        (_member("a", kind=tarfile.CHRTYPE), "holds a, which is neither"),
    ],
)
def test_nothing_but_files_inside_is_written(tmp_path: Path, member: Member, message: str) -> None:
    packed = _pack(tmp_path / "p.tar.gz", member)
    with pytest.raises(DownloadError, match=message):
        unpack(packed, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [] and sorted(p.name for p in tmp_path.iterdir()) == [
        "out",
        "p.tar.gz",
    ]


def test_a_small_file_that_grows_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = _pack(tmp_path / "p.tar.gz", _member("zeros", bytes(30_000_000)))
    assert packed.stat().st_size < 100_000
    with pytest.raises(DownloadError, match="is larger than 2 MB when it is unpacked: nothing of it is used"):
        unpack(packed, tmp_path / "out", max_bytes=2_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 3_000_000
    # A header of an extension is read at once: the length that it says is not believed.
    long = _pack(tmp_path / "long.tar.gz", _member("x" * 5_000_000))
    with pytest.raises(DownloadError, match="has a header that is too long"):
        unpack(long, tmp_path / "long")
    monkeypatch.setattr(unpacking, "MAX_FILES", 3)
    many = _pack(tmp_path / "many.tar.gz", *(_member(f"f{i}") for i in range(5)))
    with pytest.raises(DownloadError, match="holds more than 3 files"):
        unpack(many, tmp_path / "many")


def test_damaged_files_are_said_to_be_so(tmp_path: Path) -> None:
    whole = _pack(tmp_path / "p.tar.gz", _member("a", bytes(range(256)) * 200)).read_bytes()
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # in the checksum
    for number, content in enumerate(
        (b"", b"text", whole[: len(whole) // 2], bytes(flipped), gzip.compress(b"no tar" * 200))
    ):
        path = tmp_path / f"{number}.tar.gz"
        path.write_bytes(content)
        with pytest.raises(DownloadError, match=r"is not a whole \.tar\.gz file"):
            unpack(path, tmp_path / str(number))


def test_an_old_python_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = _pack(tmp_path / "p.tar.gz", _member("a", b"x"))
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(ConfigError, match=r"upgrade it to 3\.11\.4 or later"):
        unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()
