"""The archives that a service answers from, each in its newest state."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ctxdeploy.archive import has_model, is_archive, open_model, photo_folder, photo_place, read_pointer
from ctxdeploy.core.device import CPU
from ctxdeploy.core.errors import ArchiveError, ConfigError, CtxdeployError
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.service.config import ArchivePlace, ServiceConfig
from ctxdeploy.service.logs import log
from ctxdeploy.service.names import SortedNames, held_names
from ctxdeploy.service.problems import ProblemError

if TYPE_CHECKING:
    from ctxdeploy.index import QueriedIndex
    from ctxdeploy.runtime import BackendConfig, ExtractionObserver, Extractor, QueuedExtractor
    from ctxdeploy.service.front import Front

_Found = TypeVar("_Found")


class ServedArchive:
    """An archive that is answered from. Any thread may ask.

    Args:
        place: where it is.
        front: what searches its shards; None to search them here.
        device: where to.

    Attributes:
        path: its folder.
        name: that requests give.
        photos: the archive, opened for reading.
        extractor: its network; None before ``load``, and where it has none.
        stale: why it cannot move on to a newer state, and answers from the last one that was whole; None if it can.
    """

    def __init__(self, place: ArchivePlace, front: "Front | None" = None, device: str = CPU) -> None:
        self._device = device
        self.place, self.path, self.name = place, place.path, place.shown
        self._front = front
        self._shards = None if front is None else front.shards(self.name)
        try:
            self._pointer = self._read_pointer()
        except (CtxdeployError, OSError):
            self._pointer = b""  # opening says why
        if not (place.path.exists() or is_archive(place.path)):  # one at a URL may have no file here yet
            raise ArchiveError(f"there is no {place.path}: make an archive with  ctxdeploy index DIR -o {place.path}")
        self.photos = PhotoIndex.open(place.path, model=place.model, shards=self._shards, device=device)
        self.extractor: Extractor | None = None
        self.stale: str | None = None
        # Where its photos are, and were: what is told names none of it.
        self._unread_origin, self._folders = "", frozenset[str]()
        self._remember_folder()
        self._looking = threading.Lock()
        self._naming = threading.Lock()
        self._names: tuple[Any, SortedNames] | None = None

    def load(self, extractor: "Extractor") -> None:
        """Describe photos with a network that is loaded. Nobody may be asking."""
        former = self.photos
        self.photos = PhotoIndex.open(self.path, extractor=extractor, shards=self._shards, device=self._device)
        self.extractor = extractor
        former.close()

    def look(self) -> bool:
        """Move on to a newer state, if there is one; return whether there was. Costs a read of one small file if not.

        What keeps it from that is logged once, and kept in ``stale``; it is tried again with the next look.
        """
        with self._looking:
            try:
                pointer = self._read_pointer()
                moved = pointer != self._pointer and self.photos.refresh(prepare=True)
            except (CtxdeployError, OSError) as error:
                reason = str(error) if isinstance(error, CtxdeployError) else _reason(self.path, error)
                if reason != self.stale:
                    log.error("%s: answers come from its last whole state: %s", self.name, reason)
                self.stale = reason
                return False
            if pointer != self._pointer and not moved and self._front is not None:
                return False  # its shard servers do not hold that state yet: it is looked for again
            self._pointer = pointer
            if self.stale is not None:
                log.warning("%s can be read again", self.name)
                self.stale = None
        if moved and self._names is not None:
            self.sort_names()
        return moved

    def count_partial(self) -> None:
        """Count an answer that lacks a part of the shards."""
        if self._front is not None:
            self._front.metrics.partial()

    def told(self, text: str) -> str:
        """Return a text without the folders of the server."""
        for secret, shown in self.secrets.items():
            text = text.replace(secret, shown)
        return text

    @property
    def secrets(self) -> dict[str, str]:
        """Folders of the server, and what stands for them in what others are told; longer ones first."""
        self._remember_folder()
        found = dict.fromkeys(self._folders, "the folder of the photos")
        found |= {str(self.path.resolve()): self.name, str(self.path): self.name}
        return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))

    def _read_pointer(self) -> bytes:
        return read_pointer(self.path)

    def names(self) -> SortedNames:
        """Return all names in order; those of a new state are put in when ``look`` has found it, or somebody asks."""
        with self.photos.reading() as index:
            manifest = index.manifest
            held = self._names
            if held is not None and held[0] is manifest:
                return held[1]
            with self._naming:  # one thread sorts, the others wait for it
                held = self._names
                if held is None or held[0] is not manifest:
                    held = self._names = (manifest, _sorted_names(index, None if held is None else held[1]))
                return held[1]

    def sort_names(self) -> None:
        """Sort the names of the state in force before somebody waits for it, where its shards are here."""
        from ctxdeploy.index import Index

        with self.photos.reading() as index:
            if isinstance(index, Index):
                self.names()

    def facts(self, *, writable: bool) -> dict[str, Any]:
        """Return what is told of it: counts, model, what it keeps; nothing of where it lies on this machine."""
        with self.photos.reading() as index:
            manifest, config = index.manifest, index.config
            return {
                "name": self.name,
                "photos": len(index),
                "state": manifest.number,
                "bytes": sum(entry.bytes for entry in manifest.files),
                "model": self._model(index),
                "local": index.keeps_local,
                "geometry": None if config.geometry == "none" else config.geometry,
                "global": None if config.global_vectors == "none" else config.global_vectors,
                "writable": writable and has_model(self.path),
                "pictures": self.pictures(),
                "stale": self.stale is not None,
                "batch_size": None if self.extractor is None else self.extractor.config.batch_size,
            }

    def _model(self, index: "QueriedIndex") -> dict[str, Any]:
        source = index.source
        return {
            "id": None if source is None else source.model,
            "name": None if source is None else source.description or None,
            "preprocessing": None if source is None else source.preprocessing,
        }

    def folder(self) -> Path | None:
        """Return the folder that its names are paths in; None if there is none, or it is not known or not there."""
        found = self._origin(photo_folder)
        return found if found is not None and found.is_dir() else None

    def _remember_folder(self) -> None:
        folder = self._origin(photo_folder)
        if folder is not None:
            self._folders = self._folders | {str(folder)}

    def _origin(self, read: "Callable[[Path], _Found | None]") -> "_Found | None":
        """Return what an archive says of where its photos are; None, and a line of the log, if that is damaged."""
        try:
            return read(self.path)
        except CtxdeployError as error:
            if str(error) != self._unread_origin:
                log.error("%s: where its photos are cannot be read, and no picture is shown: %s", self.name, error)
            self._unread_origin = str(error)
            return None

    def pictures(self) -> str:
        """Return where the photos' files are: ``folder``, ``packed`` (tar or zip files), ``elsewhere`` or ``none``."""
        if self.folder() is not None:
            return "folder"
        place = self._origin(photo_place)
        if place is None:
            return "none"
        if "://" not in place and place.lower().endswith((".tar", ".zip")):
            return "packed"
        return "elsewhere"

    def close(self) -> None:
        """Close it."""
        self.photos.close()


