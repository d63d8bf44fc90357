"""An artefact, or a whole bundle, in the engines of this machine against a reference.

PyTorch is needed only where a checkpoint is the reference.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxdeploy.core.bundle import OUTPUT_NAMES, Artefact, Bundle
from ctxdeploy.core.device import AUTO, CPU, Device, asked_gpu, gpu_present
from ctxdeploy.core.errors import (
    BackendError,
    BundleError,
    CheckpointError,
    CtxdeployError,
    MissingExtraError,
    MixedPackagesError,
)
from ctxdeploy.core.extras import require
from ctxdeploy.core.progress import Display
from ctxdeploy.core.targets import CPU_TARGETS, CUDA, ENGINE_TARGETS, TARGETS
from ctxdeploy.core.types import Precision
from ctxdeploy.export.graph.mixed import emulated
from ctxdeploy.export.int8 import fp8
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.parity.global_parity import GLOBAL_TOLERANCES
from ctxdeploy.export.parity.matching import Matching
from ctxdeploy.export.parity.parity import TOLERANCES, Image, Outputs, Parity, Run
from ctxdeploy.export.parity.parity_run import ParityRun, Retrieval
from ctxdeploy.export.parity.photos import folder_parity_photos, with_odd_shapes
from ctxdeploy.export.preflight import REFERENCE
from ctxdeploy.runtime.backends import Backend, BackendConfig, open_backend

if TYPE_CHECKING:
    from ctxdeploy.export.networks.network import DescriptorNetwork

# ONNX Runtime with the roundings of the low types written into the graph.
EMULATED = "emulation"
# What ONNX Runtime's CPU has no arithmetic of.
_EMULATED = (Precision.FP16.label, Precision.BF16.label, Precision.FP8.label)


def measure(bundle: Bundle, artefact: Artefact, parity_run: ParityRun, device: str = AUTO) -> Parity:
    """Compare one artefact of a bundle with the run's reference, in the very backend that users run.

    Args:
        bundle: opened.
        artefact: of it.
        parity_run: what it is compared with, and on what.
        device: GPU of a runtime that needs one, as ``BackendConfig`` has it.

    Raises:
        BackendError: it cannot run on this machine.
        ParityError: its outputs cannot be compared at all.
    """
    backend = open_artefact(bundle, artefact, device)
    precision = Precision.parse(artefact.precision)
    emulating = "" if artefact.precision == backend.precision else f", emulating {artefact.precision}"
    return parity_run.compare(
        backend_run(backend),
        TOLERANCES[precision],
        whole=GLOBAL_TOLERANCES[precision],
        measured_with=f"{backend.name} {backend.version} {backend.precision}{emulating}, {backend.device}",
        max_batch=largest_batch(bundle, artefact),
    )


def largest_batch(bundle: Bundle, artefact: Artefact) -> int:
    """Return the largest batch that an artefact takes: engines may take less than their bundle (``--max-batch``)."""
    shapes = artefact.details.get("key", {}).get("options", {}).get("shapes", {})
    high: int = shapes.get("high", [bundle.shapes.batch[1]])[0]
    return min(high, bundle.shapes.batch[1])


def open_artefact(bundle: Bundle, artefact: Artefact, device: str = AUTO) -> Backend:
    """Load one artefact into its engine; a graph for TensorRT into ONNX Runtime, its roundings emulated.

    Args:
        bundle: opened.
        artefact: of it.
        device: GPU of a runtime that needs one.

    Raises:
        BackendError: it cannot run on this machine.
    """
    target = runs_in(artefact)
    if target != EMULATED:
        return _open(bundle, replace(artefact, target=target), AUTO if target in CPU_TARGETS else device)
    with tempfile.TemporaryDirectory(prefix="ctxdeploy-") as folder:
        onnx = require("onnx", "cpu")
        file = Path(folder) / artefact.file
        rounded = fp8.emulated if artefact.precision == Precision.FP8.label else emulated
        onnx.save_model(rounded(onnx.load(str(bundle.file(artefact)))), str(file))
        # The session has read all of the file when the folder goes.
        stand_in = replace(artefact, target=REFERENCE.target, precision=REFERENCE.precision.label)
        return _open(replace(bundle, path=Path(folder)), stand_in)


def runs_in(artefact: Artefact) -> str:
    """Return the engine that measures an artefact: its own, or for a graph whose engine is TensorRT another one."""
    if artefact.target not in ENGINE_TARGETS or artefact.format != "onnx":
        return artefact.target
    return EMULATED if artefact.precision in _EMULATED else REFERENCE.target


def _open(bundle: Bundle, artefact: Artefact, device: str = AUTO) -> Backend:
    alone = replace(bundle, artefacts=(artefact,))
    config = BackendConfig(name=artefact.target, precision=artefact.precision, device=device)
    return open_backend(alone, config, "--target")


def reference_run(bundle: Bundle) -> tuple[Run, str]:
    """Return the fp32 graph of a bundle in ONNX Runtime, and what to call it.

    Raises:
        BackendError: it does not load.
    """
    backend = open_backend(bundle, BackendConfig(name=REFERENCE.target, precision=REFERENCE.precision.label))
    return backend_run(backend), f"{backend.name} {backend.version} fp32"


def torch_runner(network: "DescriptorNetwork") -> Run:
    """Return a network in PyTorch as a function on numpy arrays."""
    import torch

    def run(images: Image) -> Outputs:
        with torch.inference_mode():
            found = network(torch.from_numpy(np.array(images)))
        return tuple(array.numpy() for array in found)

    return run


def backend_run(backend: Backend) -> Run:
    """Return a backend as a function on arrays."""
    gives_local = OUTPUT_NAMES[0] in backend.outputs

    def run(images: Image) -> Outputs:
        outputs = backend.run(images)
        local = (outputs.descriptors, outputs.attention, outputs.positions, outputs.scales)
        return tuple(array for array in (*(local if gives_local else ()), outputs.global_vectors) if array is not None)

    return run


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One artefact on this machine.

    Attributes:
        artefact: the one.
        parity: its figures as ``Parity.metadata`` gives them; empty if it cannot run here.
        obstacle: why it cannot.
        itself: whether it was the reference too: then the figures only say that runs and batches agree.
    """

    artefact: Artefact
    parity: Mapping[str, Any] = field(default_factory=dict)
    obstacle: CtxdeployError | None = None
    itself: bool = False

    @property
    def absent(self) -> str:
        """Why it cannot run here, in words; empty if it can."""
        return "" if self.obstacle is None else f"cannot run here: {self.obstacle}"


