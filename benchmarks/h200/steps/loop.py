"""The loop that the authors of HOW publish, on the same GPU: photo after photo, scale after scale, PyTorch in fp32.

Written from what it does, not copied: a photo is decoded by Pillow, becomes a tensor, and for each scale is resized,
run through the network, whitened and brought to the CPU; the strongest descriptors of all scales are chosen there.
"""

import time
from typing import Any

from networks import names, network_of, shape
from rows import Rows, gpu_or_cpu, photo_folder, run_step


def run(rows: Rows) -> None:
    device = gpu_or_cpu(rows)
    for name in names(rows):
        rows.measure(name, lambda name=name: _photos_a_second(rows, name, device))  # type: ignore[misc]


def _photos_a_second(rows: Rows, name: str, device: str) -> dict[str, Any]:
    import torch

    network = network_of(rows, name).to(device)
    height, width = shape(rows)
    files = sorted(photo_folder(rows, 2 if rows.rehearse else 48, width=width, height=height).glob("*.jpg"))
    files = files[: 2 if rows.rehearse else 48]
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        for file in files[: 1 if rows.rehearse else 8]:
            describe(network, file, device)
        began = time.perf_counter()
        counted = sum(len(describe(network, file, device)[0]) for file in files)
        seconds = time.perf_counter() - began
    return {
        "photos_per_second": len(files) / seconds,
        "photos": len(files),
        "descriptors": counted,
        "precision": "fp32",
    }


def describe(network: Any, file: Any, device: str) -> tuple[Any, Any]:
    """Return descriptors and attention of a photo, as numpy arrays."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.nn import functional

    with Image.open(file) as picture:
        pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).float() / 255
    image = ((pixels.to(device) - network.mean) / network.std)[None]
    vectors, strengths = [], []
    for scale in network.extraction.scales:
        level = image
        if scale != 1.0:
            level = functional.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
        features = network.feature_map(level)
        attention = features.square().sum(dim=1).sqrt()
        found = network.dim_reduction(network.smoothing(features))
        vectors.append(found[0].flatten(1).T.cpu())
        strengths.append(attention[0].flatten().cpu())
    attention, whole = torch.cat(strengths), torch.cat(vectors)
    chosen = attention.topk(min(network.extraction.top_k, len(attention))).indices
    return whole[chosen].numpy(), attention[chosen].numpy()


if __name__ == "__main__":
    run_step(run)
