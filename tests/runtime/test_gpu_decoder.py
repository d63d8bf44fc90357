"""nvImageCodec as a model's decoder, with a stand-in: which photos it gets, and that all else is as with libjpeg."""

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.device import Gpu, NoGpuError
from ctxdeploy.core.errors import BackendError, ConfigError, MissingExtraError, PhotoError
from ctxdeploy.core.types import Box, Preprocessing
from ctxdeploy.runtime import Extractor, ExtractorConfig, PhotoSource, decode_photo
from ctxdeploy.runtime.config import DecodeLimits
from ctxdeploy.runtime.decode import nvimgcodec
from ctxdeploy.runtime.decode.nvimgcodec import GpuDecoder, is_for_gpu, open_decoder
from ctxdeploy.runtime.photo import WorkItem
from ctxdeploy.runtime.worker import DecodeSettings
from ctxdeploy.runtime.worker_process import ProcessDecoder

ON_GPU = Preprocessing(image_size=96, decoder="nvimgcodec")
ON_CPU = Preprocessing(image_size=96)


def scene(width: int, height: int) -> Image.Image:
    """Return a picture with structure at every size and no symmetry."""
    random = np.random.default_rng(0)
    total = np.zeros((height, width, 3))
    for cells in (3, 9, 31):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells + 1, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64) / 3
    return Image.fromarray(total.astype(np.uint8))


def encoded(image: Image.Image, fmt: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


@pytest.fixture
def decoder(load_reference: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put the stand-in in place of the package, on a GPU that there is not; return the class of its decoder."""
    package = load_reference("fake_nvimgcodec")
    monkeypatch.setattr(nvimgcodec, "require", lambda module, extra: package)
    monkeypatch.setattr(nvimgcodec, "find_gpu", lambda number: Gpu(name="none", capability=(9, 0)))
    monkeypatch.setattr(nvimgcodec, "_OPENED", [])
    return package.Decoder


def asked() -> int:
    return open_decoder()._decoder.asked  # type: ignore[no-any-return]


def both(data: bytes, box: Box | None = None) -> tuple[Any, Any]:
    return decode_photo(data, ON_GPU, box), decode_photo(data, ON_CPU, box)


@pytest.mark.parametrize("size", [(300, 200), (65, 97), (96, 96), (40, 30)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_baseline_photos_have_its_pixels(decoder: Any, size: tuple[int, int], subsampling: int) -> None:
    data = encoded(scene(*size), quality=90, subsampling=subsampling)
    found, expected = both(data)
    assert asked() == 1
    assert found.pixels.shape == expected.pixels.shape and found.region == expected.region
    assert found.pixels.flags.c_contiguous and found.pixels.dtype == np.uint8
    apart = np.abs(found.pixels.astype(int) - expected.pixels)
    assert apart.max() > 0 and apart.mean() < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_they_are_upright_and_cut_as_others(decoder: Any, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(160, 100), quality=95, subsampling=0, exif=exif)
    for box in (None, Box(x0=10, y0=20, x1=90, y1=95)):
        found, expected = both(data, box)
        assert (found.original_size, found.region) == (expected.original_size, expected.region)
        assert np.abs(found.pixels.astype(int) - expected.pixels).mean() < 2
    assert asked() == 2


def rgb_jpeg() -> bytes:
    """Return a JPEG whose components are RGB, as Adobe's marker says."""
    data = encoded(scene(80, 60), quality=95, subsampling=0)
    adobe = b"\xff\xee" + struct.pack(">H", 14) + b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)
    return data[:2] + adobe + data[2:]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: encoded(scene(120, 80), progressive=True), id="progressive"),
        pytest.param(lambda: encoded(scene(120, 80).convert("L")), id="grey"),
        pytest.param(lambda: encoded(scene(120, 80).convert("CMYK")), id="CMYK"),
        pytest.param(rgb_jpeg, id="RGB"),
        pytest.param(lambda: encoded(scene(120, 80), "PNG"), id="PNG"),
        pytest.param(lambda: encoded(scene(120, 80), "WEBP"), id="WebP"),
    ],
)
def test_all_others_are_decoded_by_the_cpu(decoder: Any, make: Callable[[], bytes]) -> None:
    found, expected = both(make())
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert not nvimgcodec._OPENED


