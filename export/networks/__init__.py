"""The networks: one file for each family, named in the table of ``families``, and one for each part.

``config`` imports no torch; the other names load it on first use.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.export.networks.config import Architecture, Edges, Lit, NetworkConfig, Refinement, Smoothing
    from ctxdeploy.export.networks.dense import DenseNetwork
    from ctxdeploy.export.networks.families import build
    from ctxdeploy.export.networks.network import RetrievalNetwork, l2_attention
    from ctxdeploy.export.networks.refinement import GraphConvolution
    from ctxdeploy.export.networks.smoothing import GaussianSmoothing

__all__ = [
    "Architecture",
    "DenseNetwork",
    "Edges",
    "GaussianSmoothing",
    "GraphConvolution",
    "Lit",
    "NetworkConfig",
    "Refinement",
    "RetrievalNetwork",
    "Smoothing",
    "build",
    "l2_attention",
]

_HOMES = {
    "Architecture": "config",
    "DenseNetwork": "dense",
    "Edges": "config",
    "GaussianSmoothing": "smoothing",
    "GraphConvolution": "refinement",
    "Lit": "config",
    "NetworkConfig": "config",
    "Refinement": "config",
    "RetrievalNetwork": "network",
    "Smoothing": "config",
    "build": "families",
    "l2_attention": "network",
}

__getattr__, __dir__ = door(__name__, _HOMES)
