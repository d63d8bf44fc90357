"""What Ray Serve is told: which archive is searched, in how many parts, and by how many replicas."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ctxdeploy.archive import archive_folder
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.part import Part
from ctxdeploy.core.settings import check_types
from ctxdeploy.core.text import printable
from ctxdeploy.core.urls import is_url
from ctxdeploy.service.config import ArchivePlace

if TYPE_CHECKING:
    from ctxdeploy.service.settings import Settings

EXTRA = "ray-serve"
_MOST = 1024


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """An archive whose shards are searched on Ray Serve. Each field is an argument of ``application``.

    Attributes:
        archive: its folder, which all machines see under this path, or a URL; None for those of ``config``.
        parts: into which its shards go.
        replicas: that search each part.
        fronts: replicas of the front.
        config: file of settings (``ctxdeploy serve --config``), which all machines see; the environment of each counts
            as well.
    """

    archive: str | None = None
    parts: int = 1
    replicas: int = 1
    fronts: int = 1
    config: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("parts", "replicas", "fronts"):
            if not 1 <= getattr(self, name) <= _MOST:
                raise ConfigError(f"{name}={getattr(self, name)} is outside 1..{_MOST}")

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the configuration that arguments of Ray Serve mean: texts, or what YAML makes of them. Paths become
        those from the root on.

        Raises:
            ConfigError: there is no such argument, or it cannot be used.
        """
        types = {field.name: field.type for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, given in arguments.items():
            if name not in types:
                raise ConfigError(f"there is no argument {printable(name)!r}: give {', '.join(types)}")
            if types[name] is int:
                values[name] = _number(name, given)
            elif given is not None:
                text = str(given)
                values[name] = text if is_url(text) else str(Path.cwd() / text)
        return cls(**values)

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """The parts, in their order."""
        return tuple(Part(number=number, count=self.parts) for number in range(1, self.parts + 1))

    def settings(self) -> "Settings":
        """Return the settings of the service, as ``ctxdeploy serve`` would have them on this machine.

        Raises:
            ConfigError: one cannot be used, or is for Ray Serve to decide.
        """
        from ctxdeploy.service.settings import load_settings

        settings = load_settings({}, None if self.config is None else Path(self.config))
        sharding = settings.service.sharding
        if sharding.shards is not None or sharding.shard:
            raise ConfigError("on Ray Serve, parts=N says who searches what: leave out the settings shards and shard")
        if settings.service.writable:
            raise ConfigError("what Ray Serve serves is only read: leave out writable, and add with  ctxdeploy index")
        return settings

    def places(self, settings: "Settings") -> tuple[ArchivePlace, ...]:
        """Return the archives.

        Raises:
            ConfigError: none is named.
        """
        if self.archive is not None:
            return (ArchivePlace(path=archive_folder(self.archive, cache=settings.cache)),)
        if not settings.archives:
            raise ConfigError("no archive is named: give archive=PATH, or config=FILE with a table [archives]")
        return settings.archives


def _number(name: str, given: Any) -> Any:
    """Return the number of a text; what is none is left for the check of types."""
    try:
        return int(given) if isinstance(given, str) else given
    except ValueError as error:
        raise ConfigError(f"{name}={printable(given)} is not a whole number") from error
