"""The stream: every photo once, failures apart, and it ends when it is told to."""

import contextlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.core.bundle import Bundle, ShapeRange
from ctxdeploy.core.errors import BackendError, ConfigError, PhotoError
from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.runtime import (
    BackendConfig,
    Box,
    Extractor,
    ExtractorConfig,
    PhotoDescriptors,
    PhotoFailure,
    PhotoSource,
    find_photos,
)
from ctxdeploy.runtime.pools import DECODER_PREFIX

MakeBundle = Callable[..., Bundle]
# A file of protocol buffers that no engine loads.
NO_GRAPH = b"\x12\x05never"
SIZES = ((60, 40), (40, 60), (64, 64), (130, 90))


def jpeg(width: int, height: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of 13 photos of four sizes and two files that are none."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(13):
        (photos / f"{number:02}.jpg").write_bytes(jpeg(*SIZES[number % 4], seed=number))
    (photos / "broken.jpg").write_bytes(jpeg(60, 40, seed=50)[:500])
    (photos / "text.png").write_text("no photo")
    return photos


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(DECODER_PREFIX)]


def gone(seconds: float = 300) -> bool:
    end = time.monotonic() + seconds
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    return not threads()


def assert_same(first: LocalDescriptors, second: LocalDescriptors) -> None:
    np.testing.assert_allclose(first.vectors, second.vectors, atol=1e-5)
    np.testing.assert_allclose(first.attention, second.attention, atol=1e-5)
    np.testing.assert_array_equal(first.positions, second.positions)
    np.testing.assert_array_equal(first.scales, second.scales)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize(("workers", "isolated"), [(1, True), (4, False)])
