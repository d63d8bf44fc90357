"""The question how long queries take: the archive, or synthetic ones of several sizes, and the peer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctxdeploy.bench.against import label_of_against, parse_against
from ctxdeploy.bench.cases import AGAINST, MAIN, METER, PEER, SWEEP, Case
from ctxdeploy.bench.running import Question
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display

ASMK = "asmk"
# Its inverted file takes 24 bytes a posting and a Python object a word; sorting our postings takes as much again.
MOST_PEER_POSTINGS = 45_000_000
_KEYS = ("threads", "archive", "python")
_TURN, _AGAIN = 10, 3


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What is asked.

    Attributes:
        archive: its folder.
        sizes: names of its snapshots to measure besides, smallest first.
        queries: timed in every window.
        descriptors: of a query.
        threads: of assignment and search.
        batches: sizes above 1 that are measured besides, up to the number of queries.
        thread_counts: that single queries are measured with besides.
        seed: of the queries.
        made: how the archive was made, if it is synthetic.
        against: texts of ``--against``.
        peer: ``asmk``, where it is installed and the archive is not too large for it.
    """

    archive: Path
    threads: int
    sizes: Sequence[str] = ()
    queries: int = 30
    descriptors: int = 1000
    batches: Sequence[int] = ()
    thread_counts: Sequence[int] = ()
    seed: int = 0
    made: dict[str, Any] | None = None
    against: Sequence[str] = ()
    peer: bool = True

    def __post_init__(self) -> None:
        if self.queries < 1 or self.descriptors < 1:
            raise ConfigError(f"--queries {self.queries} and --query-descriptors {self.descriptors} must be positive")
        if any(size > self.queries for size in self.batches):
            raise ConfigError(f"--batch-sizes up to {max(self.batches)} need as many --queries, not {self.queries}")


def search_question(settings: SearchSettings, display: Display) -> Question:
    """Return the question; ``ConfigError`` and ``ArchiveError`` for an archive that cannot be searched."""
    identity = archive_identity(settings.archive)
    if not identity["postings"]:
        raise ConfigError(f"{settings.archive} has no postings to search: index photos first")

    def case(label: str, role: str, changes: dict[str, Any], archive: Path | None = None) -> Case:
        where = archive or settings.archive
        asked = {
            "at": None,
            "threads": settings.threads,
            "queries": settings.queries,
            "descriptors": settings.descriptors,
            "seed": settings.seed,
            "top": 10,
            "batch": 1,
            **changes,
        }
        own = identity if archive is None else archive_identity(archive)
        units, subject = asked["batch"], "asmk" if role == PEER else "searches"
        turn = max(1, _TURN // units)
        known = {**own, **asked}
        place = {**asked, "archive": str(where.resolve())}
        made = Case(label=label, role=role, subject=subject, settings=place, identity=known)
        return replace(made, units=units, turn=turn, again=min(turn, _AGAIN))

    threads = settings.threads
    cases = [case(f"search, {threads} thread{'s' if threads > 1 else ''}", MAIN, {})]
    for text in settings.against:
        changes = parse_against(text, _KEYS)
        other = Path(changes["archive"]) if "archive" in changes else None
        cases.append(_with_python(case(label_of_against(changes), AGAINST, _only(changes, "threads"), other), changes))
    cases += [case(name.replace("-", " "), SWEEP, {"at": name}) for name in settings.sizes]
    cases += [case(f"batch of {size}", SWEEP, {"batch": size}) for size in sorted(set(settings.batches)) if size > 1]
    for count in sorted(set(settings.thread_counts) - {threads}):
        cases.append(case(f"{count} thread{'s' if count > 1 else ''}", SWEEP, {"threads": count}))
    if settings.peer and _can_compare(identity, display):
        cases.append(_staying(case(ASMK, PEER, {})))
    reads = {"threads": threads}
    cases.append(Case(label="meter: reads", role=METER, subject="reads", settings=reads, identity=reads))
    return Question(kind="search", settings={"made": settings.made}, cases=cases, known={})


def archive_identity(path: Path) -> dict[str, Any]:
    """Return what an archive holds, in counts and hashes."""
    from ctxdeploy.index import Index

    with Index.open(path) as index:
        info, manifest = index.info(), index._snapshot.manifest
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
    """Say whether ``asmk`` can hold the archive; if not, remark why."""
    config = identity["config"]
    reasons = {
        "is not installed": any(find_spec(name) is None for name in ("asmk", "faiss")),
        "knows no archive of floats, with idf or of another selectivity here": not config["binary"]
        or config["idf"]
        or (config["alpha"], config["threshold"]) != (3.0, 0.0),
        f"would take too much memory for {identity['postings']:,} postings": identity["postings"] > MOST_PEER_POSTINGS,
        "knows no removed photos (ctxdeploy compact)": identity["removed"] > 0,
        "packs 32 bits at a time": identity["dim"] % 32 != 0,
    }
    found = next((reason for reason, holds in reasons.items() if holds), None)
    if found is not None:
        display.say(f"nothing to compare with: the package asmk {found}")
    return found is None


def _only(changes: dict[str, Any], key: str) -> dict[str, Any]:
    return {key: changes[key]} if key in changes else {}


def _with_python(case: Case, changes: dict[str, Any]) -> Case:
    if "python" not in changes:
        return case
    return replace(case, python=changes["python"], identity={**case.identity, "python": Path(changes["python"]).name})


def _staying(case: Case) -> Case:
    return replace(case, restarts=False)