@pytest.mark.parametrize(
    "answer",
    [
        lambda pixels: None,
        lambda pixels: pixels[:-1],
        lambda pixels: pixels.astype(np.uint16),
        lambda pixels: pixels[..., 0],
    ],
)
def test_what_it_declines_is_decoded_by_the_cpu(decoder: Any, answer: Any) -> None:
    decoder.answer = staticmethod(answer)
    found, expected = both(encoded(scene(120, 80)))
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert asked() == 1


def test_a_photo_too_large_for_a_second_copy_is_decoded_by_the_cpu(
    decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvimgcodec, "MAX_COPIED", 120 * 80 - 1)
    found, expected = both(encoded(scene(120, 80)))
    np.testing.assert_array_equal(found.pixels, expected.pixels)


def broken(pixels: Any) -> Any:
    raise RuntimeError("CUDA error 700")


def test_a_gpu_that_fails_is_said(decoder: Any) -> None:
    decoder.answer = staticmethod(broken)
    with pytest.raises(PhotoError, match=r"photo of .*: the GPU did not decode it \(CUDA error 700\)"):
        decode_photo(encoded(scene(120, 80)), ON_GPU)


def damaged() -> dict[str, bytes]:
    data = encoded(scene(320, 240), quality=90)
    middle = len(data) // 2
    return {
        "cut": data[:middle],
        "left out": data[:middle] + data[middle + 500 :],
        "zeros": data[:middle] + bytes(2000) + data[middle + 2000 :],
        "header": data[:100],
        "empty": b"",
    }


@pytest.mark.parametrize("kind", damaged())
def test_damage_is_judged_as_without_it(decoder: Any, kind: str) -> None:
    data, reasons = damaged()[kind], []
    for settings in (ON_GPU, ON_CPU):
        with pytest.raises(PhotoError) as caught:
            decode_photo(data, settings)
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1]
    limits = DecodeLimits(accept_truncated=True)
    if kind in ("cut", "left out"):
        found, expected = (decode_photo(data, settings, limits=limits) for settings in (ON_GPU, ON_CPU))
        np.testing.assert_array_equal(found.pixels, expected.pixels)


def test_junk_in_the_header_does_not_reach_it(decoder: Any) -> None:
    data = encoded(scene(120, 80))
    end = 4 + int.from_bytes(data[4:6], "big")  # of the first segment
    found = decode_photo(data[:end] + b"\x00\x01\x02" + data[end:], ON_GPU)
    np.testing.assert_array_equal(found.pixels, decode_photo(data, ON_GPU).pixels)


def test_which_files_are_for_it() -> None:
    baseline = encoded(scene(64, 64))
    assert is_for_gpu(baseline)
    assert not is_for_gpu(encoded(scene(64, 64), progressive=True))
    assert not is_for_gpu(b"\xff\xd8") and not is_for_gpu(b"")
    frame = baseline.index(b"\xff\xc0")
    assert is_for_gpu(baseline[:frame] + b"\xff\xc1" + baseline[frame + 2 :])
    assert not is_for_gpu(baseline[:frame] + b"\xff\xc3" + baseline[frame + 2 :])
    assert not is_for_gpu(baseline[: frame + 4] + b"\x0c" + baseline[frame + 5 :])  # 12 bits
    assert not is_for_gpu(baseline[: frame + 12])


def test_threads_and_processes_share_one(decoder: Any) -> None:
    assert open_decoder(0) is open_decoder(0) is open_decoder()
    assert open_decoder(1).number == 1 and open_decoder().number == 1


