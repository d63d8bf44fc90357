"""An artefact in the engine that runs it, against a trial; without PyTorch, as ``ctxdeploy verify`` uses it too."""

from dataclasses import replace

from ctxdeploy.bundle import Artefact, Bundle
from ctxdeploy.export.parity import TOLERANCES, Image, Outputs, Parity, Run
from ctxdeploy.export.targets import REFERENCE, TENSORRT, Job
from ctxdeploy.export.trial import Trial
from ctxdeploy.precision import Precision
from ctxdeploy.runtime.backends import Backend, BackendConfig, open_backend


def measure(bundle: Bundle, artefact: Artefact, trial: Trial) -> Parity:
    """Compare one artefact of a bundle with the trial's reference, in the very backend that users run.

    A graph for TensorRT, whose engine is built elsewhere, runs in an engine of this machine that takes its types.

    Raises:
        BackendError: it cannot run on this machine.
        ParityError: its outputs cannot be compared at all.
    """
    backend = open_artefact(bundle, artefact)
    return trial.compare(
        backend_run(backend),
        TOLERANCES[Precision.parse(artefact.precision)],
        measured_with=f"{backend.name} {backend.version} {backend.precision}, {backend.device}",
        max_batch=bundle.shapes.batch[1],
    )


def open_artefact(bundle: Bundle, artefact: Artefact) -> Backend:
    """Load one artefact into its engine.

    Raises:
        BackendError: it cannot run on this machine.
    """
    job = stand_in(artefact)
    alone = replace(bundle, artefacts=(replace(artefact, target=job.target),))
    return open_backend(alone, BackendConfig(name=job.target, precision=job.precision.label))


def stand_in(artefact: Artefact) -> Job:
    """Return the runtime and precision that an artefact is measured with."""
    precision = Precision.parse(artefact.precision)
    if artefact.target in TENSORRT and artefact.format == "onnx":
        return Job(target="openvino" if precision is Precision.BF16 else "onnxruntime", precision=precision)
    return Job(target=artefact.target, precision=precision)


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
