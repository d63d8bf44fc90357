"""Configuration of a network: everything but its weights. Nothing here imports torch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.delf_config import Delf
from ctxdeploy.export.networks.lite import Lite
from ctxdeploy.export.networks.pooling_config import Pooling


def _check_whole(what: str, value: object) -> None:
    if type(value) is not int:
        raise ConfigError(f"{what} {value!r} is not a whole number")


class Architecture(Enum):
    """A trunk; of a ResNet name, bottleneck blocks or basic ones, blocks of its four layers, channels of its first.

    The ResNets are those of He et al. (CVPR 2016), and ResNet-18 at half the width: 0.7M parameters up to layer3.
    VGG-16 is Simonyan and Zisserman's (ICLR 2015) up to its last convolution. The EfficientNets are the Lite variants
    of Tan and Le's (ICML 2019): 0.8, 1.1 and 1.2M parameters at stride 16.
    """

    RESNET18 = ("resnet18", False, (2, 2, 2, 2), 64)
    RESNET34 = ("resnet34", False, (3, 4, 6, 3), 64)
    RESNET50 = ("resnet50", True, (3, 4, 6, 3), 64)
    RESNET101 = ("resnet101", True, (3, 4, 23, 3), 64)
    RESNET152 = ("resnet152", True, (3, 8, 36, 3), 64)
    VGG16 = ("vgg16", False, (), 64)
    RESNET18_HALF = ("resnet18-half", False, (2, 2, 2, 2), 32)
    EFFICIENTNET_LITE0 = ("efficientnet-lite0", False, (), 0, Lite(width=1.0, depth=1.0))
    EFFICIENTNET_LITE1 = ("efficientnet-lite1", False, (), 0, Lite(width=1.0, depth=1.1))
    EFFICIENTNET_LITE2 = ("efficientnet-lite2", False, (), 0, Lite(width=1.1, depth=1.2))

    def __init__(
        self, label: str, bottleneck: bool, blocks: tuple[int, ...], width: int, lite: Lite | None = None
    ) -> None:
        self.label = label
        self.bottleneck = bottleneck
        self.blocks = blocks
        self.width = width
        self.lite = lite

    @property
    def stride(self) -> int:
        """Pixels per cell of the whole trunk's feature map."""
        return 16 if self is Architecture.VGG16 else 32

    @classmethod
    def parse(cls, label: object) -> "Architecture":
        """Return the member of a label; ``ConfigError`` names those there are."""
        for member in cls:
            if member.label == label:
                return member
        raise ConfigError(f"architecture {label!r} is not one of {', '.join(m.label for m in cls)}")

    def channels(self, skip_layer: int, block: int | None = None) -> int:
        """Channels of the feature map when the last ``skip_layer`` layers, or all from ``block`` on, are left out."""
        if self.lite is not None:
            return self.lite.channels(skip_layer, block)
        return self.width * (32 if self.bottleneck else 8) >> skip_layer


