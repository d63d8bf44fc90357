"""Options and output that several commands share."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ctxdeploy.precision import Precision
from ctxdeploy.runtime.backends.table import BACKENDS

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig

_Command = TypeVar("_Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print results as JSON on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks on stderr.")
model_option = click.option("--model", metavar="BUNDLE", help="Bundle of the network.")


class PathType(click.ParamType[Path]):
    """A path as it is, in any bytes; whether it exists is for the command to say."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        return Path(os.fsdecode(value))


PATH = PathType()


archive_argument = click.argument("archive", type=PATH)
at_option = click.option(
    "--at", metavar="NAME|NUMBER", help="The archive as it was: a snapshot, or the number of a manifest still there."
)


def backend_options(command: _Command) -> _Command:
    """Add ``--backend``, ``--precision`` and ``--threads``; ``backend_config`` makes the configuration of them."""
    command = click.option("--threads", type=int, help="Of the network [default: the runtime's choice].")(command)
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


def print_json(value: Any) -> None:
    """Print one JSON document on one line of stdout."""
    click.echo(json.dumps(value, ensure_ascii=True, allow_nan=False))