def test_without_the_package_a_model_is_refused(
    make_bundle: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle_with(make_bundle, ON_GPU)

    def missing(module: str, extra: str) -> Any:
        raise MissingExtraError(module.partition(".")[0], extra)

    monkeypatch.setattr(nvimgcodec, "_OPENED", [])
    monkeypatch.setattr(nvimgcodec, "require", missing)
    with pytest.raises(MissingExtraError, match=r"nvImageCodec, .* is not installed: run  .*nvimgcodec"):
        Extractor(made)


def test_without_a_gpu_a_model_is_refused(make_bundle: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle_with(make_bundle, ON_GPU)
    monkeypatch.setattr(nvimgcodec, "_OPENED", [])
    monkeypatch.setattr(nvimgcodec, "require", lambda module, extra: object())

    def none(number: int) -> Any:
        raise NoGpuError("there is no NVIDIA driver: look for it")

    monkeypatch.setattr(nvimgcodec, "find_gpu", none)
    with pytest.raises(BackendError, match=r"^nvImageCodec, .*: there is no NVIDIA driver: .*, or take a model that"):
        Extractor(made)


def test_a_package_that_cannot_use_the_gpu_is_said(decoder: Any) -> None:
    decoder.fails = RuntimeError("nvImageCodec failure: '#6'")
    with pytest.raises(BackendError, match="nvImageCodec cannot use cuda:0"):
        decode_photo(encoded(scene(64, 64)), ON_GPU)


def test_a_package_without_nvjpeg_is_said(decoder: Any) -> None:
    """It declines every photo, and the CPU would decode them all."""
    decoder.has_nothing = True
    with pytest.raises(BackendError, match=r"declines a plain JPEG on cuda:0: install its nvJPEG"):
        decode_photo(encoded(scene(64, 64)), ON_GPU)


@pytest.fixture
def real() -> GpuDecoder:
    """nvImageCodec itself, with its back ends for the CPU: where it is installed."""
    package = pytest.importorskip("nvidia.nvimgcodec")
    return GpuDecoder(package, package.NVIMGCODEC_DEVICE_CPU_ONLY, kinds=("CPU_ONLY",))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_the_real_package_has_the_pixels_of_libjpeg(
    real: GpuDecoder, monkeypatch: pytest.MonkeyPatch, subsampling: int
) -> None:
    """Its back end for CPUs is libjpeg-turbo: what differs on a GPU is the GPU's."""
    monkeypatch.setattr(nvimgcodec, "_OPENED", [real])
    asked: list[int] = []
    decode = real.decode
    monkeypatch.setattr(real, "decode", lambda data: asked.append(len(data)) or decode(data))
    exif = Image.Exif()
    exif[0x0112] = 6
    for size in ((300, 200), (65, 97), (1, 1)):
        found, expected = both(encoded(scene(*size), quality=90, subsampling=subsampling, exif=exif))
        np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert len(asked) == 3


def test_the_real_package_declines_what_is_damaged(real: GpuDecoder) -> None:
    assert real.decode(b"") is None and real.decode(damaged()["header"]) is None


def test_a_limit_of_memory_excludes_it(make_bundle: Callable[..., Any], decoder: Any) -> None:
    with pytest.raises(ConfigError, match="--memory-limit bounds processes that decode"):
        Extractor(bundle_with(make_bundle, ON_GPU), config=ExtractorConfig(memory_limit=4 << 30))


def test_a_model_of_it_extracts(make_bundle: Callable[..., Any], decoder: Any) -> None:
    extractor = Extractor(bundle_with(make_bundle, ON_GPU), config=ExtractorConfig(isolated=False))
    data = encoded(scene(120, 80))
    found = list(
        extractor.extract([PhotoSource(name="a.jpg", data=data), PhotoSource(name="b.jpg", data=damaged()["cut"])])
    )
    assert [getattr(result, "reason", "") for result in found] == ["", "it is truncated (the JPEG data has no end)"]
    assert asked() == 1 and len(extractor.extract_one(data)) > 0


def test_a_worker_without_a_gpu_says_why_it_does_not_start() -> None:
    worker = ProcessDecoder(DecodeSettings(preprocessing=ON_GPU))
    with pytest.raises(BackendError, match=r"nvImageCodec, .* is not installed|NVIDIA driver"):
        worker.decode(WorkItem(source=PhotoSource(name="a.jpg", data=encoded(scene(64, 64)))))


def bundle_with(make_bundle: Callable[..., Any], preprocessing: Preprocessing) -> Any:
    """Return a tiny bundle with another preprocessing."""
    return replace(make_bundle(image_size=preprocessing.image_size), preprocessing=preprocessing)
