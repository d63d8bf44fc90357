"""Average precision of ranked photos by the rule of the Oxford buildings evaluation, and minibench's ground truth."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ctxdeploy.errors import ConfigError

GROUND_TRUTH = "gnd.json"


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """Which photos show the same.

    Attributes:
        scenes: names of the photos of each scene.
        junk: for a photo, those of its scene that share nothing with it.
    """

    scenes: Mapping[str, tuple[str, ...]]
    junk: Mapping[str, frozenset[str]]

    def restricted(self, names: Sequence[str]) -> "GroundTruth":
        """Return the scenes of which two of ``names`` at least show the same, with no other photos."""
        kept = set(names)
        scenes = {scene: tuple(name for name in files if name in kept) for scene, files in self.scenes.items()}
        able = {s: files for s, files in scenes.items() if any(self._positives(query, files) for query in files)}
        return GroundTruth(scenes=able, junk=self.junk)

    def _positives(self, query: str, files: Sequence[str]) -> set[str]:
        return set(files) - {query} - self.junk.get(query, frozenset())

    def mean_average_precision(self, rankings: Mapping[str, Sequence[str]]) -> float:
        """Return the mean over scenes of the mean average precision of their photos as queries, 0 to 1.

        Args:
            rankings: for every photo of the scenes the photos that answer it, best first; the photo itself is ignored.
        """
        means = []
        for files in self.scenes.values():
            values = []
            for query in files:
                ignored = {query} | self.junk.get(query, frozenset())
                positives = self._positives(query, files)
                if positives:
                    ranked = [name for name in rankings[query] if name not in ignored]
                    values.append(average_precision(ranked, positives))
            if values:
                means.append(np.mean(values))
        return float(np.mean(means))


def average_precision(ranked: Sequence[str], positives: set[str]) -> float:
    """Return the area under the precision-recall curve by the trapezoid rule; a photo not ranked is never reached."""
    total = 0.0
    found = 0
    for rank, name in enumerate(ranked):
        if name in positives:
            before = found / rank if rank else 1.0
            found += 1
            total += (before + found / (rank + 1)) / 2
    return total / len(positives)


def load_ground_truth(photos: Path) -> GroundTruth | None:
    """Return the ground truth beside or above a folder of photos (``gnd.json``, minibench's form), None without one.

    Names are those of the files, without folders.

    Raises:
        ConfigError: the file is not of that form.
    """
    for path in (photos / GROUND_TRUTH, photos.parent / GROUND_TRUTH):
        if path.is_file():
            try:
                return _parse(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(f"{path} is no ground truth of minibench's form ({error!r}): move it away") from error
    return None


def _parse(content: Any) -> GroundTruth:
    scenes = {**content["scenes"], **content.get("small_scenes", {})}
    junk: dict[str, set[str]] = {}
    for a, b in content.get("junk_pairs", []):
        junk.setdefault(a, set()).add(b)
        junk.setdefault(b, set()).add(a)
    return GroundTruth(
        scenes={str(scene): tuple(PurePath(name).name for name in files) for scene, files in scenes.items()},
        junk={name: frozenset(others) for name, others in junk.items()},
    )