def verify_bundle(
    bundle: Bundle,
    photos: Path,
    *,
    retrieval: Retrieval | None,
    target: str | None = None,
    precision: str | None = None,
    device: str = AUTO,
    checkpoint: Path | None = None,
    display: Display | None = None,
) -> list[Verified]:
    """Run the artefacts of a bundle on photos and compare them with a reference.

    The graphs of ONNX Runtime run on its CUDA provider as well where there is a GPU, or ``target`` is ``cuda``.

    Args:
        bundle: opened.
        photos: folder; a ``gnd.json`` in it or above it gives a mean average precision.
        retrieval: makes the small retrieval run, as ``ParityRun`` takes it.
        target, precision: restrict the artefacts.
        device: GPU of the runtimes that need one; ``cpu`` leaves these out.
        checkpoint: run this one in PyTorch as the reference; the fp32 graph in ONNX Runtime if None.
        display: shows how far it is.

    Raises:
        BundleError: there is no such artefact.
        CheckpointError: the checkpoint is not the one that the bundle was made from.
        NoPhotosError, PhotoError, ConfigError: about the photos.
    """
    # Figures of the CPU must not be taken for those of a GPU that was asked for.
    asked_gpu(Device.parse(device), instead="leave it out")
    there = (*bundle.artefacts, *artefacts_on_cuda(bundle, target, device))
    chosen = [a for a in there if target in (None, a.target) and precision in (None, a.precision)]
    if Device.parse(device).kind == CPU:
        chosen = [a for a in chosen if a.target in CPU_TARGETS or a.format == "onnx"]
    if checkpoint is None and (target, precision) == (None, None):
        # The reference itself, unless it is all there is.
        chosen = [a for a in chosen if not _is_reference(a)] or chosen
    if not chosen:
        asked = " ".join(f"--{name} {value}" for name, value in (("target", target), ("precision", precision)) if value)
        found = ", ".join(f"{a.target} {a.precision}" for a in bundle.artefacts)
        raise BundleError(f"{bundle.path} has no artefact for {asked}, only {found}")
    chosen_photos = folder_parity_photos(photos, bundle.preprocessing)
    network = NetworkConfig.parse(bundle.network)
    odd = with_odd_shapes(chosen_photos.parity, network.stride, min(bundle.extraction.pyramid))
    chosen_photos = replace(chosen_photos, parity=odd)
    run, label = reference_run(bundle) if checkpoint is None else _torch_run(bundle, checkpoint)
    parity_run = ParityRun(
        chosen_photos, run, retrieval=retrieval, matching=Matching.of(network), label=label, display=display
    )
    results = [_verified(bundle, artefact, parity_run, device) for artefact in chosen]
    return [replace(result, itself=checkpoint is None and _is_reference(result.artefact)) for result in results]


