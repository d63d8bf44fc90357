"""An artefact in the engine that runs it, against a trial; without PyTorch, as ``ctxdeploy verify`` uses it too."""

import tempfile
from dataclasses import replace
from pathlib import Path

from ctxdeploy.core.bundle import Artefact, Bundle
from ctxdeploy.core.extras import require
from ctxdeploy.core.types import Precision
from ctxdeploy.export.graph.mixed_emulation import emulated
from ctxdeploy.export.parity.parity import TOLERANCES, Image, Outputs, Parity, Run
from ctxdeploy.export.parity.parity_run import ParityRun
from ctxdeploy.export.targets import REFERENCE, TENSORRT
from ctxdeploy.runtime.backends import Backend, BackendConfig, open_backend

# ONNX Runtime with the roundings of the low types written into the graph.
EMULATED = "emulation"


def measure(bundle: Bundle, artefact: Artefact, trial: ParityRun) -> Parity:
    """Compare one artefact of a bundle with the trial's reference, in the very backend that users run.

    Raises:
        BackendError: it cannot run on this machine.
        ParityError: its outputs cannot be compared at all.
    """
    backend = open_artefact(bundle, artefact)
    emulating = "" if artefact.precision == backend.precision else f", emulating {artefact.precision}"
    return trial.compare(
        backend_run(backend),
        TOLERANCES[Precision.parse(artefact.precision)],
        measured_with=f"{backend.name} {backend.version} {backend.precision}{emulating}, {backend.device}",
        max_batch=largest_batch(bundle, artefact),
    )


def largest_batch(bundle: Bundle, artefact: Artefact) -> int:
    """Return the largest batch that an artefact takes: engines may take less than their bundle (``--max-batch``)."""
    shapes = artefact.details.get("key", {}).get("options", {}).get("shapes", {})
    high: int = shapes.get("high", [bundle.shapes.batch[1]])[0]
    return min(high, bundle.shapes.batch[1])


def open_artefact(bundle: Bundle, artefact: Artefact) -> Backend:
    """Load one artefact into its engine; a graph for TensorRT into ONNX Runtime, its roundings emulated.

    Raises:
        BackendError: it cannot run on this machine.
    """
    target = runs_in(artefact)
    if target != EMULATED:
        return _open(bundle, replace(artefact, target=target))
    with tempfile.TemporaryDirectory(prefix="ctxdeploy-") as folder:
        onnx = require("onnx", "cpu")
        file = Path(folder) / artefact.file
        onnx.save_model(emulated(onnx.load(str(bundle.file(artefact)))), str(file))
        # The session has read all of the file when the folder goes.
        stand_in = replace(artefact, target=REFERENCE.target, precision=REFERENCE.precision.label)
        return _open(replace(bundle, path=Path(folder)), stand_in)


def runs_in(artefact: Artefact) -> str:
    """Return the engine that measures an artefact: its own, or for a graph whose engine is TensorRT another one."""
    if artefact.target not in TENSORRT or artefact.format != "onnx":
        return artefact.target
    return EMULATED if artefact.precision in (Precision.FP16.label, Precision.BF16.label) else REFERENCE.target


def _open(bundle: Bundle, artefact: Artefact) -> Backend:
    alone = replace(bundle, artefacts=(artefact,))
    return open_backend(alone, BackendConfig(name=artefact.target, precision=artefact.precision))


def reference_run(bundle: Bundle) -> tuple[Run, str]:
    """Return the fp32 graph of a bundle in ONNX Runtime, and what to call it.

    Raises:
        BackendError: it does not load.
    """
    backend = open_backend(bundle, BackendConfig(name=REFERENCE.target, precision=REFERENCE.precision.label))
    return backend_run(backend), f"{backend.name} {backend.version} fp32"


def backend_run(backend: Backend) -> Run:
    """Return a backend as a function on arrays."""

    def run(images: Image) -> Outputs:
        outputs = backend.run(images)
        return outputs.descriptors, outputs.attention, outputs.positions, outputs.scales

    return run
