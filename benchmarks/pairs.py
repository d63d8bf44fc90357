"""Are the pairs of `ctxdeploy pairs` what a reconstruction needs, and does COLMAP register the same photos from them?

The eight capture scenes of minibench with the most photos lie among all its photos. Each photo of theirs is paired with
its best others of the whole archive. Two photos overlap if COLMAP, which matches all pairs of a scene, finds at least
15 inliers; pairs of two scenes do not. Then COLMAP reconstructs each scene from its pairs alone.

    pip install pycolmap
    python benchmarks/pairs.py minibench --archive minibench.ctxindex --work work/

The archive is made with the built-in model and --geometry if it is not there; its photos are `images/…`.
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

try:
    import pycolmap
except ImportError:
    pycolmap = None

from ctxdeploy import IndexingConfig, PhotoIndex
from ctxdeploy.bench import publish
from ctxdeploy.pairs import PairsConfig, write_pairs
from ctxdeploy.pairs.finding import Pair

SCENES = 8
INLIERS = 15
Edges = set[tuple[str, str]]

VARIANTS = {
    **{f"k = {top}": PairsConfig(top=top) for top in (1, 2, 3, 5, 7, 10, 20)},
    **{f"k = 20, score from {least:g}": PairsConfig(top=20, min_score=least) for least in (0.002, 0.005, 0.01)},
    **{
        f"k = 20, probability from {least:g}": PairsConfig(top=20, min_probability=least)
        for least in (0.01, 0.02, 0.05, 0.1, 0.3, 0.5)
    },
    **{
        f"k = 20, verified, probability from {least:g}": PairsConfig(top=20, min_probability=least, verify=True)
        for least in (0.01, 0.02, 0.05, 0.1, 0.3, 0.5)
    },
}
REBUILT = ("k = 3", "k = 5", "k = 10", "k = 20, probability from 0.02", "k = 20, verified, probability from 0.05")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A capture: its photos, those that overlap, and how many COLMAP registers from all pairs.

    Attributes:
        name: of the scene.
        photos: names in the archive.
        overlapping: pairs with enough inliers.
        registered: photos of the largest model.
    """

    name: str
    photos: tuple[str, ...]
    overlapping: Edges
    registered: tuple[str, ...]


