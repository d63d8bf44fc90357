"""What every runtime and precision computes on photos, beside ONNX Runtime in fp32 on the CPU."""

from typing import Any

from networks import backends, bundle_of, names, opened, shape
from rows import Rows, needed, photo_arrays, run_step


def run(rows: Rows) -> None:
    needed("onnxruntime", "ONNX Runtime, the reference, is not installed")
    height, width = shape(rows)
    photos = photo_arrays(rows, 2 if rows.rehearse else 6, width=width, height=height)
    # One of another shape, upright.
    photos[-1] = photo_arrays(rows, 1, width=height, height=width)[0]
    wanted: dict[str, list[Any]] = {}
    # All networks in one runtime and precision, before the next: the first rows say the most.
    for backend, precision in backends(rows):
        for name in names(rows):
            row = f"{name}, {backend} {precision}"
            rows.measure(row, lambda n=name, b=backend, p=precision: _compared(rows, n, b, p, photos, wanted))  # type: ignore[misc]


def _compared(
    rows: Rows, name: str, backend: str, precision: str, photos: list[Any], wanted: dict[str, list[Any]]
) -> dict[str, Any]:
    import numpy as np

    from ctxdeploy.export.parity.parity import compare_photo
    from ctxdeploy.runtime import BackendConfig
    from ctxdeploy.runtime.backends import open_backend

    engine, _ = opened(rows, name, backend, precision)
    if name not in wanted:
        reference = open_backend(bundle_of(rows, name), BackendConfig(name="onnxruntime", device="cpu"))
        wanted[name] = [_outputs(reference, photo[None]) for photo in photos]
    found = [_outputs(engine, photo[None]) for photo in photos]
    compared = [
        compare_photo(str(i), photo, left, right)
        for i, (photo, left, right) in enumerate(zip(photos, wanted[name], found, strict=True))
    ]
    pair = np.stack(photos[:2]) if photos[0].shape == photos[1].shape else np.stack(photos[:1] * 2)
    together, alone = (tuple(a[-1:] for a in _outputs(engine, images)) for images in (pair, pair[1:]))
    return {
        "photos": len(photos),
        "cosine_min": min(one.cosine_min for one in compared),
        "cosine_mean": float(np.mean([one.cosine_mean for one in compared])),
        "overlap_min": min(one.overlap for one in compared),
        "descriptors": sum(one.descriptors for one in compared),
        "of_a_pair_cosine_min": compare_photo("pair", pair[1], alone, together).cosine_min,
        "device": engine.device,
        "version": engine.version,
    }


def _outputs(backend: Any, images: Any) -> tuple[Any, ...]:
    found = backend.run(images)
    return found.descriptors, found.attention, found.positions, found.scales


if __name__ == "__main__":
    run_step(run)
