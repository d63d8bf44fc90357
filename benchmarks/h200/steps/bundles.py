"""Bundles of the networks: each graph traced once, and turned into every precision. Work of the CPU."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from networks import PRECISIONS, folder_of, names, network_of, pixels, shape
from rows import Rows, needed, run_step


def run(rows: Rows) -> None:
    needed("torch", "PyTorch is not installed")
    needed("onnxscript", "onnxscript, which PyTorch exports with, is not installed")
    wanted = names(rows)
    if rows.rehearse:
        for name in wanted:
            rows.measure(name, lambda name=name: make(rows, name))  # type: ignore[misc]
        return
    # The network of the first goal first; PyTorch traces on one core.
    with ProcessPoolExecutor(len(wanted), multiprocessing.get_context("fork")) as pool:
        made = {name: pool.submit(make, rows, name) for name in wanted}
        for name, future in made.items():
            rows.measure(name, future.result)


def make(rows: Rows, name: str) -> dict[str, Any]:
    """Write a bundle with the graph in every precision, unless it is there; return the bytes of each."""
    import torch

    import ctxdeploy.core.bundle as bundles
    from ctxdeploy.export.graph import build_graph

    folder = folder_of(rows, name)
    torch.set_num_threads(2 if rows.rehearse else 4)
    if not (folder / "bundle.json").exists():
        network = network_of(rows, name)
        proto = build_graph(network)
        folder.mkdir(parents=True, exist_ok=True)
        _write(rows, folder, network, proto)
    bundle = bundles.open(folder)
    return {a.precision: a.bytes for a in bundle.artefacts if a.target == "onnxruntime"}


def _write(rows: Rows, folder: Path, network: Any, proto: Any) -> None:
    import ctxdeploy.core.bundle as bundles
    from ctxdeploy.core.bundle import Artefact, ShapeRange
    from ctxdeploy.core.files import file_sha256
    from ctxdeploy.core.types import Precision, Preprocessing
    from ctxdeploy.export.graph import save_graph

    photos = {str(number): photo for number, photo in enumerate(pixels(rows))}
    artefacts = []
    for label in PRECISIONS:
        precision = Precision.parse(label)
        path = folder / precision.file
        save_graph(_converted(proto, precision, photos), path)
        facts: dict[str, Any] = {
            "file": path.name,
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
            "precision": label,
        }
        artefacts.append(Artefact(**facts, format="onnx", target="onnxruntime"))
    longest = max(shape(rows))
    bundles.Bundle(
        path=folder,
        network=network.config.metadata(),
        source={"file": "none", "sha256": "0", "weights_sha256": "0", "format": "none"},
        preprocessing=Preprocessing(image_size=longest),
        extraction=network.extraction,
        shapes=ShapeRange(batch=(1, 64), height=(1, longest), width=(1, longest)),
        artefacts=tuple(artefacts),
    ).write_manifest()


def _converted(proto: Any, precision: Any, photos: dict[str, Any]) -> Any:
    from ctxdeploy.core.types import Precision
    from ctxdeploy.export.graph.mixed import to_mixed
    from ctxdeploy.export.int8.calibration import calibrate
    from ctxdeploy.export.int8.qdq import quantise

    if precision is Precision.FP32:
        return proto
    return quantise(proto, calibrate(proto, photos)) if precision is Precision.INT8 else to_mixed(proto, precision)


if __name__ == "__main__":
    run_step(run)
