"""Settings of a service from its command line, the environment and a file.

What an option says holds; else what a variable says (``CTXDEPLOY_MAX_BYTES`` for ``--max-bytes``); else what the file
says (``max-bytes = "64MiB"``, TOML); else the default. Each setting is a field of a dataclass and stands nowhere else.

    max-top = 100

    [archives]
    paris = "/photos/paris.ctxindex"

    [archives.oxford]
    path = "oxford.ctxindex"         # beside this file
    model = "how-r50.ctxbundle"
    precision = "bf16"
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BeforeValidator, ValidationError, create_model
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from ctxdeploy.archive import archive_folder
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.settings import SettingField, settings_of, with_settings
from ctxdeploy.core.text import printable
from ctxdeploy.core.urls import is_url
from ctxdeploy.object_storage.config import CacheConfig
from ctxdeploy.runtime import BackendConfig
from ctxdeploy.service.config import ArchivePlace, ServiceConfig

PREFIX = "CTXDEPLOY_"
_ARCHIVES = "archives"
_MAX_FILE = 1 << 20
_CONFIGS = (ServiceConfig, BackendConfig, CacheConfig)
# By the dataclass that has a field, and its name, what was given.
Given = Mapping[tuple[type, str], Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a service.

    Attributes:
        service: of it.
        backend: of what runs networks.
        cache: of what is kept here of archives on object storage.
        archives: that the file names; none if it names none.
    """

    service: ServiceConfig
    backend: BackendConfig
    cache: CacheConfig
    archives: tuple[ArchivePlace, ...] = ()


def load_settings(options: Given, file: Path | None = None) -> Settings:
    """Return the settings in force.

    Args:
        options: what the command line says.
        file: TOML; that of ``CTXDEPLOY_CONFIG`` if None, or none.

    Raises:
        ConfigError: a value cannot be used, or the file has a key that there is not; the message names the option, the
            variable or the file.
    """
    named = os.environ.get(f"{PREFIX}CONFIG")
    path = file or (Path(named) if named else None)
    content = {} if path is None else _read(path)
    archives = content.pop(_ARCHIVES, {})
    fields = {_key(field): field for config in _CONFIGS for field in settings_of(config)}
    found = _Found(fields=fields, options=options, file=path)
    found.check_keys(content)
    values = found.values({key.replace("-", "_"): value for key, value in content.items()})
    backend, cache = found.made(BackendConfig, values), found.made(CacheConfig, values)
    return Settings(
        service=found.made(ServiceConfig, values),
        backend=backend,
        cache=cache,
        archives=() if path is None else _archives(path, archives, values, cache),
    )


