"""Raw files of cameras, through LibRaw: the picture that its sensor saw, in the camera's own white balance."""

import io
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.runtime.decode.formats import RAW_HINT, reads_raw
from ctxdeploy.runtime.decode.tiff import TiffLayout

if TYPE_CHECKING:
    from PIL import Image

_CR3 = b"ftypcrx "
_CR2 = b"CR\x02"
_STARTS = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")


def is_raw(data: bytes, layout: TiffLayout | None) -> bool:
    """Return whether a file is a camera's raw file. Most are TIFF files, whose first picture is a thumbnail."""
    is_tiff = layout is not None and (layout.is_raw or data[8:11] == _CR2)
    return is_tiff or data[4:12] == _CR3 or data.startswith(_STARTS)


def read_raw(data: bytes, check_size: Callable[[tuple[int, int]], None]) -> "Image.Image":
    """Return the picture of a raw file, upright.

    Args:
        data: the file.
        check_size: refuses a size, before anything is decoded.

    Raises:
        PhotoError: nothing is installed that reads it.
        Exception: of any kind, where it is damaged, or of a camera that LibRaw does not know.
    """
    from PIL import Image

    if not reads_raw():
        raise PhotoError(f"it is a raw file of a camera: {RAW_HINT}")
    rawpy = import_module("rawpy")
    with rawpy.imread(io.BytesIO(data)) as opened:
        check_size((opened.sizes.width, opened.sizes.height))
        # Photos are scaled down afterwards: nothing is left of what a slower way to fill in colours would gain.
        linear = rawpy.DemosaicAlgorithm.LINEAR
        pixels = opened.postprocess(use_camera_wb=True, output_bps=8, demosaic_algorithm=linear)
    image = Image.fromarray(pixels)
    image.format = "RAW"
    return image
