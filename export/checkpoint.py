"""Checkpoints that load: HOW (current and the 2020 release) and ctx, the same form with more options.

A file is read with ``weights_only=True``: it can hold tensors, plain containers and numpy numbers, and nothing in it is
executed. The tensors must be exactly those of the network that the file describes.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.bundle import Extraction
from ctxdeploy.errors import CheckpointError, ConfigError
from ctxdeploy.export.networks import build
from ctxdeploy.export.networks.config import Architecture, Edges, NetworkConfig, Refinement, Smoothing

if TYPE_CHECKING:
    from torch import Tensor

    from ctxdeploy.export.networks.network import RetrievalNetwork

CTX_VERSION = "ctx/1"
# Children of torchvision's ResNet in order, as HOW's ``features.0`` … ``features.7`` number them.
_FEATURES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_NET_PARAMS = {"architecture", "pretrained", "skip_layer", "dim_reduction", "smoothing", "refinement", "runtime"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: the file.
        form: ``how``, ``how-2020`` or ``ctx``.
        config: the network it describes.
        extraction: the scales and the number of descriptors that it was trained to be used with.
        image_size: the longest side that it was trained to be used with, in pixels.
        state: tensors by the file's own names.
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
                f"{self.path}: state_dict holds what is no tensor of real numbers: {_listed(strange)}"
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
    content = _read(path)
    if "_version" in content:
        params, form = content.get("net_params"), "ctx" if content["_version"] == CTX_VERSION else "how"
        state = content.get("state_dict")
    elif "meta" in content:
        params, form = _params_of_2020(path, content["meta"]), "how-2020"
        state = _state_of_2020(content.get("state_dict"))
    else:
        keys = _listed([str(key) for key in content])
        raise CheckpointError(f"{path} is no HOW or ctx checkpoint: it has neither '_version' nor 'meta', but {keys}")
    if not isinstance(params, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{path} lacks a dictionary 'net_params' or 'state_dict'")
    try:
        config, extraction, image_size = _configuration(params)
    except KeyError as error:
        raise CheckpointError(f"{path}: net_params lacks {error}") from error
    except (ConfigError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Checkpoint(path=path, form=form, config=config, extraction=extraction, image_size=image_size, state=state)


def save_checkpoint(network: "RetrievalNetwork", path: str | Path, *, image_size: int = 1024) -> None:
    """Write a network in the ctx form (HOW's, with ``smoothing.kind`` and ``refinement``)."""
    import torch

    config = network.config
    refinement = config.metadata()["refinement"]
    params = {
        "architecture": config.architecture.label,
        "pretrained": False,
        "skip_layer": config.skip_layer,
        "dim_reduction": None if config.dim is None else {"dim": config.dim},
        "smoothing": config.metadata()["smoothing"],
        "refinement": None if refinement is None else {"kind": "graph", **refinement},
        "runtime": {
            "mean_std": [list(config.mean), list(config.std)],
            "image_size": image_size,
            "features_num": network.extraction.top_k,
            "scales": list(network.extraction.scales),
            "training_scales": [1],
        },
    }
    state = {_file_name(name): tensor for name, tensor in network.state_dict().items()}
    torch.save({"_version": CTX_VERSION, "net_params": params, "state_dict": state}, path)


def _read(path: Path) -> dict[Any, Any]:
    import numpy as np
    import torch

    # HOW's own files carry training scores: a defaultdict of lists, with numpy floats in it. PyTorch fills dictionaries
    # of three kinds alone, and a defaultdict is none of them: it gets a plain one.
    plain: list[Any] = [(_plain_dict, "collections.defaultdict"), list, dict]
    plain += [np.dtype, np.float64, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
    scalar = np.float64(0).__reduce__()[0]
    plain += [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(plain):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except Exception as error:  # torch raises a dozen classes for a file that is no checkpoint
        reason = _reason(error)
        code = re.search(r"GLOBAL (\S+)", reason)
        if code:
            raise CheckpointError(
                f"{path} holds more than tensors and numbers ({code[1]}); it is not loaded, as that could run code"
            ) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__} instead of a dictionary: it is no checkpoint of HOW or ctx"
        )
    return content


def _plain_dict(*_factory: Any) -> dict[Any, Any]:
    return {}


def _reason(error: BaseException) -> str:
    """Return the line that says what is wrong, without PyTorch's advice to load the file with its code."""
    if "weights_only" in str(error) and error.__context__ is not None:
        error = error.__context__
    return next((line.strip()[:160] for line in str(error).splitlines() if line.strip()), type(error).__name__)


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


def _configuration(params: dict[str, Any]) -> tuple[NetworkConfig, Extraction, int]:
    if "lit" in params:
        raise ConfigError("FIRe networks (net_params has 'lit') are not supported by this version of ctxdeploy")
    unknown = sorted(set(params) - _NET_PARAMS)
    if unknown:
        raise ConfigError(f"net_params has options unknown here: {', '.join(unknown)}")
    runtime = params["runtime"]
    reduction = params["dim_reduction"]
    mean, std = runtime["mean_std"]
    smoothing, refinement = _smoothing(params["smoothing"]), _refinement(params.get("refinement"))
    config = NetworkConfig(
        # By its parts, so that a HOW network has one identity in whichever form it was saved.
        family="ctx" if refinement is not None or smoothing.kind == "gaussian" else "how",
        architecture=Architecture.parse(params["architecture"]),
        skip_layer=params["skip_layer"],
        dim=reduction["dim"] if reduction else None,
        smoothing=smoothing,
        refinement=refinement,
        mean=_triple(mean),
        std=_triple(std),
    )
    default = Extraction()
    extraction = Extraction(
        scales=tuple(float(scale) for scale in runtime.get("scales", default.scales)),
        top_k=runtime.get("features_num") or default.top_k,
        dim=config.descriptor_dim,
    )
    return config, extraction, int(runtime.get("image_size", 1024))


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _smoothing(options: Any) -> Smoothing:
    return Smoothing(**options) if options else Smoothing(kind="none")


def _refinement(options: Any) -> Refinement | None:
    if not options:
        return None
    options = dict(options)
    kind = options.pop("kind", None)
    if kind != "graph":
        raise ConfigError(f"refinement of kind {kind!r}: only 'graph' is known")
    return Refinement(**{**options, "edges": Edges(options["edges"])})


def _module_name(name: str) -> str:
    first, _, rest = name.partition(".")
    number, _, tail = rest.partition(".")
    return f"backbone.{_FEATURES[number]}.{tail}" if first == "features" and number in _FEATURES else name


def _file_name(name: str) -> str:
    first, _, rest = name.partition(".")
    layer, _, tail = rest.partition(".")
    numbers = {child: number for number, child in _FEATURES.items()}
    return f"features.{numbers[layer]}.{tail}" if first == "backbone" and layer in numbers else name


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
