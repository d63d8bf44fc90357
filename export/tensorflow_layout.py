"""Which tensor of a TensorFlow checkpoint is which tensor of DELF or DELG.

Tensors of the trunk and of the attention are known by slim's names. Those of DELG's other layers are known by their
shapes, which no other tensor outside of the trunk has.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.core.text import counted, printable
from ctxdeploy.export.networks.config import Architecture, NetworkConfig
from ctxdeploy.export.networks.slim_names import SLIM_NORM, slim_name
from ctxdeploy.export.tensor_bundle import INDEX, TensorBundle

if TYPE_CHECKING:
    from torch import Tensor

_TRUNK = re.compile(r"(?:^|.*/)(resnet_v1_(?:50|101))/(?:conv1|block\d/unit_\d+/bottleneck_v1/\w+)/")
_ATTENTION = re.compile(r"(.*attention.*/)conv2/(?:weights|kernel)$")
# Of an optimiser, and averages that training keeps beside the weights.
_BESIDE = re.compile(r"/(Momentum|Adam(_1)?|RMSProp(_1)?|ExponentialMovingAverage|\.OPTIMIZER_SLOT/.*)$|^global_step$")
# Names of tensors that a message lists.
_LISTED = 40

# Of a global descriptor; a classifier has as many outputs as there are landmarks, 81,313 of GLDv2-clean.
_MAX_DIM = 8192
# Texts, in ``types.proto``.
_TEXT = 7
# What our normalisations add to the variance.
EPSILON = 1e-5

Array = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Which tensor of a checkpoint is which.

    Attributes:
        bundle: the checkpoint.
        trunk: what the names of its tensors begin with, up to ``resnet_v1_50/``.
        architecture: of the trunk.
        attention: what the names of its tensors begin with.
        heads: names of the weights of DELG's encoder, decoder and linear layer, by our names; none of DELF.
        unused: tensors that the network does not have.
    """

    bundle: TensorBundle
    trunk: str
    architecture: Architecture
    attention: str
    heads: Mapping[str, str]
    unused: tuple[str, ...]

    @classmethod
    def of(cls, bundle: TensorBundle) -> "Layout":
        """Find the trunk, the attention and DELG's layers; ``CheckpointError`` lists the names where one is missing."""
        names = [name for name, entry in bundle.entries.items() if not (_BESIDE.search(name) or entry.type == _TEXT)]
        roots = {found[0][: found.end(1) + 1] for name in names if (found := _TRUNK.match(name))}
        others = [name for name in names if not name.startswith(tuple(roots))] if roots else names
        attentions = [found[1] for name in others if (found := _ATTENTION.match(name))]
        if len(roots) != 1 or len(attentions) != 1:
            what = f"{len(roots)} trunks resnet_v1_50 or resnet_v1_101 and {len(attentions)} attentions"
            raise strange(bundle, f"it has {what} where one of each is needed", names if not roots else others)
        trunk, attention = roots.pop(), attentions[0]
        architecture = Architecture.parse(trunk.rstrip("/").rpartition("/")[2].replace("resnet_v1_", "resnet"))
        free = [name for name in others if not name.startswith(attention)]
        has_block4 = any(name.startswith(f"{trunk}block4/") for name in names)
        heads = _heads(bundle, free) if has_block4 else {}
        taken = {_beside(name, "biases", "bias") for name in heads.values()} | set(heads.values())
        unused = [name for name in free if name not in taken]
        linear = [name for name in free if _sides(bundle, name)[0] == 2048 and _sides(bundle, name)[1] <= _MAX_DIM]
        if has_block4 and not heads and linear:
            what = (
                f"it has a fourth block and {printable(linear[0])}, as DELG has, a layer of 2048 inputs, but no "
                "encoder and decoder; DELG without these is not known here"
            )
            raise strange(bundle, what, free)
        if has_block4 and not heads:
            unused.append(f"{trunk}block4")
        return cls(
            bundle=bundle,
            trunk=trunk,
            architecture=architecture,
            attention=attention,
            heads=heads,
            unused=tuple(unused),
        )

    @property
    def is_delg(self) -> bool:
        """Whether there is a global descriptor."""
        return bool(self.heads)

    @property
    def encoded(self) -> int:
        """Dimension of DELG's local descriptors."""
        return self.bundle.entries[self.heads["dim_reduction"]].shape[-1]

    @property
    def whole(self) -> int:
        """Dimension of the global descriptor; 0 of DELF."""
        return self.bundle.entries[self.heads["global_head.whitening"]].shape[-1] if self.heads else 0

    def remarks(self) -> list[str]:
        """Say what was taken for what, and what was left out."""
        said = [f"{'DELG' if self.is_delg else 'DELF'} on {self.trunk.rstrip('/')}, its attention {self.attention}*"]
        parts = {"dim_reduction": "encoder", "decoder": "decoder", "global_head.whitening": "linear layer"}
        said += [f"by its shape the {parts[part]} is {name}" for part, name in self.heads.items()]
        if self.unused:
            shown = ", ".join(printable(name) for name in self.unused[:8])
            more = f" and {len(self.unused) - 8} more" if len(self.unused) > 8 else ""
            said.append(f"left out, as the network has none of them: {shown}{more}")
        return said

    def names(self, expected: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        """Return the tensor of each of our names."""
        found = {}
        for name in expected:
            part, _, rest = name.partition(".")
            layer, _, kind = name.rpartition(".")
            if name.endswith("num_batches_tracked"):
                continue
            if part == "backbone":
                found[name] = self.trunk + slim_name(rest)
            elif part == "attention":
                found[name] = self.attention + _attention_name(rest)
            elif layer in self.heads:
                weight = self.heads[layer]
                found[name] = weight if kind == "weight" else _beside(weight, "biases", "bias")
        return found

    def read(self, config: NetworkConfig, extraction: Extraction) -> dict[str, "Tensor"]:
        """Return the tensors by our names, after all of them were compared by name and shape."""
        from ctxdeploy.export.networks.families import state_shapes

        expected = state_shapes(config, extraction)
        names, entries = self.names(expected), self.bundle.entries
        means = {name: tensor for name, tensor in names.items() if name.endswith("running_mean")}
        biases = {name: _beside(_convolution(tensor), "biases", "bias") for name, tensor in means.items()}
        given = {name: bias for name, bias in biases.items() if bias in entries}
        return read_tensors(self.bundle, names, expected, Norms(biases=given))


@dataclass(frozen=True, kw_only=True)
class Norms:
    """What the normalisations of a file have that ours do not.

    Attributes:
        biases: of the convolutions before them, by our name of the normalisation's mean.
        epsilon: what is added to their variances.
    """

    biases: Mapping[str, str]
    epsilon: float = EPSILON


def read_tensors(
    bundle: TensorBundle, names: Mapping[str, str], expected: Mapping[str, tuple[int, ...]], norms: Norms
) -> dict[str, "Tensor"]:
    """Return tensors by our names, after all of them were compared by name and shape.

    Args:
        bundle: the checkpoint.
        names: of its tensors, by ours.
        expected: shapes, by our names.
        norms: of the file.

    Raises:
        CheckpointError: some are missing or of another shape; the message names them.
    """
    entries = bundle.entries
    missing = [name for name in names.values() if name not in entries]
    other = [
        f"{tensor} {list(entries[tensor].shape)} instead of {list(_slim_shape(expected[name]))}"
        for name, tensor in names.items()
        if tensor in entries and not _fits(entries[tensor].shape, expected[name])
    ]
    if missing or other:
        found = [f"missing: {_list(missing)}"] * bool(missing) + [f"of another shape: {_list(other)}"] * bool(other)
        raise strange(bundle, "; ".join(found), list(entries))
    state = {}
    for name, tensor in names.items():
        value = bundle.read(tensor).astype(np.float32)
        if name in norms.biases:
            # A convolution with a bias and a normalisation: the normalisation's mean is that much less.
            value = value - bundle.read(norms.biases[name]).astype(np.float32)
        if name.endswith("running_var"):
            value = (value.astype(np.float64) + (norms.epsilon - EPSILON)).astype(np.float32)
        state[name] = turned(_to_ours(value.reshape(_slim_shape(expected[name]))))
    return state


def _heads(bundle: TensorBundle, names: list[str]) -> dict[str, str]:
    """Return DELG's layers by their shapes; none if there is no encoder; ``CheckpointError`` if two could be one."""
    sides = {name: _sides(bundle, name) for name in names}
    decoders = [side for side in sides.values() if side[1] == 1024 and 1 <= side[0] <= 1024]
    if not decoders:
        return {}
    dim = decoders[0][0]
    found_by_part = {
        "dim_reduction": [name for name, side in sides.items() if side == (1024, dim)],
        "decoder": [name for name, side in sides.items() if side == (dim, 1024)],
        "global_head.whitening": [name for name, (given, made) in sides.items() if given == 2048 and made <= _MAX_DIM],
    }
    heads = {}
    for part, found in found_by_part.items():
        if len(found) != 1:
            raise strange(bundle, f"{len(found)} tensors could be DELG's {part} where one is needed", names)
        heads[part] = found[0]
    return heads


def _sides(bundle: TensorBundle, name: str) -> tuple[int, int]:
    """Return input and output channels of a 1×1 convolution or a linear layer; other tensors have none."""
    shape = bundle.entries[name].shape
    if len(shape) == 4 and shape[:2] == (1, 1):
        return shape[2], shape[3]
    return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)