def artefacts_on_cuda(bundle: Bundle, target: str | None, device: str) -> list[Artefact]:
    """Return the artefacts that ONNX Runtime runs on CUDA, as such."""
    where = Device.parse(device)
    if target != CUDA and (target is not None or where.kind == CPU or gpu_present(where.number) is None):
        return []
    entry = TARGETS[CUDA]
    return [
        replace(a, target=CUDA) for a in bundle.artefacts if a.target == entry.runs and a.precision in entry.precisions
    ]


def _is_reference(artefact: Artefact) -> bool:
    wanted = (REFERENCE.target, REFERENCE.precision.label, "onnx")
    return (artefact.target, artefact.precision, artefact.format) == wanted


def record_parity(bundle: Bundle, results: Sequence[Verified]) -> None:
    """Write figures into the ``parity`` of the artefacts they belong to.

    Those that could not run keep theirs, and so does one that was compared with itself.

    Raises:
        StorageError: the bundle cannot be written.
    """
    measured = [r for r in results if r.parity and not r.itself]
    new = {(r.artefact.file, r.artefact.target, r.artefact.precision): r.parity for r in measured}
    artefacts = tuple(replace(a, parity=new.get((a.file, a.target, a.precision), a.parity)) for a in bundle.artefacts)
    replace(bundle, artefacts=artefacts).write_manifest()


def _verified(bundle: Bundle, artefact: Artefact, parity_run: ParityRun, device: str) -> Verified:
    try:
        return Verified(artefact=artefact, parity=measure(bundle, artefact, parity_run, device).metadata())
    except (BackendError, MissingExtraError, MixedPackagesError) as error:
        return Verified(artefact=artefact, obstacle=error)


def _torch_run(bundle: Bundle, checkpoint: Path) -> tuple[Run, str]:
    require("torch", "export")
    from ctxdeploy.export.checkpoint import load_checkpoint

    threshold = (bundle.network.get("delf") or {}).get("threshold")
    loaded = load_checkpoint(checkpoint, architecture=bundle.network.get("architecture"), threshold=threshold)
    if loaded.weights_sha256() != bundle.source["weights_sha256"]:
        raise CheckpointError(f"{checkpoint} is not the checkpoint that made {bundle.path}: its weights differ")
    return torch_runner(loaded.network(bundle.extraction)), "PyTorch fp32, CPU"
