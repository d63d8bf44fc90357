"""``ctxdeploy serve``."""

from pathlib import Path

import click

from ctxdeploy.cli.options import ARCHIVE, configured, options_of
from ctxdeploy.runtime import BackendConfig
from ctxdeploy.service import ServiceConfig, serve


@click.command("serve")
@click.argument("archives", nargs=-1, required=True, type=ARCHIVE)
@options_of(ServiceConfig, BackendConfig)
def command(archives: tuple[Path, ...]) -> None:
    """Answer queries over HTTP, and show a page to search with, from one archive or several."""
    serve(archives, configured(ServiceConfig), configured(BackendConfig))
