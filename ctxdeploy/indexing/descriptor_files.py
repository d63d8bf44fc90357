"""Descriptor files of the DELF library to an archive; no network is loaded.

files ─ sample ─ codebook ─┐
  └─────── read ───────────┴─ add ─ commit …
                            (a thread)
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.archive import DESCRIPTOR_FILES, is_archive, store_origin
from ctxdeploy.core.delf_files import read_datum, read_local
from ctxdeploy.core.errors import ConfigError, MismatchError, NoPhotosError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.core.types import GlobalDescriptor, LocalDescriptors, PhotoDescriptors, StageSeconds
from ctxdeploy.indexing.codebook import ITERATIONS
from ctxdeploy.indexing.commit import BackgroundWriter, IndexCommitter, committing, finish
from ctxdeploy.indexing.config import GLOBAL, IndexingConfig
from ctxdeploy.indexing.described_photo import LOCAL, WHOLE, DescribedPhoto, suffix_text
from ctxdeploy.indexing.given_codebook import open_given
from ctxdeploy.indexing.job import check_free, check_settings, make_checked_plan
from ctxdeploy.indexing.quantiser import check_sample, train_quantiser
from ctxdeploy.indexing.report import IndexingReport
from ctxdeploy.runtime import PhotoFailure
from ctxdeploy.runtime.sources import PhotoList

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook, GlobalQuantiser, Index, IndexConfig
    from ctxdeploy.runtime import PhotoSource

# Files that are read to learn of how many dimensions most are.
_LOOKED_AT = 64
# Photos that may wait for the writer, 0.5 MB each at 1000 descriptors.
_MAX_WAITING = 64


class DescriptorFilesJob:
    """One run that takes descriptor files into an archive, new or not. Use it once.

    Args:
        archive: its folder.
        photos: what ``list_descriptors`` gave.
        config: codebook, commits, failures, and what happens to photos that are gone.
        display: where progress and remarks go.
        memory_limit: bytes of the whole command.
    """

    def __init__(
        self,
        archive: Path,
        photos: PhotoList,
        config: IndexingConfig,
        display: Display,
        memory_limit: int | None = None,
    ) -> None:
        self._archive, self._photos, self._config, self._display = archive, photos, config, display
        self._memory_limit = memory_limit
        self._described = [photo for photo in photos.photos if isinstance(photo, DescribedPhoto)]
        self._report = IndexingReport(found=len(photos.photos), left_out=photos.left_out.metadata())

    def run(self) -> IndexingReport:
        """Index what is new or changed; what could not be listed counts as failures.

        Raises:
            MismatchError: the archive was made by a network, or of other descriptor files.
            ArchiveError: it is damaged, or another process writes to it.
            StorageError: it cannot be written.
            NoPhotosError: no file gave descriptors to train a codebook from.
            ConfigError: settings that the archive cannot take, or a sync that would leave nothing.
            TooManyFailuresError, KeyboardInterrupt: after committing what was done.
        """
        report, config, start = self._report, self._config, time.monotonic()
        with self._opened() as index:
            plan = make_checked_plan(index, self._archive, self._photos, config)
            report.take_plan(plan)
            store_origin(self._archive, self._photos, {}, moved=config.moved)
            index.forget_failures(plan.settled)
            seconds, limit = config.commit_seconds, config.failure_limit
            committer = IndexCommitter(index, report, seconds, limit, self._display, self._memory_limit)
            with committing(committer):
                for failure in (*self._photos.unreadable, *plan.refused):
                    committer.fail(failure)
                self._add(plan.todo().values(), index, committer)
                gone = [name for name in plan.gone if self._photos.is_gone(name)]
                if config.sync:
                    report.removed = index.remove(gone)
                else:
                    report.missing = len(gone)
            finish(index, report, self._display, collect=config.collect_garbage)
        report.seconds = time.monotonic() - start
        return report

    def _add(self, photos: "Iterable[PhotoSource]", index: "Index", committer: IndexCommitter) -> None:
        todo = [photo for photo in photos if isinstance(photo, DescribedPhoto)]
        if not todo:
            return
        dim = index.codebook.dim if index.keeps_local else 0
        takes_whole = index.config.keeps_global and _takes_whole(index)

        def take(result: PhotoDescriptors | PhotoFailure) -> None:
            if isinstance(result, PhotoFailure):
                committer.fail(result)
            else:
                committer.add(result)

        with (
            self._display.progress("indexing", len(todo)) as bar,
            BackgroundWriter(take, _MAX_WAITING) as writer,
        ):
            for photo in todo:
                result = _read(photo, dim, takes_whole)
                self._report.stages.read += result.seconds.total if isinstance(result, PhotoDescriptors) else 0
                writer.put(result)
                bar.advance(failed=int(isinstance(result, PhotoFailure)))

    @contextmanager
    def _opened(self) -> "Iterator[Index]":
        from ctxdeploy.index import Index

        if is_archive(self._archive):
            index = Index.open(self._archive, writable=True)
        else:
            check_free(self._archive)
            index = self._make()
        try:
            check_settings(index, self._archive, self._config)
            self._check_form(index)
            yield index
        finally:
            index.close()

    def _check_form(self, index: "Index") -> None:
        """Raise ``MismatchError`` if an archive was not made of such files."""
        source = index.source
        made = "by a network" if source is None or not source.model.startswith(DESCRIPTOR_FILES) else ""
        kept = "" if source is None or made else source.description
        here = {suffix for photo in self._described for suffix in photo.suffixes}
        if made or (kept.split(", ")[0] not in here and bool(self._described)):
            raise MismatchError(
                f"{self._archive} was made {made or f'of {kept} files'}, and {printable(self._photos.place)} holds "
                f"{suffix_text(here)} files: choose another -o"
            )

    def _make(self) -> "Index":
        from ctxdeploy.index import DescriptorSource, Index, IndexConfig

        config, photos = self._config, self._described
        check_sample(config, len(photos))
        has_local = any(photo.has_local for photo in photos)
        wholes = [photo for photo in photos if WHOLE in photo.suffixes]
        keeps_whole = len(wholes) == len(photos)
        if not has_local:
            self._check_global_alone()
        elif wholes and not keeps_whole:
            short = f"{len(photos) - len(wholes)} of {counted(len(photos), 'photo')} have no {WHOLE} file"
            if config.global_vectors != "none":
                raise ConfigError(f"--global {config.global_vectors}: {short}: add them, or leave out --global")
            self._display.say(f"{short}: global vectors are left out")
        codebook = self._codebook() if has_local else None
        kept, width = config.global_vectors, 0
        if keeps_whole:
            kept, width = GLOBAL if kept == "none" else kept, self._dimension(wholes, whole=True)
        elif kept != "none" and codebook is not None:  # the sums of the local descriptors
            width = codebook.dim
        suffixes = [photo.suffixes[0] for photo in photos if photo.has_local][:1] + [WHOLE] * keeps_whole
        source = DescriptorSource(
            model=f"{DESCRIPTOR_FILES} {', '.join(suffixes)}", preprocessing="", description=", ".join(suffixes)
        )
        settings = IndexConfig(
            geometry=config.geometry,
            global_vectors=kept,
            global_dim=width,
            global_search="exact" if config.global_cells is None else "ivf",
        )
        quantiser = self._quantiser(settings, keeps_whole) if settings.needs_quantiser else None
        return Index.create(self._archive, codebook, config=settings, source=source, quantiser=quantiser)

    def _quantiser(self, settings: "IndexConfig", takes_whole: bool) -> "GlobalQuantiser":
        """Train the words and cells of global vectors on those of a sample of the files, or on the sums of theirs."""
        sample = self._sample(self._described, self._config.training_photos)
        results = (_read(photo, 0 if takes_whole else None, takes_whole) for photo in sample)
        read = (result for result in results if isinstance(result, PhotoDescriptors))
        stages, limit = self._report.stages, self._memory_limit
        return train_quantiser(read, settings, self._config, self._display, stages, limit)

    def _check_global_alone(self) -> None:
        config = self._config
        given = {
            "--codebook": config.codebook is not None,
            "--words": config.words is not None,
            "--geometry": config.geometry != "none",
        }
        flag = next((flag for flag, is_given in given.items() if is_given), None)
        if flag is not None:
            raise ConfigError(
                f"{flag} is about local descriptors, and {printable(self._photos.place)} holds {WHOLE} files alone: "
                "leave it out"
            )

    def _codebook(self) -> "Codebook":
        """Return the codebook that is given, or one that is trained from a sample of the files."""
        config, local = self._config, [photo for photo in self._described if photo.has_local]
        dim = self._dimension(local, whole=False)
        if config.codebook is None:
            return self._train(local, dim)
        codebook = open_given(config.codebook)
        codebook.check(str(config.codebook))
        if codebook.dim != dim:
            raise ConfigError(
                f"codebook {printable(str(config.codebook))} has dimension {codebook.dim}, the descriptors {dim}: give "
                "the codebook of their network, or none"
            )
        return codebook

    def _dimension(self, photos: list[DescribedPhoto], *, whole: bool) -> int:
        """Return of how many dimensions most of a few files are; the others will be refused."""
        found = Counter[int]()
        why = "they hold no descriptors"
        for photo in self._sample(photos, _LOOKED_AT):
            result = _read(photo, 0 if whole else None, whole)
            if isinstance(result, PhotoFailure):
                why = f"{printable(result.name)}: {result.reason}"
            elif result.global_descriptor is not None:
                found[len(result.global_descriptor)] += 1
            elif len(result.descriptors):
                found[result.descriptors.vectors.shape[1]] += 1
        if not found:
            raise NoPhotosError(f"none of {counted(min(len(photos), _LOOKED_AT), 'file')} can be used: {why}")
        return max(found, key=lambda dim: (found[dim], -dim))

    def _sample(self, photos: list[DescribedPhoto], count: int) -> list[DescribedPhoto]:
        return photos if len(photos) <= count else random.Random(self._config.seed).sample(photos, count)

    def _train(self, photos: list[DescribedPhoto], dim: int) -> "Codebook":
        """Train a codebook from a sample of files, of each no more than its share of what is used."""
        from ctxdeploy.index import MAX_WORDS, Codebook
        from ctxdeploy.index.codebook import MAX_PER_WORD

        config, start = self._config, time.perf_counter()
        sample = self._sample(photos, config.training_photos)
        useful = MAX_PER_WORD * (config.words or MAX_WORDS)
        if self._memory_limit is not None:  # half of it may be the descriptors that are clustered
            useful = min(useful, self._memory_limit // (2 * 4 * dim))
        share = max(-(-useful // len(sample)), 1)
        parts: list[NDArray[np.float32]] = []
        with self._display.progress("reading for the codebook", len(sample), "files") as bar:
            for place, photo in enumerate(sample):
                result = _read(photo, dim, False)
                fits = isinstance(result, PhotoDescriptors) and result.descriptors.vectors.shape[1] == dim
                if isinstance(result, PhotoDescriptors) and fits:
                    vectors = result.descriptors.vectors
                    if len(vectors) > share:
                        chosen = np.random.default_rng((config.seed, place)).choice(len(vectors), share, replace=False)
                        vectors = vectors[np.sort(chosen)]
                    parts.append(vectors)
                bar.advance(failed=int(not fits))
        vectors = np.concatenate(parts)
        del parts
        self._display.say(f"training a codebook from {len(vectors):,} descriptors of {counted(len(sample), 'photo')}")
        with self._display.progress("clustering", ITERATIONS, "iterations") as bar:
            codebook = Codebook.train(
                vectors, config.words, seed=config.seed, iterations=ITERATIONS, progress=lambda *_: bar.advance()
            )
        self._report.codebook = codebook.metadata()
        self._report.stages.clustering = time.perf_counter() - start
        self._display.say(codebook.metadata()["training"]["explanation"])
        return codebook


def _takes_whole(index: "Index") -> bool:
    """Return whether the global vectors of an archive are those of files; else they are sums of local descriptors."""
    return index.source is not None and WHOLE in index.source.description


def _read(photo: DescribedPhoto, dim: int | None, takes_whole: bool) -> PhotoDescriptors | PhotoFailure:
    """Return what the files of a photo hold, or why they cannot be read.

    Args:
        photo: the photo.
        dim: of the archive's local descriptors, which a file without any does not say; None if it is not known; 0 to
            read none.
        takes_whole: read the file of the global vector.
    """
    start, state = time.perf_counter(), photo.state()
    local = LocalDescriptors(vectors=np.zeros((0, dim or 0), np.float32))
    vector = None
    try:
        if dim != 0:
            if not photo.has_local:
                raise ConfigError(f"it has a {WHOLE} file, but no {LOCAL[1]}")
            found = read_local(photo.path)
            local = found if len(found) else local
        if takes_whole:
            if WHOLE not in photo.suffixes:
                raise ConfigError(f"it has a {photo.suffixes[0]} file, but no {WHOLE}")
            vector = _vector(photo.whole)
    except ConfigError as error:
        reason = str(error).removeprefix(printable(str(photo.path.parent)) + os.sep)
        stage = "read" if isinstance(error.__cause__, OSError) else "decode"
        spent = time.perf_counter() - start
        return PhotoFailure(name=photo.name, reason=reason, stage=stage, file=state, seconds=spent)
    return PhotoDescriptors(
        name=photo.name,
        descriptors=local,
        global_descriptor=vector,
        seconds=StageSeconds(read=time.perf_counter() - start),
        file=state,
        remark="" if len(local) or vector is not None else "its file holds no descriptors",
    )


def _vector(path: Path) -> GlobalDescriptor:
    """Return the global vector of a file, scaled to length 1."""
    found = read_datum(path).ravel()
    if not found.size or not np.isfinite(found).all():
        raise ConfigError(
            f"{printable(str(path))} holds {'numbers that are not finite' if found.size else 'no vector'}"
        )
    return GlobalDescriptor.unit(found)
