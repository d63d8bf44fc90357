"""The network that a training starts from: first weights, or those of a checkpoint."""

from dataclasses import replace
from pathlib import Path

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.export import load_checkpoint
from ctxdeploy.export.networks import DenseNetwork, NetworkConfig, Refinement, Smoothing, build, load_trunk
from ctxdeploy.training.features import initialise, initialise_refinements, trainable

# Of the checkpoints that are written: five scales, 0.49 of the pixels of HOW's seven.
EXTRACTION = Extraction(scales=(1.414, 1.0, 0.707, 0.5, 0.353), top_k=1000)
_REFINEMENTS = ("refinement.", "smoothing.")


def new_network(config: NetworkConfig, seed: int) -> DenseNetwork:
    """Return an untrained network.

    Raises:
        ConfigError: it is not of a kind that can be trained here.
    """
    network = trainable(build(config, replace(EXTRACTION, dim=config.descriptor_dim)))
    initialise(network, seed)
    return network


def network_on_trunk(config: NetworkConfig, weights: Path, seed: int) -> DenseNetwork:
    """Return a network whose trunk has the weights of a file; all else is untrained.

    Raises:
        CheckpointError: the file has no such weights.
        ConfigError: the network is not of a kind that can be trained here.
    """
    network = new_network(config, seed)
    load_trunk(network.backbone, weights, label=config.architecture.label)
    return network


def network_from(
    path: Path, seed: int, *, smoothing: Smoothing | None, refinement: Refinement | None
) -> tuple[DenseNetwork, int]:
    """Return the network of a checkpoint, refinements added or replaced, and the image size that it is used with.

    Args:
        path: the checkpoint.
        seed: of the first weights of refinements that the checkpoint lacks.
        smoothing: None keeps the checkpoint's.
        refinement: None keeps the checkpoint's.

    Raises:
        CheckpointError: the file cannot be loaded.
        ConfigError: the network is not of a kind that can be trained here.
    """
    checkpoint = load_checkpoint(path)
    source = trainable(checkpoint.network())
    config = replace(
        checkpoint.config,
        smoothing=smoothing or checkpoint.config.smoothing,
        refinement=refinement or checkpoint.config.refinement,
    )
    learned = config.refinement is not None or config.smoothing.kind == "gaussian"
    config = replace(config, family="ctx" if learned else "how")
    network = trainable(build(config, source.extraction))
    initialise_refinements(network, seed)
    kept = {name: value for name, value in source.state_dict().items() if _fits(network, name, value)}
    missing, _ = network.load_state_dict(kept, strict=False)
    lost = [name for name in missing if not name.startswith(_REFINEMENTS)]
    if lost:
        raise CheckpointError(f"{path} lacks {', '.join(lost[:5])}")
    return network, checkpoint.image_size


def _fits(network: DenseNetwork, name: str, value: object) -> bool:
    own = network.state_dict().get(name)
    return own is not None and own.shape == getattr(value, "shape", None)
