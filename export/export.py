"""From a checkpoint to a bundle of verified artefacts."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.bundle import Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.errors import BundleError, ConfigError, ParityError
from ctxdeploy.core.extras import require, require_onnxruntime
from ctxdeploy.core.files import file_sha256, move, new_folder
from ctxdeploy.core.progress import Display
from ctxdeploy.core.settings import parse_numbers, setting
from ctxdeploy.core.targets import EXPORT_TARGETS, ONNXRUNTIME, OPENVINO, PRECISIONS
from ctxdeploy.core.types import DECODERS, LIBJPEG, Precision, Preprocessing
from ctxdeploy.export.bundle_builder import EIGHT_BITS, REJECTED, BundleBuilder, Quantising
from ctxdeploy.export.checkpoint import Checkpoint, load_checkpoint
from ctxdeploy.export.forms import Whitening
from ctxdeploy.export.int8.calibration import Int8Config
from ctxdeploy.export.networks.config import Architecture
from ctxdeploy.export.parity.matching import Matching
from ctxdeploy.export.parity.parity import Image
from ctxdeploy.export.parity.parity_run import ParityPhotos, ParityRun, Retrieval
from ctxdeploy.export.parity.photos import sample_calibration, sample_parity_photos, with_odd_shapes
from ctxdeploy.export.parity.verify import torch_runner
from ctxdeploy.export.preflight import check_graph, plan, preflight

if TYPE_CHECKING:
    from ctxdeploy.export.networks.network import DescriptorNetwork


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export; None takes what the checkpoint says.

    Attributes:
        targets: runtimes, names in ``ctxdeploy.core.targets.EXPORT_TARGETS``.
        precisions: of each of them that has it.
        scales: factors of the image pyramid.
        top_k: descriptors of a photo.
        top_share: of its positions, at most.
        global_scales: factors of the image pyramid of the global descriptor.
        image_size: longest side of a photo in pixels.
        architecture: label of the trunk, for a checkpoint that is a bare state dict.
        whitening: of the finished global vector, see ``ctxdeploy.export.forms.Whitening``.
        whitening_power: of the variances by which a PCA divides.
        threshold: the least attention of a descriptor of DELF or DELG.
        draft: decode JPEGs at reduced size (see ``Preprocessing``).
        decoder: of JPEGs (see ``Preprocessing``).
        inline: write our operators' bodies in place of their nodes.
        max_batch: largest batch that the bundle admits.
        hinted: OpenVINO's bf16 is the fp32 file, which it rounds as it computes, and none of its own.
        int8: how int8 and fp8 are made.
    """

    targets: tuple[str, ...] = setting(
        (ONNXRUNTIME,),
        "--target",
        "Runtime to make artefacts for; several may be given.",
        choices=EXPORT_TARGETS,
        default_text=ONNXRUNTIME,
    )
    precisions: tuple[Precision, ...] = setting(
        (Precision.FP32,),
        "--precision",
        "Of every target that has it; several may be given.",
        choices=PRECISIONS,
        parse=Precision.parse,
        default_text="fp32",
    )
    scales: tuple[float, ...] | None = setting(
        None,
        "--scales",
        "Image pyramid.",
        metavar="S,S,…",
        parse=parse_numbers,
        default_text="the checkpoint's",
    )
    top_k: int | None = setting(
        None, "--top-k", "Descriptors of a photo.", metavar="K", default_text="the checkpoint's"
    )
    top_share: float | None = setting(
        None,
        "--top-share",
        "Descriptors of a photo as a share of its positions at all scales, at most: small photos have few.",
        metavar="S",
        default_text="the checkpoint's",
    )
    global_scales: tuple[float, ...] | None = setting(
        None,
        "--global-scales",
        "Image pyramid of the global descriptor.",
        metavar="S,S,…",
        parse=parse_numbers,
        default_text="the checkpoint's",
    )
    image_size: int | None = setting(
        None, "--image-size", "Longest side of a photo.", metavar="PIXELS", default_text="the checkpoint's"
    )
    architecture: str | None = setting(
        None,
        "--architecture",
        "Trunk of a checkpoint that holds tensors alone.",
        choices=tuple(architecture.label for architecture in Architecture),
        default_text="the checkpoint's",
    )
    whitening: str | None = setting(
        None,
        "--whitening",
        "Learned whitening or PCA of a global descriptor: a file with {m, P}, a set of the checkpoint's, or none.",
        metavar="FILE|SET|none",
        default_text="the checkpoint's usual one",
    )
    whitening_power: float = setting(
        0.25, "--whitening-power", "Of the variances by which a PCA (dirtorch) divides.", metavar="P"
    )
    threshold: float | None = setting(
        None,
        "--threshold",
        "Least attention of a descriptor of DELF or DELG.",
        metavar="A",
        default_text="the authors'",
    )
    draft: bool = setting(False, "--draft", "Decode JPEGs at reduced size: 2.5 times faster, not quite HOW's pixels.")
    decoder: str = setting(
        LIBJPEG, "--decoder", "Of JPEGs: libjpeg on the CPU, or nvimgcodec on a GPU.", choices=DECODERS
    )
    inline: bool = setting(False, "--inline", "Standard operators only: our own operators' bodies in their place.")
    max_batch: int = 64
    hinted: bool = False
    int8: Int8Config = field(default_factory=Int8Config)

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ConfigError(f"the largest batch, max_batch, is {self.max_batch}: give 1 or more")
        plan(self.targets, self.precisions)
        Whitening(source=self.whitening, power=self.whitening_power)

    def load(self, checkpoint: str | Path) -> Checkpoint:
        """Return the checkpoint of a file, with the trunk and the whitening that were chosen."""
        whitening = Whitening(source=self.whitening, power=self.whitening_power)
        return load_checkpoint(
            checkpoint, architecture=self.architecture, whitening=whitening, threshold=self.threshold
        )

    def extraction(self, checkpoint: Checkpoint) -> Extraction:
        """Return scales, K and D for a checkpoint.

        Raises:
            ConfigError: they are out of range, or of descriptors that its network does not give.
        """
        default = checkpoint.extraction
        local = {"--scales": self.scales, "--top-k": self.top_k, "--top-share": self.top_share}
        flag = next((flag for flag, value in local.items() if value is not None), None)
        if "local" not in default.gives and flag is not None:
            raise ConfigError(
                f"{checkpoint.path} gives a global descriptor alone, and {flag} is of local ones: "
                "leave it out, or give --global-scales"
            )
        if "global" not in default.gives and self.global_scales is not None:
            raise ConfigError(
                f"{checkpoint.path} gives no global descriptor: leave --global-scales out, or give --scales"
            )
        wanted = replace(
            default,
            scales=default.scales if self.scales is None else self.scales,
            top_k=default.top_k if self.top_k is None else self.top_k,
            top_share=default.top_share if self.top_share is None else self.top_share,
            global_scales=default.global_scales if self.global_scales is None else self.global_scales,
        )
        return checkpoint.config.fitted(wanted)

    def preprocessing(self, checkpoint: Checkpoint) -> Preprocessing:
        """Return the preprocessing for a checkpoint."""
        size = checkpoint.image_size if self.image_size is None else self.image_size
        return Preprocessing(image_size=size, draft=self.draft, decoder=self.decoder)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export left.

    Attributes:
        bundle: with the artefacts that passed.
        rejected: those that did not; their files and reports lie in the bundle's folder as ``*.rejected``.
    """

    bundle: Bundle
    rejected: tuple[Artefact, ...]

    def check(self) -> Bundle:
        """Return the bundle; ``ParityError`` if an artefact was rejected."""
        if self.rejected:
            found = "; ".join(f"{a.target} {a.precision} {a.parity['verdict']}" for a in self.rejected)
            raise ParityError(
                f"{self.bundle.path} was written, but without {len(self.rejected)} of its artefacts: {found}"
            )
        return self.bundle


def export_bundle(
    checkpoint: str | Path,
    output: str | Path,
    config: ExportConfig | None = None,
    *,
    retrieval: Retrieval | None,
    photos: ParityPhotos | None = None,
    calibration: Mapping[str, Image] | None = None,
    display: Display | None = None,
) -> Exported:
    """Export a checkpoint as a bundle and compare every artefact with PyTorch on photos.

    The bundle is made in a folder beside ``output`` and renamed when the fp32 graph has passed: there is never half a
    bundle. If that graph fails, the folder becomes ``<output>.rejected``.

    Args:
        checkpoint: the file.
        output: folder to make; it must not exist.
        config: what to export.
        retrieval: makes the small retrieval run, as ``ParityRun`` takes it; None only with photos that have none.
        photos: to compare on, not larger than the image size; photos of scikit-image if None. Crops of odd shapes are
            added.
        calibration: photos that int8 and fp8 are fitted to, H×W×3 uint8 by name; photos of scikit-image if None.
        display: shows each step and how far it is; None shows nothing.

    Raises:
        MissingExtraError: torch, onnx or onnxruntime is not installed.
        CheckpointError: the checkpoint cannot be used.
        ConfigError: a target cannot take the network.
        BackendError: an engine does not load a graph.
        BundleError: ``output`` exists.
        ParityError: the fp32 graph does not compute what PyTorch computes; nothing is left at ``output``.
        StorageError: ``output`` cannot be written.
    """
    for package in ("torch", "onnx", "onnxscript", *(("skimage",) if photos is None else ())):
        require(package, "export")
    require_onnxruntime()
    from ctxdeploy.export.graph.graph import build_graph

    config = config or ExportConfig()
    display = display or Display(quiet=True)
    output = Path(output)
    if output.exists():
        raise BundleError(f"{output} exists: choose another -o, or remove it first")
    display.say("loading the checkpoint")
    loaded = config.load(checkpoint)
    for remark in loaded.remarks:
        display.say(f"{loaded.path.name}: {remark}")
    jobs, remarks = plan(config.targets, config.precisions)
    bundle = _empty_bundle(loaded, config, output)
    preflight(jobs, bundle.extraction, loaded.config, bundle.shapes)
    network = loaded.network(bundle.extraction)
    photos = _photos(network, bundle.preprocessing, photos)
    with new_folder(output) as staging:
        display.say("tracing the network")
        proto = build_graph(network, inline=config.inline)
        check_graph(proto, jobs)
        builder = BundleBuilder(
            bundle=replace(bundle, path=staging),
            proto=proto,
            parity_run=ParityRun(
                photos,
                torch_runner(network),
                retrieval=retrieval,
                matching=Matching.of(loaded.config),
                display=display,
            ),
            quantising=_quantising(config, bundle.preprocessing, calibration),
            display=display,
            hinted=config.hinted,
        )
        for remark in remarks:
            display.say(f"left out: {remark}")
        for job in jobs:
            builder.make(job)
            if not builder.bundle.artefacts:
                raise _refused(builder, output)
        builder.finish(jobs)
    return Exported(bundle=replace(builder.bundle, path=output), rejected=tuple(builder.rejected))


def _refused(builder: BundleBuilder, output: Path) -> ParityError:
    """Keep what was made under a name that no one takes for a bundle, and return the error."""
    builder.keep_rejected()
    kept = output.with_name(output.name + REJECTED)
    number = 2
    while kept.exists():
        kept = output.with_name(f"{output.name}{REJECTED}-{number}")
        number += 1
    move(builder.bundle.path, kept)
    verdict = builder.rejected[0].parity["verdict"].removeprefix("failed: ")
    return ParityError(
        f"the exported graph differs from PyTorch: {verdict}; no bundle was written, "
        f"the graph and its report are in {kept}"
    )


def _photos(network: "DescriptorNetwork", preprocessing: Preprocessing, photos: ParityPhotos | None) -> ParityPhotos:
    photos = photos or sample_parity_photos(preprocessing)
    for name, photo in (*photos.parity.items(), *photos.retrieval.items()):
        if max(photo.shape[:2]) > preprocessing.image_size:
            raise ConfigError(
                f"photo {name} is {photo.shape[1]}×{photo.shape[0]}, larger than the {preprocessing.image_size} of the "
                "image size: scale it down"
            )
    smallest = min(network.extraction.pyramid)
    return replace(photos, parity=with_odd_shapes(photos.parity, network.config.stride, smallest))


def _quantising(
    config: ExportConfig, preprocessing: Preprocessing, calibration: Mapping[str, Image] | None
) -> Quantising | None:
    if not set(EIGHT_BITS) & set(config.precisions):
        return None
    return Quantising(
        photos=sample_calibration(preprocessing.image_size) if calibration is None else calibration,
        config=replace(config.int8, source="photos of scikit-image" if calibration is None else "photos of the user"),
        # OpenVINO's int8 is the least exact: a graph that it refuses need not be run in the others.
        targets=tuple(sorted(dict.fromkeys(config.targets), key=lambda target: target != OPENVINO)),
    )


def _empty_bundle(loaded: Checkpoint, config: ExportConfig, folder: Path) -> Bundle:
    preprocessing = config.preprocessing(loaded)
    size = preprocessing.image_size
    return Bundle(
        path=folder,
        network=loaded.config.metadata(),
        source={
            "file": loaded.path.name,
            "sha256": file_sha256(loaded.path),
            "format": loaded.form,
            "weights_sha256": loaded.weights_sha256(),
            # Of an authors' form: which whitening was taken, and what is theirs and what is ours.
            **({"remarks": "; ".join(loaded.remarks)} if loaded.names and loaded.remarks else {}),
        },
        preprocessing=preprocessing,
        extraction=config.extraction(loaded),
        shapes=ShapeRange(batch=(1, config.max_batch), height=(1, size), width=(1, size)),
        artefacts=(),
        tools={
            name: importlib.metadata.version(name)
            for name in ("ctxdeploy", "torch", "onnx", "onnxscript", "onnxruntime")
        },
    )
