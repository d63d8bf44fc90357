"""``ctxdeploy verify``."""

from pathlib import Path

import click

from ctxdeploy.archive import is_archive, is_bundle, open_model, photo_folder
from ctxdeploy.cli.info import not_either
from ctxdeploy.cli.options import PATH, json_option, print_json
from ctxdeploy.errors import ArchiveError, BundleError, CtxdeployError
from ctxdeploy.text import printable


@click.command("verify")
@click.argument("path", type=PATH, metavar="BUNDLE|ARCHIVE")
@json_option
def command(path: Path, as_json: bool) -> None:
    """Check every hash and every bound of a BUNDLE or an ARCHIVE (its model included).

    The exit code is 0 only for a sound one: 12 for a damaged bundle, 15 for a damaged archive.
    """
    archive = is_archive(path)
    if not archive and not is_bundle(path):
        raise not_either(path)
    problems = _archive_problems(path) if archive else _bundle_problems(path)
    if as_json:
        print_json({"path": str(path), "kind": "archive" if archive else "bundle", "problems": problems})
    elif not problems:
        click.echo(f"{printable(str(path))}: sound")
    for problem in problems:
        click.echo(printable(problem), err=True)
    if problems:
        error = ArchiveError if archive else BundleError
        raise error(f"{path} is damaged ({len(problems)} problem{'s' if len(problems) > 1 else ''})")


def _bundle_problems(path: Path) -> list[str]:
    from ctxdeploy import bundle

    try:
        bundle.open(path)
    except BundleError as error:
        return [str(error)]
    return []


def _archive_problems(path: Path) -> list[str]:
    from ctxdeploy.index import Index

    problems = []
    try:
        with Index.open(path) as index:
            problems += index.verify()
    except ArchiveError as error:
        problems.append(str(error))
    for check in (open_model, photo_folder):
        try:
            check(path)
        except CtxdeployError as error:
            problems.append(str(error))
    return problems
