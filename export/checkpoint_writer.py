"""Checkpoints that are written: the form of a family, and any tensors as ``torch.save`` writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.files import replacing
from ctxdeploy.export.networks.families import family
from ctxdeploy.export.state_dict import file_name

if TYPE_CHECKING:
    from ctxdeploy.export.networks.network import DescriptorNetwork


def save_checkpoint(
    network: "DescriptorNetwork", path: str | Path, *, image_size: int = 1024, half: bool = False
) -> None:
    """Write a network in the form of its family: FIRe's own, else the ctx form (HOW's with more options).

    Args:
        network: in any mode.
        path: the file.
        image_size: longest side of photos, in pixels.
        half: write matrices as float16; vectors, such as batch normalisation's, stay float32.

    Raises:
        StorageError: the file cannot be written.
    """
    config = network.config
    params = {
        **family(config.family).net_params(config),
        "runtime": {
            "mean_std": [list(config.mean), list(config.std)],
            "image_size": image_size,
            "features_num": network.extraction.top_k,
            **({"features_share": share} if (share := network.extraction.top_share) < 1.0 else {}),
            "scales": list(network.extraction.scales),
            **({"global_scales": list(scales)} if (scales := network.extraction.global_scales) else {}),
            "training_scales": [1],
        },
    }
    state = {file_name(name): tensor for name, tensor in network.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
    save_tensors({"_version": family(config.family).version, "net_params": params, "state_dict": state}, Path(path))


def save_tensors(content: Mapping[str, Any], path: Path) -> None:
    """Write a file with ``torch.save``, in place of the one that is there; equal content gives equal bytes.

    Raises:
        StorageError: the file cannot be written.
    """
    import torch

    with replacing(path) as temporary:
        try:
            # To an opened file: given a path, PyTorch writes its name into the file.
            with temporary.open("wb") as file:
                torch.save(dict(content), file)
        except RuntimeError as error:  # how PyTorch closes a file on a full disk
            raise StorageError(f"{path} cannot be written: {error.__context__ or error}") from error
