"""Checkpoints of dirtorch (AP-GeM); "rmac" in the names of its networks is historical, they pool by GeM."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.export.checkpoint_records import PcaRecord
from ctxdeploy.export.forms.form import (
    MEAN,
    NONE,
    STD,
    Names,
    Published,
    Whitening,
    final_layer,
    need,
    numbers,
    renamed,
    triple,
)
from ctxdeploy.export.networks.config import Architecture, NetworkConfig, Smoothing
from ctxdeploy.export.networks.pooling_config import Pooling

if TYPE_CHECKING:
    from torch import Tensor

_NAMES: Names = (
    *((f"backbone.{child}.", f"{child}.") for child in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")),
    ("global_head.pool.", "adpool."),
    ("global_head.whitening.", "fc."),
)
_KINDS = {"gem": "gem", "max": "mac", "avg": "spoc"}
_USUAL_SET = "Landmarks_clean"


def claims(content: Mapping[Any, Any]) -> bool:
    """Return whether a file is in this form."""
    return isinstance(content.get("model_options"), Mapping)


def load(path: Path, content: Mapping[Any, Any], whitening: Whitening) -> Published:
    """Return the network of a file.

    Raises:
        CheckpointError: it is another network, or lacks what it says that it has; the message has the file's own words.
    """
    options = content["model_options"]
    state = renamed(path, content.get("state_dict"), _NAMES)
    given = content.get("preprocess")
    colours = given if isinstance(given, Mapping) else {}
    try:
        pooling = _pooling(path, options, state)
        config = NetworkConfig(
            family="gem",
            architecture=_trunk(path, options.get("arch")),
            dim=None,
            smoothing=Smoothing(kind="none"),
            mean=triple(path, colours.get("mean"), MEAN),
            std=triple(path, colours.get("std"), STD),
            pooling=Pooling(**pooling),
        )
        layer, remarks = _pca(path, content.get("pca"), config.global_dim, whitening)
        if layer:
            pooling["final_dim"] = len(layer["global_head.final.weight"])
            config = NetworkConfig.parse({**config.metadata(), "pooling": pooling})
    except ConfigError as error:
        raise CheckpointError(f"{path}: model_options: {error}") from error
    remarks.append("its authors take photos in full size: here sides above 1024 are scaled down, --image-size sets it")
    return Published(
        form="dirtorch", config=config, scales=(1.0,), state={**state, **layer}, names=_NAMES, remarks=tuple(remarks)
    )


def _trunk(path: Path, arch: Any) -> Architecture:
    name = printable(str(arch))
    if "fpn" in name:
        raise CheckpointError(f"{path}: model_options has arch {name!r}: networks with a feature pyramid are not known")
    if not name.endswith("_rmac"):
        raise CheckpointError(f"{path}: model_options has arch {name!r}, but only resnet…_rmac is known")
    return Architecture.parse(name.removesuffix("_rmac"))


def _pooling(path: Path, options: Mapping[Any, Any], state: Mapping[str, "Tensor"]) -> dict[str, Any]:
    kind = options.get("pooling", "gem")
    if kind not in _KINDS:
        raise CheckpointError(
            f"{path}: model_options has pooling {printable(str(kind))!r}, which is not one of {', '.join(_KINDS)}"
        )
    _trunk(path, options.get("arch"))
    if kind == "gem":
        need(path, state, _NAMES, "model_options has pooling 'gem'", ["global_head.pool.p"])
    weight, dim = "global_head.whitening.weight", None
    if not options.get("without_fc"):
        need(path, state, _NAMES, "model_options has no 'without_fc'", [weight, "global_head.whitening.bias"])
        dim = len(state[weight]) if getattr(state[weight], "ndim", 0) else 0
    bias = options.get("center_bias") or 0
    if type(bias) not in (int, float):
        raise CheckpointError(f"{path}: model_options has center_bias {str(bias)[:40]!r}, which is not a number")
    return {
        "kind": _KINDS[kind],
        "norm_pooled": bool(options.get("norm_features")),
        "dim": dim,
        "norm": "floored",
        "over_scales": "signed",
        "center_bias": float(bias),
    }


def _pca(path: Path, found: Any, dim: int, whitening: Whitening) -> tuple[dict[str, "Tensor"], list[str]]:
    """Return the PCA as a layer, its rows divided by powers of the variances, and what is said of the choice."""
    known = {str(name): pca for name, pca in found.items()} if isinstance(found, Mapping) else {}
    source = whitening.source
    if source == NONE:
        return {}, ["no PCA is applied"]
    if source is None and not known:
        return {}, ["it has no PCA: none is applied"]
    name = source or (_USUAL_SET if _USUAL_SET in known else min(known))
    if name not in known:
        there = ", ".join(printable(one) for one in known) or "none"
        raise CheckpointError(f"{path}: --whitening {printable(name)} is not a PCA of the file, which has {there}")
    pca = known[name]
    if not isinstance(pca, PcaRecord) or not isinstance(pca.state, Mapping):
        raise CheckpointError(f"{path}: pca {printable(name)!r} is not a PCA of scikit-learn")
    what = f"pca {printable(name)!r}"
    rows, mean = numbers(path, pca.state, "components_", what), numbers(path, pca.state, "mean_", what)
    said = f"its PCA of {printable(name)} is applied"
    if pca.state.get("whiten"):
        variance = numbers(path, pca.state, "explained_variance_", what)
        if variance.shape != rows.shape[:1] or not (variance > 0).all():
            raise CheckpointError(f"{path}: {what} has {len(variance)} variances, some of them not positive")
        rows = rows / (variance**whitening.power)[:, None]
        said += f", divided by the variances to the power of {whitening.power:g} (--whitening-power)"
    return final_layer(path, rows, mean, dim, what), [said]
