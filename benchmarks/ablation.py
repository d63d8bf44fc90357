"""What do learned smoothing and graph refinement add? The slides' table, on minibench, by our own trainer.

From one trained network (average smoothing, no graph) each variant is trained with the same recipe, photos and steps,
once a seed, and scored as training validates: ASMK at ``--image-size`` pixels, 600 descriptors at five scales, a
codebook of the training photos. ``none`` is trained as long as the others. Runs that are finished are not done again.
With the slides' loss, ``contrastive``, all keep the whitening of the network that they start from, so that what
changes is the trunk and the refinements; negatives are found once.

    python benchmarks/ablation.py --init run/model.pth --landmarks landmarks --data minibench
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.core.files import write_json
from ctxdeploy.core.progress import Display
from ctxdeploy.export import load_checkpoint
from ctxdeploy.export.networks import Refinement, Smoothing
from ctxdeploy.training import (
    RECIPES,
    ContrastiveConfig,
    OptimiserConfig,
    RunConfig,
    Start,
    TrainConfig,
    ValidationConfig,
    train,
)
from ctxdeploy.training.features import trainable
from ctxdeploy.training.sets import PhotoSet, joined, read_set
from ctxdeploy.training.validation import Validation

# The slides' rows: smoothing and graph refinement.
VARIANTS: dict[str, tuple[Smoothing, Refinement | None]] = {
    "none": (Smoothing(), None),
    "smoothing, k=3": (Smoothing(kind="gaussian", kernel_size=3), None),
    "smoothing, k=5": (Smoothing(kind="gaussian", kernel_size=5), None),
    "smoothing, k=7": (Smoothing(kind="gaussian", kernel_size=7), None),
    "graph": (Smoothing(), Refinement()),
    "both, k=3": (Smoothing(kind="gaussian", kernel_size=3), Refinement()),
}


def main() -> None:
    """Train and score what is not there yet, then print the table."""
    arguments = _arguments()
    places = [("landmarks", place) for place in arguments.landmarks] + [("photos", place) for place in arguments.photos]
    photos = joined([read_set(kind, place) for kind, place in places])
    record = _record(arguments, photos)
    validation = Validation(arguments.data, photos.paths, ValidationConfig(image_size=arguments.image_size))
    if "start" not in record["scores"]:
        record["scores"]["start"] = {"0": _scores(validation, arguments.init)}
        _write(arguments.out, record)
    for seed in arguments.seeds:
        for label, (smoothing, refinement) in VARIANTS.items():
            runs = record["scores"].setdefault(label, {})
            if str(seed) in runs:
                continue
            start = Start(checkpoint=arguments.init, smoothing=smoothing, refinement=refinement)
            folder = arguments.work / f"{label.replace(', k=', '-')}-{seed}"
            run = RunConfig(threads=arguments.threads)
            trained = train(folder, photos, start, _config(arguments, seed), run, Display(quiet=False))
            runs[str(seed)] = _scores(validation, trained.model)
            _write(arguments.out, record)
            print(label, seed, json.dumps(runs[str(seed)]), flush=True)
    print(table(record["scores"]))


def table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return mean and spread (minimum to maximum) over the seeds in percent, as Markdown."""
    figures = list(next(iter(next(iter(scores.values())).values())))
    lines = ["| | " + " | ".join(figures) + " |", "|---" * (len(figures) + 1) + "|"]
    for label, runs in scores.items():
        cells = []
        for figure in figures:
            values = np.array([100 * run[figure] for run in runs.values()])
            spread = f" ({values.min():.1f} to {values.max():.1f})" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _config(arguments: argparse.Namespace, seed: int) -> TrainConfig:
    optimiser = OptimiserConfig(learning_rate=arguments.learning_rate, backbone_factor=0.1, warmup=20)
    recipe = RECIPES[arguments.recipe]()
    if isinstance(recipe, ContrastiveConfig):
        recipe = replace(recipe, whitening_shrinkage=None, queries=arguments.steps * recipe.tuples)
    return TrainConfig(recipe=recipe, optimiser=optimiser, steps=arguments.steps, seed=seed)


def _scores(validation: Validation, checkpoint: Path) -> dict[str, float]:
    return validation.scores(trainable(load_checkpoint(checkpoint).network()))


def _record(arguments: argparse.Namespace, photos: PhotoSet) -> dict[str, Any]:
    """Return what was measured before with the same settings; refuse to mix with others."""
    settings = {
        "init": load_checkpoint(arguments.init).weights_sha256(),
        "config": {**_config(arguments, 0).metadata(), "seed": None},
        "validation": asdict(ValidationConfig(image_size=arguments.image_size)),
        "photos": photos.metadata(),
        "threads": arguments.threads,
    }
    settings = json.loads(json.dumps(settings))
    if arguments.out.exists():
        record: dict[str, Any] = json.loads(arguments.out.read_text(encoding="utf-8"))
        if record["settings"] != settings:
            raise SystemExit(f"{arguments.out} holds runs with other settings: choose another --out")
        return record
    return {"settings": settings, "scores": {}}


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def _arguments() -> argparse.Namespace:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", type=Path, required=True, help="checkpoint with average smoothing and no graph")
    parser.add_argument("--landmarks", type=Path, action="append", default=[])
    parser.add_argument("--photos", type=Path, action="append", default=[])
    parser.add_argument("--data", type=Path, required=True, help="folder with gnd.json")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="contrastive")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=here / "work" / "ablation")
    parser.add_argument("--out", type=Path, default=here / "results" / "ablation.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
