"""Words on a GPU: k-means of 65,536 words from 5M descriptors, and assignment; both equal to the CPU's."""

import time
from typing import Any

from rows import Rows, needed, run_step

DIM = 128


def run(rows: Rows) -> None:
    if not rows.rehearse:
        faiss = needed("faiss", "faiss-gpu is not installed")
        if not hasattr(faiss, "StandardGpuResources"):
            from rows import LackingError

            raise LackingError("the faiss that is installed has no part for GPUs")
    rows.measure("equal words", lambda: _equal(rows))
    rows.measure("k-means", lambda: _trained(rows))
    rows.measure("assignment", lambda: _assigned(rows))


def _device(rows: Rows) -> Any:
    from ctxdeploy.core.device import Device

    return Device.parse("cpu" if rows.rehearse else "cuda")


def descriptors(count: int, seed: int) -> Any:
    """Return descriptors of length 1 around a few thousand centres, n×D float32: k-means has something to find."""
    import numpy as np

    random = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((4096, DIM), np.float32)
    made = np.empty((count, DIM), np.float32)
    for first in range(0, count, 1 << 16):
        part = made[first : first + (1 << 16)]
        part[:] = centres[random.integers(0, len(centres), len(part))]
        part += 0.7 * random.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made


def _equal(rows: Rows) -> dict[str, Any]:
    """Train and assign on both, and compare bit by bit."""
    import numpy as np

    from ctxdeploy.index import Codebook

    vectors, words = descriptors(2000 if rows.rehearse else 200_000, 2), 32 if rows.rehearse else 8192
    on_cpu = Codebook.train(vectors, words, iterations=5)
    on_gpu = Codebook.train(vectors, words, iterations=5, device=_device(rows))
    wanted = on_cpu.assign(vectors[:50_000], 5, threads=2 if rows.rehearse else 16)
    on_gpu.use(_device(rows))
    return {
        "centroids": bool(np.array_equal(on_cpu.centroids, on_gpu.centroids)),
        "words": bool(np.array_equal(wanted, on_gpu.assign(vectors[:50_000], 5))),
        "descriptors": len(vectors),
    }


def _trained(rows: Rows) -> dict[str, Any]:
    from ctxdeploy.index import Codebook

    count, words = (3000, 64) if rows.rehearse else (5_000_000, 65_536)
    vectors = descriptors(count, 3)
    began = time.perf_counter()
    codebook = Codebook.train(vectors, words, device=_device(rows))
    seconds = time.perf_counter() - began
    codebook.save(rows.work / "words.safetensors")
    return {"seconds": seconds, "descriptors": count, "words": words, "training": codebook.training}


def _assigned(rows: Rows) -> dict[str, Any]:
    """Return descriptors a second of assignment to the nearest word and the nearest five."""
    from ctxdeploy.index import Codebook

    codebook = Codebook.load(rows.work / "words.safetensors")
    codebook.use(_device(rows))
    vectors = descriptors(500 if rows.rehearse else 1_000_000, 4)
    found: dict[str, Any] = {"descriptors": len(vectors)}
    for count in (1, 5):
        threads = 2 if rows.rehearse else 16
        codebook.assign(vectors[:4096], count, threads=threads)
        began = time.perf_counter()
        codebook.assign(vectors, count, threads=threads)
        found[f"descriptors_per_second_{count}"] = len(vectors) / (time.perf_counter() - began)
    return found


if __name__ == "__main__":
    run_step(run)
