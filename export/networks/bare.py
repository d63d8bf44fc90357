"""The configuration of a network of which there are the tensors alone, and the name of its trunk."""

from collections.abc import Mapping
from dataclasses import replace

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.export.networks.config import Architecture, Edges, Lit, NetworkConfig, Refinement, Smoothing
from ctxdeploy.export.networks.families import state_shapes
from ctxdeploy.export.networks.pretrained import MEAN, STD

Shapes = Mapping[str, tuple[int, ...]]


def bare_config(architecture: Architecture, shapes: Shapes) -> tuple[NetworkConfig, str]:
    """Return the network of some tensors, and what they do not say and was taken for granted.

    Args:
        architecture: of the trunk.
        shapes: of the tensors, by the network's own names.

    Raises:
        CheckpointError: the trunk cannot be of this architecture.
        ConfigError: the tensors do not describe a network.
    """
    assumed: list[str] = []
    lit = _lit(shapes, assumed)
    refinement = _refinement(shapes, assumed)
    smoothing = _smoothing(shapes, lit is not None, assumed)
    learned = refinement is not None or smoothing.kind == "gaussian"
    whitening = shapes.get("dim_reduction.weight")
    config = NetworkConfig(
        family="fire" if lit else "ctx" if learned else "how",
        architecture=architecture,
        dim=whitening[0] if whitening else None,
        lit=lit,
        refinement=refinement,
        smoothing=smoothing,
    )
    config = _with_cut(config, shapes)
    if architecture.lite is not None:
        return replace(config, mean=MEAN, std=STD), ", ".join([*assumed, "TensorFlow's mean and deviation of colours"])
    return config, ", ".join([*assumed, "ImageNet's mean and deviation of colours"])


def _with_cut(config: NetworkConfig, shapes: Shapes) -> NetworkConfig:
    """Return the configuration with the cut of the trunk whose tensors are the given ones."""
    given = {name for name in shapes if name.startswith("backbone.")}
    lite, nearest = config.architecture.lite, ""
    for skip_layer in (0,) if config.architecture is Architecture.VGG16 else (0, 1):
        for block in [None] if lite is None else [*lite.cuts(skip_layer)]:
            tried = replace(config, skip_layer=skip_layer, block=block, dim=None)
            expected = {name for name in state_shapes(tried, Extraction()) if name.startswith("backbone.")}
            absent = sorted(name for name in expected - given if not name.endswith("num_batches_tracked"))
            if not absent and given <= expected:
                last = lite is not None and block == lite.cuts(skip_layer)[-1]
                return replace(config, skip_layer=skip_layer, block=None if last else block)
            nearest = nearest or next(iter(absent or sorted(given - expected)))
    raise CheckpointError(
        f"its {len(given)} tensors of a trunk are not those of {config.architecture.label} ({nearest})"
    )


def _lit(shapes: Shapes, assumed: list[str]) -> Lit | None:
    templates = shapes.get("lit.templates_init")
    if templates is None:
        return None
    if len(templates) != 3:
        raise ConfigError(f"lit.templates_init has the shape {templates}, but 1×N×D is needed")
    assumed.append(f"{Lit().steps} steps of attention")
    return Lit(templates=templates[1], dim=templates[2])


def _refinement(shapes: Shapes, assumed: list[str]) -> Refinement | None:
    blocks = sum(name.startswith("refinement.blocks.") and name.endswith(".weight") for name in shapes)
    if not blocks:
        return None
    if "refinement.blocks.0.threshold" in shapes:
        return Refinement(blocks=blocks, edges=Edges.THRESHOLD)
    query = shapes.get("refinement.blocks.0.query")
    if query is not None:
        if len(query) != 2:
            raise ConfigError(f"refinement.blocks.0.query has the shape {query}, but C×D is needed")
        return Refinement(blocks=blocks, edges=Edges.ATTENTION, dim=query[1])
    if "refinement.blocks.0.temperature" in shapes:
        return Refinement(blocks=blocks, edges=Edges.SOFTMAX)
    found = Refinement(blocks=blocks, edges=Edges.TOPK)
    assumed.append(f"{found.neighbours} edges of a node")
    return found


def _smoothing(shapes: Shapes, is_lit: bool, assumed: list[str]) -> Smoothing:
    if is_lit:
        return Smoothing(kind="none")
    kind = "gaussian" if any(name.startswith("smoothing.") for name in shapes) else "average"
    found = Smoothing(kind=kind)
    assumed.append(f"{kind} smoothing of {found.kernel_size}×{found.kernel_size} cells")
    return found
