"""The archives that a service answers from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.service.config import ArchivePlace, ServiceConfig
from ctxdeploy.service.problems import ProblemError

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig


class ServedArchive:
    """An archive that is answered from. Any thread may ask.

    Args:
        place: where it is.
        config: of the service.
        backend: what runs its model, unless the place says otherwise.

    Attributes:
        path: its folder.
        name: that requests give.
        photos: the archive, opened for reading.
    """

    def __init__(self, place: ArchivePlace, config: ServiceConfig, backend: "BackendConfig | None" = None) -> None:
        self.path, self.name = place.path, place.shown
        self.photos = PhotoIndex.open(place.path, model=place.model, backend=place.backend or backend)
        self._config = config

    def told(self, text: str) -> str:
        """Return a text without the folders of the server."""
        for secret, shown in self.secrets.items():
            text = text.replace(secret, shown)
        return text

    @property
    def secrets(self) -> dict[str, str]:
        """Folders of the server, and what stands for them in what others are told; longer ones first."""
        folder = self.photos.folder
        found = {} if folder is None else {str(folder): "the folder of the photos"}
        found |= {str(self.path.resolve()): self.name, str(self.path): self.name}
        return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))

    def close(self) -> None:
        """Close it."""
        self.photos.close()


class Archives:
    """All archives of a service, by name.

    Raises:
        ConfigError: two have the same name.
        ArchiveError: one is not an archive, or damaged.
    """

    def __init__(
        self, places: Sequence[Path | ArchivePlace], config: ServiceConfig, backend: "BackendConfig | None" = None
    ) -> None:
        self._by_name: dict[str, ServedArchive] = {}
        for place in places:
            served = ServedArchive(
                place if isinstance(place, ArchivePlace) else ArchivePlace(path=place), config, backend
            )
            if served.name in self._by_name:
                raise ConfigError(f"{served.path} and {self._by_name[served.name].path} are both called {served.name}")
            self._by_name[served.name] = served

    def __iter__(self) -> Iterator[ServedArchive]:
        return iter(self._by_name.values())

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

    def close(self) -> None:
        """Close them all."""
        for served in self:
            served.close()