def _reason(path: Path, error: OSError) -> str:
    return f"{error.filename or path}: {error.strerror or error}"


def _same_name(served: ServedArchive, other: ServedArchive) -> str:
    if served.path.resolve() == other.path.resolve():
        return f"{served.path} is named twice: name it once"
    advice = "give them names in a file: --config FILE, with a table [archives] of NAME = PATH"
    return f"{served.path} and {other.path} are both called {served.name}: {advice}"


def _sorted_names(index: "QueriedIndex", former: SortedNames | None) -> SortedNames:
    from ctxdeploy.index import Index

    number = index.manifest.number
    if isinstance(index, Index):
        return SortedNames(index.state.shards, number, former)
    return SortedNames(held_names(index.names()), number)


class Archives:
    """All archives of a service, by name; a thread looks for newer states of them.

    Args:
        places: of the archives.
        config: of the service.
        backend: what runs their models.
        front: what searches their shards; None to search them here.

    Raises:
        ConfigError: two have the same name.
        ArchiveError: one is not an archive, or damaged.
    """

    def __init__(
        self,
        places: Sequence[Path | ArchivePlace],
        config: ServiceConfig,
        backend: "BackendConfig | None" = None,
        front: "Front | None" = None,
    ) -> None:
        self._config, self._backend = config, backend
        self._extractors: dict[tuple[str, BackendConfig | None], QueuedExtractor] = {}
        self._by_name: dict[str, ServedArchive] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ctxdeploy-refresh", daemon=True)
        try:
            for place in places:
                named = place if isinstance(place, ArchivePlace) else ArchivePlace(path=place)
                served = ServedArchive(named, front, config.search_device)
                other = self._by_name.setdefault(served.name, served)
                if other is not served:
                    served.close()
                    raise ConfigError(_same_name(served, other))
        except BaseException:
            self.close()
            raise
        self._thread.start()

    def __iter__(self) -> Iterator[ServedArchive]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def named(self, name: str | None) -> ServedArchive:
        """Return an archive; the only one may be left unnamed."""
        if name is None and len(self._by_name) == 1:
            return next(iter(self))
        known = ", ".join(self._by_name)
        if name is None:
            raise ProblemError(422, f"name the archive with archive=…: one of {known}", code="ConfigError")
        if name not in self._by_name:
            raise ProblemError(404, f"there is no archive {name!r} here: ask one of {known}", code="NoSuchArchive")
        return self._by_name[name]

    @property
    def secrets(self) -> dict[str, str]:
        """As of each archive, of all of them."""
        found: dict[str, str] = {}
        for served in self:
            found |= served.secrets
        return found

    def load(self, served: ServedArchive, observer: "ExtractionObserver | None" = None) -> None:
        """Load the model of an archive, before anybody asks it; archives with the same model share one network.

        An archive that was made of descriptor files has none.

        Args:
            served: the archive.
            observer: told of what the network does.

        Raises:
            BundleError, BackendError, MissingExtraError: its model cannot run here.
        """
        if served.place.model is None and not has_model(served.path):
            return
        bundle, backend = open_model(served.path, served.place.model), served.place.backend or self._backend
        extractor = self._extractors.get((bundle.model_id, backend))
        if extractor is None:
            from ctxdeploy.runtime import ExtractorConfig, QueuedExtractor
            from ctxdeploy.runtime.decode import DecodeLimits

            config = ExtractorConfig(
                batch_size=self._config.batch_size,
                photo_timeout=self._config.timeout,
                limits=DecodeLimits(max_pixels=self._config.max_pixels),
            )
            extractor = QueuedExtractor(bundle, backend=backend, config=config, observer=observer)
            self._extractors[bundle.model_id, backend] = extractor
        served.load(extractor)

    def _look(self) -> None:
        while not self._ended.wait(self._config.refresh_seconds):
            for served in self:
                try:
                    served.look()
                except Exception:  # a defect of ours must not end the looking
                    log.exception("%s: looking for a newer state failed", served.name)

    def close(self) -> None:
        """Close them all."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for served in self:
            served.close()
        for extractor in self._extractors.values():
            extractor.close()