def _key(field: SettingField) -> str:
    """Return what a setting is called in variables and files: its flag, without what turns it off."""
    return field.setting.flag.split()[-1].split("/")[0].removeprefix("--").replace("-", "_")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(path, _MAX_FILE).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # UnicodeDecodeError, TOMLDecodeError
        raise ConfigError(f"--config {path} is not TOML: {printable(str(error))}") from error


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the three places say.

    Attributes:
        fields: the settings that there are, by their key.
        options: what the command line says.
        file: that the keys stand in.
    """

    fields: Mapping[str, SettingField]
    options: Given
    file: Path | None

    def check_keys(self, content: Mapping[str, Any]) -> None:
        """Refuse a file with a key that there is not."""
        known = [key.replace("_", "-") for key in self.fields]
        for key in content:
            if key.replace("_", "-") not in known:
                close = get_close_matches(key.replace("_", "-"), [*known, _ARCHIVES], 1)
                meant = f": did you mean {close[0]}?" if close else f": there are {', '.join(sorted(known))}"
                raise ConfigError(f"--config {self.file}: there is no setting {printable(key)!r}{meant}")

    def values(self, content: Mapping[str, Any]) -> Given:
        """Return what is said, by dataclass and field."""
        options = {
            key: self.options[field.owner, field.name]
            for key, field in self.fields.items()
            if (field.owner, field.name) in self.options
        }
        try:
            said = _model(self.fields, content)(**options)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(self._said_of(str(first["loc"][0]), first["input"], first["msg"])) from error
        given = said.model_fields_set
        return {(self.fields[key].owner, self.fields[key].name): getattr(said, key) for key in given}

    def made(self, config: type, values: Given) -> Any:
        """Return a dataclass of the values; an error that names an option names where its value comes from too."""
        try:
            return with_settings(config, dict(values))
        except ConfigError as error:
            text = str(error)
            named = [key for key, field in self.fields.items() if field.setting.flag.split()[-1].split("/")[0] in text]
            places = [place for key in named if (place := self._place(key)) and not place.startswith("--")]
            raise ConfigError(f"{text} (it stands in {', '.join(places)})" if places else text) from error

    def _said_of(self, key: str, value: Any, message: str) -> str:
        text = message.removeprefix("Value error, ")
        text = text if text.startswith("is ") else f"is wrong: {text}"
        if key == "port" and str(value).startswith("tcp://"):
            text += ". Kubernetes sets it for a Service of this name: say  enableServiceLinks: false"
        return f"{self._place(key)} {printable(str(value)[:100])!r} {text}"

    def _place(self, key: str) -> str:
        """Return where the value of a setting comes from: its flag, its variable, or the file and its key."""
        field = self.fields[key]
        if (field.owner, field.name) in self.options:
            return field.setting.flag.split()[-1].split("/")[0]
        variable = f"{PREFIX}{key.upper()}"
        if variable in map(str.upper, os.environ):
            return variable
        return "" if self.file is None else f"{self.file}: {key.replace('_', '-')}"


def _model(fields: Mapping[str, SettingField], content: Mapping[str, Any]) -> type[BaseSettings]:
    """Return pydantic's model of settings, below which lies what a file says."""

    class Base(BaseSettings):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", validate_default=False
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, dict(content))

    declared: dict[str, Any] = {
        key: (Annotated[field.type, NoDecode, BeforeValidator(_reader(field))], None) for key, field in fields.items()
    }
    return create_model("Said", __base__=Base, **declared)


def _reader(field: SettingField) -> Callable[[Any], Any]:
    """Return what makes a value of the text of a variable or of a file."""
    kinds = get_args(field.type) if get_origin(field.type) in (Union, UnionType) else (field.type,)
    is_list = any(get_origin(kind) is tuple for kind in kinds)
    parse = field.setting.parse

    def read(value: Any) -> Any:
        if isinstance(value, str) and parse is not None:
            return parse(value)
        if isinstance(value, str) and is_list:
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, bool) and bool not in kinds:
            raise ValueError("is not what belongs here")
        return value

    return read


def _archives(path: Path, table: Any, values: Given, cache: CacheConfig) -> tuple[ArchivePlace, ...]:
    """Return the archives of a file's table; paths in it are relative to the folder of the file,
    and may be URLs."""
    if not isinstance(table, dict):
        raise ConfigError(f"--config {path}: archives is not a table: write  [archives]  and below it  NAME = PATH")
    return tuple(_archive(path, name, entry, values, cache) for name, entry in table.items())


def _archive(path: Path, name: str, entry: Any, values: Given, cache: CacheConfig) -> ArchivePlace:
    where = f"--config {path}: archives.{printable(name)}"
    facts = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(facts, dict) or not isinstance(facts.get("path"), str):
        raise ConfigError(f"{where} has no path: write  {printable(name)} = PATH")
    backend = {_key(field): field for field in settings_of(BackendConfig)}
    unknown = next((key for key in facts if key not in ("path", "model", *backend)), None)
    if unknown is not None:
        raise ConfigError(f"{where}: there is no {printable(unknown)!r}: give path, model, {', '.join(backend)}")
    model = facts.get("model")
    if model is not None and not isinstance(model, str):
        raise ConfigError(f"{where}: model is not the path of a bundle or the name of a model")
    own = {(field.owner, field.name): facts[key] for key, field in backend.items() if key in facts}
    try:
        made = with_settings(BackendConfig, {**values, **own}) if own else None
        given = facts["path"]
        place = archive_folder(given, cache=cache) if is_url(given) else path.parent / given
        return ArchivePlace(path=place, name=name, model=model, backend=made)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
