"""A trained checkpoint and photos to the folder of a model, as ``lite-small`` is made: one command, nothing by hand.

The folder is a bundle with its codebook, beside it the checkpoint, from which other precisions can be exported and
training can go on, and ``card.md``. Matrices are rounded to float16 before anything is made of them, so that graph,
checkpoint and codebook hold the same numbers in the fewest bytes.
"""

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import BundleError, ConfigError, SomePhotosFailedError
from ctxdeploy.core.extras import require
from ctxdeploy.core.files import move, working_folder, write_text
from ctxdeploy.core.progress import Display
from ctxdeploy.core.settings import parse_numbers, setting
from ctxdeploy.core.targets import CPU_TARGETS, ONNXRUNTIME
from ctxdeploy.core.types import Precision, Preprocessing
from ctxdeploy.indexing.codebook import add_codebook, codebook_of
from ctxdeploy.models.table import is_name

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook
    from ctxdeploy.runtime import PhotoSource

CARD = "card.md"
# Of a card; what is below it is written anew by each release.
FACTS = "## Facts"

# Photos on whose descriptors the recall of the rounded words is measured.
_RECALL_PHOTOS = 10


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """How a model is released.

    Attributes:
        words: size of the codebook.
        training_photos: photos at most that train it, drawn with ``seed``.
        seed: of the sample and of k-means.
        scales, top_k, top_share, image_size: of the extraction; they are written into the checkpoint too.
        threads: of the network and of k-means; None for the runtime's choice and all processors that may be used.
        int8: add a graph in int8, fitted to photos that train the codebook.
    """

    words: int = setting(16384, "--words", "Size of the codebook.")
    training_photos: int = setting(5000, "--training-photos", "Photos at most that train the codebook.")
    seed: int = setting(0, "--seed", "Of the sample and of k-means.")
    scales: tuple[float, ...] = setting(
        (1.414, 1.0, 0.707, 0.5, 0.353),
        "--scales",
        "Image pyramid.",
        metavar="S,S,…",
        parse=parse_numbers,
        default_text="1.414,1,0.707,0.5,0.353",
    )
    top_k: int = setting(1000, "--top-k", "Descriptors of a photo.")
    top_share: float = setting(1.0, "--top-share", "Descriptors of a photo as a share of its positions, at most.")
    image_size: int = setting(1024, "--image-size", "Longest side.")
    threads: int | None = setting(
        None, "--threads", "Of the network.", default_text="the runtime's choice, or a CPU quota"
    )
    int8: bool = setting(False, "--int8", "Add a graph in int8, fitted to --photos.")


@dataclass(frozen=True, kw_only=True)
class Released:
    """What a release left.

    Attributes:
        bundle: with its codebook.
        rounding: figures of the network with rounded matrices against the one of the checkpoint, as
            ``ctxdeploy.export.parity.parity`` gives them.
        photos: that the codebook was trained on.
        left_out: artefacts that did not pass, with the reason.
    """

    bundle: Bundle
    rounding: dict[str, object]
    photos: int
    left_out: tuple[str, ...]


def card_text(path: Path) -> str:
    """Return the part of a card that people write: all above its facts."""
    return path.read_text(encoding="utf-8").partition(f"\n{FACTS}\n")[0].strip()