def main() -> None:
    """Measure all and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="databases of COLMAP; kept, and used again")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "pairs.json")
    options = parser.parse_args()
    if pycolmap is None:
        parser.error("COLMAP is missing: pip install pycolmap")
    pycolmap.logging.minloglevel = 2
    scenes = [_truth(options.place, options.work, name, photos) for name, photos in _captures(options.place).items()]
    if not options.archive.exists():
        with PhotoIndex.create(options.archive, config=IndexingConfig(geometry=True)) as made:
            made.add(options.place)
    names = [name for scene in scenes for name in scene.photos]
    with PhotoIndex.open(options.archive) as index:
        found = {label: list(index.pairs(replace(config, queries=names))) for label, config in VARIANTS.items()}
        content = {"photos": len(index), "scenes": {scene.name: len(scene.photos) for scene in scenes}}
    results = {label: _figures(pairs, scenes) for label, pairs in found.items()}
    rebuilt = {
        label: [_rebuilt(options.place, options.work, scene, found[label]) for scene in scenes] for label in REBUILT
    }
    publish(
        {**content, "inliers": INLIERS, "pairs": results, "registered": _registered(scenes, rebuilt)},
        options.output,
        [f"{label}: {figures}" for label, figures in results.items()],
    )


def _captures(place: Path) -> dict[str, list[str]]:
    truth = json.loads((place / "gnd.json").read_text(encoding="utf-8"))
    captures = {scene: files for scene, files in truth["scenes"].items() if truth["kinds"][scene] == "capture"}
    largest = sorted(captures, key=lambda scene: (-len(captures[scene]), scene))[:SCENES]
    return {scene: [f"images/{file}" for file in sorted(captures[scene])] for scene in sorted(largest)}


def _truth(place: Path, work: Path, name: str, photos: list[str]) -> Scene:
    """Match all pairs of a scene and reconstruct it; what is in ``work`` is taken from there."""
    folder = work / name
    kept = folder / "scene.json"
    if not kept.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        pycolmap.extract_features(folder / "features.db", place, image_names=photos, device=pycolmap.Device.cpu)
        shutil.copy(folder / "features.db", folder / "all.db")
        pycolmap.match_exhaustive(folder / "all.db", device=pycolmap.Device.cpu)
        inliers = _inliers(folder / "all.db")
        facts = {"inliers": [[a, b, n] for (a, b), n in sorted(inliers.items())]}
        kept.write_text(json.dumps({**facts, "registered": _mapped(place, folder / "all.db")}))
        sys.stderr.write(f"{name}: {len(photos)} photos, {sum(n >= INLIERS for n in inliers.values())} pairs overlap\n")
    facts = json.loads(kept.read_text())
    overlapping = {(a, b) for a, b, count in facts["inliers"] if count >= INLIERS}
    return Scene(name=name, photos=tuple(photos), overlapping=overlapping, registered=tuple(facts["registered"]))


def _inliers(database: Path) -> dict[tuple[str, str], int]:
    """Return the verified matches of each pair, its names in order."""
    opened = pycolmap.Database.open(database)
    names = {image.image_id: image.name for image in opened.read_all_images()}
    found = {}
    for pair, geometry in zip(*opened.read_two_view_geometries(), strict=True):
        one, other = sorted(names[image] for image in pycolmap.pair_id_to_image_pair(pair))
        found[one, other] = len(geometry.inlier_matches)
    opened.close()
    return found


def _mapped(place: Path, database: Path) -> list[str]:
    """Return the photos of the largest model that COLMAP makes of a database; a model may have three photos."""
    models = database.with_suffix(".models")
    shutil.rmtree(models, ignore_errors=True)
    models.mkdir()
    settings = pycolmap.IncrementalPipelineOptions()
    settings.min_model_size = 3
    made = pycolmap.incremental_mapping(database, place, models, options=settings)
    registered = [[model.images[image].name for image in model.reg_image_ids()] for model in made.values()]
    return sorted(max(registered, key=len, default=[]))


def _figures(pairs: list[Pair], scenes: list[Scene]) -> dict[str, Any]:
    """Return recall of overlapping pairs (mean over scenes), and the share of pairs that do not overlap."""
    edges = {(min(pair[:2]), max(pair[:2])) for pair in pairs}
    overlapping = set[tuple[str, str]]().union(*(scene.overlapping for scene in scenes))
    recalls = {scene.name: len(edges & scene.overlapping) / len(scene.overlapping) for scene in scenes}
    return {
        "pairs": len(edges),
        "recall": sum(recalls.values()) / len(recalls),
        "least_recall": min(recalls.values()),
        "useless": 1 - len(edges & overlapping) / len(edges),
    }


def _rebuilt(place: Path, work: Path, scene: Scene, pairs: list[Pair]) -> list[str]:
    """Return the photos that COLMAP registers from the pairs of a scene."""
    folder = work / scene.name
    own = [pair for pair in pairs if pair.name in scene.photos and pair.other in scene.photos]
    write_pairs(folder / "pairs.txt", own, "colmap")
    shutil.copy(folder / "features.db", folder / "some.db")
    pairing = pycolmap.ImportedPairingOptions(match_list_path=str(folder / "pairs.txt"))
    pycolmap.match_image_pairs(folder / "some.db", pairing_options=pairing, device=pycolmap.Device.cpu)
    return _mapped(place, folder / "some.db")


def _registered(scenes: list[Scene], rebuilt: dict[str, list[list[str]]]) -> dict[str, Any]:
    """Return how many photos are registered from all pairs of each scene, and which are not from some pairs."""
    return {
        "all pairs": {
            scene.name: {"pairs": len(list(combinations(scene.photos, 2))), "registered": len(scene.registered)}
            for scene in scenes
        },
        **{
            label: {
                scene.name: {"registered": len(photos), "missing": sorted(set(scene.registered) - set(photos))}
                for scene, photos in zip(scenes, models, strict=True)
            }
            for label, models in rebuilt.items()
        },
    }


if __name__ == "__main__":
    main()
