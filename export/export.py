"""From a checkpoint to a verified bundle."""

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy import __version__
from ctxdeploy.bundle import Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.errors import BundleError, ConfigError, ParityError, StorageError
from ctxdeploy.export.checkpoint import Checkpoint, load_checkpoint
from ctxdeploy.export.parity import TOLERANCES, Image, Outputs, Parity, Run, compare
from ctxdeploy.export.photos import default_photos, with_odd_shapes
from ctxdeploy.extras import require, require_onnxruntime
from ctxdeploy.hashing import file_sha256
from ctxdeploy.preprocessing import Preprocessing

if TYPE_CHECKING:
    from ctxdeploy.export.networks.network import RetrievalNetwork

PRECISION = "fp32"
FILE = "model.onnx"
# Names a step as it begins.
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export; None takes what the checkpoint says.

    Attributes:
        scales: factors of the image pyramid.
        top_k: descriptors of a photo.
        image_size: longest side of a photo in pixels.
        draft: decode JPEGs at reduced size (see ``Preprocessing``).
        inline: write our operators' bodies in place of their nodes.
        max_batch: largest batch that the bundle admits.
    """

    scales: tuple[float, ...] | None = None
    top_k: int | None = None
    image_size: int | None = None
    draft: bool = False
    inline: bool = False
    max_batch: int = 64

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ConfigError(f"the largest batch, max_batch, is {self.max_batch}: give 1 or more")

    def extraction(self, checkpoint: Checkpoint) -> Extraction:
        """Return scales, K and D for a checkpoint."""
        default = checkpoint.extraction
        return replace(
            default,
            scales=default.scales if self.scales is None else self.scales,
            top_k=default.top_k if self.top_k is None else self.top_k,
        )

    def preprocessing(self, checkpoint: Checkpoint) -> Preprocessing:
        """Return the preprocessing for a checkpoint."""
        size = checkpoint.image_size if self.image_size is None else self.image_size
        return Preprocessing(image_size=size, draft=self.draft)


def export(
    checkpoint: str | Path,
    output: str | Path,
    config: ExportConfig | None = None,
    *,
    photos: Mapping[str, Image] | None = None,
    report: Report = lambda step: None,
) -> Bundle:
    """Export a checkpoint as a bundle and compare ONNX Runtime with PyTorch on photos.

    The bundle is made in a folder beside ``output`` and renamed when it has passed: there is never half a bundle.

    Args:
        checkpoint: the file.
        output: folder to make; it must not exist.
        config: what to export.
        photos: H×W×3 uint8 by name, not larger than the image size; photos of scikit-image if None. Crops of odd shapes
            are added.
        report: called with the name of each step.

    Raises:
        MissingExtraError: torch, onnx or onnxruntime is not installed.
        CheckpointError: the checkpoint cannot be used.
        BundleError: ``output`` exists.
        ParityError: the graph does not compute what PyTorch computes; nothing is left at ``output``.
        StorageError: ``output`` cannot be written.
    """
    for package in ("torch", "onnx", "onnxscript", *(("skimage",) if photos is None else ())):
        require(package, "export")
    require_onnxruntime()
    config = config or ExportConfig()
    output = Path(output)
    if output.exists():
        raise BundleError(f"{output} exists: choose another -o, or remove it first")
    report("loading the checkpoint")
    loaded = load_checkpoint(checkpoint)
    network = loaded.network(config.extraction(loaded))
    photos = _photos(network, config.preprocessing(loaded), photos)
    staging = _staging(output)
    try:
        report("writing the ONNX graph")
        bundle = _write_graph(loaded, network, config, staging)
        report(f"comparing with PyTorch on {len(photos)} photos")
        bundle = _with_parity(bundle, network, photos)
        bundle.write_manifest()
        staging.replace(output)
    except OSError as error:
        raise StorageError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return replace(bundle, path=output)


def torch_runner(network: "RetrievalNetwork") -> Run:
    """Return a network in PyTorch as a function on numpy arrays."""
    import torch

    def run(images: Image) -> Outputs:
        with torch.inference_mode():
            a, b, c, d = network(torch.from_numpy(np.array(images)))
        return a.numpy(), b.numpy(), c.numpy(), d.numpy()

    return run


def _photos(
    network: "RetrievalNetwork", preprocessing: Preprocessing, photos: Mapping[str, Image] | None
) -> dict[str, Image]:
    if photos is None:
        photos = default_photos(preprocessing.image_size)
    for name, photo in photos.items():
        if max(photo.shape[:2]) > preprocessing.image_size:
            raise ConfigError(
                f"photo {name} is {photo.shape[1]}×{photo.shape[0]}, larger than {preprocessing.image_size}"
            )
    return with_odd_shapes(photos, network.config.stride, min(network.extraction.scales))


def _staging(output: Path) -> Path:
    staging = output.with_name(f"{output.name}.partial-{os.getpid()}")
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"{output} cannot be written: {error.strerror or error}") from error
    return staging


def _write_graph(loaded: Checkpoint, network: "RetrievalNetwork", config: ExportConfig, folder: Path) -> Bundle:
    from ctxdeploy.export.graph import build_graph, save_graph

    path = folder / FILE
    save_graph(build_graph(network, inline=config.inline), path)
    preprocessing = config.preprocessing(loaded)
    size = preprocessing.image_size
    artefact = Artefact(
        file=FILE,
        sha256=file_sha256(path),
        bytes=path.stat().st_size,
        format="onnx",
        precision=PRECISION,
        target="onnxruntime",
    )
    return Bundle(
        path=folder,
        network=network.config.metadata(),
        source={
            "file": loaded.path.name,
            "sha256": file_sha256(loaded.path),
            "format": loaded.form,
            "weights_sha256": loaded.weights_sha256(),
        },
        preprocessing=preprocessing,
        extraction=network.extraction,
        shapes=ShapeRange(batch=(1, config.max_batch), height=(1, size), width=(1, size)),
        artefacts=(artefact,),
        tools={
            "ctxdeploy": __version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
        },
    )


def _with_parity(bundle: Bundle, network: "RetrievalNetwork", photos: Mapping[str, Image]) -> Bundle:
    parity = measure(bundle, network, photos)
    parity.check()
    artefact = replace(bundle.artefacts[0], parity=parity.metadata())
    return replace(bundle, artefacts=(artefact,))


def measure(bundle: Bundle, network: "RetrievalNetwork", photos: Mapping[str, Image]) -> Parity:
    """Compare a bundle, in the very backend that users run, with its network in PyTorch."""
    from ctxdeploy.runtime.backends import BackendConfig, open_backend

    backend = open_backend(bundle, BackendConfig(name="onnxruntime", precision=PRECISION))

    def run(images: Image) -> Outputs:
        outputs = backend.run(images)
        return outputs.descriptors, outputs.attention, outputs.positions, outputs.scales

    try:
        return compare(photos, torch_runner(network), run, TOLERANCES[PRECISION], max_batch=bundle.shapes.batch[1])
    except ValueError as error:
        raise ParityError(f"the exported graph cannot be compared with PyTorch: {error}") from error
