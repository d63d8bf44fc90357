"""``ctxdeploy warm-up``."""

import click

from ctxdeploy.cli.options import echo, json_option, print_json, quiet_option
from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.progress import Display

_ADVICE = "name a folder that can be written with CTXDEPLOY_CACHE"


@click.command("warm-up")
@quiet_option
@json_option
def command(quiet: bool, as_json: bool) -> None:
    """Compile everything that indexing and searching run, and keep the machine code.

    \b
    The first command after an installation compiles for up to 20 s, and so does every command where no
    folder can be written to keep machine code in: in a container, say. Fill one ahead, where it can be written:
    CTXDEPLOY_CACHE=/opt/cache ctxdeploy warm-up
    and set CTXDEPLOY_CACHE for every process that shall find it, which needs no right to write there.

    Machine code is for one version of ctxdeploy, numba and Python, and for one processor:
    CTXDEPLOY_PROCESSOR=x86-64-v3 makes it for all that have AVX2, if it is set for every process.
    """
    from ctxdeploy.index import warm_up

    Display(quiet=quiet)  # says that something is compiled
    found = warm_up()
    if as_json:
        print_json(found.metadata())
    else:
        place = "nowhere" if found.folder is None else found.folder
        echo(
            f"{found.compiled} compiled and {found.read} read, of {found.loops} loops for {found.processor}, in "
            f"{found.seconds:.1f} s; kept in {place}"
        )
    if found.folder is None:
        raise StorageError(f"no folder to keep machine code in can be written: {_ADVICE}")
    if not found.kept:
        raise StorageError(f"machine code could not be kept in {found.folder}: free some room there, or {_ADVICE}")
