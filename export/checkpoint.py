"""Checkpoints that load: HOW (current and of 2020), ctx, the same form with more options, FIRe, bare tensors."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.core.text import counted, printable
from ctxdeploy.export.checkpoint_file import read
from ctxdeploy.export.forms import Published, Whitening, published
from ctxdeploy.export.forms.form import FINAL, file_words
from ctxdeploy.export.networks.bare import bare_config
from ctxdeploy.export.networks.config import Architecture, NetworkConfig
from ctxdeploy.export.networks.families import FAMILIES, build, family_of, state_shapes
from ctxdeploy.export.state_dict import as_trunk, file_name, module_name, unwrap
from ctxdeploy.export.tensor_bundle import INDEX
from ctxdeploy.export.tensorflow_network import find_index, load_tensorflow

if TYPE_CHECKING:
    from torch import Tensor

    from ctxdeploy.export.networks.network import DescriptorNetwork


_STEPS = "num_batches_tracked"
_NEEDED = ("backbone.conv1.", "backbone.stem.", "backbone.0.", "dim_reduction.", "global_head.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: the file.
        form: ``how``, ``how-2020``, ``ctx``, ``fire``, ``bare``, ``cirtorch``, ``solar`` or ``dirtorch``.
        config: the network it describes.
        extraction: the scales and the number of descriptors that it was trained to be used with.
        image_size: the longest side that it was trained to be used with, in pixels.
        state: the network's tensors, by the file's own names without prefixes of wrappers.
        remarks: what was left out, taken off or taken for granted, as people are told.
        names: what the names of tensors begin with, in the network and in the file, where ``state`` has the former.
    """

    path: Path
    form: str
    config: NetworkConfig
    extraction: Extraction
    image_size: int
    state: Mapping[str, "Tensor"]
    remarks: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()

    def shown(self, name: str) -> str:
        """Return the file's name of a network's tensor."""
        return file_words(self.names, name) if self.names else file_name(name)

    def network(self, extraction: Extraction | None = None) -> "DescriptorNetwork":
        """Return the network with its weights, in evaluation mode, float32.

        Raises:
            CheckpointError: tensors are missing, unexpected, of another shape or not finite; the message names them.
        """
        extraction = self.config.fitted(extraction or self.extraction)
        network = build(self.config, extraction)
        expected = network.state_dict()
        given = {module_name(name): tensor for name, tensor in self.state.items()}
        # Counts of training steps: missing in files of old PyTorch versions, unused in evaluation.
        for name in expected:
            if name.endswith(_STEPS):
                given.setdefault(name, expected[name])
        self._check_values(given)
        network.load_state_dict(given)
        return network

    def check(self) -> None:
        """Compare the tensors with those of the network by name, type and shape; nothing is read of their numbers.

        A file of a thousand bytes can describe a tensor of 10¹¹ numbers, all of them one: what is not of the network
        is refused before anything is computed with it.

        Raises:
            CheckpointError: they do not fit; the message names them.
        """
        strange = [str(name) for name, value in self.state.items() if not (isinstance(name, str) and _is_real(value))]
        if strange:
            raise CheckpointError(
                f"{self.path}: state_dict holds entries that are not tensors of real numbers: {_listed(strange)}"
            )
        expected = state_shapes(self.config, self.config.fitted(self.extraction))
        given = {module_name(name): tensor for name, tensor in self.state.items()}
        self._refuse(
            {
                "missing": [self.shown(n) for n in expected if n not in given and not n.endswith(_STEPS)],
                "unexpected": [self.shown(name) for name in given if name not in expected],
                "of another shape": [
                    f"{self.shown(name)} {tuple(given[name].shape)} instead of {shape}"
                    for name, shape in expected.items()
                    if name in given and given[name].shape != shape
                ],
            }
        )
        other = [
            f"{self.shown(name)} ({str(tensor.dtype).removeprefix('torch.')})"
            for name, tensor in given.items()
            if not (name.endswith(_STEPS) or _is_float(tensor))
        ]
        if other:
            raise CheckpointError(
                f"{self.path}: weights must be float32, float64, float16 or bfloat16, but these are not: "
                f"{_listed(other)}; save the network that they were made from"
            )

    def _check_values(self, given: Mapping[str, "Tensor"]) -> None:
        # Without them every photo has the same descriptors; a refinement of zeros alone adds nothing, as it begins.
        needed = {name for name in given if name.startswith(_NEEDED) and given[name].ndim > 1}
        self._refuse(
            {
                "negative": [
                    self.shown(name)
                    for name, tensor in given.items()
                    if name.endswith("running_var") and bool((tensor < 0).any())
                ],
                "not finite": [self.shown(name) for name, tensor in given.items() if not bool(tensor.isfinite().all())],
                "all zero": [self.shown(name) for name in given if name in needed and not bool(given[name].any())],
            }
        )

    def _refuse(self, problems: Mapping[str, list[str]]) -> None:
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
            if name.endswith(_STEPS):
                continue
            # float32 is what the network computes with; numpy has no bfloat16 at all.
            array = self.state[name].detach().cpu().float().contiguous().numpy()
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


