"""A trained checkpoint and photos to the folder of a model, as ``ctx-small`` is made: one command, nothing by hand.

The folder is a bundle with its codebook, beside it the checkpoint, from which other precisions can be exported and
training can go on, and ``card.md``. Matrices are rounded to float16 before anything is made of them, so that graph,
checkpoint and codebook hold the same numbers in the fewest bytes.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.bundle import Bundle
from ctxdeploy.errors import BundleError, ConfigError, SomePhotosFailedError, StorageError
from ctxdeploy.extras import require
from ctxdeploy.models.card import CARD, write_card
from ctxdeploy.models.table import is_name
from ctxdeploy.precision import Precision
from ctxdeploy.progress import Display

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook
    from ctxdeploy.runtime import PhotoSource

# Photos on whose descriptors the recall of the rounded words is measured.
_RECALL_PHOTOS = 10


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """How a model is released.

    Attributes:
        scales, top_k, image_size: of the extraction; they are written into the checkpoint too.
        words: size of the codebook.
        training_photos: photos at most that train it, drawn with ``seed``.
        seed: of the sample and of k-means.
        threads: of the network and of k-means; None for the runtime's choice and all processors that may be used.
        int8: add a graph in int8, fitted to photos that train the codebook.
    """

    scales: tuple[float, ...] = (1.414, 1.0, 0.707, 0.5, 0.353)
    top_k: int = 1000
    image_size: int = 1024
    words: int = 16384
    training_photos: int = 5000
    seed: int = 0
    threads: int | None = None
    int8: bool = False


@dataclass(frozen=True, kw_only=True)
class Released:
    """What a release left.

    Attributes:
        bundle: with its codebook.
        rounding: figures of the network with rounded matrices against the one of the checkpoint, as
            ``ctxdeploy.export.parity`` gives them.
        photos: that the codebook was trained on.
        left_out: artefacts that did not pass, with the reason.
    """

    bundle: Bundle
    rounding: dict[str, object]
    photos: int
    left_out: tuple[str, ...]


def release(
    checkpoint: Path, output: Path, photos: Sequence[Path], config: ReleaseConfig, *, text: str, display: Display
) -> Released:
    """Make the folder of a model. It appears whole or not at all.

    Args:
        checkpoint: of a trained network.
        output: folder to make; its name is the model's.
        photos: folders that the codebook is trained on.
        config: see there.
        text: of the card, before the facts.
        display: shows each step.

    Raises:
        BundleError: ``output`` exists.
        ConfigError: its name is none of a model, or there are fewer descriptors than words.
        CheckpointError, ParityError, PhotoError, MissingExtraError: as of ``export``.
        SomePhotosFailedError: a photo cannot be read: the codebook would not be the one of these folders.
        StorageError: ``output`` cannot be written.
    """
    for package in ("torch", "onnx", "onnxscript", "skimage"):
        require(package, "export")
    name = output.name
    if not is_name(name):
        raise ConfigError(f"-o {output}: {name!r} is no name of a model: use letters, digits, '.', '_' and '-'")
    if output.exists():
        raise BundleError(f"{output} exists: choose another -o, or remove it first")
    sources = _photos(photos)
    staging = output.with_name(f".{name}.release-{os.getpid()}")
    try:
        staging.mkdir(parents=True)
        rounded = staging / f"{name}.pth"
        rounding = _round(checkpoint, rounded, config, display)
        bundle, left_out = _export(rounded, staging / "bundle", sources if config.int8 else [], display)
        codebook = _codebook(bundle, sources, staging, config, display)
        codebook.save(staging / "words", compact=True)
        bundle = bundle.with_codebook(staging / "words")
        rounded.replace(bundle.path / rounded.name)
        released = Released(bundle=bundle, rounding=rounding, photos=len(sources), left_out=left_out)
        write_card(bundle.path / CARD, name, text, released, config)
        bundle.path.replace(output)
    except OSError as error:
        raise StorageError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return replace(released, bundle=replace(bundle, path=output))


def _photos(folders: Sequence[Path]) -> list["PhotoSource"]:
    """Return the photos of all folders; their names begin with that of their folder."""
    from ctxdeploy.runtime import PhotoSource
    from ctxdeploy.runtime.listing import list_photos

    found = [
        PhotoSource(name=f"{folder.name}/{photo.name}", path=photo.path)
        for folder in folders
        for photo in list_photos(str(folder)).photos
    ]
    if len({photo.name for photo in found}) < len(found):
        raise ConfigError("two folders of --photos have the same name: give each a name of its own")
    return found


def _round(checkpoint: Path, target: Path, config: ReleaseConfig, display: Display) -> dict[str, object]:
    """Write the checkpoint with its matrices as float16; return how far the network moved by that."""
    from ctxdeploy.export.checkpoint import load_checkpoint, save_checkpoint
    from ctxdeploy.export.export import torch_runner
    from ctxdeploy.export.matching import Matching
    from ctxdeploy.export.parity import TOLERANCES
    from ctxdeploy.export.photos import sample_trial
    from ctxdeploy.export.trial import Trial, TrialPhotos
    from ctxdeploy.preprocessing import Preprocessing

    loaded = load_checkpoint(checkpoint)
    extraction = replace(loaded.extraction, scales=config.scales, top_k=config.top_k)
    network = loaded.network(extraction)
    display.say("rounding the weights to float16")
    photos = sample_trial(Preprocessing(image_size=config.image_size)).parity
    trial = Trial(
        TrialPhotos(parity=photos, retrieval={}),
        torch_runner(network),
        matching=Matching.of(loaded.config),
        label="the checkpoint",
        display=display,
    )
    save_checkpoint(network, target, image_size=config.image_size, half=True)
    after = load_checkpoint(target).network(extraction)
    parity = trial.compare(torch_runner(after), TOLERANCES[Precision.FP16], measured_with="float16 weights")
    figures: dict[str, object] = parity.metadata()
    if figures["verdict"] != "passed":
        raise ConfigError(f"{checkpoint} does not bear float16 weights ({figures['verdict']}): train with weight decay")
    return figures


def _export(
    checkpoint: Path, target: Path, calibration: list["PhotoSource"], display: Display
) -> tuple[Bundle, tuple[str, ...]]:
    """Export the fp32 graph, and those in bf16 (for OpenVINO) and int8 that pass; return also what did not.

    Args:
        checkpoint: with the rounded weights.
        target: folder to make.
        calibration: photos that int8 is fitted to; without any it is not made.
        display: shows each step.
    """
    from ctxdeploy.export.artefacts import REJECTED
    from ctxdeploy.export.checkpoint import load_checkpoint
    from ctxdeploy.export.export import ExportConfig, export
    from ctxdeploy.export.photos import decoded
    from ctxdeploy.preprocessing import Preprocessing

    config = ExportConfig(targets=("onnxruntime", "openvino"), precisions=(Precision.FP32, Precision.BF16))
    images = None
    if calibration:
        config = replace(config, precisions=(*config.precisions, Precision.INT8))
        some = calibration[:: -(-len(calibration) // config.int8.max_photos)]
        images = decoded(some, Preprocessing(image_size=load_checkpoint(checkpoint).image_size))
    exported = export(checkpoint, target, config, calibration=images, display=display)
    for file in target.glob(f"*{REJECTED}*"):
        file.unlink()
    return exported.bundle, tuple(f"{a.target} {a.precision}: {a.parity['verdict']}" for a in exported.rejected)


def _codebook(
    bundle: Bundle, photos: list["PhotoSource"], staging: Path, config: ReleaseConfig, display: Display
) -> "Codebook":
    """Train a codebook of centroids that float16 holds."""
    from ctxdeploy.patience import NO_LIMIT
    from ctxdeploy.runtime import BackendConfig, Extractor
    from ctxdeploy.spool import Spool
    from ctxdeploy.training import CodebookTrainer, TrainingConfig

    # The reference runtime, whatever else is installed: its descriptors are the ones that were compared with PyTorch.
    extractor = Extractor(bundle, backend=BackendConfig(name="onnxruntime", threads=config.threads))
    spool = Spool(staging / "descriptors", {"model": bundle.model_id})
    with spool.locked():
        trainer = CodebookTrainer(extractor, spool, NO_LIMIT, display)
        training = TrainingConfig(words=config.words, most_photos=config.training_photos, seed=config.seed)
        codebook = trainer.train(photos, training).rounded()
        if trainer.failed:
            failure = trainer.failed[0]
            raise SomePhotosFailedError(
                f"{len(trainer.failed)} of {len(photos)} photos of --photos could not be read, such as {failure.name} "
                f"({failure.reason}): remove them, so that the codebook can be made again"
            )
        some = {photo.name for photo in photos[:: max(1, len(photos) // _RECALL_PHOTOS)]}
        vectors = np.concatenate([photo.descriptors.vectors for photo in spool.photos(some)])
        codebook.measure_recall(vectors)
    return codebook
