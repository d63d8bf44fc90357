"""``ctxdeploy demo``."""

from pathlib import Path

import click

from ctxdeploy.cli.options import PATH, echo, json_option, print_json, quiet_option
from ctxdeploy.core.progress import Display
from ctxdeploy.demo import run_demo


@click.command("demo")
@click.option("-o", "--output", type=PATH, default=Path("ctxdeploy-demo"), show_default=True, help="Folder to make.")
@json_option
@quiet_option
def command(output: Path, as_json: bool, quiet: bool) -> None:
    """Make a small archive of real photos (scikit-image's, each in several changed views), query it, write a page.

    The model is the built-in one, lite-small; PyTorch is not needed.
    """
    result = run_demo(output, Display(quiet=quiet))
    if as_json:
        print_json(result.metadata())
        return
    echo(
        f"{result.model}: {result.first_right} of {result.queries} queries have a view of the same photo first, "
        f"{result.right} of {result.wanted} right answers are among the best {result.wanted // result.queries}"
    )
    echo(f"open {result.page}; ask on with  ctxdeploy query PHOTO --index {result.archive}")
