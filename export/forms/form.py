"""What a reader of a published form returns, and what people choose of it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.export.checkpoint_records import numbers_of
from ctxdeploy.export.networks.config import NetworkConfig

if TYPE_CHECKING:
    from torch import Tensor

# Of the network's names and the file's: what a name begins with.
Names = tuple[tuple[str, str], ...]
NONE = "none"
FINAL = "global_head.final."
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WRAPPERS = re.compile(r"\b(module|_orig_mod)\.")


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """Which whitening of the finished vector is taken.

    Attributes:
        source: a file with {m, P}, a training set that the checkpoint names, or ``none``; None takes the usual one.
        power: of the variances by which a PCA divides (dirtorch).
    """

    source: str | None = None
    power: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise ConfigError(f"--whitening-power {self.power}: give 0 (no whitening) to 1; the authors take 0.25")


@dataclass(frozen=True, kw_only=True, eq=False)
class Published:
    """A network in the form of its authors.

    Attributes:
        form: name of the program that wrote it.
        config: the network.
        scales: factors of the image pyramid.
        state: its tensors by the network's names.
        names: what the file calls them.
        remarks: what was chosen, as people are told.
    """

    form: str
    config: NetworkConfig
    scales: tuple[float, ...]
    state: Mapping[str, "Tensor"]
    names: Names
    remarks: tuple[str, ...]


def renamed(path: Path, state: Any, names: Names) -> dict[str, "Tensor"]:
    """Return tensors by the network's names; those that the table does not know keep the file's."""
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} has no dictionary 'state_dict'")
    found: dict[str, Any] = {}
    for key, tensor in state.items():
        name = _WRAPPERS.sub("", str(key))
        own = next((ours + name.removeprefix(theirs) for ours, theirs in names if name.startswith(theirs)), name)
        if own in found:
            raise CheckpointError(f"{path} holds {printable(name)} twice, with and without a wrapper's prefix")
        found[own] = tensor
    return found


def file_words(names: Names, own: str) -> str:
    """Return the file's name of a network's tensor."""
    return next((theirs + own.removeprefix(ours) for ours, theirs in names if own.startswith(ours)), own)


def need(path: Path, state: Mapping[str, Any], names: Names, said: str, tensors: Iterable[str]) -> None:
    """Raise ``CheckpointError`` unless the tensors are there that the file's description asks for."""
    missing = [file_words(names, name) for name in tensors if name not in state]
    if missing:
        raise CheckpointError(f"{path}: {said}, but its state_dict lacks {', '.join(missing)}")


def final_layer(
    path: Path, projection: NDArray[np.float64], mean: NDArray[np.float64], dim: int, what: str
) -> dict[str, "Tensor"]:
    """Return y = P (x - m) as the tensors of a linear layer.

    Args:
        path: for messages.
        projection: P, D'×D.
        mean: m, D numbers in any shape.
        dim: D, of the vectors before it.
        what: it is, for messages.

    Raises:
        CheckpointError: the shapes do not fit.
    """
    import torch

    mean = mean.reshape(-1)
    if projection.ndim != 2 or projection.shape[1] != dim or len(mean) != dim or not 1 <= len(projection) <= dim:
        raise CheckpointError(
            f"{path}: {what} is of {projection.shape} and {len(mean)} numbers, but the network's vectors have {dim}"
        )
    bias = -(projection @ mean)
    return {f"{FINAL}weight": torch.from_numpy(projection).float(), f"{FINAL}bias": torch.from_numpy(bias).float()}


def numbers(path: Path, holder: Any, key: str, what: str) -> NDArray[np.float64]:
    """Return the array under a key of a dictionary; ``CheckpointError`` names what is not there."""
    if not isinstance(holder, Mapping) or key not in holder:
        keys = ", ".join(printable(str(k)) for k in list(holder)[:6]) if isinstance(holder, Mapping) else "nothing"
        raise CheckpointError(f"{path}: {what} has no {key!r}, but {keys}")
    return numbers_of(holder[key], f"{path}: {key!r} of {what}")


def triple(path: Path, values: Any, usual: Sequence[float]) -> tuple[float, float, float]:
    """Return mean or deviation of the colours, the usual ones where the file has none."""
    try:
        red, green, blue = (float(value) for value in (usual if values is None else values))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: mean or std {str(values)[:80]} are not three numbers") from error
    return red, green, blue
