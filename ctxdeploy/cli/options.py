"""Options and output that several commands share, and options made from configuration dataclasses."""

import os
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from ctxdeploy.archive import SUFFIX as ARCHIVE_SUFFIX
from ctxdeploy.archive import archive_folder
from ctxdeploy.core.errors import ConfigError, CtxdeployError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.reading import MAX_DESCRIPTION, read_regular
from ctxdeploy.core.settings import Setting, SettingField, parse_numbers, settings_of, with_settings
from ctxdeploy.core.text import json_text, printable
from ctxdeploy.core.urls import url_of, without_secrets
from ctxdeploy.models import BUNDLE_SUFFIX, list_models
from ctxdeploy.object_storage.place import given_url

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Config = TypeVar("_Config")
_META = "ctxdeploy.settings"

json_option = click.option("--json", "as_json", is_flag=True, help="Print results as JSON on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks on stderr.")


class PathType(click.ParamType[Path]):
    """A path as it is, in any bytes; whether it exists is for the command to say."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        return Path(os.fsdecode(value))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell look for files."""
        return [CompletionItem(incomplete, type="file")]


class FolderType(PathType):
    """A path to a folder of ours, which completion finds by its suffix.

    Args:
        suffixes: of such folders.
        names: returns what may be given besides.
    """

    def __init__(self, *suffixes: str, names: Callable[[], Iterable[str]] = tuple) -> None:
        self._suffixes, self._names = suffixes, names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the folders and names that begin so; the shell looks for any folder where there is none."""
        above = incomplete[: incomplete.rfind("/") + 1]
        try:
            beside = sorted(path.name for path in Path(above or ".").iterdir())
        except OSError:
            beside = []
        found = [f"{above}{name}" for name in beside if name.endswith(self._suffixes) and not name.startswith(".")]
        given = [text for text in (*found, *self._names()) if text.startswith(incomplete)]
        return [CompletionItem(text) for text in given] or [CompletionItem(incomplete, type="dir")]


def _model_names() -> list[str]:
    return [model.name for model in list_models() if model.path is not None]


PATH = PathType()
ARCHIVE, BUNDLE = FolderType(ARCHIVE_SUFFIX), FolderType(BUNDLE_SUFFIX, names=_model_names)
ANY_FOLDER = FolderType(ARCHIVE_SUFFIX, BUNDLE_SUFFIX, names=_model_names)


def _on_this_machine(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    return archive_folder(path, writable=True)


archive_argument = click.argument("archive", type=ARCHIVE)
# Of commands that write; one on object storage is refused, with what to do.
written_archive_argument = click.argument("archive", type=ARCHIVE, callback=_on_this_machine)
model_option = click.option(
    "--model",
    metavar="BUNDLE|NAME",
    shell_complete=BUNDLE.shell_complete,
    help="Bundle, or a name of  ctxdeploy models.",
)
search_device_option = click.option(
    "--search-device",
    "device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="Where postings are searched: cpu, cuda or cuda:N, a GPU that has room for all of them.",
)
at_option = click.option(
    "--at", metavar="NAME|NUMBER", help="The archive as it was: a snapshot, or the number of a manifest still there."
)


def check_there(error: type[CtxdeployError], *paths: Path | None) -> None:
    """Raise ``error`` for the first of some inputs that is not there: said before large packages are asked for."""
    for path in paths:
        if path is not None and not os.path.lexists(path):
            url = url_of(str(path))
            why = "does not exist" if url is None else "is a URL: fetch the file, and name it"
            raise error(f"{printable(str(path) if url is None else url)} {why}")


def check_is_here(path: Path | None, what: str, advice: str) -> None:
    """Raise ``ConfigError`` for a URL where only a folder of this machine can be taken."""
    url = None if path is None else given_url(path)
    if url is not None:
        raise ConfigError(f"{printable(without_secrets(url))} {what}: {advice}")


class ParsedType(click.ParamType[Any]):
    """What the parser of a setting makes of text; the flag is put before what it says of text that it cannot read."""

    name = "value"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value."""
        flag = "the value" if param is None else param.opts[0]
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ConfigError as error:
            if flag in str(error):
                raise
            raise ConfigError(f"{flag}: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{flag} {value!r} {error}") from error


