"""A global head for a trained network of local descriptors: GeM on its trunk, and a whitening of its training views.

Nothing is trained: of the pooled features of random views the PCA is taken, and its directions are divided by their
variance^SHRINKAGE. The result is a checkpoint of the family ``gem`` that ``ctxdeploy export`` reads.

    python benchmarks/global_head.py lite-small.pth lite-global.pth --landmarks landmarks --landmarks places \
        --others trainphotos --weights benchmarks/lite-small/all.csv
    ctxdeploy export lite-global.pth -o lite-global.ctxbundle

Power, shrinkage, dimension and scales were chosen on landmarks that the first of the two runs behind ``lite-small`` had
not seen, with that run's weights (docs/study.md).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.export import save_checkpoint
from ctxdeploy.export.networks import DenseNetwork, NetworkConfig, Smoothing, build
from ctxdeploy.export.networks.pooling import GeM
from ctxdeploy.export.networks.pooling_config import Pooling
from ctxdeploy.training.config import TransferConfig
from ctxdeploy.training.photos import PhotoStore
from ctxdeploy.training.sets import PhotoSet, joined, read_set, read_weights, weighted
from ctxdeploy.training.start import network_from
from ctxdeploy.training.transfer_sampling import TransferSampler

POWER, SHRINKAGE, DIM = 4.0, 0.35, 512
SCALES = (1.414, 1.0, 0.707, 0.5)
VIEW, PHOTO, WEIGHTED, SEED = 224, 512, 16, 1900
_SAID = 20


def main() -> None:
    """Fit the head and write the checkpoint."""
    options = _options()
    network, image_size = network_from(options.checkpoint, 0, smoothing=None, refinement=None)
    network.eval()
    mean, projection = _whitening(_pooled(network, _photo_set(options), options.batches))
    config = NetworkConfig(
        family="gem",
        architecture=network.config.architecture,
        skip_layer=network.config.skip_layer,
        block=network.config.block,
        dim=None,
        smoothing=Smoothing(kind="none"),
        pooling=Pooling(kind="gem", dim=DIM, norm="floored"),
        mean=network.config.mean,
        std=network.config.std,
    )
    found = build(config, config.fitted(Extraction(global_dim=DIM, global_scales=SCALES)))
    found.backbone.load_state_dict(network.backbone.state_dict())
    fitted = {"pool.p": [POWER], "whitening.weight": projection, "whitening.bias": -(projection @ mean)}
    found.get_submodule("global_head").load_state_dict(
        {name: torch.tensor(np.array(values), dtype=torch.float32) for name, values in fitted.items()}
    )
    save_checkpoint(found, options.out, image_size=image_size)


@torch.inference_mode()
def _pooled(network: DenseNetwork, photo_set: PhotoSet, batches: int) -> NDArray[np.float64]:
    """Return the pooled features of the views of some batches, n×C, of length 1."""
    store = PhotoStore(photo_set.paths, PHOTO, 3 << 30)
    sampler = TransferSampler(photo_set, store, TransferConfig(view_size=VIEW), WEIGHTED, SEED, size=VIEW)
    pool, rows = GeM(POWER), []
    for number in range(batches):
        x = (sampler.batch(number).views - network.get_buffer("mean")) / network.get_buffer("std")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = network.backbone(x.contiguous(memory_format=torch.channels_last))
        rows.append(nn.functional.normalize(pool(x.float()), dim=1).double().numpy())
        if number % _SAID == _SAID - 1:
            print(f"{number + 1} of {batches} batches", flush=True)
    return np.concatenate(rows)


def _whitening(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean, C, and the projection, DIM×C."""
    mean = x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((x - mean).T))
    largest = np.argsort(-values)[:DIM]
    return mean, (vectors[:, largest] * np.maximum(values[largest], values.max() * 1e-6) ** -SHRINKAGE).T


def _photo_set(options: argparse.Namespace) -> PhotoSet:
    sets = [read_set("landmarks", place) for place in options.landmarks]
    photo_set = joined(sets + [read_set("photos", place) for place in options.others])
    return weighted(photo_set, read_weights(options.weights)) if options.weights else photo_set


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--landmarks", type=Path, action="append", required=True, help="folder of folders")
    parser.add_argument("--others", type=Path, action="append", default=[], help="photos without labels")
    parser.add_argument("--weights", type=Path, help="landmark, factor of how often it is drawn")
    parser.add_argument("--batches", type=int, default=240, help="of 40 views")
    return parser.parse_args()


if __name__ == "__main__":
    main()
