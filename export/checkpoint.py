"""Checkpoints that load: HOW (current and the 2020 release), ctx, the same form with more options, and FIRe."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError, ConfigError, StorageError
from ctxdeploy.core.files import replacing
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.families import FAMILIES, build, family, family_of

if TYPE_CHECKING:
    from torch import Tensor

    from ctxdeploy.export.networks.network import RetrievalNetwork


def read(path: Path) -> dict[Any, Any]:
    """Return the dictionary that a checkpoint file holds; nothing in the file is executed.

    Raises:
        CheckpointError: it cannot be read, holds more than data, or is not a dictionary.
    """
    import numpy as np
    import torch

    # HOW's own files carry training scores: a defaultdict of lists, with numpy floats in it. PyTorch fills dictionaries
    # of three kinds alone, and a defaultdict is not one of them: it becomes a plain one.
    plain: list[Any] = [(_plain_dict, "collections.defaultdict"), list, dict]
    plain += [np.dtype, np.float64, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
    scalar = np.float64(0).__reduce__()[0]
    plain += [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(plain):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except Exception as error:  # torch raises a dozen classes for a file that is not a checkpoint
        reason = _reason(error)
        code = re.search(r"GLOBAL (\S+)", reason)
        if code:
            raise CheckpointError(
                f"{path} holds more than tensors and numbers ({code[1]}); it is not loaded, as that could run code"
            ) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__} instead of a dictionary: "
            "it is not a checkpoint of HOW, ctx or FIRe"
        )
    return content


def _plain_dict(*_factory: Any) -> dict[Any, Any]:
    return {}


def _reason(error: BaseException) -> str:
    """Return the line that says what is wrong, without PyTorch's advice to load the file with its code."""
    if "weights_only" in str(error) and error.__context__ is not None:
        error = error.__context__
    return next((line.strip()[:160] for line in str(error).splitlines() if line.strip()), type(error).__name__)