class ParsedChoice(click.Choice[str]):
    """One of a few words, and what the parser of a setting makes of it."""

    def __init__(self, choices: tuple[str, ...], parse: Callable[[str], Any]) -> None:
        super().__init__(choices)
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value."""
        return self._parse(super().convert(value, param, ctx)) if isinstance(value, str) else value


NUMBERS = ParsedType(parse_numbers)


def options_of(*configs: type) -> Callable[[_Command], _Command]:
    """Add the options of dataclasses to a command, in the order of their fields; see ``ctxdeploy.core.settings``.

    The command asks for its configuration with ``configured``. Its own options come before these in ``--help`` if their
    decorators stand above this one.
    """

    def add(command: _Command) -> _Command:
        for field in reversed([field for config in configs for field in settings_of(config)]):
            command = _option(field)(command)
        return command

    return add


def with_values(args: Iterable[str], *configs: type) -> list[str]:
    """Return arguments in which an option that may stand alone never takes what follows it for its value.

    click takes any next argument, the command's own one too: ``--geometry photos``.
    """
    alone = _settings_by_flag(*configs)
    given = list(args)
    for place, (flag, following) in enumerate(zip(given, [*given[1:], ""], strict=False)):
        if flag == "--":
            break
        if flag in alone and alone[flag].alone and following not in alone[flag].choices:
            given[place] = f"{flag}={alone[flag].alone}"
    return given


def check_values(error: click.UsageError, args: Iterable[str], *configs: type) -> None:
    """Raise what is to be said where the argument that is one too many was meant for an option that may stand alone.

    Args:
        error: of click, about ``args``.
        args: of the command, as they were typed.
        configs: whose options ``with_values`` has looked at.
    """
    alone = _settings_by_flag(*configs)
    for flag, following in pairwise(args):
        if flag in alone and alone[flag].alone and f"({following})" in error.message:
            choices = ", ".join(map(repr, alone[flag].choices))
            raise click.UsageError(f"{flag} {following!r} is not one of {choices}", error.ctx) from error


def _settings_by_flag(*configs: type) -> dict[str, Setting]:
    return {field.setting.flag: field.setting for config in configs for field in settings_of(config)}


def configured(config: type[_Config]) -> _Config:
    """Return the configuration that the options of the running command say.

    Raises:
        ConfigError: its values do not fit each other.
    """
    return with_settings(config, click.get_current_context().meta.get(_META, {}))


def given_values() -> dict[tuple[type, str], Any]:
    """Return what the options of the running command say, by dataclass and field."""
    found: dict[tuple[type, str], Any] = click.get_current_context().meta.get(_META, {})
    return found


def given_flags(*configs: type) -> list[str]:
    """Return the flags of dataclasses that the running command was given, in the order of their fields."""
    given = click.get_current_context().meta.get(_META, {})
    fields = [field for config in configs for field in settings_of(config) if (field.owner, field.name) in given]
    return [field.setting.flag.split()[0].partition("/")[0] for field in fields]


def _option(field: SettingField) -> Callable[[_Command], _Command]:
    setting = field.setting
    kind = _plain(field.type)
    shown = setting.default_text or _default_text(field.default)
    text = setting.help
    if shown:
        text += f" [default: {shown}]"
    declared: dict[str, Any] = {"is_flag": True} if kind is bool else {"type": _type(field, kind)}
    if setting.alone:
        declared |= {"is_flag": False, "flag_value": setting.alone}
    # A tuple of choices or of texts is an option that may be given more than once.
    declared["multiple"] = get_origin(kind) is tuple and (bool(setting.choices) or setting.parse is None)
    return click.option(
        *setting.flag.split(),
        f"{field.owner.__name__}_{field.name}".lower(),
        **declared,
        default=None,
        metavar=setting.metavar,
        expose_value=False,
        callback=_keep(field),
        help=text,
    )


def _plain(annotation: Any) -> Any:
    """Return the type of an annotation without ``| None``."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation


def _type(field: SettingField, kind: Any) -> click.ParamType[Any]:
    if field.setting.choices:
        parse = field.setting.parse
        return click.Choice(field.setting.choices) if parse is None else ParsedChoice(field.setting.choices, parse)
    if field.setting.parse is not None:
        return ParsedType(field.setting.parse)
    if kind is Path:
        return ARCHIVE if field.setting.metavar == "ARCHIVE" else PATH
    known: dict[Any, click.ParamType[Any]] = {
        int: click.INT,
        float: click.FLOAT,
        str: click.STRING,
        tuple[str, ...]: click.STRING,
    }
    if kind not in known:
        raise TypeError(f"{field.owner.__name__}.{field.name}: a setting of type {kind} needs parse")
    return known[kind]


def _default_text(default: Any) -> str:
    if default is None or default is False or default == "" or default == ():
        return ""
    if default is True:
        return "on"
    if isinstance(default, float):
        return f"{default:g}"
    return str(default)


def _keep(field: SettingField) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if parameter.name is not None and context.get_parameter_source(parameter.name) != ParameterSource.DEFAULT:
            context.meta.setdefault(_META, {})[field.owner, field.name] = value

    return keep


def names_in(source: Path, flag: str, display: Display) -> list[str]:
    """Return the names in a file, one a line, in any bytes; empty lines are none; ``-`` reads stdin.

    Raises:
        ConfigError: it cannot be read, or is too large.
    """
    if str(source) == "-":
        if sys.stdin is None:
            raise ConfigError(
                f"{flag} - reads names from stdin, which is closed: give it a file, or the output of a command"
            )
        if sys.stdin.isatty():
            display.say("names from the terminal, one a line; Ctrl-D ends them")
    try:
        content = sys.stdin.buffer.read(MAX_DESCRIPTION + 1) if str(source) == "-" else read_regular(source)
    except OSError as error:
        raise ConfigError(f"{flag} {source} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_DESCRIPTION:
        raise ConfigError(f"{flag} {source} gives more than {MAX_DESCRIPTION >> 20} MiB: divide it")
    return [line.decode("utf-8", "surrogateescape") for line in content.split(b"\n") if line]


def echo(*lines: str, err: bool = False) -> None:
    """Print lines for people. Nothing else of a command goes to the terminal.

    Each is one line, as ``printable`` has it: no field of any file moves the cursor, colours or hides what stands
    there, adds a line of its own, or shows a secret of a URL.
    """
    click.echo("\n".join(map(printable, lines)), err=err)


def print_bytes(*pieces: bytes) -> None:
    """Print what a program reads as it is: names in their own bytes, or a file."""
    for piece in pieces:
        click.echo(piece, nl=False)


def print_json(value: Any) -> None:
    """Print one JSON document on one line of stdout; see ``json_text``."""
    click.echo(json_text(value))
