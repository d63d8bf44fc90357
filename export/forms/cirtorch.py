"""Checkpoints of cirtorch (MAC, SPoC, GeM, R-MAC, regional pooling) and of SOLAR, which adds attention to its form."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.export.checkpoint_file import read
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
from ctxdeploy.export.networks.pooling_config import KINDS, Pooling

if TYPE_CHECKING:
    from torch import Tensor

_HEAD: Names = (
    ("global_head.pool.", "pool."),
    ("global_head.local_whitening.", "lwhiten."),
    ("global_head.whitening.", "whiten."),
)
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_RESNET: Names = tuple((f"backbone.{child}.", f"features.{number}.") for number, child in _CHILDREN.items())
_VGG: Names = (("backbone.", "features."),)
_SOLAR: Names = (
    ("backbone.conv1.", "features.conv1.0."),
    ("backbone.bn1.", "features.conv1.1."),
    ("backbone.layer1.", "features.conv2_x.2."),
    *((f"backbone.layer{n - 1}.", f"features.conv{n}_x.") for n in (3, 4, 5)),
    *((f"second_order.layer{n - 1}.", f"features.soa{n}.") for n in (4, 5)),
)
# With a whitening that was learned afterwards, and with one in the network.
_AFTERWARDS, _WITHIN = (1.0, 1 / math.sqrt(2), 0.5), (1.0, math.sqrt(2), 1 / math.sqrt(2))
_USUAL_SET = "retrieval-SfM-120k"


def claims(content: Mapping[Any, Any]) -> bool:
    """Return whether a file is in this form; HOW's of 2020 has ``meta`` as well, but no ``pooling``."""
    meta = content.get("meta")
    return isinstance(meta, Mapping) and "pooling" in meta and "feat_pool_k" not in meta


def load(path: Path, content: Mapping[Any, Any], whitening: Whitening) -> Published:
    """Return the network of a file.

    Raises:
        CheckpointError: it is another network, or lacks what it says that it has; the message has the file's own words.
    """
    meta = content["meta"]
    is_solar = bool(meta.get("soa"))
    try:
        trunk = Architecture.parse(meta.get("architecture"))
    except ConfigError as error:
        raise CheckpointError(f"{path}: meta: {error}") from error
    names = _HEAD + (_SOLAR if is_solar else _VGG if trunk is Architecture.VGG16 else _RESNET)
    state = renamed(path, content.get("state_dict"), names)
    pooling = _pooling(path, meta, state, names)
    try:
        config = NetworkConfig(
            family="gem",
            architecture=trunk,
            dim=None,
            smoothing=Smoothing(kind="none"),
            mean=triple(path, meta.get("mean"), MEAN),
            std=triple(path, meta.get("std"), STD),
            pooling=Pooling(**pooling),
        )
        learned, remarks = _learned(path, meta, config.global_dim, whitening)
        if learned:
            pooling["final_dim"] = len(learned["global_head.final.weight"])
            config = NetworkConfig.parse({**config.metadata(), "pooling": pooling})
    except ConfigError as error:
        raise CheckpointError(f"{path}: meta: {error}") from error
    if pooling["kind"] == "rmac":
        remarks.append("R-MAC of this file's weights: those of the published tables exist for Caffe alone")
    return Published(
        form="solar" if is_solar else "cirtorch",
        config=config,
        scales=_WITHIN if pooling["dim"] is not None else _AFTERWARDS,
        state={**state, **learned},
        names=names,
        remarks=tuple(remarks),
    )


def _pooling(path: Path, meta: Mapping[Any, Any], state: Mapping[str, "Tensor"], names: Names) -> dict[str, Any]:
    """Return the settings of the pooling that ``meta`` describes, whose tensors must be there."""
    kind, regional = meta["pooling"], bool(meta.get("regional"))
    if kind not in KINDS:
        raise CheckpointError(
            f"{path}: meta has pooling {printable(str(kind))!r}, which is not one of {', '.join(KINDS)}"
        )
    if regional and kind == "rmac":
        raise CheckpointError(f"{path}: meta has pooling 'rmac' and 'regional': one within the other is not known")
    weight, head = "global_head.whitening.weight", "global_head."
    if kind == "gem":
        power = f"{head}pool.rpool.p" if regional else f"{head}pool.p"
        need(path, state, names, "meta has pooling 'gem'", [power])
    if meta.get("whitening"):
        need(path, state, names, "meta has 'whitening'", [weight, f"{head}whitening.bias"])
    if meta.get("local_whitening"):
        layer = f"{head}local_whitening"
        need(path, state, names, "meta has 'local_whitening'", [f"{layer}.weight", f"{layer}.bias"])
    dim = len(state[weight]) if meta.get("whitening") and getattr(state[weight], "ndim", 0) else None
    layers = str(meta.get("soa_layers", "")) if meta.get("soa") else ""
    if set(layers) - set("45"):
        raise CheckpointError(
            f"{path}: meta has soa_layers {printable(layers)!r}, but attention stands after 4, 5 or 45"
        )
    alone = kind == "gem" and not regional and dim is None
    return {
        "kind": kind,
        "regional": regional,
        "regional_whitening": regional and f"{head}pool.whiten.weight" in state,
        "local_whitening": bool(meta.get("local_whitening")),
        "dim": dim,
        "second_order": tuple(int(layer) - 1 for layer in sorted(set(layers))),
        "over_scales": "gem" if alone else "mean",
    }


def _learned(
    path: Path, meta: Mapping[Any, Any], dim: int, whitening: Whitening
) -> tuple[dict[str, "Tensor"], list[str]]:
    """Return the whitening that was learned after the training as a layer, and what is said of the choice."""
    source, sets = whitening.source, meta.get("Lw")
    sets = sets if isinstance(sets, Mapping) else {}
    if source == NONE:
        return {}, ["no learned whitening is applied"]
    if source is not None and Path(source).is_file():
        pair = read(Path(source))
        return _layer(Path(source), pair, dim), [f"the learned whitening is that of {printable(Path(source).name)}"]
    known = [f"{name}/{kind}" for name, kinds in sets.items() if isinstance(kinds, Mapping) for kind in kinds]
    if source is None and meta.get("whitening"):
        return {}, []
    if source is None and not known:
        return {}, ["it has no whitening: give one of its authors' *_whiten.pth with  --whitening FILE  for theirs"]
    name, _, kind = (source or "").partition("/")
    name = name or next(n for n in (_USUAL_SET, *sorted(map(str, sets))) if n in sets)
    kind = kind or "ms"
    kinds = sets.get(name)
    if not isinstance(kinds, Mapping) or kind not in kinds:
        there = ", ".join(printable(one) for one in known) or "none"
        raise CheckpointError(
            f"{path}: --whitening {printable(str(source))} is neither a file nor a whitening of its meta['Lw'], "
            f"which has {there}"
        )
    others = [printable(one) for one in known if one != f"{name}/{kind}"]
    said = f"its learned whitening (Lw) of {printable(name)}/{kind} is applied"
    return _layer(path, kinds[kind], dim), [
        said + (f"; --whitening takes another: {', '.join(others)}" if others else "")
    ]


def _layer(path: Path, pair: Any, dim: int) -> dict[str, "Tensor"]:
    what = "the learned whitening"
    return final_layer(path, numbers(path, pair, "P", what), numbers(path, pair, "m", what), dim, what)
