"""``ctxdeploy serve``."""

from pathlib import Path

import click

from ctxdeploy.archive import archive_folder, find_archive
from ctxdeploy.cli.options import ARCHIVE, PATH, echo, given_values, json_option, options_of, print_json
from ctxdeploy.core.extras import require
from ctxdeploy.object_storage.config import CacheConfig
from ctxdeploy.runtime import BackendConfig
from ctxdeploy.service import ServiceConfig, serve


@click.command("serve")
@click.argument("archives", nargs=-1, type=ARCHIVE)
@click.option("--config", "file", type=PATH, metavar="FILE", help="Settings and archives, in TOML.")
@json_option
@options_of(ServiceConfig, BackendConfig, CacheConfig)
def command(archives: tuple[Path, ...], file: Path | None, as_json: bool) -> None:
    """Answer queries over HTTP, and show a page to search with, from one archive or several.

    Each option may stand in the environment (CTXDEPLOY_MAX_BYTES for --max-bytes) and in FILE (max-bytes) as well; the
    option holds before the environment, and this before the file. Keys may stand in CTXDEPLOY_READ_KEYS and
    CTXDEPLOY_WRITE_KEYS. Archives are those that are named, else those of FILE, else the one in this folder. One on
    object storage (s3://…) is only read.
    """

    def listening(url: str) -> None:
        if as_json:
            print_json({"listening": url})
        else:
            echo(f"listening on {url}")

    require("pydantic_settings", "serve")
    from ctxdeploy.service.settings import load_settings

    settings = load_settings(given_values(), file)
    named = tuple(archive_folder(path, cache=settings.cache) for path in archives)
    places = named or settings.archives or (find_archive(None, "ctxdeploy serve ARCHIVE", settings.cache),)
    serve(places, settings.service, settings.backend, listening)
