"""What does context behind a pretrained trunk bring? Each form of ``forms.py``, trained on with several seeds, scored.

All begin from one checkpoint, whose trunk is frozen but for its last layer, so that what enters that layer is computed
once (``prepare``). Every form has the same steps, and with one seed the same batches. It is scored by landmarks that
the checkpoint was not trained on (``benchmarks/hold_out.py`` splits them off), in ASMK with a codebook of its own from
the same photos. ``table`` compares with ``none``: mean over seeds, their spread, and a paired test over queries.

    python benchmarks/context_study/study.py prepare run/model.pth work --landmarks landmarks --weights weights.csv \\
        --validate val
    python benchmarks/context_study/study.py run run/model.pth work --validate val --forms none,gauss3 --seeds 1,2,3
    python benchmarks/context_study/study.py table work
"""

import argparse
import json
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from forms import FORMS, Head
from maps import Views, read_photos, write_photos, write_views

from ctxdeploy.bench import publish
from ctxdeploy.core.scoring import GroundTruth, load_ground_truth, score_query
from ctxdeploy.index import Codebook, Index
from ctxdeploy.runtime import find_photos
from ctxdeploy.training.config import OptimiserConfig, TransferConfig
from ctxdeploy.training.sets import PhotoSet, joined, read_set, read_weights, weighted
from ctxdeploy.training.start import network_from
from ctxdeploy.training.transfer import TransferObjective

RESULTS = Path(__file__).parents[1] / "results" / "context_study.json"
RATE, OPTIMISER = 6e-4, OptimiserConfig(warmup=20)
CONFIG = TransferConfig(memory=8, memory_positions=24)
TOP, WORDS, ITERATIONS, LEARNED = 1000, 8192, 8, 750
# Of the weights that are scored.
AVERAGING = 0.99
RESAMPLED = 10_000


class _Losses(TransferObjective):
    """The losses of the recipe ``transfer`` on batches that come from elsewhere."""

    def __init__(self) -> None:
        self._transfer = self._config = CONFIG
        self._memory = deque(maxlen=CONFIG.memory)


def prepare(options: argparse.Namespace) -> None:
    """Compute all maps."""
    options.work.mkdir(parents=True, exist_ok=True)
    network, _ = network_from(options.checkpoint, 0, smoothing=None, refinement=None)
    network.eval()
    photo_set = _photo_set(options)
    write_photos(network, [photo.path for photo in find_photos(options.validate)], options.work / "val")
    write_views(network, photo_set, options.work, options.batches)
    chosen = np.unique(np.linspace(0, len(photo_set) - 1, options.photos).astype(int))
    write_photos(network, [photo_set.paths[i] for i in chosen], options.work / "train")


def _photo_set(options: argparse.Namespace) -> PhotoSet:
    sets = [read_set("landmarks", place) for place in options.landmarks]
    photo_set = joined(sets + [read_set("photos", place) for place in options.others])
    return weighted(photo_set, read_weights(options.weights)) if options.weights else photo_set


def run(options: argparse.Namespace) -> None:
    """Train and score what is not done yet."""
    (options.work / "runs").mkdir(exist_ok=True)
    for seed in map(int, options.seeds.split(",")):
        for name in options.forms.split(","):
            target = options.work / "runs" / f"{name}-{seed}.json"
            if target.exists():
                continue
            start = time.process_time()
            head = trained(options.checkpoint, name, seed, options.steps, options.work)
            figures, precisions = scored(head, options.validate, options.work)
            learned = {n: p.flatten()[:4].tolist() for n, p in head.state_dict().items() if n.startswith("new.")}
            seconds = time.process_time() - start
            facts = {"form": name, "seed": seed, "steps": options.steps, "learned": learned, "seconds": seconds}
            target.write_text(json.dumps({**facts, "figures": figures, "ap": precisions}))
            torch.save(head.state_dict(), target.with_suffix(".pt"))
            print(name, seed, {key: round(value, 2) for key, value in figures.items()}, flush=True)


def trained(checkpoint: Path, name: str, seed: int, steps: int, work: Path) -> Head:
    """Return a form after its steps, its weights averaged."""
    torch.manual_seed(seed)
    head, losses, views = Head(checkpoint, FORMS[name], seed), _Losses(), Views(work, seed)
    optimiser = torch.optim.AdamW(head.groups(RATE))
    average = {key: value.clone() for key, value in head.state_dict().items()}
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * OPTIMISER.rate(step, steps)
        total, _ = losses.loss(head, views.batch(), torch.device("cpu"))
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()
        decay = min(AVERAGING, (step + 1) / (step + 10))
        with torch.no_grad():
            for key, value in head.state_dict().items():
                if value.is_floating_point():
                    average[key].lerp_(value, 1 - decay)
    head.load_state_dict(average)
    return head.eval()


