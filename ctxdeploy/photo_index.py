"""The door of the product: a folder of photos to an archive, photos to answers, in one object."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ctxdeploy.archive import archive_facts, archive_folder, is_archive, open_state, photo_folder, store_model
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.device import CPU
from ctxdeploy.core.errors import ArchiveError, ConfigError, PhotoError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.types import Box, PhotoDescriptors
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.job import IndexingJob, check_free, create_index, given_codebook, is_trained
from ctxdeploy.indexing.report import IndexingReport
from ctxdeploy.models.finding import built_in
from ctxdeploy.models.loaded import LoadedModel
from ctxdeploy.models.table import DEFAULT
from ctxdeploy.pairs import FoundPairs, PairsConfig, find_pairs
from ctxdeploy.query import RERANK, Answer, QueryConfig, box_of
from ctxdeploy.querying.photo import IndexedPhoto, Photo, photo_pairs, photo_source
from ctxdeploy.querying.shared_answerer import SharedAnswerer
from ctxdeploy.sharding import opening
from ctxdeploy.shared_state import SharedState, WriterTurn, opening_on

if TYPE_CHECKING:
    from ctxdeploy.index import Hit, Index, QueriedIndex
    from ctxdeploy.runtime import BackendConfig, Extractor, ExtractorConfig
    from ctxdeploy.runtime.sources import PhotoList, Selection
    from ctxdeploy.sharding import Shards

_SILENT = Display(quiet=True)


class PhotoIndex:
    """A photo archive with the model that describes its photos: add photos, search by photo.

        from ctxdeploy import PhotoIndex

        photos = PhotoIndex.create("holiday.ctxindex")
        photos.add("photos/")
        for hit in photos.search("query.jpg", top=10):
            print(hit.name, hit.score)

    Make one with ``PhotoIndex.create`` or ``PhotoIndex.open``, and close it, or use it in a ``with`` block.

    Any number of threads may search at the same time: the network takes one photo after the other, the searches run
    beside each other. One thread at a time adds or removes; searches go on meanwhile, and see each change as a whole
    once it is committed. Other processes may read an archive while one writes it.
    """

    def __init__(self, path: Path, model: LoadedModel, state: SharedState, *, writable: bool) -> None:
        """Use ``PhotoIndex.create`` or ``PhotoIndex.open`` instead."""
        self._path, self._model, self._state = path, model, state
        self._is_writable = writable
        self._writing = WriterTurn(path)
        self._writer: Index | None = None
        self._config = IndexingConfig()
        self._answerers = SharedAnswerer(path, model, self._state, keep=state.at is None)

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        *,
        model: str | PathLike[str] | None = None,
        config: IndexingConfig | None = None,
        backend: "BackendConfig | None" = None,
        extraction: "ExtractorConfig | None" = None,
        extractor: "Extractor | None" = None,
    ) -> Self:
        """Make a new archive.

        Its codebook is that of ``config``, else that of the model. Where neither gives one (``config.words``, or a
        bundle without a codebook) it is trained from the first photos that are added, and the folder is made then; so
        are the words and cells of global vectors (``config.global_vectors="pq"``, ``config.global_cells``).

        Args:
            path: the folder, which must not exist yet or be empty.
            model: a bundle's folder, or a name that ``ctxdeploy models`` lists; the built-in model if None.
            config: codebook, geometry and how photos are added; ``add`` may be given another one.
            backend: runtime, precision and threads of the network.
            extraction: workers, batches and limits of decoding.
            extractor: a loaded model to share with other archives; then leave out model, backend and extraction.

        Raises:
            ArchiveError: there is an archive already, or the folder holds other files.
            BundleError, BackendError, MissingExtraError: the model is not a bundle, or cannot run here.
            StorageError: the folder cannot be written.
        """
        folder = archive_folder(path, writable=True)
        if is_archive(folder):
            raise ArchiveError(f"{folder} exists: open it with PhotoIndex.open(…, writable=True)")
        check_free(folder)
        named = built_in(DEFAULT) if model is None and extractor is None else model
        found = LoadedModel(folder, named, backend, extraction, extractor)
        made = cls(folder, found, SharedState(folder, None), writable=True)
        made._config = config or IndexingConfig()
        found.extractor()  # an archive whose model cannot run here is not made
        if not is_trained(made._config, found.bundle):
            made._writer = create_index(folder, given_codebook(made._config, found.bundle), found.bundle, made._config)
            try:
                store_model(folder, found.bundle)
            except BaseException:
                made.close()
                raise
        return made

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        writable: bool = False,
        at: str | int | None = None,
        shards: "Shards | None" = None,
        device: str = CPU,
        model: str | PathLike[str] | None = None,
        backend: "BackendConfig | None" = None,
        extraction: "ExtractorConfig | None" = None,
        extractor: "Extractor | None" = None,
    ) -> Self:
        """Open an archive: for reading, which never waits for a writer, or for writing as well.

        The network is loaded when it is first needed.

        Args:
            path: the folder, or a URL such as ``s3://bucket/photos.ctxindex``, which is only read.
            writable: take photos in and out; one process at a time.
            at: the archive as it was: the name of a snapshot, or the number of a manifest that is still there.
            shards: servers of the archive's shards, which are then not opened here (``ctxdeploy/sharding/``).
            device: where postings are searched: "cpu", or "cuda:N" for a GPU, which then holds them all (docs/gpu.md).
            model: the bundle that made the archive, where it does not carry it; its own if None.
            backend, extraction, extractor: as in ``create``.

        Raises:
            ArchiveError: it is not an archive, it is damaged, or ``writable`` and another process writes it.
            ConfigError: there is no such snapshot, or ``at`` and ``writable`` are given together.
        """
        folder = archive_folder(path, writable=writable)
        if writable and at is not None:
            raise ConfigError(f"{folder}: a former state (at={at!r}) cannot be written: leave out at or writable")
        if shards is not None and device != CPU:
            raise ConfigError(f"{device} is to search, but shards are searched by their servers: give it to these")
        state = SharedState(folder, at, opening_on(device) if shards is None else opening(shards))
        found = LoadedModel(folder, model, backend, extraction, extractor)
        opened = cls(folder, found, state, writable=writable)
        if writable:
            from ctxdeploy.index import Index

            opened._writer = Index.open(folder, writable=True)
        elif not is_archive(folder):
            open_state(folder, at).close()  # raises, and says why
        else:
            with opened._state.reading():
                pass
        return opened

    @property
    def path(self) -> Path:
        """The archive's folder."""
        return self._path

    def add(
        self,
        photos: "str | PathLike[str] | PhotoList | Iterable[tuple[str, Photo]]",
        *,
        recursive: bool = True,
        selection: "Selection | None" = None,
        config: IndexingConfig | None = None,
        display: Display = _SILENT,
    ) -> IndexingReport:
        """Take photos in, and commit them.

        Args:
            photos: a place (folder, list, tar or zip file, pattern or URL, see ``docs/places.md``), of which new and
                changed photos are taken in; or pairs of a name and a photo (file, bytes, PIL image or array), which
                replace those of the same names.
            recursive: look into the folders below; for a place that is a folder.
            selection: which photos of a place are taken; all that are not hidden or of a system if None.
            config: how; that of ``create`` if None.
            display: where progress and remarks go; nowhere if not given.

        Returns:
            Counts, times, and the photos that could not be read with their reasons: they do not raise an error here.

        Raises:
            ArchiveError: the archive was opened for reading, is closed, or is damaged.
            MismatchError: it was made with another model or preprocessing.
            ConfigError: there is no such place, or settings that the archive cannot take.
            NoPhotosError: the place holds no photos, or none could be read to train a codebook.
            TooManyFailuresError, BackendError, StorageError, KeyboardInterrupt, and whatever ``photos`` raises while it
                gives pairs: after committing what was done.
        """
        from ctxdeploy.runtime.sources import PhotoList, list_photos

        with self._changing():
            given = config or self._config
            job = IndexingJob(self._path, self._model.extractor(), given, display, self._writer)
            try:
                if isinstance(photos, str | PathLike):
                    photos = list_photos(fspath(photos), recursive=recursive, selection=selection)
                return job.place(photos) if isinstance(photos, PhotoList) else job.stream(photo_pairs(photos))
            finally:
                self._hold_writer()
                self._state.refresh()

    def search(
        self,
        photo: "Photo | IndexedPhoto",
        *,
        top: int = 10,
        box: Box | Sequence[float] | None = None,
        rank: str | None = None,
        rerank: int = RERANK,
        config: QueryConfig | None = None,
    ) -> "list[Hit]":
        """Return the photos that show the same as a photo, best first: hits with ``name`` and ``score`` (see ``Hit``).

        Args:
            photo: a file, the bytes of one, a PIL image, an H×W×3 or H×W uint8 array in RGB or grey, or the name of an
                indexed photo (``IndexedPhoto(name=…)``, or a text where no file is called so), which is asked with what
                the archive holds of it: no file is read, no network runs. For a part of it its file is read.
            top: hits at most.
            box: the part of the photo to search for, (x0, y0, x1, y1) in its pixels; the whole photo if None.
            rank, rerank: what orders the answers, and how many are ordered anew; see ``QueryConfig``.
            config: all settings of a query; then leave out the others.

        Raises:
            PhotoError: the photo cannot be read, or the box does not lie in it.
            ArchiveError: the archive is closed, or has no photos yet and no codebook.
            MismatchError: it was made with another model or preprocessing.
            ConfigError: a setting is outside its range.
        """
        given = config or QueryConfig(top=top, box=box_of(box), rank=rank, rerank=rerank)
        return self.answer(photo, given).hits

    def answer(
        self, photo: "Photo | IndexedPhoto", config: QueryConfig | None = None, *, deadline: Deadline | None = None
    ) -> Answer:
        """Return the answer to one query: its hits, how sure they are, and what they come from.

        Args:
            photo: as ``search`` takes it, or a ``PhotoSource``.
            config: settings of the query.
            deadline: until when it is wanted: what nobody waits for any more is not begun.

        Raises:
            DeadlineError: the deadline was over before.
            PhotoError, ArchiveError, MismatchError, ConfigError: as ``search``.
        """
        return self._answerers.answer(photo, config or QueryConfig(), deadline)

    def gather(self, wanted: bool) -> None:
        """Say whether searches that wait in several threads (``answer``) go together, as they do unless told."""
        self._answerers.gathers = wanted

    def describe(self, photo: "Photo", *, box: Box | None = None, deadline: Deadline | None = None) -> PhotoDescriptors:
        """Return what the model finds in a photo, not one of the archive, or in a box of it. Raises as ``answer``."""
        return self._model.extractor().extract_turned(photo_source(photo), box, deadline=deadline)[0]

    def search_many(
        self, photos: "Iterable[Photo | IndexedPhoto]", config: QueryConfig | None = None
    ) -> "Iterator[Answer | PhotoError]":
        """Yield an answer for each photo, in order, or why it cannot be read; all of one state of the archive.

        Queries that wait are searched together, which reads every posting once: 1.5 times as fast for 64 of them.

        Args:
            photos: several of what ``search`` takes, and ``PhotoSource``, such as ``list_photos(place).photos``.
            config: settings of all the queries.

        Raises:
            ArchiveError, MismatchError, ConfigError: as ``search``.
        """
        if isinstance(photos, str | bytes | bytearray):
            raise ConfigError("search_many takes several photos: give a list of them, or call search for one")
        with self._answerers.answering(config or QueryConfig()) as answerer:
            yield from answerer.answers(photos)

    def pairs(self, config: PairsConfig | None = None, *, display: Display = _SILENT) -> FoundPairs:
        """Return the pairs of photos that are worth matching: an iterable of two names and their score.

        Args:
            config: which pairs; the 20 best others of each photo if None.
            display: where progress goes; nowhere if not given.

        Raises:
            ConfigError: it names photos that are not in the archive.
            ArchiveError: the archive is closed.
        """
        with self._state.reading() as index:
            return find_pairs(index, config or PairsConfig(), display)

    def remove(self, names: str | Iterable[str]) -> int:
        """Take photos out of the archive, one or several, and commit that; return how many there were.

        Names that are not in the archive are ignored. Their descriptors are gone from disk after ``ctxdeploy compact
        --purge``.

        Raises:
            ArchiveError: the archive was opened for reading, or is closed.
        """
        with self._changing():
            if self._writer is None:
                return 0
            removed = self._writer.remove(names)
            self._writer.commit()
            self._state.refresh()
            return removed

    def refresh(self, *, prepare: bool = False) -> bool:
        """Move on to the newest committed state, of this or another process; return whether there was one.

        Searches that run go on with the state that they began with; others begin meanwhile. An archive that was opened
        ``at`` a former state stays there.

        Args:
            prepare: first do what the first search in that state would wait for.

        Raises:
            ArchiveError: the newest state is damaged; the archive stays in the one that it is in.
        """
        self._state.check()
        return self._state.refresh(self._answerers.prepare) if prepare else self._state.refresh()

    def reading(self) -> "AbstractContextManager[QueriedIndex]":
        """Hold the state in force while a block runs, to ask it several things; it is not to be closed."""
        return self._state.reading()

    def info(self) -> dict[str, Any]:
        """Return what the archive holds: counts, bytes, codebook, settings, model and place; all fits into JSON."""
        with self._state.reading() as index:
            return archive_facts(index)

    def failures(self) -> list[dict[str, Any]]:
        """Return the photos that could not be read: name, reason, stage, seconds, and the state of the file."""
        with self._state.reading() as index:
            return index.failures()

    def extraction(self) -> dict[str, Any]:
        """Return what runs the network: runtime, precision, device, threads; the network is loaded for it."""
        return self._model.extractor().description()

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return self._model.bundle

    @property
    def folder(self) -> Path | None:
        """The folder that the names are paths in; None if there is none, or it is not known."""
        return photo_folder(self._path)

    @property
    def state(self) -> int:
        """The number of the state that is in force: each commit has one of its own."""
        with self._state.reading() as index:
            return index.manifest.number

    def names(self) -> list[str]:
        """Return the names of all photos."""
        with self._state.reading() as index:
            return list(index.names())

    def __len__(self) -> int:
        if not self._state.is_closed and not is_archive(self._path):  # its codebook is still to be trained
            return 0
        with self._state.reading() as index:
            return len(index)

    def __contains__(self, name: object) -> bool:
        with self._state.reading() as index:
            return name in index

    def __repr__(self) -> str:
        if self._state.is_closed:
            return f"<PhotoIndex {fspath(self._path)!r}, closed>"
        model = self._model.label()
        at = self._state.at
        kind = "writable" if self._is_writable else "read only" if at is None else f"as of {at}"
        return f"<PhotoIndex {fspath(self._path)!r}: {len(self):,} photos, model {model}, {kind}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the archive for other writers. Searches that run are finished. May be called twice."""
        self._writing.check_idle()
        self._state.close()
        self._answerers.close()
        with self._writing.taken():
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._writing.taken():
            self._state.check()
            if not self._is_writable:
                raise ArchiveError(f"{self._path} was opened for reading: open it with writable=True")
            yield

    def _hold_writer(self) -> None:
        """Open for writing what the first photos have made."""
        if self._writer is None and is_archive(self._path):
            from ctxdeploy.index import Index

            self._writer = Index.open(self._path, writable=True)
