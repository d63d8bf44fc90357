"""Any sequence of changes leaves an archive that equals a dictionary, and answers as the reference package does.

``CTXDEPLOY_EXAMPLES`` is the number of sequences for each of the five kinds of archive (15 by default; 500 in the full
count), each of up to 40 steps.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import FileState, GlobalDescriptor, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Hit, Index, IndexConfig

EXAMPLES = int(os.environ.get("CTXDEPLOY_EXAMPLES", "15"))
# idf, alpha, threshold of a search.
SCORINGS = [(False, 3.0, 0.0), (True, 3.0, 0.0), (True, 2.0, 0.1), (False, 1.0, 0.25)]
Model = dict[str, int]


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave out the syncs, which cost most of the time: what is tested here are states, not power cuts."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    yield


class Machine(RuleBasedStateMachine):
    """A writer, the states that it committed, and readers and snapshots of earlier ones."""

    config: IndexConfig
    alone: bool
    archives: ModuleType
    package: ModuleType
    steps = 0
    searches = 0

    names = st.sampled_from(range(10))
    photos = st.sampled_from(range(10))
    pairs = st.lists(st.tuples(names, photos), max_size=9)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "archive"
        self.pool = self.archives.pool()
        self.vectors = self.archives.global_vectors()
        self.codebook = None if self.alone else self.archives.codebook()
        self.writer = Index.create(self.path, self.codebook, config=self.config)
        self.model: Model = {}
        self.committed: Model = {}
        self.failures: set[str] = set()
        self.committed_failures: set[str] = set()
        self.snapshots: dict[str, tuple[Model, Any]] = {}
        self.readers: list[tuple[Index, Model, Any]] = []
        self.others = 0
        self.copied: tuple[Path, Model] | None = None

    def photo(self, name: int, photo: int) -> PhotoDescriptors:
        vectors = self.pool[photo]
        facts: dict[str, Any] = {}
        if self.config.keeps("positions"):
            facts["positions"] = self.archives.positions(vectors).astype(np.float32)
            facts["scales"] = np.full(len(vectors), 0.5, np.float32)
        return PhotoDescriptors(
            name=self.archives.NAMES[name],
            descriptors=LocalDescriptors(vectors=vectors, **facts),
            global_descriptor=GlobalDescriptor(vector=self.vectors[photo]) if self.config.keeps_global else None,
            size=self.size(photo),
            file=FileState(size=photo, mtime_ns=1000 + photo),
        )

    def size(self, photo: int) -> tuple[int, int] | None:
        """Return the size of a photo; that of every third is not known."""
        return None if photo % 3 == 2 else (4000, 3000 + photo)

    def kept(self) -> None:
        self.committed, self.committed_failures = dict(self.model), set(self.failures)

    def answers(self, index: Index) -> Any:
        return self.archives.answers(index, self.pool[:2])

    @initialize(pairs=pairs)
    def begin(self, pairs: list[tuple[int, int]]) -> None:
        self.put(pairs)
        self.commit()

    @rule(name=names, photo=photos)
    def add(self, name: int, photo: int) -> None:
        given = self.photo(name, photo)
        if given.name in self.model:
            with pytest.raises(ConfigError, match="in the archive already"):
                self.put_one(given)
            return
        self.put_one(given)
        self.model[given.name] = photo
        self.failures.discard(given.name)

    def put_one(self, given: PhotoDescriptors) -> None:
        """Add a photo by its parts."""
        facts: dict[str, Any] = {"size": given.size, "file": given.file, "global_descriptor": given.global_descriptor}
        self.writer.add(given.name, given.descriptors, **facts)

    @rule(pairs=pairs)
    def put(self, pairs: list[tuple[int, int]]) -> None:
        assert self.writer.add_many((self.photo(*pair) for pair in pairs), replace=True) == len(pairs)
        for name, photo in pairs:
            self.model[self.archives.NAMES[name]] = photo
            self.failures.discard(self.archives.NAMES[name])

    @rule(names=st.lists(names, max_size=5))
    def remove(self, names: list[int]) -> None:
        chosen = [self.archives.NAMES[name] for name in names]
        assert self.writer.remove(chosen) == len(self.model.keys() & set(chosen))
        for name in chosen:
            self.model.pop(name, None)
            self.failures.discard(name)

    @rule(name=names)
    def fail(self, name: int) -> None:
        text = self.archives.NAMES[name]
        if text not in self.model:
            self.writer.record_failures([{"name": text, "reason": "cut", "stage": "decode"}])
            self.failures.add(text)

    @rule()
    def commit(self) -> None:
        self.writer.commit()
        self.kept()

    @rule(committing=st.booleans())
    def reopen(self, committing: bool) -> None:
        if committing:
            self.commit()
        self.writer.close()
        self.writer = Index.open(self.path, writable=True)
        self.model, self.failures = dict(self.committed), set(self.committed_failures)

    @rule(purge=st.booleans())
    def compact(self, purge: bool) -> None:
        self.writer.compact(purge=purge)
        self.kept()
        if purge:
            assert self.writer.info()["removed"] == 0

    @rule(
        pairs=pairs,
        conflicts=st.sampled_from(["error", "keep", "replace"]),
        shard_images=st.sampled_from([2, 5]),
        without=st.lists(names, max_size=2),
    )
    def merge(self, pairs: list[tuple[int, int]], conflicts: str, shard_images: int, without: list[int]) -> None:
        self.others += 1
        path = self.folder / f"other-{self.others}"
        settings = {**self.config.metadata(), "shard_images": shard_images}
        with Index.create(path, self.codebook, config=IndexConfig(**settings)) as other:
            other.add_many((self.photo(*pair) for pair in pairs), replace=True)
            other.commit()
            other.remove(self.archives.NAMES[name] for name in without)
        gone = {self.archives.NAMES[name] for name in without}
        theirs = {self.archives.NAMES[name]: photo for name, photo in pairs}
        self.take(path, {name: photo for name, photo in theirs.items() if name not in gone}, conflicts)
        shutil.rmtree(path)

    @rule(without=st.lists(names, max_size=4))
    def copy(self, without: list[int]) -> None:
        """Let another archive grow from this one: its shards are the same files, with other photos removed."""
        if self.copied is not None:
            shutil.rmtree(self.copied[0])
        self.others += 1
        path = self.folder / f"copy-{self.others}"
        shutil.copytree(self.path, path)
        gone = [self.archives.NAMES[name] for name in without]
        with Index.open(path, writable=True) as other:
            other.remove(gone)
        self.copied = path, {name: photo for name, photo in self.committed.items() if name not in gone}

    @precondition(lambda self: self.copied)
    @rule(conflicts=st.sampled_from(["error", "keep", "replace"]))
    def merge_copy(self, conflicts: str) -> None:
        path, theirs = self.copied or (self.path, {})
        self.take(path, dict(theirs), conflicts)

    def take(self, path: Path, theirs: Model, conflicts: str) -> None:
        with Index.open(path) as other:
            failed = {record["name"] for record in other.failures()}
        both = theirs.keys() & self.model.keys()
        if both and conflicts == "error":
            with pytest.raises(ConfigError, match="are in both archives"):
                self.writer.merge(path, conflicts=conflicts)
        else:
            merged = self.writer.merge(path, conflicts=conflicts)
            assert merged.added == len(theirs) - len(both)
            assert (merged.replaced, merged.kept) == ((len(both), 0) if conflicts == "replace" else (0, len(both)))
            taken = {name: photo for name, photo in theirs.items() if conflicts == "replace" or name not in both}
            self.model |= taken
            self.failures -= taken.keys()
            self.failures |= {name for name in failed if name not in self.model}

    @precondition(lambda self: len(self.snapshots) < 3)
    @rule(name=st.sampled_from(["one", "two", "three"]))
    def snapshot(self, name: str) -> None:
        if name in self.snapshots:
            with pytest.raises(ConfigError, match="exists"):
                self.writer.snapshot(name)
        else:
            self.writer.snapshot(name)
            with Index.open(self.path, at=name) as index:
                self.snapshots[name] = dict(self.model), self.answers(index)
        self.kept()

    @precondition(lambda self: self.snapshots)
    @rule()
    def forget_snapshot(self) -> None:
        name = min(self.snapshots)
        self.writer.remove_snapshot(name)
        del self.snapshots[name]

    @precondition(lambda self: len(self.readers) < 2)
    @rule()
    def hold(self) -> None:
        reader = Index.open(self.path)
        self.readers.append((reader, dict(self.committed), self.answers(reader)))

    @precondition(lambda self: self.readers)
    @rule()
    def release(self) -> None:
        reader, model, before = self.readers.pop(0)
        assert sorted(reader.names()) == sorted(model) and self.answers(reader) == before
        reader.close()

    @rule()
    def collect_garbage(self) -> None:
        self.writer.collect_garbage()
        assert self.archives.referenced(self.path) <= self.archives.files(self.path)
        if self.model == self.committed:
            self.commit()
        if not self.readers and self.model == self.committed:
            self.writer.collect_garbage()
            assert self.archives.files(self.path) == self.archives.referenced(self.path)

    @rule(query=photos, scoring=st.sampled_from(SCORINGS))
    def search(self, query: int, scoring: tuple[bool, float, float]) -> None:
        Machine.searches += 1
        if self.config.keeps_global:
            self.search_global(query)
        if self.codebook is None:
            self.kept()
            return
        idf, alpha, threshold = scoring
        hits = self.writer.search(self.pool[query], 1000, idf=idf, alpha=alpha, threshold=threshold)
        self.kept()
        names = list(self.model)
        expected = np.zeros(0)
        if names:
            photos = [self.pool[self.model[name]] for name in names]
            (expected,) = self.package.scores(
                self.codebook.centroids,
                photos,
                [self.pool[query]],
                binary=self.config.binary,
                idf=idf,
                assignment=self.config.assignment,
                alpha=alpha,
                threshold=threshold,
            )
        scores = {hit.name: hit.score for hit in hits}
        assert len(scores) == len(hits)
        found = np.array([scores.get(name, 0.0) for name in names])
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-7), (found, expected)
        assert hits == self.archives.by_score_and_name(hits), "equal scores are ordered by name"
        self.same_in_another_order(query, scoring, hits)

    def search_global(self, query: int) -> None:
        """Find every photo, with the inner product of its vector as it is kept."""
        (hits,) = self.writer.search_global(self.vectors[query], 1000)
        kept = dict(zip(self.model, self.writer.global_vectors(self.model), strict=True))
        largest = {"fp32": 0.0, "fp16": 0.001, "int8": 1 / 254}[self.config.global_vectors]
        for name, photo in self.model.items():
            assert np.abs(kept[name] - self.vectors[photo]).max() <= largest
        scores = {
            name: sum(map(float.__mul__, row.tolist(), self.vectors[query].tolist())) for name, row in kept.items()
        }
        assert {hit.name: hit.score for hit in hits} == pytest.approx(scores, abs=1e-14)
        assert hits == self.archives.by_score_and_name(hits)

    def same_in_another_order(self, query: int, scoring: tuple[bool, float, float], hits: list[Hit]) -> None:
        """The same photos added at once, in another order, into one shard have exactly the same scores."""
        idf, alpha, threshold = scoring
        path = self.folder / "whole"
        settings = {**self.config.metadata(), "shard_images": 64}
        with Index.create(path, self.codebook, config=IndexConfig(**settings)) as index:
            numbers = {name: number for number, name in enumerate(self.archives.NAMES)}
            index.add_many(self.photo(numbers[name], photo) for name, photo in sorted(self.model.items(), reverse=True))
            assert index.search(self.pool[query], 1000, idf=idf, alpha=alpha, threshold=threshold) == hits
        shutil.rmtree(path)

    @rule()
    def verify(self) -> None:
        assert self.writer.verify() == []

    @rule()
    def features(self) -> None:
        """Each photo has the features of its own descriptors, as far as they are kept."""
        for name, photo in self.model.items():
            found = self.writer.features(name)
            assert (found is not None) == self.config.keeps("positions")
            if found is None:
                continue
            asked = self.writer.features(self.photo(0, photo).descriptors)
            assert asked is not None and np.array_equal(found.words, asked.words)
            assert np.allclose(found.positions, asked.positions, rtol=0, atol=0.1)
            if self.config.keeps("codes"):
                assert np.array_equal(found.codes, asked.codes) and found.size == self.size(photo)
                assert self.writer.photo_size(name) == self.size(photo)
            if self.config.keeps("descriptors"):
                assert asked.vectors is not None and found.vectors is not None
                largest = np.abs(asked.vectors).max(axis=1, keepdims=True, initial=0.0)
                assert (np.abs(found.vectors - asked.vectors) <= largest * 0.00394).all()
        self.kept()

    @invariant()
    def equals_the_model(self) -> None:
        Machine.steps += 1
        assert len(self.writer) == len(self.model)
        known = {name: FileState(size=photo, mtime_ns=1000 + photo) for name, photo in self.model.items()}
        assert self.writer.known() == known and sorted(self.writer.names()) == sorted(self.model)
        for name in self.archives.NAMES:
            assert (name in self.writer) == (name in self.model)
        assert {record["name"] for record in self.writer.failures()} == self.failures

    def teardown(self) -> None:
        try:
            for query, scoring in enumerate(SCORINGS):
                self.search(query, scoring)
            with Index.open(self.path) as index:
                assert sorted(index.names()) == sorted(self.model) and index.verify() == []
            for reader, model, before in self.readers:
                assert sorted(reader.names()) == sorted(model) and self.answers(reader) == before
                reader.close()
            for name, (model, before) in self.snapshots.items():
                with Index.open(self.path, at=name) as index:
                    assert sorted(index.names()) == sorted(model) and self.answers(index) == before
            self.writer.collect_garbage()
            assert self.archives.files(self.path) == self.archives.referenced(self.path)
        finally:
            self.writer.close()
            shutil.rmtree(self.folder)


@pytest.mark.parametrize(
    "config",
    [
        IndexConfig(shard_images=3),
        IndexConfig(shard_images=8, idf=True, geometry="descriptors", assignment=2),
        IndexConfig(shard_images=3, binary=False, idf=True, global_vectors="int8", global_dim=40),
        IndexConfig(shard_images=8, binary=False, geometry="codes", global_vectors="fp16", global_dim=40),
        pytest.param(IndexConfig(shard_images=3, global_vectors="fp32", global_dim=40), marks=pytest.mark.slow),
    ],
    ids=["binary", "binary-idf-descriptors", "float-idf-global", "float-codes-global", "global-alone"],
)
def test_any_sequence_of_changes(
    config: IndexConfig,
    load_child: Callable[[str], ModuleType],
    load_reference: Callable[[str], ModuleType],
    unsynced: None,
) -> None:
    alone = config.global_vectors == "fp32"
    facts = {
        "config": config,
        "alone": alone,
        "archives": load_child("archives"),
        "package": load_reference("asmk_package"),
    }
    kind = type("Machine", (Machine,), facts)
    Machine.steps = Machine.searches = 0
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=EXAMPLES <= 15,
            phases=[Phase.generate, Phase.shrink] if EXAMPLES > 15 else [Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{Machine.steps} steps, {Machine.searches} searches")
    assert Machine.steps > 20 * EXAMPLES