def strange(bundle: TensorBundle, what: str, names: list[str]) -> CheckpointError:
    """Return an error that says what is wrong with a file, and lists the tensors of these names."""
    shown = [f"{printable(name)} {list(bundle.entries[name].shape)}" for name in names[:_LISTED]]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return CheckpointError(
        f"{bundle.prefix}{INDEX} is not of a DELF or DELG that is known here: {what}. "
        f"It holds {counted(len(bundle.entries), 'tensor')}: {', '.join(shown)}{more}"
    )


def _list(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _attention_name(name: str) -> str:
    layer, kind = name.split(".")
    if layer == "bn1":
        return f"conv1/BatchNorm/{SLIM_NORM[kind]}"
    return f"{layer}/{'weights' if kind == 'weight' else 'biases'}"


def _convolution(name: str) -> str:
    """Return the name of the weights whose output a tensor of a normalisation normalises."""
    return name.rsplit("/BatchNorm/", 1)[0] + "/weights"


def _beside(weights: str, *endings: str) -> str:
    """Return the name of the bias beside weights: slim's, or Keras's."""
    place, _, kind = weights.rpartition("/")
    return f"{place}/{endings[0] if kind == 'weights' else endings[1]}"


def _slim_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that slim's tensor has for ours: rows, columns, input, output; or input, output."""
    return (shape[2], shape[3], shape[1], shape[0]) if len(shape) == 4 else shape[::-1]


def _fits(shape: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    """Say whether a tensor is one of ours, where a linear layer and a 1×1 convolution are the same."""
    wanted = _slim_shape(ours)
    return shape == wanted or (1, 1, *shape) == wanted or shape == (1, 1, *wanted)


def _to_ours(value: Array) -> Array:
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T


def turned(value: Array) -> "Tensor":
    """Return an array as a tensor of float32."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(value, np.float32))
