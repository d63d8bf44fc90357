"""A network's tensors in whatever training programs write around them: dictionaries, and prefixes of names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.core.text import counted, printable

# Keys under which programs keep the tensors, the trained ones first, an average of them last.
_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "network",
    "net",
    "net_state_dict",
    "weights",
    "params",
    "student",
    "teacher",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "params_ema",
    "ema",
)
_AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "params_ema", "ema")
_DESCRIBED = ("net_params", "meta", "_version")
# Parts of names that wrappers of a network add, wherever in it they stand, and what adds them.
_WRAPPERS = {
    "module": "DataParallel",
    "_orig_mod": "torch.compile",
    "_forward_module": "Lightning Fabric",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
}
# Counts of AveragedModel and of averages, no tensors of the network.
_COUNTS = ("n_averaged", "decay", "num_updates", "step", "initted")
# What names of a network's tensors begin with: in files, in our networks, and in torchvision's ResNets.
ROOTS = frozenset(
    [
        "features",
        "backbone",
        "whiten",
        "dim_reduction",
        "global_head",
        "attention",
        "decoder",
        "second_order",
        "smoothing",
        "refinement",
        "lit",
        "conv1",
        "bn1",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
        "fc",
    ]
)
_TRUNK = frozenset(["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"])
_MAX_DEPTH = 3
# Children of torchvision's ResNet in order, as HOW's ``features.0`` … ``features.7`` number them.
_FEATURES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Unwrapped:
    """What a checkpoint's file holds of a network.

    Attributes:
        content: the dictionary that describes the network; empty for a bare state dict.
        state: the tensors by name, without prefixes of wrappers; what was there if that is not a dictionary.
        remarks: what was left out or taken off, as people are told.
    """

    content: Mapping[Any, Any]
    state: Any
    remarks: tuple[str, ...]


def unwrap(path: Path, content: Mapping[Any, Any]) -> Unwrapped:
    """Find the description of a network and its tensors.

    Raises:
        CheckpointError: there are several networks, or two tensors of one name.
    """
    remarks: list[str] = []
    described = _described(content)
    if described is not None:
        state = described.get("state_dict")
        if not isinstance(state, Mapping):
            state = next((s for _, s in _states({k: v for k, v in described.items() if k not in _DESCRIBED})), state)
    else:
        found = list(_states(content))
        if not found:
            return Unwrapped(content={}, state=None, remarks=())
        where, state = found[0]
        if where:
            remarks.append(f"its tensors are those under {where!r}")
        if where and where.split(".")[-1] not in _AVERAGES:
            remarks += [f"the average of weights under {key!r} is left out" for key, _ in found[1:] if key in _AVERAGES]
    if isinstance(state, Mapping):
        state = _plain_names(path, state, remarks)
    return Unwrapped(content=described or {}, state=state, remarks=tuple(remarks))


def _described(content: Mapping[Any, Any], depth: int = 0) -> Mapping[Any, Any] | None:
    """Return the dictionary that says which network it is of, at the top or below a key of a training program."""
    if any(key in content for key in _DESCRIBED):
        return content
    options = content.get("hyper_parameters")  # of Lightning
    if isinstance(options, Mapping) and "net_params" in options:
        return {**options, "_version": "lightning", "state_dict": content.get("state_dict")}
    for key in _KEYS if depth < _MAX_DEPTH else ():
        inner = content.get(key)
        if isinstance(inner, Mapping) and not _is_state(inner):
            found = _described(inner, depth + 1)
            if found is not None:
                return found
    return None


def _is_state(value: Any) -> bool:
    """Say whether a value is a dictionary of tensors, counts among them at most."""
    import torch

    if not isinstance(value, Mapping) or not value:
        return False
    tensors = sum(isinstance(entry, torch.Tensor) for entry in value.values())
    return tensors > len(value) // 2


def _states(content: Mapping[Any, Any], depth: int = 0) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield dictionaries of tensors with where they lie, the content itself as an empty text."""
    if _is_state(content):
        yield "", content
        return
    for key in _KEYS if depth < _MAX_DEPTH else ():
        inner = content.get(key)
        if isinstance(inner, Mapping):
            for where, state in _states(inner, depth + 1):
                yield f"{key}.{where}" if where else key, state


def _plain_names(path: Path, state: Mapping[Any, Any], remarks: list[str]) -> dict[Any, Any]:
    """Return the tensors by names without the parts that wrappers add; other keys than texts stay as they are."""
    texts = [name for name in state if isinstance(name, str) and name not in _COUNTS]
    names = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in texts}
    for wrapper, made in _WRAPPERS.items():
        if any(wrapper in name.split(".") for name in texts):
            remarks.append(f"{wrapper + '.'!r} of {made} is taken off the names of its tensors")
    prefixes = sorted({prefix for prefix in map(_prefix, names.values()) if prefix is not None})
    if len(prefixes) > 1:
        shown = ", ".join(repr(printable(prefix)) for prefix in prefixes[:4])
        raise CheckpointError(
            f"{path} holds several networks, their names beginning with {shown}: save the tensors of one of them alone"
        )
    prefix = prefixes[0] if prefixes else ""
    if prefix:
        remarks.append(f"{printable(prefix)!r} is taken off the names of its tensors")
    plain: dict[Any, Any] = {}
    for name, tensor in state.items():
        new = names[name].removeprefix(prefix) if name in names else name
        if new in _COUNTS and _is_count(tensor):
            continue
        if new in plain:
            raise CheckpointError(f"{path} holds {printable(str(new))} twice, with and without a wrapper's prefix")
        plain[new] = tensor
    return plain


def _is_count(value: Any) -> bool:
    return not hasattr(value, "ndim") or value.ndim == 0


def _prefix(name: str) -> str | None:
    """Return what stands before the first part that a network's tensor begins with; None if there is none."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part in ROOTS:
            return "".join(f"{before}." for before in parts[:i])
    return None


def as_trunk(state: Mapping[Any, Any], remarks: list[str]) -> dict[Any, Any]:
    """Return the tensors of a bare ResNet of torchvision as those of a trunk, without its classifier."""
    if not any(str(name).partition(".")[0] in _TRUNK for name in state):
        return dict(state)
    classifier = [name for name in state if str(name).startswith("fc.")]
    if classifier:
        remarks.append(f"its classifier, {counted(len(classifier), 'tensor')}, is left out")
    return {
        f"backbone.{name}" if str(name).partition(".")[0] in _TRUNK else name: tensor
        for name, tensor in state.items()
        if name not in classifier
    }


def module_name(name: str) -> str:
    """Return the network's own name of a tensor in a file."""
    first, _, rest = name.partition(".")
    number, _, tail = rest.partition(".")
    return f"backbone.{_FEATURES[number]}.{tail}" if first == "features" and number in _FEATURES else name


def file_name(name: str) -> str:
    """Return a file's name of a network's tensor."""
    first, _, rest = name.partition(".")
    layer, _, tail = rest.partition(".")
    numbers = {child: number for number, child in _FEATURES.items()}
    return f"features.{numbers[layer]}.{tail}" if first == "backbone" and layer in numbers else name
