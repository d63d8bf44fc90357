"""Options and output that several commands share."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.targets import BACKENDS
from ctxdeploy.core.types import Precision
from ctxdeploy.runtime.decode import MAX_PIXELS

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig, ExtractorConfig

_Command = TypeVar("_Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print results as JSON on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks on stderr.")
model_option = click.option("--model", metavar="BUNDLE|NAME", help="Bundle, or a name of  ctxdeploy models.")


class PathType(click.ParamType[Path]):
    """A path as it is, in any bytes; whether it exists is for the command to say."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        return Path(os.fsdecode(value))


PATH = PathType()


class ScalesType(click.ParamType[tuple[float, ...]]):
    """Factors of an image pyramid: ``1.414,1,0.707``."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return the factors."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list such as 1.414,1,0.707", param, ctx)


archive_argument = click.argument("archive", type=PATH)
at_option = click.option(
    "--at", metavar="NAME|NUMBER", help="The archive as it was: a snapshot, or the number of a manifest still there."
)


def backend_options(command: _Command) -> _Command:
    """Add ``--backend``, ``--precision`` and ``--threads``; ``backend_config`` makes the configuration of them."""
    command = click.option(
        "--threads", type=int, help="Of the network [default: the runtime's choice, or a CPU quota]."
    )(command)
    command = click.option(
        "--precision",
        type=click.Choice([precision.label for precision in Precision]),
        default="fp32",
        show_default=True,
        help="Of the network.",
    )(command)
    return click.option(
        "--backend",
        type=click.Choice(["auto", *BACKENDS]),
        default="auto",
        show_default=True,
        help="Runtime; auto is the fastest on a CPU.",
    )(command)


def backend_config(backend: str, precision: str, threads: int | None) -> "BackendConfig":
    """Return the runtime's configuration."""
    from ctxdeploy.runtime import BackendConfig

    return BackendConfig(name=backend, precision=precision, threads=threads)


_BYTES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class BytesType(click.ParamType[int]):
    """An amount of memory: ``4GB``, ``512MiB``, a number of bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes; ``ConfigError`` for anything else."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9.]+)\s*([KMG]I?|)B?", str(value).strip().upper())
        try:
            if found is None:
                raise ValueError
            return int(float(found[1]) * _BYTES[found[2]])
        except ValueError:
            flag = param.opts[0] if param is not None else "the size"
            raise ConfigError(f"{flag} {value!r} is no amount of memory such as 4GB or 512MiB") from None


_BYTES_TYPE = BytesType()


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    context.meta[f"ctxdeploy.{parameter.name}"] = value


def _kept(name: str) -> Any:
    return click.get_current_context().meta[f"ctxdeploy.{name}"]


def extraction_options(command: _Command) -> _Command:
    """Add the options of ``ExtractorConfig``; ``extraction_config`` makes it of what was given."""
    options = (
        ("--workers", int, None, "N", "Processes that read and decode photos [default: fits the cores]."),
        ("--batch-size", int, 1, "N", "Photos of one size that the network takes at once."),
        ("--read-threads", int, 8, "N", "Photos read at once from servers and tar files."),
        ("--photo-timeout", float, 60.0, "SECONDS", "A photo that takes longer to read or decode has failed."),
        ("--memory-limit", _BYTES_TYPE, None, "SIZE", "Of the whole command, such as 4GB."),
        ("--max-pixels", int, MAX_PIXELS, "N", "A photo with more has failed."),
    )
    command = click.option(
        "--accept-truncated",
        is_flag=True,
        expose_value=False,
        callback=_keep,
        help="Take photos whose end is missing; what is missing is grey.",
    )(command)
    for flag, kind, default, metavar, text in reversed(options):
        command = click.option(
            flag,
            type=kind,
            default=default,
            show_default=default is not None,
            metavar=metavar,
            expose_value=False,
            callback=_keep,
            help=text,
        )(command)
    return command


def extraction_config() -> "ExtractorConfig":
    """Return how photos flow, as the options of the running command say."""
    from ctxdeploy.runtime import ExtractorConfig
    from ctxdeploy.runtime.decode import DecodeLimits

    config = ExtractorConfig(
        batch_size=_kept("batch_size"),
        read_threads=_kept("read_threads"),
        photo_timeout=_kept("photo_timeout"),
        memory_limit=_kept("memory_limit"),
        limits=DecodeLimits(max_pixels=_kept("max_pixels"), accept_truncated=_kept("accept_truncated")),
    )
    workers = _kept("workers")
    return config if workers is None else replace(config, workers=workers)


def print_json(value: Any) -> None:
    """Print one JSON document on one line of stdout."""
    click.echo(json.dumps(value, ensure_ascii=True, allow_nan=False))
