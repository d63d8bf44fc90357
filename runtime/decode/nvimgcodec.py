"""Baseline JPEGs by nvImageCodec, which decodes on a GPU: a decoder that a model may be exported for.

Its pixels are a level or two from libjpeg's, so that the choice is part of the preprocessing. Everything else of a
photo stays on the CPU: whether it is damaged, how it lies, what is kept of it, and its scaling. So does every photo
that is not a baseline JPEG of three 8-bit components in YCbCr, or that nvImageCodec declines.
"""

import io
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.device import NoGpuError, find_gpu
from ctxdeploy.core.errors import BackendError, MissingExtraError, PhotoError
from ctxdeploy.core.extras import require
from ctxdeploy.core.types import NVIMGCODEC, Preprocessing
from ctxdeploy.runtime.decode.integrity import FRAMES, MAX_COPIED, check_jpeg, segments, without_junk

if TYPE_CHECKING:
    from PIL import Image

EXTRA = "nvimgcodec"
# Smooth chroma between samples, as libjpeg has it; without it edges of colour are off by tens of levels.
OPTIONS = ":fancy_upsampling=1"
# Back ends of it, by their names in ``BackendKind``: the chip's own decoder, CUDA, and CUDA after Huffman's codes.
ON_GPU = ("HW_GPU_ONLY", "GPU_ONLY", "HYBRID_CPU_GPU")
_BASELINE = (0xC0, 0xC1)
_COLOURS, _BITS = 3, 8
_RGB_NAMES = b"RGB"
# Segment of Adobe's, and where in it stands whether components are YCbCr.
_ADOBE, _TRANSFORM = 0xEE, 11


class GpuDecoder:
    """nvImageCodec on one GPU. Any number of threads may decode, one at a time.

    Args:
        package: ``nvidia.nvimgcodec``.
        number: of the GPU.
        kinds: names of its back ends that are taken.

    Raises:
        BackendError: it cannot be made ready, or declines a photo that it should take.
    """

    def __init__(self, package: Any, number: int, kinds: Sequence[str] = ON_GPU) -> None:
        self.number = number
        self._mutex = threading.Lock()
        try:
            backends = [package.Backend(getattr(package.BackendKind, kind)) for kind in kinds]
            self._decoder = package.Decoder(device_id=number, backends=backends, options=OPTIONS)
            # EXIF is read here, as of every other photo.
            self._settings = package.DecodeParams(color_spec=package.ColorSpec.SRGB, apply_exif_orientation=False)
        except Exception as error:  # of a binding in C++: RuntimeError, TypeError, SystemError
            raise BackendError(f"nvImageCodec cannot use cuda:{number} ({' '.join(str(error).split())})") from error
        if self.decode(_probe()) is None:  # so would every photo be, and the CPU would decode them all in silence
            raise BackendError(
                f"nvImageCodec declines a plain JPEG on cuda:{number}: install its nvJPEG, with  pip install "
                "'nvidia-nvimgcodec-cu12[nvjpeg]'"
            )

    def decode(self, data: bytes) -> NDArray[np.uint8] | None:
        """Return the pixels of a file, H×W×3; None if nvImageCodec declines it.

        Raises:
            PhotoError: the GPU fails, so that nothing is known about the photo.
        """
        try:
            with self._mutex:
                image = self._decoder.decode(data, params=self._settings)
                pixels = None if image is None else np.ascontiguousarray(image.cpu())
        except Exception as error:
            raise PhotoError(f"the GPU did not decode it ({' '.join(str(error).split())})") from error
        return pixels


def _probe() -> bytes:
    """Return a small photo such as every back end takes."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 100, 50)).save(file, "JPEG")
    return file.getvalue()


# That of this process; photos are decoded on one GPU.
_OPENED: list[GpuDecoder] = []
_OPENING = threading.Lock()


def open_decoder(number: int | None = None) -> GpuDecoder:
    """Return the decoder of a GPU, the same object for all who ask; of the GPU that is in use, or the first, if None.

    Raises:
        MissingExtraError: nvImageCodec is not installed.
        BackendError: there is no such GPU, or nvImageCodec cannot use it.
    """
    with _OPENING:
        if not _OPENED or number not in (None, _OPENED[0].number):
            package = _package()
            try:
                find_gpu(number or 0)
            except NoGpuError as error:
                instead = "take a model that was exported without --decoder nvimgcodec"
                raise error.asked_by("nvImageCodec, which this model decodes photos with", instead) from error
            _OPENED[:] = [GpuDecoder(package, number or 0)]
        return _OPENED[0]


def _package() -> Any:
    try:
        return require("nvidia.nvimgcodec", EXTRA)
    except MissingExtraError as error:
        raise MissingExtraError("nvImageCodec, which this model decodes photos with,", EXTRA) from error


def check_decoder(preprocessing: Preprocessing, number: int) -> None:
    """Make ready what decodes as a model wants it, on this GPU if that needs one; errors as ``open_decoder``."""
    if preprocessing.decoder == NVIMGCODEC:
        open_decoder(number)


def load_by_gpu(image: "Image.Image", data: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels of an opened JPEG file, H×W×3, as ``load_jpeg`` does; None where that is to be called.

    Raises:
        PhotoError: the file is damaged, as libjpeg says, or the GPU fails.
        BackendError, MissingExtraError: this machine cannot decode so.
    """
    width, height = image.size
    if not is_for_gpu(data) or image.mode != "RGB" or width * height > MAX_COPIED:
        return None
    decoder = open_decoder()
    check_jpeg(image, data)
    pixels = decoder.decode(without_junk(data))
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape != (height, width, _COLOURS):
        return None
    return pixels


def is_for_gpu(data: bytes) -> bool:
    """Return whether a file is a baseline JPEG of three 8-bit components in YCbCr."""
    transform = None
    for code, start, end in segments(data):
        content = data[start:end]
        if code == _ADOBE and content.startswith(b"Adobe") and len(content) > _TRANSFORM:
            transform = content[_TRANSFORM]
        if code in FRAMES:
            names = content[6 : 6 + 3 * _COLOURS : 3]
            sound = code in _BASELINE and len(content) >= 6 + 3 * _COLOURS and content[0] == _BITS
            return sound and content[5] == _COLOURS and transform in (None, 1) and names != _RGB_NAMES
    return False
