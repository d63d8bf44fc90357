"""A folder of photos with ``gnd.json``, which says what shows the same scene: every photo of a scene is a query.

minibench is such a folder whose database is ``images/``, the photos of the scenes, and ``distractors/``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.scoring import GROUND_TRUTH, GroundTruth, read_ground_truth
from ctxdeploy.core.text import printable, short
from ctxdeploy.evaluation.dataset import DataSet, Kind, Query, Task

ALL, SMALL = "all", "small"
MINIBENCH_FOLDERS = ("images", "distractors")
RULE = (
    "mean over scenes of the mean over their photos as queries; the query itself and the photos that form a junk pair "
    "with it are taken out of the ranking"
)


def read(place: Path) -> DataSet:
    """Read a folder: all photos in it and below are the database, those of ``gnd.json``'s scenes are queries.

    A scene's photo is named by its path in the folder, or by its file name, if only one photo has it.

    Raises:
        ConfigError: ``gnd.json`` is not of this form, or names photos that are not there.
        NoPhotosError: there are none.
    """
    from ctxdeploy.runtime import find_photos

    return _scene_set(KIND.name, place, tuple(photo.name for photo in find_photos(place)))


def read_minibench(place: Path) -> DataSet:
    """Read the folder of minibench; what else lies in it does not belong to the database.

    Raises:
        ConfigError: ``gnd.json`` is not of this form, or names photos that are not there.
        NoPhotosError: ``images/`` or ``distractors/`` is empty.
    """
    from ctxdeploy.runtime import find_photos

    photos = [
        f"{folder}/{photo.name}"
        for folder in MINIBENCH_FOLDERS
        for photo in find_photos(place / folder, recursive=False)
    ]
    return _scene_set(MINIBENCH.name, place, photos)


def _scene_set(kind: str, place: Path, photos: Sequence[str]) -> DataSet:
    path = place / GROUND_TRUTH
    shown = printable(str(path))
    truth = _by_path(read_ground_truth(path), photos, path)
    large = [scene for scene in truth.scenes if scene not in truth.small]
    tasks = [_task(ALL, truth, large)]
    for kind_of_scene in sorted(set(truth.kinds.values())):
        if kind_of_scene in (ALL, SMALL):
            raise ConfigError(f"{shown} calls a kind of scenes {kind_of_scene!r}, as other figures are: rename it")
        of_kind = [scene for scene in large if truth.kinds.get(scene) == kind_of_scene]
        tasks.append(_task(kind_of_scene, truth, of_kind))
    tasks.append(_task(SMALL, truth, [scene for scene in truth.scenes if scene in truth.small]))
    kept = [task for task in tasks if task.groups]
    if not kept:
        raise ConfigError(f"{shown} has no scene with two photos that show the same")
    queries = dict.fromkeys(name for task in kept for group in task.groups for name in group)
    return DataSet(
        kind=kind,
        name=place.resolve().name,
        folder=place,
        database=tuple(sorted(photos)),
        queries=tuple(Query(name=name) for name in queries),
        tasks=tuple(kept),
        rule=RULE,
    )


def _task(name: str, truth: GroundTruth, scenes: Sequence[str]) -> Task:
    relevance = {query: truth.relevance(query, files) for s in scenes if (files := truth.scenes[s]) for query in files}
    groups = [truth.scenes[scene] for scene in scenes]
    able = tuple(group for group in groups if any(relevance[query].positives for query in group))
    return Task(name=name, relevance=relevance, groups=able)


def _by_path(truth: GroundTruth, photos: Sequence[str], path: Path) -> GroundTruth:
    """Return a ground truth whose photos are named by their paths in the folder."""
    known = set(photos)
    by_file: dict[str, list[str]] = {}
    for photo in photos:
        by_file.setdefault(PurePosixPath(photo).name, []).append(photo)
    shown = [name for files in truth.scenes.values() for name in files]
    paths = {name: _path_of(name, known, by_file, path) for name in dict.fromkeys((*shown, *truth.junk))}
    name, times = Counter(paths[name] for name in shown).most_common(1)[0] if shown else ("", 0)
    if times > 1:
        raise ConfigError(
            f"{printable(str(path))} has {printable(name)!r} in two scenes, or twice in one: a photo shows one scene"
        )
    return _renamed(truth, paths)


def _path_of(name: str, known: set[str], by_file: Mapping[str, list[str]], path: Path) -> str:
    if name in known:
        return name
    found = by_file.get(PurePosixPath(name).name, []) if "/" not in name else []
    if len(found) != 1:
        why = f"is the name of {len(found)} photos: give its path" if found else "is not among the photos"
        raise ConfigError(f"{printable(str(path))}: {short(name)} {why}")
    return found[0]


def _renamed(truth: GroundTruth, paths: Mapping[str, str]) -> GroundTruth:
    junk: dict[str, frozenset[str]] = {}
    for name, others in truth.junk.items():  # a photo may be named in two ways
        junk[paths[name]] = junk.get(paths[name], frozenset()) | {paths[other] for other in others}
    scenes = {scene: tuple(paths[name] for name in files) for scene, files in truth.scenes.items()}
    return GroundTruth(scenes=scenes, junk=junk, small=truth.small, kinds=truth.kinds)


def _fits(place: Path) -> bool:
    return (place / GROUND_TRUTH).is_file()


def _fits_minibench(place: Path) -> bool:
    return _fits(place) and all((place / folder).is_dir() for folder in MINIBENCH_FOLDERS)


KIND = Kind(name="scenes", what=f"a folder of photos with {GROUND_TRUTH}", fits=_fits, read=read)
MINIBENCH = Kind(
    name="minibench", what=f"{GROUND_TRUTH}, images/ and distractors/", fits=_fits_minibench, read=read_minibench
)
