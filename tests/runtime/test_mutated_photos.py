"""Hundreds of damaged photos: each becomes a full-size RGB array or a reason; nothing else, and in time."""

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.runtime import Extractor, PhotoFailure, find_photos

COUNT = 500
SECONDS = 120.0  # for one photo of at most 96×72 pixels: what takes so long, hangs

CHILD = """
import faulthandler, json, sys, time
from pathlib import Path
import numpy as np
from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import decode_photo
from ctxdeploy.runtime.decode import DecodeLimits
limit = float(sys.argv[2])
for path in sorted(Path(sys.argv[1]).iterdir()):
    for limits in (DecodeLimits(), DecodeLimits(accept_truncated=True)):
        faulthandler.dump_traceback_later(limit, exit=True)
        start = time.perf_counter()
        try:
            photo = decode_photo(path, Preprocessing(image_size=4096), limits=limits)
        except PhotoError as error:
            outcome = str(error)
        else:
            height, width, channels = photo.pixels.shape
            assert (width, height) == photo.original_size and channels == 3 and photo.pixels.dtype == np.uint8
            outcome = ""
        print(json.dumps([path.name, limits.accept_truncated, outcome, time.perf_counter() - start]), flush=True)
"""


def originals() -> list[tuple[str, bytes]]:
    """Return small photos of several encodings."""
    rng = np.random.default_rng(0)
    found = []
    for number, (fmt, options) in enumerate(
        (
            ("JPEG", {"quality": 90}),
            ("JPEG", {"quality": 75, "subsampling": 0, "optimize": True}),
            ("JPEG", {"quality": 85, "progressive": True}),
            ("JPEG", {"quality": 85, "restart_marker_blocks": 2}),
            ("PNG", {}),
            ("PNG", {"compress_level": 0}),
            ("WEBP", {"quality": 80}),
            ("WEBP", {"lossless": True}),
        )
    ):
        small = rng.integers(0, 256, (18 + number, 24, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC)
        if number == 4:
            image = image.quantize(64)
        file = io.BytesIO()
        image.save(file, fmt, **options)
        found.append((fmt, file.getvalue()))
    return found


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with one of the damages that archives have."""
    start, end = sorted(int(edge) for edge in rng.integers(0, len(data), 2))
    kind = rng.integers(0, 7)
    if kind == 0:  # some bytes
        changed = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 8)):
            changed[place] = rng.integers(0, 256)
        return bytes(changed)
    if kind == 1:  # one bit
        changed = bytearray(data)
        changed[start] ^= 1 << int(rng.integers(0, 8))
        return bytes(changed)
    if kind == 2:  # a cut
        return data[:start]
    if kind == 3:  # zeros
        return data[:start] + bytes(end - start) + data[end:]
    if kind == 4:  # part of another file
        return data[:start] + other[start:end] + data[end:]
    if kind == 5:  # a part left out
        return data[:start] + data[end:]
    return data[:end] + data[start:]  # a part twice


def corpus() -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(42)
    photos = originals()
    found = []
    for number in range(COUNT):
        fmt, data = photos[number % len(photos)]
        _, other = photos[int(rng.integers(0, len(photos)))]
        found.append((f"{number:03}.{fmt.lower()}", mutated(data, other, rng)))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mutated")
    for name, data in corpus():
        (place / name.replace("jpeg", "jpg")).write_bytes(data)
    return place


def test_each_is_decoded_or_refused_in_time(folder: Path) -> None:
    """In a process of its own, which a crash or a photo that takes too long ends."""
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(folder), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2 * COUNT
    strict = {name: outcome for name, lenient, outcome, _ in rows if not lenient}
    lenient = {name: outcome for name, lenient, outcome, _ in rows if lenient}
    assert not any("\n" in outcome for outcome in strict.values())
    # Leniency only ever adds photos, and it does.
    assert all(not lenient[name] for name, outcome in strict.items() if not outcome)
    taken = Counter(name[-3:] for name, outcome in strict.items() if not outcome)
    parts = Counter(name[-3:] for name, outcome in lenient.items() if not outcome)
    assert parts["jpg"] > taken["jpg"] + 50
    assert parts["png"] > taken["png"] + 20
    assert 0 < taken["jpg"] < 125


def test_each_is_indexed_or_listed(folder: Path, make_bundle: Callable[..., Bundle]) -> None:
    seen = [
        (result.name, isinstance(result, PhotoFailure))
        for result in Extractor(make_bundle()).extract(find_photos(folder))
    ]
    assert sorted(name for name, _ in seen) == sorted(path.name for path in folder.iterdir())
    assert 0 < sum(failed for _, failed in seen) < COUNT