# Children of torchvision's ResNet in order, as HOW's ``features.0`` … ``features.7`` number them.
_FEATURES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: the file.
        form: ``how``, ``how-2020``, ``ctx`` or ``fire``.
        config: the network it describes.
        extraction: the scales and the number of descriptors that it was trained to be used with.
        image_size: the longest side that it was trained to be used with, in pixels.
        state: the network's tensors, by the file's own names.
    """

    path: Path
    form: str
    config: NetworkConfig
    extraction: Extraction
    image_size: int
    state: Mapping[str, "Tensor"]

    def network(self, extraction: Extraction | None = None) -> "RetrievalNetwork":
        """Return the network with its weights, in evaluation mode, float32.

        Raises:
            CheckpointError: tensors are missing, unexpected, of another shape or not finite; the message names them.
        """
        extraction = replace(extraction or self.extraction, dim=self.config.descriptor_dim)
        network = build(self.config, extraction)
        expected = network.state_dict()
        self._check_types()
        given = {_module_name(name): tensor for name, tensor in self.state.items()}
        # Counts of training steps: missing in files of old PyTorch versions, unused in evaluation.
        for name in expected:
            if name.endswith("num_batches_tracked"):
                given.setdefault(name, expected[name])
        self._check(expected, given)
        network.load_state_dict(given)
        return network

    def _check_types(self) -> None:
        strange = [str(name) for name, value in self.state.items() if not (isinstance(name, str) and _is_real(value))]
        if strange:
            raise CheckpointError(
                f"{self.path}: state_dict holds entries that are not tensors of real numbers: {_listed(strange)}"
            )

    def _check(self, expected: Mapping[str, "Tensor"], given: Mapping[str, "Tensor"]) -> None:
        problems = {
            "missing": [_file_name(name) for name in expected if name not in given],
            "unexpected": [_file_name(name) for name in given if name not in expected],
            "of another shape": [
                f"{_file_name(name)} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
                for name, tensor in expected.items()
                if name in given and given[name].shape != tensor.shape
            ],
            "negative": [
                _file_name(name)
                for name, tensor in given.items()
                if name.endswith("running_var") and bool((tensor < 0).any())
            ],
            "not finite": [_file_name(name) for name, tensor in given.items() if not bool(tensor.isfinite().all())],
        }
        found = [f"{what}: {_listed(names)}" for what, names in problems.items() if names]
        if found:
            label = f"{self.config.architecture.label} (skip_layer {self.config.skip_layer})"
            raise CheckpointError(
                f"{self.path} does not fit the {self.config.family} network {label} that it names; {'; '.join(found)}"
            )

    def weights_sha256(self) -> str:
        """Return the hex sha256 of the tensors (names, shapes, bytes as float32), the same for any file with them."""
        digest = hashlib.sha256()
        for name in sorted(self.state):
            if name.endswith("num_batches_tracked"):
                continue
            # float32 is what the network computes with; numpy has no bfloat16 at all.
            array = self.state[name].detach().cpu().float().contiguous().numpy()
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file.

    Raises:
        CheckpointError: it cannot be read, holds more than data, or describes no network known here.
    """
    path = Path(path)
    form, params, state = _content(path, read(path))
    if not isinstance(params, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{path} has no dictionary 'net_params' or 'state_dict'")
    try:
        known = family_of(params)
        config = known.configuration(params)
        extraction = _extraction(config, params["runtime"])
        image_size = int(params["runtime"].get("image_size", 1024))
    except KeyError as error:
        raise CheckpointError(f"{path}: net_params lacks {error}") from error
    except (ConfigError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    state = {name: tensor for name, tensor in state.items() if not str(name).startswith(known.dropped)}
    return Checkpoint(path=path, form=form, config=config, extraction=extraction, image_size=image_size, state=state)


def save_checkpoint(
    network: "RetrievalNetwork", path: str | Path, *, image_size: int = 1024, half: bool = False
) -> None:
    """Write a network in the form of its family: FIRe's own, else the ctx form (HOW's with more options).

    Args:
        network: in any mode.
        path: the file.
        image_size: longest side of photos, in pixels.
        half: write matrices as float16; vectors, such as batch normalisation's, stay float32.

    Raises:
        StorageError: the file cannot be written.
    """
    config = network.config
    params = {
        **family(config.family).net_params(config),
        "runtime": {
            "mean_std": [list(config.mean), list(config.std)],
            "image_size": image_size,
            "features_num": network.extraction.top_k,
            "scales": list(network.extraction.scales),
            "training_scales": [1],
        },
    }
    state = {_file_name(name): tensor for name, tensor in network.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
    save_tensors({"_version": family(config.family).version, "net_params": params, "state_dict": state}, Path(path))


def save_tensors(content: Mapping[str, Any], path: Path) -> None:
    """Write a file with ``torch.save``, in place of the one that is there; equal content gives equal bytes.

    Raises:
        StorageError: the file cannot be written.
    """
    import torch

    with replacing(path) as temporary:
        try:
            # To an opened file: given a path, PyTorch writes its name into the file.
            with temporary.open("wb") as file:
                torch.save(dict(content), file)
        except RuntimeError as error:  # how PyTorch closes a file on a full disk
            raise StorageError(f"{path} cannot be written: {error.__context__ or error}") from error


def _content(path: Path, content: dict[Any, Any]) -> tuple[str, Any, Any]:
    """Return form, ``net_params`` and ``state_dict`` of a file in any of the forms."""
    params, state = content.get("net_params"), content.get("state_dict")
    if isinstance(params, dict) and "lit" in params:
        return "fire", params, state
    if "_version" in content:
        return "ctx" if content["_version"] == FAMILIES["ctx"].version else "how", params, state
    if "meta" in content:
        return "how-2020", _params_of_2020(path, content["meta"]), _state_of_2020(state)
    keys = _listed([str(key) for key in content])
    raise CheckpointError(
        f"{path} is not a checkpoint of HOW, ctx or FIRe: it has neither '_version' nor 'meta', but {keys}"
    )


def _is_real(value: Any) -> bool:
    import torch

    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return False
    return not (value.is_complex() or value.is_quantized or value.is_meta)


def _params_of_2020(path: Path, meta: Any) -> dict[str, Any]:
    try:
        return {
            "architecture": meta["architecture"],
            "skip_layer": meta["skip_layer"],
            "dim_reduction": {"dim": meta["dim"]},
            "smoothing": {"kernel_size": meta["feat_pool_k"]},
            "runtime": {"mean_std": [meta["mean"], meta["std"]]},
        }
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: 'meta' is not that of a HOW checkpoint of 2020: {error!r}") from error


def _state_of_2020(state: Any) -> Any:
    if not isinstance(state, dict):
        return None
    return {str(name).replace("whiten.", "dim_reduction.", 1): tensor for name, tensor in state.items()}


def _extraction(config: NetworkConfig, runtime: dict[str, Any]) -> Extraction:
    default = Extraction()
    return Extraction(
        scales=tuple(float(scale) for scale in runtime.get("scales", default.scales)),
        top_k=runtime.get("features_num") or default.top_k,
        dim=config.descriptor_dim,
    )


def _module_name(name: str) -> str:
    first, _, rest = name.partition(".")
    number, _, tail = rest.partition(".")
    return f"backbone.{_FEATURES[number]}.{tail}" if first == "features" and number in _FEATURES else name


def _file_name(name: str) -> str:
    first, _, rest = name.partition(".")
    layer, _, tail = rest.partition(".")
    numbers = {child: number for number, child in _FEATURES.items()}
    return f"features.{numbers[layer]}.{tail}" if first == "backbone" and layer in numbers else name


def _listed(names: list[str], max_names: int = 8) -> str:
    more = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return ", ".join(names[:max_names]) + more
