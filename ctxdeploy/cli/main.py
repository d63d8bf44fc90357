"""The command ``ctxdeploy``: errors to one line and an exit code, subcommands imported when they are called."""

import os
import signal
import sys
import warnings
from importlib import import_module
from types import FrameType

import click

from ctxdeploy import __version__
from ctxdeploy.core.errors import CtxdeployError, StorageError
from ctxdeploy.core.text import printable

INTERRUPTED, TERMINATED = 130, 143

# Module of each command in ``ctxdeploy.cli``, in the order of the work, and its line in the overview.
COMMANDS = {
    "export": "Turn a checkpoint into a verified bundle.",
    "train": "Train a network on photos of landmarks.",
    "build": "Build engines for a GPU from a bundle's graphs.",
    "models": "List, fetch and make models that have a name.",
    "index": "Index a folder of photos into an archive.",
    "query": "Find the photos of an archive that show the same.",
    "eval": "Say how good a model is on a benchmark.",
    "inspect": "Show what a network sees in a photo.",
    "remove": "Remove photos from an archive.",
    "merge": "Take the photos of other archives into one.",
    "compact": "Make an archive small and fast again after many changes.",
    "snapshot": "Keep the state of an archive under a name.",
    "info": "Say what a bundle or an archive holds.",
    "names": "Print the names of an archive's photos.",
    "verify": "Check every byte of a bundle or an archive.",
    "diff": "Find the first layer where two artefacts diverge.",
    "repair": "Make a damaged archive whole again.",
    "bench": "Measure how fast it is here, and compare.",
    "demo": "Make a small archive of real photos and query it.",
}
# Of commands whose module has another name: that of a builtin would hide it.
MODULES = {"eval": "evaluate"}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"ctxdeploy.cli.{MODULES.get(name, name)}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="ctxdeploy")
def cli() -> None:
    """From a trained local-descriptor network to a photo archive that answers queries.

    \b
    ctxdeploy index photos/                          with the built-in network
    ctxdeploy query photo.jpg

    \b
    ctxdeploy export how_r18.pth -o how.ctxbundle    with one of your own
    ctxdeploy index photos/ --model how.ctxbundle
    """


class Terminated(KeyboardInterrupt):
    """The process was told to end: what it holds is committed as after Ctrl-C."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    # A batch system, a container or a closed terminal says SIGTERM or SIGHUP; what nohup ignores stays ignored.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)
    # Pillow's remarks on odd EXIF and large photos come from any thread, so they are silenced once for the process.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, that of the error, 2 for wrong usage, 130 or 143 when
    interrupted or terminated."""
    try:
        result = cli.main(args=arguments, prog_name="ctxdeploy", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Abort as abort:
        terminated = isinstance(abort.__cause__, Terminated)
        _say("terminated" if terminated else "interrupted")
        return TERMINATED if terminated else INTERRUPTED
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except CtxdeployError as error:
        _say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        # Commands turn failures of files into errors of ours; what is left is output that has no place to go.
        _say(f"error: the output cannot be written: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
        return StorageError.exit_code
    except MemoryError:
        _say("error: out of memory; close other programs, or use a smaller --image-size or batch")
        return 1


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _say(text: str) -> None:
    click.echo(printable(f"ctxdeploy: {text}"), err=True)


if __name__ == "__main__":
    main()
