"""The trunk of a network, by its architecture."""

from torch import nn

from ctxdeploy.export.networks.config import Architecture, NetworkConfig
from ctxdeploy.export.networks.efficientnet import EfficientNetTrunk
from ctxdeploy.export.networks.keras_resnet import KerasResNetTrunk
from ctxdeploy.export.networks.resnet import ResNetTrunk, fold_batch_norm
from ctxdeploy.export.networks.slim_resnet import SlimResNetTrunk
from ctxdeploy.export.networks.vgg import VggTrunk


def trunk_of(config: NetworkConfig) -> nn.Module:
    """Return the trunk of a configuration, its weights not loaded yet.

    B×3×H×W to B×C×⌈H/stride⌉×⌈W/stride⌉, of VGG rounded down.
    """
    if config.delf is not None and config.delf.trunk == "keras":
        return KerasResNetTrunk(config.architecture, config.delf.strides)
    if config.delf is not None:
        return SlimResNetTrunk(config.architecture, (2, 2, *config.delf.strides))
    lite = config.architecture.lite
    if config.architecture is Architecture.VGG16:
        return VggTrunk()
    if lite is None:
        return ResNetTrunk(config.architecture, config.skip_layer)
    return EfficientNetTrunk(lite, lite.cut(config.skip_layer, config.block))


def fold_trunk(trunk: nn.Module) -> None:
    """Fold every batch normalisation of a trunk into the convolution before it, in place (evaluation mode)."""
    if isinstance(trunk, EfficientNetTrunk):
        trunk.fold()
    elif isinstance(trunk, ResNetTrunk):
        fold_batch_norm(trunk)