def release_model(
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
        ConfigError: its name is not one of a model, or there are fewer descriptors than words.
        CheckpointError, ParityError, PhotoError, MissingExtraError: as of ``export``.
        SomePhotosFailedError: a photo cannot be read: the codebook would not be the one of these folders.
        StorageError: ``output`` cannot be written.
    """
    for package in ("torch", "onnx", "onnxscript", "skimage"):
        require(package, "export")
    name = output.name
    if not is_name(name):
        raise ConfigError(f"-o {output}: {name!r} is not the name of a model: use letters, digits, '.', '_' and '-'")
    if output.exists():
        raise BundleError(f"{output} exists: choose another -o, or remove it first")
    sources = _photos(photos)
    with working_folder(output) as staging:
        rounded = staging / f"{name}.pth"
        rounding = _round(checkpoint, rounded, config, display)
        bundle, left_out = _export(rounded, staging / "bundle", sources if config.int8 else [], display)
        codebook = _codebook(bundle, sources, staging, config, display)
        codebook.save(staging / "words", compact=True)
        bundle = add_codebook(bundle, staging / "words")
        move(rounded, bundle.path / rounded.name)
        released = Released(bundle=bundle, rounding=rounding, photos=len(sources), left_out=left_out)
        _write_card(bundle.path / CARD, name, text, released, config)
        move(bundle.path, output)
    return replace(released, bundle=replace(bundle, path=output))


def _photos(folders: Sequence[Path]) -> list["PhotoSource"]:
    """Return the photos of all folders; their names begin with that of their folder."""
    from ctxdeploy.runtime import PhotoSource
    from ctxdeploy.runtime.sources import list_photos

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
    from ctxdeploy.export import load_checkpoint, save_checkpoint
    from ctxdeploy.export.parity import (
        TOLERANCES,
        Matching,
        ParityPhotos,
        ParityRun,
        sample_parity_photos,
        torch_runner,
    )

    loaded = load_checkpoint(checkpoint)
    extraction = replace(loaded.extraction, scales=config.scales, top_k=config.top_k, top_share=config.top_share)
    network = loaded.network(extraction)
    display.say("rounding the weights to float16")
    photos = sample_parity_photos(Preprocessing(image_size=config.image_size)).parity
    run = ParityRun(
        ParityPhotos(parity=photos, retrieval={}),
        torch_runner(network),
        matching=Matching.of(loaded.config),
        label="the checkpoint",
        display=display,
    )
    save_checkpoint(network, target, image_size=config.image_size, half=True)
    after = load_checkpoint(target).network(extraction)
    parity = run.compare(torch_runner(after), TOLERANCES[Precision.FP16], measured_with="float16 weights")
    figures: dict[str, object] = parity.metadata()
    if figures["verdict"] != "passed":
        raise ConfigError(f"{checkpoint} cannot be rounded to float16 ({figures['verdict']}): train with weight decay")
    return figures


def _export(
    checkpoint: Path, target: Path, calibration: list["PhotoSource"], display: Display
) -> tuple[Bundle, tuple[str, ...]]:
    """Export the fp32 graph, which is OpenVINO's in bf16 too, and the one in int8 if it passes; return what did not.

    Args:
        checkpoint: with the rounded weights.
        target: folder to make.
        calibration: photos that int8 is fitted to; without any it is not made.
        display: shows each step.
    """
    from ctxdeploy.evaluation import AsmkRetrieval
    from ctxdeploy.export import REJECTED, ExportConfig, export_bundle, load_checkpoint
    from ctxdeploy.export.parity import decoded

    config = ExportConfig(targets=CPU_TARGETS, precisions=(Precision.FP32, Precision.BF16), hinted=True)
    images = None
    if calibration:
        config = replace(config, precisions=(*config.precisions, Precision.INT8))
        some = calibration[:: -(-len(calibration) // config.int8.max_photos)]
        images = decoded(some, Preprocessing(image_size=load_checkpoint(checkpoint).image_size))
    exported = export_bundle(checkpoint, target, config, retrieval=AsmkRetrieval, calibration=images, display=display)
    for file in target.glob(f"*{REJECTED}*"):
        file.unlink()
    return exported.bundle, tuple(f"{a.target} {a.precision}: {a.parity['verdict']}" for a in exported.rejected)


def _codebook(
    bundle: Bundle, photos: list["PhotoSource"], staging: Path, config: ReleaseConfig, display: Display
) -> "Codebook":
    """Train a codebook of centroids that float16 holds."""
    from ctxdeploy.indexing.codebook import CodebookTrainer, TrainingConfig
    from ctxdeploy.indexing.config import NO_LIMIT
    from ctxdeploy.indexing.descriptor_cache import DescriptorCache
    from ctxdeploy.runtime import BackendConfig, Extractor

    # The reference runtime, whatever else is installed: its descriptors are the ones that were compared with PyTorch.
    extractor = Extractor(bundle, backend=BackendConfig(name=ONNXRUNTIME, threads=config.threads))
    cache = DescriptorCache(staging / "descriptors", {"model": bundle.model_id})
    with cache.locked():
        trainer = CodebookTrainer(extractor, cache, NO_LIMIT, display)
        training = TrainingConfig(words=config.words, max_photos=config.training_photos, seed=config.seed)
        codebook = trainer.train(photos, training).rounded()
        if trainer.failed:
            failure = trainer.failed[0]
            raise SomePhotosFailedError(
                f"{len(trainer.failed)} of {len(photos)} photos of --photos could not be read, such as {failure.name} "
                f"({failure.reason}): remove them, so that the codebook can be made again"
            )
        some = {photo.name for photo in photos[:: max(1, len(photos) // _RECALL_PHOTOS)]}
        vectors = np.concatenate([photo.descriptors.vectors for photo in cache.photos(some)])
        codebook.measure_recall(vectors)
    return codebook


def _write_card(path: Path, name: str, text: str, released: Released, config: ReleaseConfig) -> None:
    """Write a card; no path and no name of a machine gets into it."""
    bundle = released.bundle
    network = bundle.network
    lines = [text or f"# {name}", "", FACTS, "", "Written by `ctxdeploy models release`.", ""]
    lines += [f"- {label}: {value}" for label, value in _facts(released, config).items()]
    lines += ["", "| artefact | MB | against PyTorch fp32 |", "|---|---|---|"]
    for artefact in bundle.artefacts:
        parity = artefact.parity
        figures = f"cosine ≥ {parity['cosine_min']:.5f}, mean {parity['cosine_mean']:.5f}"
        lines.append(f"| {artefact.target} {artefact.precision} | {artefact.bytes / 1e6:.2f} | {figures} |")
    lines += [f"\nLeft out: {reason}" for reason in released.left_out]
    lines += ["", f"Network: `{json.dumps(dict(network))}`"]
    write_text(path, "\n".join(lines) + "\n")


def _facts(released: Released, config: ReleaseConfig) -> dict[str, str]:
    bundle, rounding = released.bundle, released.rounding
    extraction = bundle.extraction
    codebook = codebook_of(bundle)
    training = {} if codebook is None else codebook.training
    scales = ", ".join(f"{scale:g}" for scale in extraction.scales)
    share = f", at most {extraction.top_share:g} of the positions" if extraction.top_share < 1 else ""
    return {
        "weights": f"sha256 {bundle.source['weights_sha256']}; matrices float16",
        "float16 against the checkpoint": f"cosine ≥ {rounding['cosine_min']:.5f}, mean {rounding['cosine_mean']:.5f}",
        "extraction": f"scales {scales}; {extraction.top_k} descriptors of {extraction.dim} dimensions{share}; "
        f"longest side {bundle.preprocessing.image_size} pixels",
        "codebook": f"{training.get('words'):,} words from {training.get('descriptors'):,} descriptors of "
        f"{min(released.photos, config.training_photos):,} photos, {training.get('iterations')} iterations, "
        f"seed {config.seed}, centroids float16",
        "assignment": f"{training.get('assignment')}, recall {training.get('recall_at_1'):.4f} of the nearest word, "
        f"{training.get('recall_at_5'):.4f} of the nearest five",
        "numpy": importlib.metadata.version("numpy"),
        **dict(bundle.tools),
    }
