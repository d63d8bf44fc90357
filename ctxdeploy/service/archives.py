"""The archives that a service answers from, each in its newest state."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ctxdeploy.archive import has_model, is_archive, open_model, photo_place, read_pointer
from ctxdeploy.core.device import CPU
from ctxdeploy.core.errors import ArchiveError, CtxdeployError
from ctxdeploy.photo_folder import LatestFolder
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.service.config import ArchivePlace, ServiceConfig
from ctxdeploy.service.logs import log
from ctxdeploy.service.names import SortedNames, held_names
from ctxdeploy.service.served import Catalogue, Served

if TYPE_CHECKING:
    from ctxdeploy.index import QueriedIndex
    from ctxdeploy.runtime import BackendConfig, ExtractionObserver, Extractor, QueuedExtractor
    from ctxdeploy.service.front import Front

_Found = TypeVar("_Found")


class ServedArchive(Served):
    """An archive that is answered from. Any thread may ask.

    Args:
        place: where it is.
        front: what searches its shards; None to search them here.
        device: where to.

    Attributes:
        photos: the archive, opened for reading.
        extractor: its network; None before ``load``, and where it has none.
    """

    def __init__(self, place: ArchivePlace, front: "Front | None" = None, device: str = CPU) -> None:
        super().__init__(place)
        self.place, self._device = place, device
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
        # Where its photos are, and were: what is told names none of it.
        self._unread_origin, self._folders = "", frozenset[str]()
        self._folder = LatestFolder(place.path)
        self._remember_folder()
        self._naming = threading.Lock()
        self._names: tuple[Any, SortedNames] | None = None

    def load(self, extractor: "Extractor") -> None:
        """Describe photos with a network that is loaded. Nobody may be asking."""
        former = self.photos
        self.photos = PhotoIndex.open(self.path, extractor=extractor, shards=self._shards, device=self._device)
        self.extractor = extractor
        former.close()

    def look(self) -> bool:
        """As ``Served.look``; what shows names finds those of the newer state sorted."""
        moved = super().look()
        if moved and self._names is not None:
            self.sort_names()
        return moved

    def _move_on(self) -> bool | None:
        pointer = self._read_pointer()
        moved = pointer != self._pointer and self.photos.refresh(prepare=True)
        if pointer != self._pointer and not moved and self._front is not None:
            return None  # its shard servers do not hold that state yet: it is looked for again
        self._pointer = pointer
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

    def _secret_folders(self) -> dict[str, str]:
        self._remember_folder()
        return dict.fromkeys(self._folders, "the folder of the photos")

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
        found = self._origin(self._folder.read)
        return found if found is not None and found.is_dir() else None

    def _remember_folder(self) -> None:
        folder = self._origin(self._folder.read)
        if folder is not None:
            self._folders = self._folders | {str(folder)}

    def _origin(self, read: "Callable[[], _Found | None]") -> "_Found | None":
        """Return what an archive says of where its photos are; None, and a line of the log, if that is damaged."""
        try:
            return read()
        except CtxdeployError as error:
            if str(error) != self._unread_origin:
                log.error("%s: where its photos are cannot be read, and no picture is shown: %s", self.name, error)
            self._unread_origin = str(error)
            return None

    def pictures(self) -> str:
        """Return where the photos' files are: ``folder``, ``packed`` (tar or zip files), ``elsewhere`` or ``none``."""
        if self.folder() is not None:
            return "folder"
        place = self._origin(lambda: photo_place(self.path))
        if place is None:
            return "none"
        if "://" not in place and place.lower().endswith((".tar", ".zip")):
            return "packed"
        return "elsewhere"

    def close(self) -> None:
        """Close it."""
        self.photos.close()


def _sorted_names(index: "QueriedIndex", former: SortedNames | None) -> SortedNames:
    from ctxdeploy.index import Index

    number = index.manifest.number
    if isinstance(index, Index):
        state = index.state
        state.name_order = found = SortedNames(state.shards, number, former)
        return found
    return SortedNames(held_names(index.names()), number)


class Archives(Catalogue[ServedArchive]):
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
        device = config.search_device
        super().__init__(places, lambda place: ServedArchive(place, front, device), config.refresh_seconds)

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

    def close(self) -> None:
        """Close them all, and their networks."""
        super().close()
        for extractor in self._extractors.values():
            extractor.close()