def test_every_photo_once_and_as_alone(
    make_bundle: MakeBundle, folder: Path, batch_size: int, workers: int, isolated: bool
) -> None:
    config = ExtractorConfig(batch_size=batch_size, workers=workers, isolated=isolated, max_pending=9)
    extractor = Extractor(make_bundle(), config=config)
    sources = find_photos(folder)
    results = list(extractor.extract(iter(sources)))
    assert sorted(result.name for result in results) == [source.name for source in sources]
    failures = {result.name: result for result in results if isinstance(result, PhotoFailure)}
    assert sorted(failures) == ["broken.jpg", "text.png"]
    assert failures["text.png"].reason == "it is not a photo of a format that can be read"
    assert failures["broken.jpg"].stage == "decode"
    for result in results:
        if isinstance(result, PhotoDescriptors):
            assert_same(result.descriptors, extractor.extract_one(folder / result.name))
            assert result.seconds.decode > 0 < result.seconds.network
        state = (folder / result.name).stat()
        assert result.file is not None
        assert (result.file.size, result.file.mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert gone()


def test_padding_is_dropped_and_positions_are_those_of_the_photo(make_bundle: MakeBundle) -> None:
    extractor = Extractor(make_bundle(image_size=16, top_k=40))
    descriptors = extractor.extract_one(jpeg(32, 20, seed=1))  # 16×10 scaled, 4×3 cells of 4 pixels
    assert len(descriptors) == 12
    assert descriptors.attention.min() > 0
    assert descriptors.attention[0] == 1
    cells = {(x, y) for x in (4.0, 12.0, 20.0, 28.0) for y in (4.0, 12.0, 20.0)}
    assert {(float(x), float(y)) for x, y in descriptors.positions} == cells
    assert all(array.dtype == np.float32 for array in vars(descriptors).values())


def test_a_box(make_bundle: MakeBundle, tmp_path: Path) -> None:
    extractor = Extractor(make_bundle())
    data = jpeg(60, 40, seed=1)
    box = Box.parse("10,20,50,40")
    boxed = extractor.extract_one(data, box)
    assert boxed.positions[:, 0].min() == 12
    assert boxed.positions[:, 1].min() == 22
    assert_same(boxed, extractor.extract_one(PhotoSource(name="x", data=data, box=box)))
    assert_same(boxed, extractor.extract_one(PhotoSource(name="x", data=data), box))
    (tmp_path / "x.jpg").write_bytes(data)
    (found,) = find_photos(tmp_path)
    assert_same(boxed, extractor.extract_one(found, box))
    with pytest.raises(PhotoError, match="the box 10,20,90,40 does not lie in the photo of 60×40 pixels"):
        extractor.extract_one(data, Box.parse("10,20,90,40"))


def test_turned_photos_are_those_of_turned_files(make_bundle: MakeBundle) -> None:
    extractor = Extractor(make_bundle())
    image = Image.open(io.BytesIO(jpeg(60, 40, seed=1)))
    turns = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
    upright, *results = extractor.extract_turned(png(image), turns=(0, *turns))
    assert_same(upright.descriptors, extractor.extract_one(png(image)))
    for result, (turn, transpose) in zip(results, turns.items(), strict=True):
        alone = extractor.extract_one(png(image.transpose(transpose)))
        np.testing.assert_array_equal(result.descriptors.vectors, alone.vectors)
        np.testing.assert_array_equal(result.descriptors.scales, alone.scales)
        x, y = alone.positions.T
        back = {90: (y, 40 - x), 180: (60 - x, 40 - y), 270: (60 - y, x)}[turn]
        np.testing.assert_array_equal(result.descriptors.positions, np.stack(back, axis=1))
        assert result.size == (60, 40)
    box = Box.parse("10,20,50,40")
    (turned,) = extractor.extract_turned(png(image), box, turns=(90,))
    assert turned.descriptors.positions[:, 1].min() >= 20 and turned.descriptors.positions[:, 0].min() >= 10
    with pytest.raises(ConfigError, match="turns"):
        extractor.extract_turned(png(image), turns=(45,))


def test_one_photo_fails_with_its_name(make_bundle: MakeBundle, folder: Path) -> None:
    extractor = Extractor(make_bundle())
    for photo in (folder / "text.png", str(folder / "text.png")):
        with pytest.raises(PhotoError, match=r"text\.png: it is not a photo"):
            extractor.extract_one(photo)
    with pytest.raises(PhotoError, match=r"missing\.jpg: it cannot be read"):
        extractor.extract_one(folder / "missing.jpg")
    missing = PhotoSource(name="gone", path=folder / "missing.jpg")
    (failure,) = extractor.extract([missing])
    assert isinstance(failure, PhotoFailure)
    assert failure.file is None


def test_photos_from_memory(make_bundle: MakeBundle) -> None:
    (result,) = Extractor(make_bundle()).extract([PhotoSource(name="m", data=jpeg(30, 20, seed=0))])
    assert isinstance(result, PhotoDescriptors)
    assert (result.file, result.size) == (None, (30, 20))
    with pytest.raises(ConfigError, match="either its path or its data"):
        PhotoSource(name="x")
    with pytest.raises(ConfigError, match="either its path or its data"):
        PhotoSource(name="x", path=Path("a"), data=b"b")


def test_photos_outside_the_bundles_range_fail_alone(make_bundle: MakeBundle) -> None:
    extractor = Extractor(make_bundle(shapes=ShapeRange(height=(32, 64), width=(32, 64))))
    photos = [PhotoSource(name=str(size), data=jpeg(*size, seed=0)) for size in ((64, 20), (64, 40))]
    small, large = extractor.extract(photos)
    assert isinstance(small, PhotoFailure)
    assert "height is 20" in small.reason
    assert isinstance(large, PhotoDescriptors)


def test_nothing_in_nothing_out(make_bundle: MakeBundle) -> None:
    assert list(Extractor(make_bundle()).extract([])) == []


def endless(served: list[int]) -> Iterator[PhotoSource]:
    data = jpeg(60, 40, seed=0)
    for number in itertools.count():
        served.append(number)
        yield PhotoSource(name=str(number), data=data)


def test_closing_early_leaves_no_threads_and_reads_no_further(make_bundle: MakeBundle) -> None:
    extractor = Extractor(make_bundle(), config=ExtractorConfig(lookahead=5, workers=3))
    served: list[int] = []
    stream = extractor.extract(endless(served))
    assert not served
    for _ in range(4):
        next(stream)
    assert threads()
    assert len(served) <= 4 + 5 + 1, "the lookahead is bounded"
    stream.close()
    assert gone()
    with contextlib.suppress(StopIteration):
        next(stream)


def test_abandoning_the_stream_leaves_no_threads(make_bundle: MakeBundle) -> None:
    for _ in Extractor(make_bundle()).extract(endless([])):
        break
    assert gone()


def test_an_exception_of_the_source_passes_through(make_bundle: MakeBundle) -> None:
    def photos() -> Iterator[PhotoSource]:
        yield from itertools.islice(endless([]), 3)
        raise LookupError("the list is broken")

    with pytest.raises(LookupError, match="the list is broken"):
        list(Extractor(make_bundle()).extract(photos()))
    assert gone()


def test_a_failure_of_the_network_ends_the_run(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = Extractor(make_bundle())

    def fail(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(extractor._backend, "_run", fail)
    with pytest.raises(BackendError, match=r"onnxruntime failed on an input of \(1, 40, 60, 3\): no kernel"):
        list(extractor.extract(endless([])))
    assert gone()


def test_nan_from_the_network_is_a_failure_of_the_photo(make_bundle: MakeBundle) -> None:
    extractor = Extractor(make_bundle(nan=True))
    (failure,) = extractor.extract([PhotoSource(name="a", data=jpeg(60, 40, seed=0))])
    assert isinstance(failure, PhotoFailure)
    assert (failure.stage, failure.reason) == ("network", "the network returned NaN or infinity")
    with pytest.raises(BackendError, match="NaN"):
        extractor.extract_one(jpeg(60, 40, seed=0))


def test_a_number_without_measure_is_a_failure_of_the_photo(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = Extractor(make_bundle())
    run, dim = extractor._backend._run, extractor.bundle.extraction.dim

    def large(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return [array * np.float32(1e20) if array.shape[-1] == dim else array for array in run(images)]

    monkeypatch.setattr(extractor._backend, "_run", large)
    (failure,) = extractor.extract([PhotoSource(name="a", data=jpeg(60, 40, seed=0))])
    assert isinstance(failure, PhotoFailure)
    assert (failure.stage, failure.reason) == ("network", "the network returned a number beyond 1e+15")


def test_an_interrupt_inside_the_network_passes_through(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = Extractor(make_bundle())

    def interrupted(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        raise KeyboardInterrupt

    monkeypatch.setattr(extractor._backend, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(extractor.extract(endless([])))
    assert gone()


CHILD = """
import itertools, sys
from pathlib import Path
from ctxdeploy.core import bundle
from ctxdeploy.runtime import Extractor, PhotoSource
extractor = Extractor(bundle.open(sys.argv[1]))
data = Path(sys.argv[2]).read_bytes()
photos = (PhotoSource(name=str(n), data=data) for n in itertools.count())
for number, _ in enumerate(extractor.extract(photos)):
    if number == 3:
        print("running", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_a_process_promptly(make_bundle: MakeBundle, folder: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(make_bundle().path), str(folder / "00.jpg")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=600)
    assert "KeyboardInterrupt" in errors
    assert child.returncode != 0


def test_the_description_fits_into_json(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    described = Extractor(bundle, backend=BackendConfig(name="openvino", threads=1)).description()
    assert json.loads(json.dumps(described)) == described
    expected = {"backend": "openvino", "precision": "fp32", "threads": 1, "model_id": bundle.model_id}
    assert described.items() >= expected.items()


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"workers": 0},
        {"lookahead": 0},
        {"max_age": 0},
        {"photo_timeout": 0.0},
        {"read_threads": 0},
        {"memory_limit": 0},
    ],
)
def test_settings_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        ExtractorConfig(**wrong)


def test_the_batch_size_is_checked_before_anything_is_loaded(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(model=NO_GRAPH, shapes=ShapeRange(batch=(1, 4)))
    with pytest.raises(ConfigError, match="batch size 5 exceeds the bundle's 4"):
        Extractor(bundle, config=ExtractorConfig(batch_size=5))
    bundle = make_bundle(model=NO_GRAPH, shapes=ShapeRange(batch=(4, 4)))
    with pytest.raises(ConfigError, match=r"takes 4\.\.4 photos at once"):
        Extractor(bundle, config=ExtractorConfig(batch_size=4))


@pytest.mark.parametrize("photos", [[Path("a.jpg")], ["a.jpg"], [b"bytes"], [None], None, Path("a.jpg")])
def test_what_are_no_sources_is_said(make_bundle: MakeBundle, photos: Any) -> None:
    with pytest.raises(ConfigError, match=r"extract takes .* give find_photos\(folder\), or a PhotoSource"):
        list(Extractor(make_bundle()).extract(photos))
    assert gone()
