"""Which planted duplicates does `ctxdeploy duplicates` find, and which neighbouring frames does it take for one photo?

Of every sixth photo of a folder, variants are written: half the size, three quarters at JPEG quality 70, quality 40,
brighter by a quarter, cut by 4 % and by 10 % of each side. Found is a variant that is the same as its original. Beside
it, of minibench: pairs of different photos of one scene that are taken for the same.

    python benchmarks/duplicates.py --photos trainphotos --work work/ --minibench minibench.ctxindex

Archives that are not there are made with the built-in model and --geometry.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

from PIL import Image, ImageEnhance

from ctxdeploy import IndexingConfig, PhotoIndex
from ctxdeploy.bench import publish
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Index
from ctxdeploy.pairs import DuplicatesConfig
from ctxdeploy.pairs.duplicates import same_pairs

RULES = {
    **{f"score from {least:g}": DuplicatesConfig(min_score=least) for least in (0.05, 0.1, 0.15, 0.2)},
    "score from 0.03, and positions (--verify)": DuplicatesConfig(verify=True),
}
KINDS = ("half", "r75q70", "q40", "bright", "crop4", "crop10")
SILENT = Display(quiet=True)


def main() -> None:
    """Measure all rules and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minibench", type=Path, required=True, help="archive of minibench")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "duplicates.json")
    options = parser.parse_args()
    archive = options.work / "planted.ctxindex"
    if not archive.exists():
        plant(options.photos, options.work / "planted")
        with PhotoIndex.create(archive, config=IndexingConfig(geometry="codes")) as made:
            made.add(options.work / "planted")
    results = {}
    for rule, config in RULES.items():
        with Index.open(archive) as index:
            names, pairs = same_pairs(index, config, SILENT)
            originals = sum(name.endswith("__orig.jpg") for name in names)
            labels = [name[:-4].split("__") for name in names]
            both = [(labels[a], labels[b]) for a, b in zip(pairs.first, pairs.second, strict=True)]
        found = Counter(
            other
            for one, two in both
            if one[0] == two[0]
            for other in {one[1], two[1]} - {"orig"}
            if "orig" in one + two
        )
        with Index.open(options.minibench) as index:
            names, pairs = same_pairs(index, config, SILENT)
            scenes = [re.sub(r"_[0-9]+\.jpg$", "", name) for name in names]
            frames = [scenes[a] == scenes[b] for a, b in zip(pairs.first, pairs.second, strict=True)]
        results[rule] = {
            "found": {kind: found[kind] / originals for kind in KINDS},
            "other_photos": sum(one[0] != two[0] for one, two in both),
            "frames_of_one_scene": sum(frames),
            "other_scenes": len(frames) - sum(frames),
        }
    publish({"originals": originals, "results": results}, options.output, [f"{k}: {v}" for k, v in results.items()])


def plant(photos: Path, folder: Path) -> None:
    """Write photos and their variants."""
    folder.mkdir(parents=True)
    for file in sorted(photos.glob("*.jpg"))[::6][:80]:
        photo = Image.open(file).convert("RGB")
        width, height = photo.size

        def cut(share: float, photo: Image.Image = photo) -> Image.Image:
            x, y = int(photo.width * share), int(photo.height * share)
            return photo.crop((x, y, photo.width - x, photo.height - y))

        variants = {
            "orig": (photo, 95),
            "half": (photo.resize((width // 2, height // 2), Image.Resampling.LANCZOS), 90),
            "r75q70": (photo.resize((width * 3 // 4, height * 3 // 4), Image.Resampling.LANCZOS), 70),
            "q40": (photo, 40),
            "bright": (ImageEnhance.Brightness(photo).enhance(1.25), 90),
            "crop4": (cut(0.02), 90),
            "crop10": (cut(0.05), 90),
        }
        for kind, (image, quality) in variants.items():
            image.save(folder / f"{file.stem}__{kind}.jpg", quality=quality)


if __name__ == "__main__":
    main()
