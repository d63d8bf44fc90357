"""A network without training that still answers: random weights, statistics fitted to photos.

For the demo, until there is a trained built-in model, and for tests. Batch normalisation takes the statistics of the
photos, and the whitening is a PCA of their features, so that descriptors spread over all dimensions as trained ones do.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.delf_network import AttentiveNetwork
from ctxdeploy.export.networks.delg_network import DelgNetwork
from ctxdeploy.export.networks.families import build
from ctxdeploy.export.networks.lit import LocalFeatureIntegration
from ctxdeploy.export.networks.network import DescriptorNetwork, RetrievalNetwork
from ctxdeploy.export.networks.pooling import GlobalHead
from ctxdeploy.export.networks.refinement import GraphConvolution
from ctxdeploy.export.networks.smoothing import GaussianSmoothing

Image = NDArray[np.uint8]
# Deviation of the logits by which untrained templates choose positions: at 1 each attends to nearly all alike.
_SHARPNESS = 4.0


def untrained_network(
    config: NetworkConfig, extraction: Extraction, photos: Sequence[Image], *, seed: int = 0
) -> DescriptorNetwork:
    """Return a network with random weights (He initialisation), fitted to photos.

    Args:
        config: the network.
        extraction: scales and K.
        photos: H×W×3 uint8; a dozen are enough for batch normalisation, and the whitening needs more positions than
            the network has dimensions.
        seed: of the weights; equal seeds and photos give equal networks on one machine.
    """
    generator = torch.Generator().manual_seed(seed)
    network = build(config, extraction)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, GraphConvolution):
            nn.init.normal_(module.weight, std=config.channels**-0.5, generator=generator)
            for projection in module.projections():
                nn.init.normal_(projection, std=projection.shape[1] ** -0.5, generator=generator)
        elif isinstance(module, LocalFeatureIntegration):
            _initialise_integration(module, generator)
    for module in network.modules():
        if isinstance(module, GaussianSmoothing):
            # Weak enough that bandwidth and confidence vary around softplus(0) and 1/2 instead of saturating.
            nn.init.normal_(module.predict.weight, std=0.1 * config.channels**-0.5, generator=generator)
    _fit_batch_norm(network, photos)
    if isinstance(network, RetrievalNetwork) and config.dim is not None:
        _fit_whitening(network, photos)
    if isinstance(network, AttentiveNetwork):
        _fit_attention(network, photos, generator)
    for head in network.modules():
        if isinstance(head, GlobalHead):
            _fit_global_whitening(network, head, photos, generator)
    return network.eval()


def _initialise_integration(module: LocalFeatureIntegration, generator: torch.Generator) -> None:
    """Draw weights that keep the templates of unit variance apart from each other through the steps."""
    nn.init.normal_(module.templates_init, generator=generator)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            gain = _SHARPNESS if layer is module.project_q else 1.0
            nn.init.normal_(layer.weight, std=gain * layer.in_features**-0.5, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def _fit_batch_norm(network: DescriptorNetwork, photos: Sequence[Image]) -> None:
    """Set the running statistics to the mean over the photos of what each layer sees in training mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for photo in photos:
        network.backbone(_input(network, photo))
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()


@torch.no_grad()
def _fit_whitening(network: RetrievalNetwork, photos: Sequence[Image], shrinkage: float = 1.0) -> None:
    """Set the whitening to the PCA of the features before it, directions divided by their deviation^shrinkage."""
    maps = [_whitened(network, _input(network, photo), photo.shape) for photo in photos]
    features = torch.cat([x[0].flatten(1).T for x in maps]).double()
    dim = network.config.descriptor_dim
    if len(features) <= dim:
        raise ConfigError(f"{len(features)} positions are too few to whiten {dim} dimensions: give more photos")
    mean = features.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((features - mean).T))
    order = torch.argsort(values, descending=True)[:dim]
    scale = values[order].clamp(min=values.max() * 1e-9) ** (-shrinkage / 2)
    projection = (vectors[:, order] * scale).T
    layer = network.dim_reduction
    if not isinstance(layer, nn.Conv2d) or layer.bias is None:
        raise ConfigError("the network has no whitening to fit")
    layer.weight.copy_(projection[:, :, None, None])
    layer.bias.copy_(-(projection @ mean))


@torch.no_grad()
def _fit_attention(network: AttentiveNetwork, photos: Sequence[Image], generator: torch.Generator) -> None:
    """Give DELF's attention the statistics of its input, and logits of about 1: softplus of -20 is 0 in OpenVINO."""
    attention = network.attention
    nn.init.normal_(attention.conv2.weight, std=attention.conv2.in_channels**-0.5, generator=generator)
    norm = attention.bn1
    norm.reset_running_stats()
    norm.momentum = None  # cumulative average
    norm.train()
    for photo in photos:
        network.features(_input(network, photo), *photo.shape[:2])
    norm.momentum = 0.1
    norm.eval()


def _whitened(network: RetrievalNetwork, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return what the whitening takes: of DELG its encoder, the map that both kinds of descriptors share."""
    if isinstance(network, DelgNetwork):
        return network.shared_map(x)
    return network.features(x, shape[0], shape[1])[0]


@torch.no_grad()
def _fit_global_whitening(
    network: DescriptorNetwork, head: GlobalHead, photos: Sequence[Image], generator: torch.Generator
) -> None:
    """Turn the vectors of the photos about their mean: pooled features are positive, and nearly alike before.

    A dozen photos say nothing of most of 2048 directions: all of them keep their length.
    """
    for layer in (module for module in head.modules() if isinstance(module, nn.Linear)):
        nn.init.orthogonal_(layer.weight, generator=generator)
        seen: list[Tensor] = []
        with layer.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0])):
            for photo in photos:
                network(torch.from_numpy(np.array(photo))[None])
        # What takes maps of features uses weight and bias without a call.
        mean = torch.cat([x.flatten(0, -2) for x in seen]).mean(dim=0) if seen else torch.zeros(layer.in_features)
        layer.bias.copy_(-(layer.weight @ mean))


def _input(network: DescriptorNetwork, photo: Image) -> Tensor:
    return network.normalise(torch.from_numpy(np.array(photo))[None])