class Edges(Enum):
    """How similarities become the edges of the graph refinement."""

    THRESHOLD = "threshold"
    TOPK = "topk"
    SOFTMAX = "softmax"
    ATTENTION = "attention"


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """Smoothing h of the feature map.

    Attributes:
        kind: ``average`` (HOW), ``gaussian`` (learned, ctx) or ``none``.
        kernel_size: side of the window in cells; odd. The Gaussian takes 3, 5 or 7.
    """

    kind: str = "average"
    kernel_size: int = 3

    def __post_init__(self) -> None:
        _check_whole("kernel size", self.kernel_size)
        if self.kind not in ("average", "gaussian", "none"):
            raise ConfigError(f"smoothing {self.kind!r} is not one of average, gaussian, none")
        sizes = (3, 5, 7) if self.kind == "gaussian" else (1, 3, 5, 7, 9, 11)
        if self.kernel_size not in sizes:
            raise ConfigError(f"{self.kind} smoothing with kernel size {self.kernel_size}: use one of {sizes}")


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Graph refinement g before the smoothing.

    Attributes:
        blocks: residual graph convolutions in a row, each with its own weight and threshold or temperature.
        edges: ``threshold``, ``topk``, ``softmax`` or ``attention``.
        neighbours: edges of a node with ``topk`` (itself included).
        dim: of the queries and keys of ``attention``, whose projections each block has too.
    """

    blocks: int = 2
    edges: Edges = Edges.THRESHOLD
    neighbours: int = 16
    dim: int = 64

    def __post_init__(self) -> None:
        _check_whole("number of refinement blocks", self.blocks)
        _check_whole("number of neighbours", self.neighbours)
        if not 1 <= self.blocks <= 16:
            raise ConfigError(f"graph refinement with {self.blocks} blocks: use 1 to 16")
        if not 1 <= self.neighbours <= 1024:
            raise ConfigError(f"graph refinement with {self.neighbours} neighbours: use 1 to 1024")
        _check_whole("dimension of queries and keys", self.dim)
        if not 1 <= self.dim <= 4096:
            raise ConfigError(f"self-attention with queries and keys of {self.dim} dimensions: use 1 to 4096")

    def metadata(self) -> dict[str, Any]:
        """Return a JSON-serialisable form; ``dim`` stands in it only where it is used, as for ``lit`` and ``block``."""
        found = {**asdict(self), "edges": self.edges.value}
        if self.edges is not Edges.ATTENTION:
            del found["dim"]
        return found


@dataclass(frozen=True, kw_only=True)
class Lit:
    """Local feature integration (FIRe): the positions of a feature map become super-features.

    Attributes:
        steps: T, rounds of attention between the templates and the positions.
        templates: N, super-features of a scale.
        dim: of a super-feature.
    """

    steps: int = 6
    templates: int = 256
    dim: int = 1024

    def __post_init__(self) -> None:
        limits = (
            ("steps (T)", self.steps, 64),
            ("templates (N)", self.templates, 4096),
            ("dimensions", self.dim, 4096),
        )
        for what, value, largest in limits:
            _check_whole(f"lit: the number of {what}", value)
            if not 1 <= value <= largest:
                raise ConfigError(f"lit with {value} {what}: use 1 to {largest}")
        if self.dim % 2:
            raise ConfigError(f"lit with {self.dim} dimensions: use an even number, half of it is its inner width")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network without its weights.

    Attributes:
        family: name in ``ctxdeploy.export.networks.FAMILIES``.
        architecture: the trunk.
        skip_layer: layers of the trunk left out at its end: 0 (stride 32) or 1 (stride 16).
        dim: dimension D of the descriptors; None leaves the whitening out (D = ``feature_dim``).
        smoothing: smoothing h.
        refinement: graph refinement g, or None.
        lit: super-features in place of smoothing and refinement, or None.
        delf: the trunk and the local head of DELF and DELG, or None.
        mean: per channel, of RGB in 0..1, taken off the input.
        std: per channel, the input is divided by it.
        block: of an EfficientNet-Lite, counted from 0, whose expansion ends the trunk; None for the last of its stride.
        pooling: what gives a global descriptor; None in a network of local ones alone.
    """

    family: str
    architecture: Architecture
    skip_layer: int = 0
    dim: int | None = 128
    smoothing: Smoothing = Smoothing()
    refinement: Refinement | None = None
    lit: Lit | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    block: int | None = None
    pooling: Pooling | None = None
    delf: Delf | None = None

    def __post_init__(self) -> None:
        _check_whole("skip_layer", self.skip_layer)
        if self.dim is not None:
            _check_whole("descriptor dimension", self.dim)
        if self.skip_layer not in (0, 1):
            raise ConfigError(f"skip_layer {self.skip_layer}: use 0 or 1")
        if self.skip_layer and self.architecture is Architecture.VGG16:
            raise ConfigError(f"skip_layer {self.skip_layer} of vgg16: it has no layers to leave out, use 0")
        if self.block is not None:
            self._check_block(self.block)
        if self.dim is not None and not 1 <= self.dim <= self.feature_dim:
            raise ConfigError(f"descriptor dimension {self.dim} is outside 1..{self.feature_dim}")
        for what, part in (("super-features (lit)", self.lit), ("DELF's attention (delf)", self.delf)):
            if part is not None and (self.refinement is not None or self.smoothing.kind != "none"):
                raise ConfigError(f"{what} take neither smoothing nor refinement: give smoothing 'none'")
        if self.delf is not None and (self.lit is not None or not self.architecture.bottleneck or not self.skip_layer):
            raise ConfigError("DELF's attention stands on the third block of a ResNet-50 or ResNet-101 (skip_layer 1)")
        parts = self.dim is not None or self.lit or self.refinement or self.smoothing.kind != "none"
        if self.pooling is not None and not self.pooling.beside_local and parts:
            raise ConfigError("a network with a global descriptor alone has no dim, lit, refinement or smoothing")
        finite = all(math.isfinite(value) for value in (*self.mean, *self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise ConfigError(f"mean {self.mean} and std {self.std} must be three numbers each, std positive")

    def _check_block(self, block: int) -> None:
        _check_whole("block", block)
        lite = self.architecture.lite
        if lite is None:
            raise ConfigError(f"block {block} ends a trunk of efficientnet-lite, not of {self.architecture.label}")
        cuts = lite.cuts(self.skip_layer)
        if block not in cuts:
            where = f"with skip_layer {self.skip_layer} (stride {self.stride}) use {cuts[0]} to {cuts[-1]}"
            raise ConfigError(f"block {block} of {self.architecture.label}: {where}")

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.architecture.channels(self.skip_layer, self.block)

    @property
    def stride(self) -> int:
        """Pixels of the scaled image per cell of the feature map."""
        return self.architecture.stride >> self.skip_layer if self.delf is None else self.delf.stride

    @property
    def feature_dim(self) -> int:
        """Dimension of what the whitening takes: channels of the feature map, or dimension of the super-features."""
        return self.channels if self.lit is None else self.lit.dim

    @property
    def descriptor_dim(self) -> int:
        """Dimension of the local descriptors, or of the global one where there are no local ones."""
        if self.pooling is not None and not self.pooling.beside_local:
            return self.global_dim
        return self.feature_dim if self.dim is None else self.dim

    @property
    def global_dim(self) -> int:
        """Dimension of the global descriptor; 0 without one."""
        if self.pooling is None:
            return 0
        return self.pooling.final_dim or self.pooling.dim or self.pooled_channels

    @property
    def pooled_channels(self) -> int:
        """Channels of what is pooled: beside local descriptors, which may be of an earlier layer, those of the last."""
        if self.pooling is not None and self.pooling.beside_local:
            return self.architecture.channels(0)
        return self.channels

    def fitted(self, extraction: Extraction) -> Extraction:
        """Return scales and K with the dimensions of this network, and without what it does not give."""
        if self.pooling is None:
            return replace(extraction, dim=self.descriptor_dim, global_dim=0, global_scales=())
        scales = extraction.global_scales or (1.0,)
        if self.pooling.beside_local and extraction.top_k:
            return replace(extraction, dim=self.descriptor_dim, global_dim=self.global_dim, global_scales=scales)
        dim = self.global_dim
        return Extraction(scales=(1.0,), top_k=0, dim=dim, global_dim=dim, global_scales=scales)

    def metadata(self) -> dict[str, Any]:
        """Return a JSON-serialisable form that ``parse`` reads.

        ``lit``, ``block``, ``pooling`` and ``delf`` stand in it only where there are any: other networks keep their
        bundles' ids.
        """
        return {
            "family": self.family,
            "architecture": self.architecture.label,
            "skip_layer": self.skip_layer,
            "dim": self.dim,
            "smoothing": asdict(self.smoothing),
            "refinement": None if self.refinement is None else self.refinement.metadata(),
            **({} if self.lit is None else {"lit": asdict(self.lit)}),
            "mean": list(self.mean),
            "std": list(self.std),
            **({} if self.block is None else {"block": self.block}),
            **({} if self.pooling is None else {"pooling": self.pooling.metadata()}),
            **({} if self.delf is None else {"delf": self.delf.metadata()}),
        }

    @classmethod
    def parse(cls, metadata: Mapping[str, Any]) -> "NetworkConfig":
        """Return the configuration that ``metadata`` wrote; ``ConfigError`` names what is wrong with it."""
        try:
            refinement, lit, pooling = metadata["refinement"], metadata.get("lit"), metadata.get("pooling")
            delf = metadata.get("delf")
            if refinement is not None:
                refinement = Refinement(**{**refinement, "edges": Edges(refinement["edges"])})
            return cls(
                family=metadata["family"],
                architecture=Architecture.parse(metadata["architecture"]),
                skip_layer=metadata["skip_layer"],
                dim=metadata["dim"],
                smoothing=Smoothing(**metadata["smoothing"]),
                refinement=refinement,
                lit=None if lit is None else Lit(**lit),
                mean=tuple(metadata["mean"]),
                std=tuple(metadata["std"]),
                block=metadata.get("block"),
                pooling=None if pooling is None else Pooling.parse(pooling),
                delf=None if delf is None else Delf.parse(delf),
            )
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not a network configuration: {error!r}") from error
