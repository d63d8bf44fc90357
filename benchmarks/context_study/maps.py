"""What the study computes once: maps before the last layer of a trunk, of views to train on and of photos to score."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from ctxdeploy.export.networks import DenseNetwork, EfficientNetTrunk
from ctxdeploy.training.config import TransferConfig
from ctxdeploy.training.photos import PhotoStore
from ctxdeploy.training.sampling import PairBatch
from ctxdeploy.training.sets import PhotoSet
from ctxdeploy.training.transfer_sampling import TransferSampler

SCALES = (1.414, 1.0, 0.707, 0.5, 0.353)
# Longest side of photos, and of the views to train on.
PHOTO, VIEW = 640, 224
PAIRS = TransferConfig().pairs
_HALF = PAIRS // 2
_SAID = 20


def front(network: DenseNetwork, x: torch.Tensor) -> torch.Tensor:
    """Return the map that the last layer of the trunk reads, of pixels in 0..1."""
    trunk = network.backbone
    if not isinstance(trunk, EfficientNetTrunk):
        raise SystemExit("the study wants a model on a trunk of EfficientNet-Lite")
    x = (x - network.get_buffer("mean")) / network.get_buffer("std")
    return trunk.blocks[:-1](trunk.stem(x.contiguous(memory_format=torch.channels_last)))


@torch.inference_mode()
def write_views(network: DenseNetwork, photo_set: PhotoSet, folder: Path, batches: int) -> None:
    """Draw batches as the recipe ``transfer`` does, and keep the maps of their views in float16."""
    store = PhotoStore(photo_set.paths, 512, 3 << 30)
    sampler = TransferSampler(photo_set, store, TransferConfig(view_size=VIEW), 16, 1900, size=VIEW)
    rows, maps = [], None
    for number in range(batches):
        batch = sampler.batch(number)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = front(network, batch.views).float().numpy().astype(np.float16)
        if maps is None:
            maps = np.lib.format.open_memmap(folder / "views.npy", "w+", np.float16, (batches, *found.shape))
        maps[number] = found
        rows.append({name: getattr(batch, name) for name in ("identity", "pair", "first", "second")})
        if number % _SAID == _SAID - 1:
            print(f"{number + 1} of {batches} batches", flush=True)
    torch.save(rows, folder / "views.pt")


@torch.inference_mode()
def write_photos(network: DenseNetwork, files: Sequence[Path], target: Path) -> None:
    """Keep the maps of photos at all scales, 16 bits a number, and their names and shapes."""
    store = PhotoStore(tuple(files), PHOTO, memory=0)
    maps, names, shapes = [], [], []
    for number, file in enumerate(files):
        image = store.load(number)
        if image is None:
            continue
        x = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        levels = [front(network, _resized(x, scale))[0] for scale in SCALES]
        maps += [level.permute(1, 2, 0).flatten(0, 1).numpy().astype(np.float16) for level in levels]
        names.append(file.name)
        shapes.append([list(level.shape[1:]) for level in levels])
        if number % (5 * _SAID) == 0:
            print(f"{number} of {len(files)} photos", flush=True)
    np.save(target.with_suffix(".npy"), np.concatenate(maps))
    target.with_suffix(".json").write_text(json.dumps({"names": names, "shapes": shapes}))


def read_photos(target: Path) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Yield names, and maps 1×C×h×w at all scales."""
    facts = json.loads(target.with_suffix(".json").read_text())
    rows, row = np.load(target.with_suffix(".npy"), mmap_mode="r"), 0
    for name, shapes in zip(facts["names"], facts["shapes"], strict=True):
        maps = []
        for height, width in shapes:
            values = torch.from_numpy(rows[row : row + height * width].astype(np.float32))
            maps.append(values.reshape(1, height, width, -1).permute(0, 3, 1, 2))
            row += height * width
        yield name, maps


class Views:
    """Batches of pairs drawn from those that were written: ten of one photo, ten of one landmark."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._maps = np.load(folder / "views.npy", mmap_mode="r")
        self._rows = torch.load(folder / "views.pt", weights_only=False)
        self._rng = np.random.default_rng([seed, 77])

    def batch(self) -> PairBatch:
        """Return the next batch; its ``views`` are maps."""
        chosen: list[tuple[int, int]] = []
        for first in (0, _HALF):
            batches = self._rng.integers(len(self._rows), size=_HALF).tolist()
            chosen += zip(batches, (first + self._rng.permutation(_HALF)).tolist(), strict=True)
        maps = [self._maps[b, p + side] for side in (0, PAIRS) for b, p in chosen]
        identity = torch.stack([self._rows[b]["identity"][p] for b, p in chosen])
        inside = [self._rows[b]["pair"] == p for b, p in chosen]
        return PairBatch(
            views=torch.from_numpy(np.stack(maps)),
            identity=identity,
            related=identity[:, None] == identity[None],
            pair=torch.cat([torch.full((int(rows.sum()),), i) for i, rows in enumerate(inside)]),
            first=torch.cat([self._rows[b]["first"][rows] for (b, _), rows in zip(chosen, inside, strict=True)]),
            second=torch.cat([self._rows[b]["second"][rows] for (b, _), rows in zip(chosen, inside, strict=True)]),
        )


def _resized(x: torch.Tensor, scale: float) -> torch.Tensor:
    if scale == 1.0:
        return x
    height, width = (max(1, size * round(scale * 1000) // 1000) for size in x.shape[2:])
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
