"""Photos a second of decoding alone: libjpeg on the CPU's cores, and nvImageCodec on the GPU; how far pixels differ."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

from networks import shape
from rows import LackingError, Rows, needed, photo_folder, run_step


def run(rows: Rows) -> None:
    rows.measure("libjpeg", lambda: _decoded(rows, "libjpeg"))
    if not rows.rehearse:
        needed("nvidia.nvimgcodec", "nvImageCodec is not installed")
        rows.measure("nvimgcodec", lambda: _decoded(rows, "nvimgcodec"))


def _preprocessing(rows: Rows, decoder: str) -> Any:
    from ctxdeploy.core.types import Preprocessing

    given: dict[str, Any] = {} if decoder == "libjpeg" else {"decoder": decoder}
    if not given.keys() <= {field.name for field in fields(Preprocessing)}:
        raise LackingError("there is no decoding on a GPU")
    return Preprocessing(image_size=max(shape(rows)), **given)


def _decoded(rows: Rows, decoder: str) -> dict[str, Any]:
    import numpy as np

    from ctxdeploy.runtime import decode_photo

    preprocessing, count = _preprocessing(rows, decoder), 4 if rows.rehearse else 512
    # Twice as large as the network takes them, so that decoding has to scale, as with photos of cameras.
    height, width = (2 * side for side in shape(rows))
    files = sorted(photo_folder(rows, count, width=width, height=height).glob("*.jpg"))[:count]
    decode_photo(files[0], preprocessing)
    threads = 2 if rows.rehearse else 16
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        pixels = [found.pixels for found in pool.map(lambda file: decode_photo(file, preprocessing), files)]
        seconds = time.perf_counter() - began
    usual = [decode_photo(file, _preprocessing(rows, "libjpeg")).pixels for file in files[:8]]
    differences = [np.abs(a.astype(np.int16) - b).ravel() for a, b in zip(pixels, usual, strict=False)]
    return {
        "photos_per_second": len(files) / seconds,
        "photos": len(files),
        "threads": threads,
        "largest_difference": int(max(part.max() for part in differences)),
        "mean_difference": float(np.mean([part.mean() for part in differences])),
    }


if __name__ == "__main__":
    run_step(run)
