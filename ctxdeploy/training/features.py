"""The parts of a network that training works on: its maps at one scale, its first weights, descriptors of photos."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks import DenseNetwork, DescriptorNetwork, GaussianSmoothing, GraphConvolution, l2_attention

# Standard deviation of a graph convolution's first weights, times the square root of the channels: with 0 the ReLU
# behind them would pass no gradient, with 1 they would bury the features that they refine.
_GRAPH_GAIN = 0.1


def trainable(network: DescriptorNetwork) -> DenseNetwork:
    """Return a HOW or ctx network as such; ``ConfigError`` for FIRe, whose training is another."""
    if not isinstance(network, DenseNetwork):
        raise ConfigError(f"networks of the family {network.config.family} cannot be trained here: how and ctx can")
    return network


def initialise(network: DenseNetwork, seed: int) -> None:
    """Draw first weights: He initialisation for the trunk, refinements that change little."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    if isinstance(network.dim_reduction, nn.Conv2d):
        nn.init.kaiming_normal_(network.dim_reduction.weight, nonlinearity="linear", generator=generator)
        if network.dim_reduction.bias is not None:
            nn.init.zeros_(network.dim_reduction.bias)
    initialise_refinements(network, seed)


def initialise_refinements(network: DenseNetwork, seed: int) -> None:
    """Draw first weights of graph refinement and smoothing, as for a trunk that is trained already."""
    generator = torch.Generator().manual_seed(seed + 1)
    for module in network.modules():
        if isinstance(module, GraphConvolution):
            nn.init.normal_(module.weight, std=_GRAPH_GAIN * len(module.weight) ** -0.5, generator=generator)
            _initialise_projections(module, generator)
        elif isinstance(module, GaussianSmoothing):
            nn.init.normal_(module.predict.weight, std=0.01, generator=generator)


def _initialise_projections(block: GraphConvolution, generator: torch.Generator) -> None:
    """Begin with queries that are the keys, and products of them that are the cosines on average: softmax edges.

    With queries and keys that know nothing of each other a position would take the mean of all, and learn that.
    """
    for projection in block.projections()[:1]:
        nn.init.normal_(projection, std=projection.shape[1] ** -0.5, generator=generator)
        with torch.no_grad():
            block.key.copy_(projection)


class Maps:
    """Features of views at one scale, the trunk in lower precision if asked for.

    Args:
        network: HOW or ctx.
        precision: of the trunk, ``fp32`` or ``bf16``; all else is fp32.
    """

    def __init__(self, network: DenseNetwork, precision: str) -> None:
        self.network, self._low = network, precision == "bf16"

    def features(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return smoothed features B×C×h×w and attention B×h×w, both before the whitening, of views in 0..1."""
        network = self.network
        x = (views - network.get_buffer("mean")) / network.get_buffer("std")
        with torch.autocast(x.device.type, dtype=torch.bfloat16) if self._low else nullcontext():
            x = network.backbone(x.contiguous(memory_format=torch.channels_last))
        x = x.float()
        if network.refinement is not None:
            x = network.refinement(x)
        return network.smoothing(x), l2_attention(x)

    def descriptors(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return descriptors B×D×h×w and attention B×h×w of views B×3×H×W in 0..1."""
        features, attention = self.features(views)
        return self.network.dim_reduction(features), attention


def sampled(maps: Tensor, photo: Tensor, positions: Tensor) -> Tensor:
    """Return normalised descriptors M×D at positions, bilinearly; beyond the map is 0.

    Products of matrices, not ``grid_sample``, whose gradients a GPU sums in an order that changes from run to run.

    Args:
        maps: B×D×h×w.
        photo: M, which of the maps, rising; on the CPU, so that a GPU is not waited for.
        positions: M×2, x then y, in sides of the view.
    """
    counts = torch.bincount(photo, minlength=len(maps))
    row = torch.arange(len(photo)) - (counts.cumsum(0) - counts)[photo]
    photo, row, most = photo.to(maps.device), row.to(maps.device), max(1, int(counts.max()))
    rows, columns = maps.shape[2:]
    x, y = (_tents(positions[:, axis], cells) for axis, cells in ((0, columns), (1, rows)))
    weights = maps.new_zeros(len(maps), most, rows * columns)
    weights[photo, row] = (y[:, :, None] * x[:, None, :]).flatten(1)
    values = weights @ maps.flatten(2).transpose(1, 2)
    return F.normalize(values[photo, row], dim=1)


def _tents(at: Tensor, cells: int) -> Tensor:
    """Return each cell's share M×cells of positions M in 0..1 of the side: 1 at its centre, 0 a cell away."""
    number = torch.arange(cells, dtype=at.dtype, device=at.device)
    return torch.relu(1 - (at[:, None] * cells - 0.5 - number).abs())


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; the mode of every module is what it was afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
