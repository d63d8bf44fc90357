"""``ctxdeploy serve``."""

import sys
from pathlib import Path

import click

from ctxdeploy.cli.options import ARCHIVE, configured, echo, json_option, options_of, print_json
from ctxdeploy.runtime import BackendConfig
from ctxdeploy.service import ServiceConfig, serve


@click.command("serve")
@click.argument("archives", nargs=-1, required=True, type=ARCHIVE)
@json_option
@options_of(ServiceConfig, BackendConfig)
def command(archives: tuple[Path, ...], as_json: bool) -> None:
    """Answer queries over HTTP, and show a page to search with, from one archive or several."""

    def listening(url: str) -> None:
        if as_json:
            print_json({"listening": url})
        else:
            echo(f"listening on {url}")
        sys.stdout.flush()

    serve(archives, configured(ServiceConfig), configured(BackendConfig), listening)
