"""Photos a second: the network alone by the size of the batch, and from JPEG files to descriptors."""

import time
from collections import deque
from typing import Any

from networks import backends, forget, names, opened, shape
from rows import Rows, photo_arrays, photo_folder, run_step

BATCHES = (1, 8, 32)


def run(rows: Rows) -> None:
    for backend, precision in backends(rows):
        for name in names(rows):
            row = f"{name}, {backend} {precision}"
            rows.measure(f"{row}, decoding", lambda n=name, b=backend, p=precision: _decoding(rows, n, b, p))  # type: ignore[misc]
            for batch in (1, 2) if rows.rehearse else BATCHES:
                call = lambda n=name, b=backend, p=precision, s=batch: _alone(rows, n, b, p, s)  # noqa: E731
                rows.measure(f"{row}, batch {batch}", call)  # type: ignore[arg-type]
    for label, options in _VARIANTS.items():
        for batch in (1,) if rows.rehearse else (1, 32):
            call = lambda o=options, s=batch: _varied(rows, o, s)  # noqa: E731
            rows.measure(f"{names(rows)[0]}, {label}, batch {batch}", call)  # type: ignore[arg-type]


# Options of ONNX Runtime's provider that were never tried.
_VARIANTS = {
    "cuda fp16 with prefer_nhwc": {"prefer_nhwc": "1"},
    "cuda fp16 with EXHAUSTIVE": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
}


def _varied(rows: Rows, options: dict[str, str], batch: int) -> dict[str, Any]:
    """As ``_alone``, with other options of the provider than the usual ones."""
    from ctxdeploy.runtime.backends import onnxruntime_cuda

    usual = onnxruntime_cuda.provider_options
    varied = lambda *given: {**usual(*given), **options}  # noqa: E731
    onnxruntime_cuda.provider_options = varied  # type: ignore[assignment]
    try:
        forget()
        backend, precision = backends(rows)[0]
        return _alone(rows, names(rows)[0], backend, precision, batch)
    finally:
        onnxruntime_cuda.provider_options = usual
        forget()


def _alone(rows: Rows, name: str, backend: str, precision: str, batch: int) -> dict[str, Any]:
    """Return photos a second, with as many batches under way as the runtime takes, and the share of the peak."""
    import numpy as np

    engine, bundle = opened(rows, name, backend, precision)
    height, width = shape(rows)
    images = np.stack(photo_arrays(rows, batch, width=width, height=height))
    ahead = getattr(engine, "in_flight", 1)
    for _ in range(2 if rows.rehearse else 3):
        engine.run(images)
    under_way: deque[Any] = deque()
    batches, ends = 0, time.perf_counter() + (0.1 if rows.rehearse else 2.0)
    began = time.perf_counter()
    while time.perf_counter() < ends or batches < 2:
        under_way.append(engine.start(images))
        if len(under_way) >= ahead:
            under_way.popleft().result()
            batches += 1
    while under_way:
        under_way.popleft().result()
        batches += 1
    rate = batches * batch / (time.perf_counter() - began)
    operations = _operations(rows, name, bundle)
    peak = rows.of("machine").get(f"products {precision}", {}).get("flop_per_second")
    return {
        "photos_per_second": rate,
        "flop_a_photo": operations,
        "fraction_of_peak": None if peak is None else rate * operations / peak,
        "device": engine.device,
    }


def _operations(rows: Rows, name: str, bundle: Any) -> float:
    """Return the operations of a photo, counted once from the graph."""
    import json

    from ctxdeploy.bench import count_operations

    kept = rows.folder("operations") / f"{name.replace(' ', '-')}.json"
    if not kept.exists():
        kept.write_text(json.dumps(count_operations(bundle, [shape(rows)])[shape(rows)]), encoding="utf-8")
    return float(json.loads(kept.read_text(encoding="utf-8")))


def _decoding(rows: Rows, name: str, backend: str, precision: str) -> dict[str, Any]:
    """Return photos a second from files to descriptors, as ``ctxdeploy index`` extracts them."""
    from ctxdeploy.runtime import BackendConfig, Extractor, ExtractorConfig, find_photos

    _, bundle = opened(rows, name, backend, precision)
    height, width = shape(rows)
    count, batch = (4, 2) if rows.rehearse else (512, 32)
    folder = photo_folder(rows, count, width=width, height=height)
    config = ExtractorConfig(
        batch_size=batch, lookahead=4 * batch, max_pending=4 * batch, workers=2 if rows.rehearse else 16
    )
    device = "cpu" if rows.rehearse else "cuda"
    extractor = Extractor(
        bundle, backend=BackendConfig(name=backend, precision=precision, device=device), config=config
    )
    photos = list(find_photos(folder))
    failed = sum(not hasattr(found, "descriptors") for found in extractor.extract(photos[: 2 * batch]))
    began = time.perf_counter()
    failed += sum(not hasattr(found, "descriptors") for found in extractor.extract(photos))
    seconds = time.perf_counter() - began
    if failed:
        raise RuntimeError(f"{failed} photos failed")
    return {
        "photos_per_second": len(photos) / seconds,
        "photos": len(photos),
        "batch": batch,
        "network_waited_seconds": extractor.statistics.waiting,
        "seconds": seconds,
    }


if __name__ == "__main__":
    run_step(run)