def scored(head: Head, place: Path, work: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return what ``judged`` does, of a form behind the maps that were written."""
    photos = {name: head.describe(maps, TOP) for name, maps in read_photos(work / "val")}
    return judged(photos, [head.describe(maps, TOP) for _, maps in read_photos(work / "train")], place)


def judged(
    photos: dict[str, np.ndarray], others: list[np.ndarray], place: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Return mean average precisions in percent, and the average precision of each query, 0 to 1.

    Args:
        photos: descriptors of the photos to validate on, by name.
        others: those of training photos. Every second photo is one more that shows none of the landmarks; of the rest
            the words are made.
        place: folder with ``gnd.json``.
    """
    codebook = words_of(others[::2])
    truth = load_ground_truth(place)
    if truth is None:
        raise SystemExit(f"there is no gnd.json in {place}")
    truth = truth.restricted(list(photos))
    photos = photos | {f"other {i}": vectors for i, vectors in enumerate(others[1::2])}
    precisions = _average_precisions(codebook, photos, truth)
    means = {name: mean_by_scene(part, precisions) for name, part in truth.parts().items()}
    return means, precisions


def words_of(photos: Sequence[np.ndarray]) -> Codebook:
    """Return a codebook of descriptors of some photos."""
    rng = np.random.default_rng(5)
    learned = [v[np.sort(rng.choice(len(v), min(len(v), LEARNED), replace=False))] for v in photos]
    return Codebook.train(np.concatenate(learned), words=WORDS, seed=0, iterations=ITERATIONS)


def _average_precisions(codebook: Codebook, photos: dict[str, np.ndarray], truth: GroundTruth) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        with Index.create(Path(folder, "a.ctxindex"), codebook) as index:
            index.add_many(photos.items())
        with Index.open(Path(folder, "a.ctxindex")) as index:
            return precisions_of(index, photos, truth)


def precisions_of(index: Index, queries: Mapping[str, np.ndarray], truth: GroundTruth) -> dict[str, float]:
    """Return the average precision, 0 to 1, of each query that has one, by its descriptors."""
    found = {}
    for files in truth.scenes.values():
        for query in files:
            ranked = [hit.name for hit in index.search(queries[query], len(index))]
            score = score_query(ranked, truth.relevance(query, files))
            if score is not None:
                found[query] = score.average_precision
    return found


def mean_by_scene(truth: GroundTruth, precisions: dict[str, float]) -> float:
    """Return the mean over scenes of the mean over their queries, in percent."""
    scenes = [[precisions[query] for query in files if query in precisions] for files in truth.scenes.values()]
    return 100 * float(np.mean([np.mean(values) for values in scenes]))


def table(options: argparse.Namespace) -> None:
    """Write what all runs say, against ``none`` with the same seeds."""
    runs = [json.loads(path.read_text()) for path in sorted((options.work / "runs").glob("*.json"))]
    runs = [run for run in runs if run["steps"] == options.steps]
    by_form = {name: {run["seed"]: run for run in runs if run["form"] == name} for name in FORMS}
    base = by_form["none"]
    rows = []
    for name, seeds in by_form.items():
        if not seeds:
            continue
        figures = {
            key: [run["figures"][key] for run in seeds.values()] for key in next(iter(seeds.values()))["figures"]
        }
        row = {
            "form": name,
            "seeds": sorted(seeds),
            "mean": {key: float(np.mean(values)) for key, values in figures.items()},
            "spread": float(np.std(figures["map"], ddof=1)) if len(seeds) > 1 else None,
        }
        common = sorted(set(seeds) & set(base))
        if name != "none" and common:
            row |= _paired([seeds[s] for s in common], [base[s] for s in common])
        rows.append(row)
    shown = ("map", "wild", "capture", "planar", "small")
    lines = [f"| form | seeds | {' | '.join(shown)} | mAP - none, by seed | queries, mean (95 %) |", "|---" * 9 + "|"]
    for row in rows:
        spread = "" if row["spread"] is None else f" ± {row['spread']:.2f}"
        cells = [f"{row['mean'][key]:.2f}{spread if key == 'map' else ''}" for key in shown if key in row["mean"]]
        by_seed = ", ".join(f"{value:+.2f}" for value in row.get("by_seed", []))
        interval = "{:+.2f} ({:+.2f} to {:+.2f})".format(*row["queries"]) if "queries" in row else ""
        lines.append(f"| {row['form']} | {len(row['seeds'])} | {' | '.join(cells)} | {by_seed} | {interval} |")
    each = [{key: run[key] for key in ("form", "seed", "figures", "learned", "seconds")} for run in runs]
    publish({"steps": options.steps, "forms": rows, "runs": each}, options.output, lines)


def _paired(seeds: list[dict], base: list[dict]) -> dict[str, object]:
    """Return differences of mAP by seed, and of each query's mean over seeds: mean, and its bootstrap's 95 %."""
    queries = sorted(base[0]["ap"])
    pairs = list(zip(seeds, base, strict=True))
    difference = np.mean([[run["ap"][q] - other["ap"][q] for q in queries] for run, other in pairs], axis=0)
    draws = np.random.default_rng(0).integers(len(queries), size=(RESAMPLED, len(queries)))
    low, high = np.quantile(difference[draws].mean(axis=1), (0.025, 0.975))
    return {
        "by_seed": [run["figures"]["map"] - other["figures"]["map"] for run, other in pairs],
        "queries": [100 * float(difference.mean()), 100 * float(low), 100 * float(high)],
    }


def main() -> None:
    """Do one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run", "table"))
    parser.add_argument("checkpoint", type=Path, nargs="?", help="that every form begins from")
    parser.add_argument("work", type=Path, help="folder of maps and runs")
    parser.add_argument("--landmarks", type=Path, action="append", default=[])
    parser.add_argument("--others", type=Path, action="append", default=[], help="training photos without landmarks")
    parser.add_argument("--weights", type=Path, help="as of ctxdeploy train")
    parser.add_argument("--validate", type=Path, help="photos of other landmarks, with gnd.json")
    parser.add_argument("--batches", type=int, default=240, help="of views that are drawn from")
    parser.add_argument("--photos", type=int, default=400, help="training photos for words and distractors")
    parser.add_argument("--forms", default="none,gauss3,gauss5,graph-selected,att-learned,both")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    {"prepare": prepare, "run": run, "table": table}[options.what](options)


if __name__ == "__main__":
    main()
