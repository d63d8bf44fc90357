"""The command ``ctxdeploy``: errors to one line and an exit code, subcommands imported when they are called."""

import io
import os
import signal
import sys
import warnings
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from types import FrameType

import click

from ctxdeploy import __version__
from ctxdeploy.cli.options import echo
from ctxdeploy.core.errors import CtxdeployError, StorageError
from ctxdeploy.core.text import printable, short

# Characters of an error; what a file says may have any number.
_MAX_LINE = 8000
INTERRUPTED, TERMINATED = 130, 143

# What `--help` shows: under headings, each command with its line; its module is that of its name in ``ctxdeploy.cli``.
GROUPS = {
    "Search photos": {
        "index": "Index a folder of photos into an archive.",
        "query": "Find the photos of an archive that show the same.",
        "pairs": "Write the pairs of photos that are worth matching.",
        "duplicates": "Find photos that are there more than once.",
        "serve": "Answer queries over HTTP, and show a page to search with.",
        "demo": "Make a small archive of real photos and query it.",
    },
    "Keep an archive": {
        "info": "Say what an archive or a bundle holds.",
        "verify": "Check every byte of an archive or a bundle.",
        "names": "Print the names of an archive's photos.",
        "remove": "Remove photos from an archive.",
        "merge": "Take the photos of other archives into one.",
        "compact": "Make an archive small and fast again after many changes.",
        "snapshot": "Keep the state of an archive under a name.",
        "repair": "Make a damaged archive whole again.",
        "unlock": "Take an archive from a writer that is gone.",
    },
    "Index on many machines": {
        "plan": "Say what an archive will take: hours, bytes, machines.",
        "extract": "Make a segment of a part of the photos.",
        "publish": "Take finished segments into an archive.",
        "push": "Publish an archive on object storage.",
        "fetch": "Make an archive here from one on object storage.",
        "gc": "Remove what an archive on object storage does not need.",
    },
    "Deploy a network": {
        "models": "List, fetch and make models that have a name.",
        "export": "Turn a checkpoint into a verified bundle.",
        "build": "Build engines for a GPU from a bundle's graphs.",
        "warm-up": "Compile ahead what indexing and searching run.",
        "diff": "Find the first layer where two artefacts diverge.",
    },
    "Measure and train": {
        "eval": "Say how good a model is on a benchmark.",
        "eval-pairs": "Compare pairs with what a COLMAP model sees.",
        "bench": "Measure how fast it is here, and compare.",
        "inspect": "Show what a network sees in a photo.",
        "train": "Train a network on photos of landmarks.",
    },
}
COMMANDS = {name: line for commands in GROUPS.values() for name, line in commands.items()}
# Of commands whose module has another name: that of a builtin would hide it.
MODULES = {"eval": "evaluate", "eval-pairs": "evaluate_pairs", "warm-up": "warm_up"}
# What other programs call the same.
ALIKE = {
    **{"search": "query", "find": "query", "add": "index", "update": "index", "create": "index"},
    **{"delete": "remove", "rm": "remove", "list": "names", "ls": "names", "show": "info", "status": "info"},
    **{"check": "verify", "evaluate": "eval", "benchmark": "bench", "convert": "export", "pull": "models"},
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"ctxdeploy.cli.{MODULES.get(name, name)}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but an unknown command is told from a file, and a known one is named in its place."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(_unknown(name), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), line) for name, line in commands.items()])


def _unknown(name: str) -> str:
    """Return what is said of a word that is not a command."""
    word = name.lower()
    close = [ALIKE[word]] if word in ALIKE else get_close_matches(word, COMMANDS, 1)
    if close:
        return f"there is no command {short(name)}. Did you mean {close[0]!r}?"
    if Path(name).is_dir():
        return f"{short(name)} is a folder, and no command: run  ctxdeploy index FOLDER"
    if Path(name).is_file():
        return f"{short(name)} is a file, and no command: search with a photo by  ctxdeploy query FILE"
    return f"there is no command {short(name)}: ctxdeploy --help  lists those that there are"


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

    \b
    ctxdeploy COMMAND --help                         says more
    eval "$(_CTXDEPLOY_COMPLETE=bash_source ctxdeploy)"   completes words in bash; zsh_source, fish_source
    """


class Interrupted(KeyboardInterrupt):
    """Ctrl-C."""


class Terminated(KeyboardInterrupt):
    """The process was told to end: what it holds is committed as after Ctrl-C."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    # A batch system, a container or a closed terminal says SIGTERM or SIGHUP; what nohup ignores stays ignored.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    # Pillow's remarks on odd EXIF and large photos come from any thread, so they are silenced once for the process.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    # Under LC_ALL=C, or on a terminal of another alphabet: a name that it lacks letters for must not end a command.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() != "utf-8":
        sys.stdout.reconfigure(errors="backslashreplace")
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
        return _aborted(abort.__cause__)
    except click.ClickException as error:
        with suppress(OSError):
            _show(error)
        return error.exit_code
    except CtxdeployError as error:
        _say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        return _failed(error)
    except MemoryError:
        _say("error: out of memory; close other programs, or use a smaller --image-size or batch")
        return 1


def _show(error: click.ClickException) -> None:
    """Print what click says of wrong usage: one line, as every error; help, where a command was given nothing."""
    if not isinstance(error, click.UsageError) or isinstance(error, click.exceptions.NoArgsIsHelpError):
        shown = io.StringIO()
        error.show(shown)
        echo(*shown.getvalue().removesuffix("\n").split("\n"), err=True)
        return
    text = error.format_message()
    if type(error) is click.BadParameter and error.param is not None:
        # A flag, or the name of an argument.
        name = error.param.human_readable_name if isinstance(error.param, click.Argument) else error.param.opts[0]
        text = f"{name} {error.message}"
    # Whoever calls a command by another name is told the names of all already.
    context = None if error.ctx is None or error.ctx.parent is None else error.ctx
    advice = "" if context is None else f": see  {context.command_path} --help"
    lines = [line.strip() for line in text.splitlines()]  # click gives each choice a line
    _say(f"error: {' '.join(lines).removesuffix('.')}{advice}")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _aborted(cause: BaseException | None) -> int:
    """Return the exit code of what click takes for Ctrl-C: every ``KeyboardInterrupt`` and ``EOFError``."""
    if isinstance(cause, Terminated):
        _say("terminated")
        return TERMINATED
    if isinstance(cause, EOFError):
        raise cause
    if signal.getsignal(signal.SIGINT) is _interrupt and not isinstance(cause, Interrupted):
        raise RuntimeError("a library raised KeyboardInterrupt, but nobody pressed Ctrl-C") from cause
    _say("interrupted")
    return INTERRUPTED


def _failed(error: OSError) -> int:
    """Return the exit code of a failure of the system that no command has turned into an error of ours."""
    reason = error.strerror or str(error) or type(error).__name__
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    if frames[-1].f_code in (run.__code__, click.echo.__code__):
        _say(f"error: the output cannot be written: {reason}")
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
        return StorageError.exit_code
    files = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    subject = " → ".join(files) or "a file whose name the system did not say"
    module, function = frames[-1].f_globals.get("__name__", "?"), frames[-1].f_code.co_name
    _say(f"error: {subject}: {reason} (in {module}.{function}, line {frames[-1].f_lineno})")
    return StorageError.exit_code


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal is gone: the exit code says it
        line = printable(f"ctxdeploy: {text}")
        click.echo(line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}…", err=True)


if __name__ == "__main__":
    main()
