"""The three questions as cases: photos through a network, queries through an archive, and both from end to end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctxdeploy.archive import find_model
from ctxdeploy.bench.against import label_of_against, parse_against
from ctxdeploy.bench.cases import AGAINST, MAIN, METER, PEER, SWEEP, Case
from ctxdeploy.bench.photos import photos_hash
from ctxdeploy.bench.preparing import Prepared
from ctxdeploy.bench.running import Question
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import CtxdeployError
from ctxdeploy.core.progress import Display

PYTORCH = "PyTorch fp32, one photo at a time"
_ENGINE_KEYS = ("backend", "precision", "threads", "model", "python")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A bundle in a runtime.

    Attributes:
        bundle: opened.
        backend, precision, threads: as ``BackendConfig``; ``auto`` is the bundle's choice.
        python: interpreter of the process; this one if None.
    """

    bundle: Bundle
    backend: str
    precision: str
    threads: int | None
    python: str | None = None

    def resolved(self) -> "Engine":
        """Return the same with the engine's own name."""
        from ctxdeploy.core.targets import AUTO, choose_for
        from ctxdeploy.runtime.backends import BackendConfig

        BackendConfig(name=self.backend, precision=self.precision, threads=self.threads)
        name = choose_for(self.bundle, self.precision) if self.backend == AUTO else self.backend
        return replace(self, backend=name)

    def changed(self, changes: dict[str, Any]) -> "Engine":
        """Return another engine, as ``--against`` says."""
        given = {key: value for key, value in changes.items() if key != "model"}
        if "precision" in given and "backend" not in given:
            given["backend"] = "auto"
        if "model" in changes:
            given["bundle"] = bundles.open(find_model(changes["model"]))
        return replace(self, **given).resolved()

    def settings(self) -> dict[str, Any]:
        """Return what a subject needs of it."""
        where = str(self.bundle.path.resolve())
        return {"bundle": where, "backend": self.backend, "precision": self.precision, "threads": self.threads}

    def identity(self) -> dict[str, Any]:
        """Return what decides its speed, without paths."""
        graphs = {artefact.sha256 for artefact in self.bundle.artefacts if artefact.precision == self.precision}
        own: dict[str, Any] = {"python": Path(self.python).name} if self.python else {}
        return {
            **own,
            "backend": self.backend,
            "precision": self.precision,
            "threads": self.threads,
            "model_id": self.bundle.model_id,
            "preprocessing_hash": self.bundle.preprocessing.hash,
            "artefacts": sorted(graphs) or sorted({artefact.sha256 for artefact in self.bundle.artefacts[:1]}),
        }


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What is measured beside the main case.

    Attributes:
        against: texts of ``--against``.
        peer: PyTorch, or ``asmk``, where they are installed.
        checkpoint: of the bundle, for PyTorch; random weights without.
    """

    against: Sequence[str] = ()
    peer: bool = True
    checkpoint: Path | None = None


def extraction_question(
    engine: Engine,
    photos: Sequence[Path],
    batches: Sequence[int],
    threads: Sequence[int],
    extras: Extras,
    display: Display,
) -> Question:
    """Return the question how long photos take through a network.

    Args:
        engine: the main case.
        photos: files.
        batches: sizes above 1 that the network is measured with besides.
        threads: numbers that the main case is measured with besides.
        extras: others.
        display: says what is left out.
    """
    files = [str(path.resolve()) for path in photos]
    main = _photo_case(f"{engine.backend} {engine.precision}", MAIN, engine, files)
    cases = [main, *_against(engine, extras, lambda label, other: _photo_case(label, AGAINST, other, files))]
    for size in sorted({size for size in batches if size > 1}):
        batch = _photo_case(f"batch of {size}", SWEEP, engine, files)
        settings, identity = {**batch.settings, "batch": size}, {**batch.identity, "batch": size}
        cases.append(replace(batch, settings=settings, identity=identity, units=size))
    for count in sorted(set(threads) - {engine.threads}):
        label = f"{count} thread{'s' if count > 1 else ''}"
        cases.append(_photo_case(label, SWEEP, replace(engine, threads=count), files))
    cases += _pytorch(engine, files, extras, display)
    cases += _convolution_meter(engine, display)
    known = {"operations": _operations(engine.bundle, photos, display)}
    return Question(kind="extract", settings={"photos": photos_hash(photos)}, cases=cases, known=known)


def end_to_end_question(
    engine: Engine,
    photos: Sequence[Path],
    made: Prepared,
    search_threads: int,
    extras: Extras,
    display: Display,
) -> Question:
    """Return the question how long it takes from photos to an archive, and from a query photo to hits.

    Args:
        engine: that indexes and queries.
        photos: files.
        made: folder, codebook and archive of them.
        search_threads: of a query's assignment and search.
        extras: others.
        display: says what is left out.
    """
    from ctxdeploy.index import Codebook

    files = [str(path.resolve()) for path in photos]
    places = {name: str(getattr(made, name).resolve()) for name in ("folder", "codebook", "work")}
    known_codebook = {"codebook": Codebook.load(made.codebook).id}

    def whole(label: str, role: str, other: Engine) -> Case:
        case = _photo_case(label, role, other, files)
        settings = {**other.settings(), **places}
        return replace(case, subject="indexing", settings=settings, identity={**case.identity, **known_codebook})

    main = whole("index", MAIN, engine)
    photo = _photo_case("photo by photo", SWEEP, engine, files)
    adding = {**photo.settings, "codebook": places["codebook"], "work": places["work"]}
    asking = {**photo.settings, "archive": str(made.archive.resolve()), "search_threads": search_threads, "top": 10}
    cases = [
        main,
        *_against(engine, extras, lambda label, other: whole(label, AGAINST, other)),
        replace(
            photo, subject="adding", settings=adding, turn=len(files), identity={**photo.identity, **known_codebook}
        ),
        replace(
            photo,
            label="query",
            subject="answering",
            settings=asking,
            identity={**photo.identity, **known_codebook, "search_threads": search_threads},
        ),
        *_pytorch(engine, files, extras, display),
        *_convolution_meter(engine, display),
    ]
    known = {"operations": _operations(engine.bundle, photos, display)}
    return Question(kind="end-to-end", settings={"photos": photos_hash(photos)}, cases=cases, known=known)


def _photo_case(label: str, role: str, engine: Engine, files: list[str]) -> Case:
    return Case(
        label=label,
        role=role,
        subject="photos",
        settings={**engine.settings(), "photos": files},
        identity=engine.identity(),
        python=engine.python,
    )


def _against(engine: Engine, extras: Extras, make: Any) -> list[Case]:
    changes = [parse_against(text, _ENGINE_KEYS) for text in extras.against]
    return [make(label_of_against(change), engine.changed(change)) for change in changes]


def _pytorch(engine: Engine, files: list[str], extras: Extras, display: Display) -> list[Case]:
    """Return the peer of networks, where it can run."""
    if not extras.peer:
        return []
    if find_spec("torch") is None:
        display.say("PyTorch is not installed: nothing to compare with")
        return []
    checkpoint = None if extras.checkpoint is None else str(extras.checkpoint.resolve())
    settings = {
        "bundle": str(engine.bundle.path.resolve()),
        "photos": files,
        "threads": engine.threads,
        "checkpoint": checkpoint,
    }
    identity = {
        "backend": "PyTorch",
        "precision": "fp32",
        "threads": engine.threads,
        "model_id": engine.bundle.model_id,
    }
    return [Case(label=PYTORCH, role=PEER, subject="pytorch", settings=settings, identity=identity, restarts=False)]


def _convolution_meter(engine: Engine, display: Display) -> list[Case]:
    from ctxdeploy.bench.rates import RATED

    if (engine.backend, engine.precision) not in RATED:
        display.say(f"no reference convolution in {engine.backend} {engine.precision}: no limit is measured")
        return []
    settings = {"backend": engine.backend, "precision": engine.precision, "threads": engine.threads}
    return [Case(label="meter: convolutions", role=METER, subject="convolutions", settings=settings, identity=settings)]


def _operations(bundle: Bundle, photos: Sequence[Path], display: Display) -> list[float] | None:
    """Return the operations of each photo; None where they cannot be counted."""
    from ctxdeploy.bench.operations import count_operations
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
