"""The questions as cases: photos through a network, from end to end, and queries through an archive."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctxdeploy.bench.cases import AGAINST, MAIN, METER, PEER, SWEEP, BundleEngine, Case, label_of_against, parse_against
from ctxdeploy.bench.config import CompanionConfig, EndToEndMeasurement, ExtractMeasurement, SearchMeasurement
from ctxdeploy.bench.inputs import Prepared, build_archive, photos_hash
from ctxdeploy.bench.run import Question
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.errors import BackendError, ConfigError, CtxdeployError
from ctxdeploy.core.progress import Display

PYTORCH, ASMK = "PyTorch fp32, one photo at a time", "asmk"
# asmk's inverted file takes 24 bytes a posting and a Python object a word; sorting our postings takes as much again.
MAX_PEER_POSTINGS = 45_000_000
_ENGINE_KEYS = ("backend", "precision", "device", "threads", "model", "python")
_SEARCH_KEYS = ("threads", "archive", "python")
# Queries of a turn, and of those that run untimed before it.
_TURN, _AGAIN = 10, 3


def extraction_question(
    engine: BundleEngine,
    photos: Sequence[Path],
    measurement: ExtractMeasurement,
    companions: CompanionConfig,
    display: Display,
) -> Question:
    """Return the question how long photos take through a network.

    Args:
        engine: the main case.
        photos: files.
        measurement: batches and threads besides, checkpoint.
        companions: other cases.
        display: says what is left out.
    """
    main = photo_case(f"{engine.backend} {engine.precision}", MAIN, engine, photos)
    cases = [main, *_against(engine, companions, lambda label, other: photo_case(label, AGAINST, other, photos))]
    for size in sorted({size for size in measurement.batch_sizes if size > 1}):
        batch = photo_case(f"batch of {size}", SWEEP, engine, photos)
        settings, identity = {**batch.settings, "batch": size}, {**batch.identity, "batch": size}
        cases.append(replace(batch, settings=settings, identity=identity, units=size))
    for count in sorted(set(measurement.thread_counts) - {engine.threads}):
        cases.append(photo_case(_counted(count), SWEEP, replace(engine, threads=count), photos))
    cases += _pytorch(engine, photos, measurement.checkpoint, companions, display)
    cases += _convolution_meter(engine, display)
    return _photo_question("extract", engine, photos, cases, display)


def end_to_end_question(
    engine: BundleEngine,
    photos: Sequence[Path],
    made: Prepared,
    measurement: EndToEndMeasurement,
    companions: CompanionConfig,
    display: Display,
) -> Question:
    """Return the question how long it takes from photos to an archive, and from a query photo to hits.

    Args:
        engine: that indexes and queries.
        photos: files.
        made: folder, codebook and archive of them.
        measurement: checkpoint.
        companions: other cases.
        display: says what is left out.
    """
    photo = photo_case("photo by photo", SWEEP, engine, photos)
    codebook, search_threads = made.identity(), checked_threads(engine.threads)
    adding = {**photo.settings, "codebook": str(made.codebook.resolve()), "work": str(made.work.resolve())}
    asking = {**photo.settings, "archive": str(made.archive.resolve()), "search_threads": search_threads, "top": 10}
    asked = {**photo.identity, **codebook, "search_threads": search_threads}
    cases = [
        index_case("index", MAIN, engine, made),
        *_against(engine, companions, lambda label, other: index_case(label, AGAINST, other, made)),
        replace(photo, subject="adding", settings=adding, turn=len(photos), identity={**photo.identity, **codebook}),
        replace(photo, label="query", subject="answering", settings=asking, identity=asked),
        *_pytorch(engine, photos, measurement.checkpoint, companions, display),
        *_convolution_meter(engine, display),
    ]
    return _photo_question("end-to-end", engine, photos, cases, display)


def photo_case(label: str, role: str, engine: BundleEngine, photos: Sequence[Path]) -> Case:
    """Return the case of photos one at a time through an engine."""
    settings = {**engine.settings(), "photos": _files(photos)}
    identity, python = engine.identity(), engine.python
    return Case(label=label, role=role, subject="photos", settings=settings, identity=identity, python=python)


def index_case(label: str, role: str, engine: BundleEngine, made: Prepared) -> Case:
    """Return the case of ``ctxdeploy index`` as a whole."""
    places = {name: str(getattr(made, name).resolve()) for name in ("folder", "codebook", "work")}
    settings, identity = {**engine.settings(), **places}, {**engine.identity(), **made.identity()}
    return Case(label=label, role=role, subject="indexing", settings=settings, identity=identity, python=engine.python)


def pytorch_case(bundle: Bundle, photos: Sequence[Path], threads: int | None, checkpoint: Path | None) -> Case:
    """Return the peer of networks: PyTorch in fp32, one photo at a time; random weights without a checkpoint."""
    path = None if checkpoint is None else str(checkpoint.resolve())
    place = {"bundle": str(bundle.path.resolve()), "photos": _files(photos), "threads": threads, "checkpoint": path}
    identity = {"backend": "PyTorch", "precision": "fp32", "threads": threads, "model_id": bundle.model_id}
    return Case(label=PYTORCH, role=PEER, subject="pytorch", settings=place, identity=identity, restarts=False)


def convolution_case(backend: str, precision: str, threads: int | None) -> Case:
    """Return the meter of networks."""
    settings = {"backend": backend, "precision": precision, "threads": threads}
    return Case(label="meter: convolutions", role=METER, subject="convolutions", settings=settings, identity=settings)


def synthetic_archive(measurement: SearchMeasurement, work: Path, display: Display) -> tuple[Path, list[str]]:
    """Make the archive that is searched where none is given; return it, and its snapshots with fewer photos."""
    archive = Path(tempfile.mkdtemp(dir=work, prefix="synthetic-")) / "archive"
    made = measurement.synthetic()
    sizes = measurement.synthetic_sizes()
    return archive, build_archive(archive, sizes, made["descriptors"], made["words"], made["seed"], display)[:-1]


def search_question(
    archive: Path,
    measurement: SearchMeasurement,
    companions: CompanionConfig,
    snapshots: Sequence[str] | None,
    display: Display,
) -> Question:
    """Return the question how long queries take, from descriptors to hits.

    Args:
        archive: its folder.
        measurement: queries, batches, threads.
        companions: other cases; the peer is ``asmk``, where the archive is not too large for it.
        snapshots: names of a synthetic archive's snapshots, measured besides; None for any other archive.
        display: says what is left out.

    Raises:
        ConfigError, ArchiveError: the archive cannot be searched.
    """
    identity, threads = archive_identity(archive), checked_threads(measurement.threads)
    if not identity["postings"]:
        raise ConfigError(f"{archive} has no postings to search: index photos first")

    def case(label: str, role: str, changes: dict[str, Any], where: Path = archive) -> Case:
        drawn = {name: getattr(measurement, name) for name in ("queries", "descriptors", "seed")}
        asked = {"at": None, "threads": threads, **drawn, "top": 10, "batch": 1, **changes}
        turn = max(1, _TURN // asked["batch"])
        return Case(
            label=label,
            role=role,
            subject="asmk" if role == PEER else "searches",
            settings={**asked, "archive": str(where.resolve())},
            identity={**(identity if where == archive else archive_identity(where)), **asked},
            units=asked["batch"],
            turn=turn,
            again=min(turn, _AGAIN),
            restarts=role != PEER,
        )

    cases = [case(f"search, {_counted(threads)}", MAIN, {})]
    for text in companions.against:
        changes = parse_against(text, _SEARCH_KEYS)
        given = {key: value for key, value in changes.items() if key == "threads"}
        other = case(label_of_against(changes), AGAINST, given, Path(changes.get("archive", archive)))
        cases.append(_with_python(other, changes))
    cases += [case(name.replace("-", " "), SWEEP, {"at": name}) for name in snapshots or ()]
    cases += [case(f"batch of {size}", SWEEP, {"batch": size}) for size in sorted(set(measurement.batches)) if size > 1]
    cases += [case(_counted(n), SWEEP, {"threads": n}) for n in sorted(set(measurement.thread_counts) - {threads})]
    if companions.peer and _can_compare(identity, display):
        cases.append(case(ASMK, PEER, {}))
    reads = {"threads": threads}
    cases.append(Case(label="meter: reads", role=METER, subject="reads", settings=reads, identity=reads))
    made = None if snapshots is None else measurement.synthetic()
    return Question(kind="search", settings={"made": made}, cases=cases, known={})


def archive_identity(path: Path) -> dict[str, Any]:
    """Return what an archive holds, in counts and hashes."""
    from ctxdeploy.index import Index

    with Index.open(path) as index:
        info, manifest = index.info(), index.state.manifest
        return {
            "photos": info["images"],
            "postings": info["postings"],
            "shards": [entry.sha256[:16] for entry in manifest.shards],
            "removed": info["removed"],
            "codebook": index.codebook.id,
            "words": len(index.codebook),
            "dim": index.codebook.dim,
            "config": info["config"],
        }


def _can_compare(identity: dict[str, Any], display: Display) -> bool:
    """Return whether ``asmk`` can hold the archive; if not, say why."""
    config = identity["config"]
    reasons = {
        "is not installed": any(find_spec(name) is None for name in ("asmk", "faiss")),
        "cannot hold an archive of floats, with idf or of another selectivity here": not config["binary"]
        or config["idf"]
        or (config["alpha"], config["threshold"]) != (3.0, 0.0),
        f"would take too much memory for {identity['postings']:,} postings": identity["postings"] > MAX_PEER_POSTINGS,
        "cannot leave out removed photos (ctxdeploy compact)": identity["removed"] > 0,
        "packs 32 bits at a time": identity["dim"] % 32 != 0,
    }
    found = next((reason for reason, holds in reasons.items() if holds), None)
    if found is not None:
        display.say(f"asmk is not measured: it {found}")
    return found is None


def _with_python(case: Case, changes: dict[str, Any]) -> Case:
    if "python" not in changes:
        return case
    return replace(case, python=changes["python"], identity={**case.identity, "python": Path(changes["python"]).name})


def _counted(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _files(photos: Sequence[Path]) -> list[str]:
    return [str(path.resolve()) for path in photos]


def _against(
    engine: BundleEngine, companions: CompanionConfig, make: Callable[[str, BundleEngine], Case]
) -> list[Case]:
    return [make(label_of_against(change), other) for change, other in _changed(engine, companions.against)]


def _changed(engine: BundleEngine, against: Sequence[str]) -> Iterator[tuple[dict[str, Any], BundleEngine]]:
    """Yield what each ``--against`` changes, and the engine that comes of it."""
    for text in against:
        change = parse_against(text, _ENGINE_KEYS)
        try:
            yield change, engine.changed(change)
        except (BackendError, ConfigError) as error:
            raise type(error)(f"--against {text}: {error}") from error


def _pytorch(
    engine: BundleEngine, photos: Sequence[Path], checkpoint: Path | None, companions: CompanionConfig, display: Display
) -> list[Case]:
    """Return the peer of networks, where it can run."""
    if not companions.peer:
        return []
    if find_spec("torch") is None:
        display.say("PyTorch is not measured: it is not installed")
        return []
    return [pytorch_case(engine.bundle, photos, engine.threads, checkpoint)]


def _convolution_meter(engine: BundleEngine, display: Display) -> list[Case]:
    from ctxdeploy.bench.roofline import RATED

    if (engine.backend, engine.precision) not in RATED:
        display.say(f"no limit is measured: there is no reference convolution in {engine.backend} {engine.precision}")
        return []
    return [convolution_case(engine.backend, engine.precision, engine.threads)]


def _photo_question(
    kind: str, engine: BundleEngine, photos: Sequence[Path], cases: Sequence[Case], display: Display
) -> Question:
    known = {"operations": _operations(engine.bundle, photos, display)}
    return Question(kind=kind, settings={"photos": photos_hash(photos)}, cases=cases, known=known)


def _operations(bundle: Bundle, photos: Sequence[Path], display: Display) -> list[float] | None:
    """Return the operations of each photo; None where they cannot be counted."""
    from ctxdeploy.bench.roofline import count_operations
    from ctxdeploy.runtime import decode_photo

    shapes = []
    for path in photos:
        height, width = decode_photo(path, bundle.preprocessing).pixels.shape[:2]
        shapes.append((height, width))
    try:
        counted = count_operations(bundle, shapes)
    except (CtxdeployError, RuntimeError) as error:
        display.say(f"operations are not counted: {error}")
        return None
    return [counted[shape] for shape in shapes]
