"""Split a training set: landmarks to validate on, which are trained on by nobody, and weights that leave them out.

Of every kind of landmark a share is drawn by a seed. Those of five photos or more become scenes of a data set as
minibench is one (``gnd.json``, links to the photos), those of fewer its small scenes; photos without landmarks become
distractors. ``ctxdeploy train --weights OUT/weights.csv --validate OUT/photos`` then trains and validates.

    python benchmarks/hold_out.py --landmarks landmarks --landmarks places --kinds kinds.csv --out split

``kinds.csv`` has lines ``landmark,kind,factor``: the scores of a validation are given by kind, and the factor is how
often a landmark is drawn. Without it all are of one kind, factor 1.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.runtime import find_photos

SMALL, MOST = 5, 14
KIND = "landmark"


def main() -> None:
    """Draw the landmarks, and write weights.csv, split.json and photos/ into the folder."""
    arguments = _arguments()
    kinds, factors = _kinds(arguments.kinds)
    photos = _photos(arguments.landmarks)
    rng = np.random.default_rng(arguments.seed)
    held = _held(rng, sorted(photos), kinds, arguments.share) if arguments.held is None else _left_out(arguments.held)
    arguments.out.mkdir(parents=True)
    with (arguments.out / "weights.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerows([name, 0] for name in sorted(held))
        table.writerows([name, f] for name, f in sorted(factors.items()) if name in photos and name not in held)
    truth = _truth(rng, {name: photos[name] for name in sorted(held)}, kinds)
    distractors = [path for place in arguments.distractors for path in _paths(place)[:: arguments.every]]
    truth["distractors"] = [path.name for path in distractors]
    _link(arguments.out / "photos", truth, [*distractors, *(p for name in held for p in photos[name])])
    split = {
        "seed": arguments.seed,
        "share": arguments.share,
        "held": {name: kinds.get(name, KIND) for name in sorted(held)},
    }
    (arguments.out / "split.json").write_text(json.dumps(split, indent=1) + "\n", encoding="utf-8")
    print(
        f"{len(held)} of {len(photos)} landmarks held out: {len(truth['scenes'])} scenes, "
        f"{len(truth['small_scenes'])} small ones, {len(distractors)} distractors"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landmarks", type=Path, action="append", required=True, help="folder of folders")
    parser.add_argument("--distractors", type=Path, action="append", default=[], help="photos of other things")
    parser.add_argument("--every", type=int, default=1, help="of so many distractors of a folder one is taken")
    parser.add_argument("--held", type=Path, help="hold out those that this file of weights leaves out; none is drawn")
    parser.add_argument("--kinds", type=Path, help="lines landmark,kind,factor")
    parser.add_argument("--share", type=float, default=0.15, help="of the landmarks of each kind [0.15]")
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    return parser.parse_args()


def _kinds(path: Path | None) -> tuple[dict[str, str], dict[str, float]]:
    if path is None:
        return {}, {}
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.reader(file) if line]
    return {line[0]: line[1] for line in lines}, {line[0]: float(line[2]) for line in lines if float(line[2]) != 1}


def _left_out(weights: Path) -> set[str]:
    with weights.open(newline="", encoding="utf-8") as file:
        return {line[0] for line in csv.reader(file) if line and float(line[1]) == 0}


def _paths(folder: Path) -> list[Path]:
    return [photo.path.absolute() for photo in find_photos(folder) if photo.path is not None]


def _photos(folders: list[Path]) -> dict[str, list[Path]]:
    """Return the photos of each landmark; the innermost folder is its name."""
    photos: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for path in _paths(folder):
            photos[path.parent.name].append(path)
    return photos


def _held(rng: np.random.Generator, names: list[str], kinds: dict[str, str], share: float) -> set[str]:
    """Return a share of the landmarks of each kind, one at least."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[kinds.get(name, KIND)].append(name)
    held: set[str] = set()
    for group in groups.values():
        count = max(1, round(share * len(group)))
        held.update(str(name) for name in rng.choice(sorted(group), count, replace=False))
    return held


def _truth(rng: np.random.Generator, photos: dict[str, list[Path]], kinds: dict[str, str]) -> dict[str, Any]:
    scenes: dict[str, list[str]] = {}
    small: dict[str, list[str]] = {}
    for name, paths in photos.items():
        files = sorted(path.name for path in paths)
        if len(files) < SMALL:
            small[name] = files
        else:
            scenes[name] = sorted(str(f) for f in rng.choice(files, min(len(files), MOST), replace=False))
    return {
        "name": "held-out landmarks",
        "version": 1,
        "scenes": scenes,
        "queries": [file for files in scenes.values() for file in files],
        "junk_pairs": [],
        "kinds": {name: kinds.get(name, KIND) for name in scenes},
        "small_scenes": small,
        "small_queries": [file for files in small.values() for file in files],
    }


def _link(folder: Path, truth: dict[str, Any], paths: list[Path]) -> None:
    """Make the folder with links to the photos that the truth names."""
    folder.mkdir()
    named = {file for part in ("scenes", "small_scenes") for files in truth[part].values() for file in files}
    named.update(truth["distractors"])
    for path in paths:
        if path.name in named:
            (folder / path.name).symlink_to(path)
    (folder / "gnd.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
