"""Uploads that nobody means well: damaged photos, bombs, files that are two things, and forms that are none; and the
memory of the service that they meet."""

import contextlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

BOUNDARY = b"----a boundary"
MARKUP = b"<script>alert(1)</script>"


def encodings(photo: bytes, longest: int = 96) -> list[bytes]:
    """Return a photo, made small, in every format that people upload."""
    with Image.open(io.BytesIO(photo)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((longest, longest))
    wanted: tuple[tuple[str, dict[str, object]], ...] = (
        ("JPEG", {"quality": 85}),
        ("JPEG", {"quality": 85, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 80}),
        ("GIF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
    )
    found = []
    for fmt, options in wanted:
        file = io.BytesIO()
        image.save(file, fmt, **options)
        found.append(file.getvalue())
    return found


def mutated(data: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Return a file with one of many damages."""
    start, end = sorted(int(edge) for edge in random.integers(0, len(data), 2))
    kind = int(random.integers(0, 8))
    if kind == 0:  # bytes
        changed = bytearray(data)
        for place in random.integers(0, len(data), int(random.integers(1, 8))):
            changed[place] = int(random.integers(0, 256))
        return bytes(changed)
    if kind == 1:  # a bit of the head, where the sizes stand
        changed = bytearray(data)
        changed[int(random.integers(0, min(64, len(data))))] ^= 1 << int(random.integers(0, 8))
        return bytes(changed)
    if kind == 2:
        return data[:start]
    if kind == 3:
        return data[:start] + bytes(end - start) + data[end:]
    if kind == 4:
        return data[:start] + other[start:end] + data[end:]
    if kind == 5:
        return data[:start] + data[end:]
    if kind == 6:
        return data[:end] + data[start:]
    return other[:start] + data  # another file's head before it


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return a PNG in grey that says what it is told to say."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def specials(photo: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a name and a file each: bombs, wrong types, files that are two things at once."""
    yield "one byte", b"\xff"
    yield "text", b"cat.jpg\n/etc/passwd\n"
    yield "html", b"<!doctype html>" + MARKUP
    yield "svg that fetches", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:1/x"/></svg>'
    yield "xml entities", b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>'
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    yield "pdf and photo", b"%PDF-1.4\n" + photo
    yield "photo and html", photo + MARKUP
    yield "gif and script", b"GIF89a/*" + bytes(2000) + b"*/=1;alert(1)"
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../evil.jpg", bytes(10 << 20))
    yield "zip", zipped.getvalue()
    yield "photo and zip", photo + zipped.getvalue()
    yield "huge png of nothing", png(60_000, 60_000, b"")
    yield "png bomb", png(20_000, 20_000, bytes(20_001 * 20_000))
    yield "png of more rows than it says", png(10, 10, bytes(50 << 20))
    yield "png without width", png(0, 10, b"")
    yield "gif of 65,535 squared", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x00\x00\x00,"
    yield "bmp of two billion", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 1, 1, 24, *[0] * 6)
    yield "heic", b"\x00\x00\x00\x18ftypheic" + bytes(100)
    yield "tiff that points at itself", b"II*\x00\x08\x00\x00\x00\x01\x00" + bytes(12) + struct.pack("<I", 8)


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """Return a form of parts: what stands after ``form-data``, and the content."""
    lines = b""
    for disposition, content in parts:
        lines += (
            b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data" + disposition + b"\r\n\r\n" + content + b"\r\n"
        )
    return lines + b"--" + BOUNDARY + b"--\r\n"


def forms(photo: bytes) -> Iterator[bytes]:
    """Yield forms that are odd, and would not be written by a browser."""
    good = b'; name="photo"; filename="a.jpg"'
    yield form((b'; name="photo"', photo))  # a text field
    yield form((b'; name="other"; filename="a.jpg"', photo))
    yield form(*[(good, b"x")] * 200)
    yield form(*[(b'; name="field %d"' % i, b"x") for i in range(2000)])
    yield form((b'; name="photo"; filename="' + b"a" * 100_000 + b'"', photo))
    yield form((b'; name="photo"; filename="../../../etc/cron.d/x"', photo))
    yield form((b'; name="photo"; filename="a\x00b\x1b[31m.jpg"', photo))
    yield form((b"; name=photo; filename*=utf-8''%2e%2e%2fevil.jpg", photo))
    yield form((good + b"\r\nContent-Transfer-Encoding: base64", photo))
    yield form((good + b"\r\nX: " + b"y" * 100_000, photo))
    yield form((good, photo))[:-30]
    yield form((good, photo)).replace(b"\r\n", b"\n")
    yield b""
    yield b"--" + BOUNDARY
    yield b"\r\n" * 10_000
    yield form((b"", photo))


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                parent = int((entry / "stat").read_text("latin-1").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def memory(pid: int) -> float:
    """Return MB of a process and all below it that are not mapped from files."""
    kilobytes = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text("ascii").splitlines():
                if line.startswith(("RssAnon", "RssShmem")):
                    kilobytes += int(line.split()[1])
    return kilobytes / 1024
