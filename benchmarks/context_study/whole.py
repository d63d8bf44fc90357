"""The same question with the trunk trained too: forms of context as ``ctxdeploy train`` trains them, several seeds.

All begin from one checkpoint that has not seen the landmarks to validate on. ``run`` trains and scores what is not done
yet, as ``study.py`` scores; ``average`` scores the mean of the weights of a form's seeds (a "model soup": Wortsman et
al., ICML 2022), which costs nothing at search. ``study.py table`` reads the runs of either.

    python benchmarks/context_study/whole.py run first/model.pth work --landmarks landmarks --landmarks places \\
        --photos trainphotos --weights held-out.csv --validate val --forms none,gauss3 --seeds 1,2,3
    python benchmarks/context_study/whole.py average first/model.pth work --validate val … --forms none --seeds 1,2,3
    python benchmarks/context_study/study.py table work --steps 240 --output whole.json
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from forms import BEGIN, FORMS
from study import judged

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.progress import Display
from ctxdeploy.export import load_checkpoint, save_checkpoint
from ctxdeploy.export.networks import DescriptorNetwork, GaussianSmoothing, Refinement, Smoothing, build
from ctxdeploy.runtime import find_photos
from ctxdeploy.training import RunConfig, Start, TrainConfig, train
from ctxdeploy.training.config import OptimiserConfig, TransferConfig
from ctxdeploy.training.photos import PhotoStore
from ctxdeploy.training.sets import PhotoSet, joined, read_set, read_weights, weighted
from ctxdeploy.training.start import EXTRACTION, network_from

TOP, SIDE = 1000, 512


def run(options: argparse.Namespace) -> None:
    """Train and score."""
    photo_set, jobs = photo_set_of(options), _jobs(options)
    for name, seed in jobs:
        folder = options.work / f"{name}-{seed}"
        start = Start(checkpoint=_begin(options.checkpoint, name, seed, options.work))
        display = Display(quiet=True)
        train(folder, photo_set, start, _config(options, seed), RunConfig(threads=options.threads), display)
        _score(folder / "model.pth", name, seed, photo_set, options)


def average(options: argparse.Namespace) -> None:
    """Score the mean of the weights of all seeds of each form."""
    photo_set = photo_set_of(options)
    for name in options.forms.split(","):
        models = [options.work / f"{name}-{seed}" / "model.pth" for seed in options.seeds.split(",")]
        target = options.work / f"{name}-average.pth"
        write_average(models, target)
        _score(target, f"{name}-average", 0, photo_set, options)


def write_average(models: Sequence[Path], target: Path) -> None:
    """Write a checkpoint whose weights are the mean of those of others, networks of one configuration."""
    first, _ = network_from(models[0], 0, smoothing=None, refinement=None)
    states = [network_from(model, 0, smoothing=None, refinement=None)[0].state_dict() for model in models]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in first.state_dict().items()
    }
    first.load_state_dict(mean)
    save_checkpoint(first, target, image_size=load_checkpoint(models[0]).image_size)


def _config(options: argparse.Namespace, seed: int) -> TrainConfig:
    recipe = TransferConfig(whitening_shrinkage=None, final_from=1.0)
    optimiser = OptimiserConfig(learning_rate=6e-4, backbone_factor=0.2, warmup=30, averaging=0.99)
    return TrainConfig(recipe=recipe, optimiser=optimiser, steps=options.steps, seed=seed)


def _begin(checkpoint: Path, name: str, seed: int, work: Path) -> Path:
    """Write the checkpoint with a form's parts added; a Gaussian begins near the average over 3×3."""
    form = FORMS[name]
    kind, side = form.smoothing
    graph = None if form.graph is None else Refinement(blocks=1, edges=form.graph)
    smoothing = Smoothing(kind=kind, kernel_size=side)
    network, image_size = network_from(checkpoint, seed, smoothing=smoothing, refinement=graph)
    if isinstance(network.smoothing, GaussianSmoothing):
        with torch.no_grad():
            network.smoothing.predict.bias.copy_(torch.tensor(BEGIN[side]))
    target = work / f"begin-{name}-{seed}.pth"
    save_checkpoint(network, target, image_size=image_size)
    return target


def _score(model: Path, name: str, seed: int, photo_set: PhotoSet, options: argparse.Namespace) -> None:
    target = options.work / "runs" / f"{name}-{seed}.json"
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    start = time.process_time()
    network = pyramid(model, TOP)
    files = [photo.path for photo in find_photos(options.validate) if photo.path is not None]
    chosen = np.unique(np.linspace(0, len(photo_set) - 1, options.photos_of_words).astype(int))
    photos = dict(described(network, files, SIDE))
    others = [vectors for _, vectors in described(network, [photo_set.paths[i] for i in chosen], SIDE)]
    figures, precisions = judged(photos, others, options.validate)
    facts = {"form": name, "seed": seed, "steps": options.steps, "learned": {}, "seconds": time.process_time() - start}
    target.write_text(json.dumps({**facts, "figures": figures, "ap": precisions}))
    print(name, seed, {key: round(value, 2) for key, value in figures.items()}, flush=True)


def pyramid(model: Path, top: int) -> DescriptorNetwork:
    """Return the network of a checkpoint over all scales, that returns so many descriptors."""
    network, _ = network_from(model, 0, smoothing=None, refinement=None)
    extraction = Extraction(scales=EXTRACTION.scales, top_k=top, dim=network.config.descriptor_dim)
    copy = build(network.config, extraction)
    copy.load_state_dict(network.state_dict())
    copy.fold()
    return copy.eval()


@torch.inference_mode()
def described(network: DescriptorNetwork, files: Sequence[Path], side: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and descriptors, strongest first, of photos of at most so many pixels."""
    store = PhotoStore(tuple(files), side, memory=0)
    for number, file in enumerate(files):
        image = store.load(number)
        if image is not None:
            vectors, attention, _, _ = network(torch.tensor(image)[None])
            yield file.name, vectors[0][attention[0] > 0].float().numpy()


def photo_set_of(options: argparse.Namespace) -> PhotoSet:
    """Return the training photos."""
    sets = [read_set("landmarks", place) for place in options.landmarks]
    photo_set = joined(sets + [read_set("photos", place) for place in options.photos])
    return weighted(photo_set, read_weights(options.weights)) if options.weights else photo_set


def _jobs(options: argparse.Namespace) -> list[tuple[str, int]]:
    return [(name, int(seed)) for seed in options.seeds.split(",") for name in options.forms.split(",")]


def add_photo_options(parser: argparse.ArgumentParser) -> None:
    """Add what is read."""
    parser.add_argument("--landmarks", type=Path, action="append", default=[])
    parser.add_argument("--photos", type=Path, action="append", default=[], help="training photos without landmarks")
    parser.add_argument("--weights", type=Path, help="as of ctxdeploy train")
    parser.add_argument("--validate", type=Path, required=True, help="photos of other landmarks, with gnd.json")
    parser.add_argument("--photos-of-words", type=int, default=400, help="training photos for words and distractors")
    parser.add_argument("--threads", type=int, default=2)


def main() -> None:
    """Do one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "average"))
    parser.add_argument("checkpoint", type=Path, help="that every form begins from")
    parser.add_argument("work", type=Path, help="folder of runs")
    add_photo_options(parser)
    parser.add_argument("--forms", default="none,gauss3,gauss5")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--steps", type=int, default=240)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    {"run": run, "average": average}[options.what](options)


if __name__ == "__main__":
    main()
