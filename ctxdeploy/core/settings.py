"""Settings: fields of configuration dataclasses that carry their option of the command line.

    @dataclass(frozen=True, kw_only=True)
    class QueryConfig:
        top: int = setting(10, "--top", "Results of a query.")

The dataclass stays an ordinary one; ``ctxdeploy.cli.options`` makes the options of a command from such fields, so that
no name, default or help text stands twice. Only the type of a field and what is here decide an option.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from typing import Any, TypeVar, get_args, get_type_hints

from ctxdeploy.core.errors import ConfigError

Config = TypeVar("Config")
_KEY = "ctxdeploy.setting"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The option of a field.

    Attributes:
        flag: ``--top``; ``--idf/--no-idf`` for a switch that can be turned off; ``-q --quiet`` with a short form.
        help: one sentence; ``--help`` adds the default.
        metavar: stands for the value in ``--help``.
        choices: the values that are possible, where they are few; the option of a tuple of them may be repeated.
        parse: makes the value from text. It raises ``ValueError`` with what is to be said after the flag and the text
            ("is not …"), or ``ConfigError`` with the whole message. Without it the type of the field decides (int,
            float, str, Path, bool; a tuple of str may be repeated).
        alone: what the option stands for without a value, where that is possible; it has choices then.
        default_text: what ``--help`` calls the default; its value, if empty. A default of None, False or an empty text
            is not shown.
    """

    flag: str
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    parse: Callable[[str], Any] | None = None
    alone: str = ""
    default_text: str = ""


def setting(
    default: Any = MISSING,
    flag: str = "",
    help: str = "",  # noqa: A002 (click's own word)
    *,
    default_factory: Any = MISSING,
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    parse: Callable[[str], Any] | None = None,
    alone: str = "",
    default_text: str = "",
) -> Any:
    """Return a dataclass field with an option; see ``Setting``. Give a default or a default factory."""
    option = Setting(
        flag=flag,
        help=help,
        metavar=metavar,
        choices=choices,
        parse=parse,
        alone=alone,
        default_text=default_text,
    )
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata={_KEY: option})
    return field(default=default, metadata={_KEY: option})


@dataclass(frozen=True, kw_only=True)
class SettingField:
    """A field with its option.

    Attributes:
        owner: the dataclass that has the field.
        name: of the field.
        type: of the field, resolved.
        default: of the field; None where a factory makes it, for it may depend on the machine.
        setting: the option.
    """

    owner: type
    name: str
    type: Any
    default: Any
    setting: Setting


def settings_of(config: type) -> Iterator[SettingField]:
    """Yield the fields of a dataclass that have an option, in order; a field that is a dataclass gives its own."""
    hints = get_type_hints(config)
    for entry in fields(config):
        option = entry.metadata.get(_KEY)
        if option is not None:
            default = None if entry.default is MISSING else entry.default
            yield SettingField(owner=config, name=entry.name, type=hints[entry.name], default=default, setting=option)
        elif hasattr(hints[entry.name], "__dataclass_fields__"):
            yield from settings_of(hints[entry.name])


def check_types(config: Any) -> None:
    """Raise ``ConfigError`` unless numbers, texts and switches of a configuration are what its fields say.

    Call it first in ``__post_init__``: Python passes 1.5 where an int is declared. What else a field may be (a path, a
    tuple) is for its class to check.
    """
    kind_of_config: Any = type(config)
    for name, flag, kinds in _plain_fields(kind_of_config):
        value = getattr(config, name)
        if value is None and type(None) in kinds:
            continue
        kind = next(kind for kind in kinds if kind is not type(None))
        accepted, called = _KINDS[kind]
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{flag} {value!r} is not {called}")


_KINDS: dict[Any, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
    bool: (bool, "true or false"),
}


@cache
def _plain_fields(config: type) -> list[tuple[str, str, tuple[Any, ...]]]:
    """Return name, flag (or name) and types of each field that is a number, a text or a switch, or may be None."""
    hints = get_type_hints(config)
    found = []
    for entry in fields(config):
        kinds = get_args(hints[entry.name]) or (hints[entry.name],)
        plain = [kind for kind in kinds if kind is not type(None)]
        if len(plain) == 1 and plain[0] in _KINDS:
            option = entry.metadata.get(_KEY)
            flag = entry.name if option is None else option.flag.split()[-1].split("/")[0]
            found.append((entry.name, flag, kinds))
    return found


def with_settings(config: type[Config], values: dict[tuple[type, str], Any]) -> Config:
    """Return a configuration from the values that were given, by dataclass and field; the others keep their defaults.

    Raises:
        ConfigError: the values do not fit each other, as the dataclass says.
    """
    hints = get_type_hints(config)
    given: dict[str, Any] = {}
    for entry in fields(config):  # type: ignore[arg-type]
        if entry.metadata.get(_KEY) is not None:
            if (config, entry.name) in values:
                given[entry.name] = values[config, entry.name]
        elif hasattr(hints[entry.name], "__dataclass_fields__") and any(settings_of(hints[entry.name])):
            given[entry.name] = with_settings(hints[entry.name], values)
    return config(**given)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(text: str) -> int:
    """Return the bytes that ``4GB``, ``512MiB`` or ``1000000`` means; ``ValueError`` for anything else."""
    found = re.fullmatch(r"([0-9.]+)\s*([KMGT]I?|)B?", text.strip().upper())
    try:
        if found is None:
            raise ValueError
        return int(float(found[1]) * _UNITS[found[2]])
    except ValueError:
        raise ValueError("is not an amount of memory such as 4GB or 512MiB") from None


def parse_count(text: str) -> int:
    """Return the number that ``100M``, ``1.5k``, ``2G`` or ``20,000`` means; ``ValueError`` for anything else."""
    found = re.fullmatch(r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)", text.strip().upper())
    if found is None:
        raise ValueError("is not a number such as 20000, 1.5k or 100M")
    return round(float(found[1].replace(",", "")) * _UNITS[found[2]])


def parse_numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of ``1.414,1,0.707``; ``ValueError`` for anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("is not a list of numbers such as 1.414,1,0.707") from None