def load_checkpoint(
    path: str | Path,
    *,
    architecture: str | None = None,
    whitening: Whitening | None = None,
    threshold: float | None = None,
) -> Checkpoint:
    """Read a checkpoint file.

    Args:
        path: the file; of TensorFlow a SavedModel's folder, the one that holds it, or a checkpoint's path without
            ``.index``.
        threshold: the least attention of a descriptor of DELF or DELG; the authors' if None.
        architecture: label of the trunk, for a file that holds tensors and does not say of which network.
        whitening: of the finished global vector, for a file that holds several, or none.

    Raises:
        CheckpointError: it cannot be read, holds more than data, describes no network known here, or another trunk than
            ``architecture``; or its tensors are not those of the network.
        ConfigError: the architecture is unknown.
    """
    path = Path(path)
    trunk = None if architecture is None else Architecture.parse(architecture)
    index = find_index(path)
    if index is not None:
        return _checked(_of_tensorflow(index, threshold), trunk)
    if threshold is not None:
        raise ConfigError(f"{path} is not of DELF or DELG, and has no attention to cut: leave out --threshold")
    content = read(path)
    foreign = published(path, content, whitening or Whitening())
    if foreign is not None:
        loaded = _published(path, foreign)
        return _checked(loaded, trunk)
    if whitening not in (None, Whitening()):
        raise ConfigError("--whitening and --whitening-power are for checkpoints of cirtorch, SOLAR and dirtorch")
    found = unwrap(path, content)
    if not found.content and found.state is not None:
        loaded = _bare(path, trunk, found.state, found.remarks)
    else:
        loaded = _described(path, found.content or content, found.state, found.remarks)
    return _checked(loaded, trunk)


def _checked(loaded: Checkpoint, trunk: Architecture | None) -> Checkpoint:
    found = loaded.config.architecture
    if trunk not in (None, found):
        raise CheckpointError(f"{loaded.path} is of a {found.label}, not of a {'' if trunk is None else trunk.label}")
    loaded.check()
    stored = {name: tensor for name, tensor in loaded.state.items() if not name.startswith(FINAL)}
    # Of TensorFlow the numbers lie in other files, each compared with what its index says.
    if loaded.path.suffix != INDEX and sum(_stored(stored)) > loaded.path.stat().st_size:
        raise CheckpointError(f"{loaded.path} names more numbers than it holds: it is damaged")
    return loaded


def _of_tensorflow(index: Path, threshold: float | None) -> Checkpoint:
    found = load_tensorflow(index, threshold=threshold)
    return Checkpoint(
        path=index,
        form=found.config.family,
        config=found.config,
        extraction=found.extraction,
        image_size=1024,
        state=found.state,
        remarks=found.remarks,
    )


