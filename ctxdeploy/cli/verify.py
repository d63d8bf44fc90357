"""``ctxdeploy verify``."""

from pathlib import Path

import click

from ctxdeploy.archive import archive_problems, is_archive, is_bundle
from ctxdeploy.cli.info import not_either
from ctxdeploy.cli.options import PATH, json_option, print_json
from ctxdeploy.errors import ArchiveError, BundleError
from ctxdeploy.text import counted, printable


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
    problems = archive_problems(path) if archive else _bundle_problems(path)
    if as_json:
        print_json({"path": str(path), "kind": "archive" if archive else "bundle", "problems": problems})
    elif not problems:
        click.echo(f"{printable(str(path))}: sound")
    for problem in problems:
        click.echo(printable(problem), err=True)
    if problems and archive:
        what = counted(len(problems), "problem")
        raise ArchiveError(f"{path} is damaged ({what}): run  ctxdeploy repair {printable(str(path))}")
    if problems:
        raise BundleError(f"{path} is damaged: export it again, or restore it from a copy")


def _bundle_problems(path: Path) -> list[str]:
    from ctxdeploy import bundle

    try:
        bundle.open(path)
    except BundleError as error:
        return [str(error)]
    return []
