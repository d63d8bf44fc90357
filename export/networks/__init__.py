"""The networks: one file for each family, named in the table of ``families``, and one for each part.

``config`` imports no torch; the other names load it on first use.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.export.networks.config import Architecture, Edges, Lit, NetworkConfig, Refinement, Smoothing
    from ctxdeploy.export.networks.delf_config import Delf
    from ctxdeploy.export.networks.dense import DenseNetwork
    from ctxdeploy.export.networks.efficientnet import EfficientNetTrunk
    from ctxdeploy.export.networks.families import build
    from ctxdeploy.export.networks.global_network import GlobalNetwork
    from ctxdeploy.export.networks.local_global import LocalGlobalNetwork
    from ctxdeploy.export.networks.network import DescriptorNetwork, RetrievalNetwork, l2_attention
    from ctxdeploy.export.networks.pooling import GlobalHead
    from ctxdeploy.export.networks.pooling_config import Pooling
    from ctxdeploy.export.networks.pretrained import PRETRAINED, find_weights, load_trunk, pretrained_config
    from ctxdeploy.export.networks.refinement import GraphConvolution
    from ctxdeploy.export.networks.smoothing import GaussianSmoothing

__all__ = [
    "PRETRAINED",
    "Architecture",
    "Delf",
    "DenseNetwork",
    "DescriptorNetwork",
    "Edges",
    "EfficientNetTrunk",
    "GaussianSmoothing",
    "GlobalHead",
    "GlobalNetwork",
    "GraphConvolution",
    "Lit",
    "LocalGlobalNetwork",
    "NetworkConfig",
    "Pooling",
    "Refinement",
    "RetrievalNetwork",
    "Smoothing",
    "build",
    "find_weights",
    "l2_attention",
    "load_trunk",
    "pretrained_config",
]

_HOMES = {
    "EfficientNetTrunk": "efficientnet",
    "PRETRAINED": "pretrained",
    "find_weights": "pretrained",
    "load_trunk": "pretrained",
    "pretrained_config": "pretrained",
    "Architecture": "config",
    "Delf": "delf_config",
    "DenseNetwork": "dense",
    "DescriptorNetwork": "network",
    "Edges": "config",
    "GaussianSmoothing": "smoothing",
    "GlobalHead": "pooling",
    "GlobalNetwork": "global_network",
    "GraphConvolution": "refinement",
    "Lit": "config",
    "LocalGlobalNetwork": "local_global",
    "NetworkConfig": "config",
    "Pooling": "pooling_config",
    "Refinement": "config",
    "RetrievalNetwork": "network",
    "Smoothing": "config",
    "build": "families",
    "l2_attention": "network",
}

__getattr__, __dir__ = door(__name__, _HOMES)
