"""Are photos found that are turned by a quarter, and what does asking by turns cost?

Every photo of a scene of ``gnd.json`` is a query four times: upright, and with its pixels turned by 90, 180 and 270
degrees, without EXIF. Its own photo is left out of what is found. By each setting of ``--turn``:

- right: queries of those that are right upright without turning, for which a photo of the scene comes first;
- runs: of the network for a query.

A photo of a scene with two or three photos is counted apart: of those few are right upright.

    python benchmarks/turned.py --data minibench --model lite-small

The network describes each query by four turns; ``--descriptors FILE.npz`` keeps that for the next time.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.bench import publish
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.scoring import GROUND_TRUTH, GroundTruth, read_ground_truth
from ctxdeploy.core.types import TURNS, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import DescriptorSource, Index
from ctxdeploy.indexing.codebook import codebook_of
from ctxdeploy.judgement import LINKS, Judgement, judge_archive
from ctxdeploy.models import find_bundle
from ctxdeploy.query import TURN
from ctxdeploy.querying.turning import choose, further_turns
from ctxdeploy.runtime import Extractor, find_photos


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a query found by one turn.

    Attributes:
        best_score, surest: score and probability of the best of its hits.
        right: a photo of its scene comes first.
    """

    best_score: float
    surest: float | None
    right: bool


def main() -> None:
    """Ask by all turns and publish what each setting answers."""
    options = _arguments()
    bundle = bundles.open(find_bundle(options.model))
    truth = read_ground_truth(options.data / GROUND_TRUTH)
    groups: dict[str, list[str]] = {"scenes": [], "small scenes": []}
    for scene, files in truth.scenes.items():
        groups["small scenes" if scene in truth.small else "scenes"] += [Path(file).name for file in files]
    queries = {name for names in groups.values() for name in names}
    kept = _kept(options.data, bundle, queries, options.descriptors)
    found = _found(kept, bundle, truth)
    result: dict[str, Any] = {"data": options.data.name, "model": bundle.model_id}
    lines = []
    for group, names in groups.items():
        result[group] = {turn: _figures(found, names, turn) for turn in TURN}
        lines += [f"{group}, --turn {turn}: {_line(of)}" for turn, of in result[group].items()]
    seconds = kept.get("seconds")
    if seconds is not None and len(seconds):
        result["seconds"] = float(np.median(seconds))
        lines.append(f"a run of the network: {result['seconds']:.3f} s")
    publish(result, options.output, lines)


def _kept(data: Path, bundle: Bundle, queries: set[str], file: Path | None) -> dict[str, Any]:
    """Return the descriptors of all photos upright and of queries turned: labels ``name@turn``, vectors, offsets."""
    if file is not None and file.exists():
        return dict(np.load(file))
    extractor = Extractor(bundle)
    labels, vectors, seconds = [], [], []
    for photo in find_photos(data):
        name = Path(photo.name).name
        turns = TURNS if name in queries else (0,)
        start = time.perf_counter()
        for turn, of in zip(turns, extractor.extract_turned(photo, turns=turns), strict=True):
            labels.append(f"{name}@{turn}")
            vectors.append(of.descriptors.vectors)
        seconds.append((time.perf_counter() - start) / len(turns))
    columns = {
        "labels": np.array(labels),
        "vectors": np.concatenate(vectors),
        "offsets": np.cumsum([0, *map(len, vectors)]),
        "seconds": np.array(seconds),
    }
    if file is not None:
        np.savez(file, **columns)
    return columns


def _found(kept: dict[str, Any], bundle: Bundle, truth: GroundTruth) -> dict[tuple[str, int, bool], Found]:
    """Return what each query finds by each turn, as it was given or turned to be asked; itself left out."""
    codebook = codebook_of(bundle)
    if codebook is None:
        raise SystemExit(f"{bundle.path} carries no codebook: give a bundle that does with --model")
    of = dict(zip(map(str, kept["labels"]), np.split(kept["vectors"], kept["offsets"][1:-1]), strict=True))
    scene_of = {Path(file).name: scene for scene, files in truth.scenes.items() for file in files}
    # A judgement knows the built-in models by the source of an archive.
    source = DescriptorSource(model=bundle.model_id, preprocessing=bundle.preprocessing.hash)
    with (
        tempfile.TemporaryDirectory() as folder,
        Index.create(Path(folder) / "archive", codebook, source=source) as index,
    ):
        upright = [(label.removesuffix("@0"), vectors) for label, vectors in of.items() if label.endswith("@0")]
        index.add_many(
            PhotoDescriptors(name=name, descriptors=LocalDescriptors(vectors=vectors)) for name, vectors in upright
        )
        index.commit()
        judgement = judge_archive(index)
        asked = [(name, turn) for name in scene_of for turn in TURNS]
        found: dict[tuple[str, int, bool], Found] = {}
        for name, turn in asked:
            vectors = of[f"{name}@{turn}"]
            for turned in (False, True):
                found[name, turn, turned] = _judged(index, judgement, name, vectors, scene_of, turned=turned)
        return found


def _judged(
    index: Index, judgement: Judgement, name: str, vectors: Any, scene_of: dict[str, str], *, turned: bool
) -> Found:
    """Return what a query finds as ``ctxdeploy query`` judges it, but that its own photo is not there."""
    hits = [hit for hit in index.search(vectors, judgement.depth(len(index)) + 1) if hit.name != name]
    if not hits:
        return Found(best_score=0.0, surest=None, right=False)
    first = [hit.name for hit in hits[:10]]
    links = index.scores(first[:LINKS], first)
    links[np.arange(len(links)), np.arange(len(links))] = 0.0
    probabilities = judgement.probabilities(
        np.array([hit.score for hit in hits[:10]]),
        photos=len(index),
        ranking=np.array([hit.score for hit in hits]),
        links=links,
        turned=turned,
    )
    return Found(
        best_score=hits[0].score,
        surest=float(probabilities.max()),
        right=scene_of.get(hits[0].name) == scene_of[name],
    )


def _figures(found: dict[tuple[str, int, bool], Found], names: list[str], turn: str) -> dict[str, Any]:
    """Return what one setting answers to queries that are given by each turn."""
    reference = [name for name in names if found[name, 0, False].right]
    figures: dict[str, Any] = {"queries": len(names), "right upright": len(reference)}
    for given in TURNS:
        answers, runs = {}, 0
        for name in names:
            seen = [found[name, (given + further) % 360, further > 0] for further in TURNS]
            more = further_turns(seen[0], turn)
            runs += 1 + len(more)
            answers[name] = choose(seen[0], seen[1:]) if more else seen[0]
        figures[f"{given}"] = {
            "right": sum(answers[name].right for name in reference),
            "right of all": sum(answer.right for answer in answers.values()),
            "runs": runs / len(names),
        }
    return figures


def _line(figures: dict[str, Any]) -> str:
    parts = [f"{given}° {figures[str(given)]['right']} ({figures[str(given)]['runs']:.2f} runs)" for given in TURNS]
    return f"of {figures['right upright']} right upright: {', '.join(parts)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="lite-small")
    parser.add_argument("--descriptors", type=Path, help="kept there, or read from there")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "turned.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