def _published(path: Path, found: Published) -> Checkpoint:
    """Return the checkpoint of a network in the form of its authors; photos of 1024 pixels are cirtorch's."""
    return Checkpoint(
        path=path,
        form=found.form,
        config=found.config,
        extraction=found.config.fitted(Extraction(global_dim=found.config.global_dim, global_scales=found.scales)),
        image_size=1024,
        state=found.state,
        remarks=found.remarks,
        names=found.names,
    )


def _stored(state: Mapping[str, "Tensor"]) -> list[int]:
    """Return the bytes of each storage of some tensors, which may share one."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in state.values()}
    return list(storages.values())


def _described(path: Path, content: Mapping[Any, Any], tensors: Any, remarks: tuple[str, ...]) -> Checkpoint:
    form, params, state = _content(path, content, tensors)
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
    return Checkpoint(
        path=path,
        form=form,
        config=config,
        extraction=extraction,
        image_size=image_size,
        state=state,
        remarks=remarks,
    )


def _bare(path: Path, trunk: Architecture | None, state: Mapping[Any, Any], remarks: tuple[str, ...]) -> Checkpoint:
    """Return the checkpoint of tensors that are all there is; what they do not say is taken for granted, and said."""
    if trunk is None:
        names = ", ".join(printable(str(name)) for name in list(state)[:3])
        known = ", ".join(architecture.label for architecture in Architecture)
        raise CheckpointError(
            f"{path} is a bare state dict ({counted(len(state), 'tensor')}: {names} …), which does not say of which "
            f"network: name its trunk to  ctxdeploy export  with --architecture {known}"
        )
    said = list(remarks)
    state = as_trunk(_state_of_2020(state), said)
    shapes = {module_name(str(name)): tuple(getattr(tensor, "shape", ())) for name, tensor in state.items()}
    try:
        config, assumed = bare_config(trunk, shapes)
    except (ConfigError, CheckpointError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    said.append(f"a bare state dict does not say everything, and this was taken for granted: {assumed}")
    return Checkpoint(
        path=path,
        form="bare",
        config=config,
        extraction=Extraction(dim=config.descriptor_dim),
        image_size=1024,
        state={file_name(module_name(str(name))): tensor for name, tensor in state.items()},
        remarks=tuple(said),
    )


def _content(path: Path, content: Mapping[Any, Any], state: Any) -> tuple[str, Any, Any]:
    """Return form, ``net_params`` and ``state_dict`` of a file in any of the forms."""
    params = content.get("net_params")
    if isinstance(params, dict) and "lit" in params:
        return "fire", params, state
    if "_version" in content:
        return "ctx" if content["_version"] == FAMILIES["ctx"].version else "how", params, state
    if "meta" in content:
        return "how-2020", _params_of_2020(path, content["meta"]), _state_of_2020(state)
    keys = _listed([printable(str(key)) for key in content])
    raise CheckpointError(
        f"{path} is not a checkpoint of HOW, ctx, FIRe, cirtorch, SOLAR or dirtorch: it has neither '_version' nor "
        f"'meta', but {keys}"
    )


def _is_real(value: Any) -> bool:
    import torch

    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return False
    return not (value.is_complex() or value.is_quantized or value.is_meta)


def _is_float(tensor: "Tensor") -> bool:
    import torch

    return tensor.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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
    found = Extraction(
        scales=tuple(float(scale) for scale in runtime.get("scales", default.scales)),
        top_k=runtime.get("features_num") or default.top_k,
        top_share=runtime.get("features_share", default.top_share),
        global_scales=tuple(float(s) for s in runtime.get("global_scales", (1.0,))) if config.global_dim else (),
        global_dim=config.global_dim,
    )
    return config.fitted(found)


def _listed(names: list[str], max_names: int = 8) -> str:
    more = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return ", ".join(names[:max_names]) + more
