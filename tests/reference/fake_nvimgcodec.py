"""What of nvidia.nvimgcodec 0.9.0 is used, on a CPU: libjpeg with its fast transform and plain chroma: other pixels.

Names and arguments are those of the package (``nvimgcodec_impl``); the functions here take no others.
"""

from typing import Any

import numpy as np
import simplejpeg


class BackendKind:
    GPU_ONLY, CPU_ONLY, HYBRID_CPU_GPU, HW_GPU_ONLY = range(4)


class ColorSpec:
    UNCHANGED, RGB, GRAY, YCC = range(4)


class DecodeParams:
    def __init__(
        self, apply_exif_orientation: bool = True, color_spec: int = ColorSpec.RGB, allow_any_depth: bool = False
    ) -> None:
        self.apply_exif_orientation, self.color_spec = apply_exif_orientation, color_spec
        self.allow_any_depth = allow_any_depth


class Image:
    def __init__(self, pixels: Any, is_there: bool = False) -> None:
        self._pixels, self._is_there = pixels, is_there

    def cpu(self) -> "Image":
        return Image(self._pixels, is_there=True)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if not self._is_there:
            raise TypeError("its pixels are on the GPU")
        return self._pixels


class Decoder:
    """Its answers may be set: ``answer`` is called with the pixels, and returns them, others, or None."""

    answer: Any = staticmethod(lambda pixels: pixels)
    fails: Exception | None = None

    def __init__(
        self,
        device_id: int = -1,
        max_num_cpu_threads: int = 0,
        backend_kinds: list[int] | None = None,
        options: str = ":fancy_upsampling=0",
    ) -> None:
        if type(self).fails is not None:
            raise type(self).fails
        assert backend_kinds and BackendKind.CPU_ONLY not in backend_kinds and ":fancy_upsampling=1" in options
        self.asked = 0

    def decode(self, src: Any, params: Any = None, cuda_stream: int = 0) -> Any:
        assert isinstance(src, bytes) and not params.apply_exif_orientation and params.color_spec == ColorSpec.RGB
        self.asked += 1
        pixels = simplejpeg.decode_jpeg(src, "RGB", fastdct=True, fastupsample=True)
        pixels = type(self).answer(pixels)
        return None if pixels is None else Image(np.asarray(pixels))
