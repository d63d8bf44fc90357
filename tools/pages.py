"""What is made from the code: docs/reference (options, exit codes, what an export may be asked for), and openapi.json.

python tools/pages.py            writes them anew
python tools/pages.py --check    says which are not what the code says; exit code 1
"""

import argparse
import ast
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ctxdeploy.cli.main import COMMANDS, INTERRUPTED, TERMINATED, cli
from ctxdeploy.core import errors
from ctxdeploy.core.targets import EXPORT_TARGETS, PRECISIONS, TARGETS
from ctxdeploy.core.types import Precision
from ctxdeploy.evaluation.published import FRAMEWORKS, PUBLISHED, rows_of
from ctxdeploy.service.app import schema

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made by tools/pages.py (`make pages`). Do not edit. -->\n"
# What an exit code does not say by its error alone.
CODES = {
    0: "The command is done. `verify`: everything is sound.",
    1: "A defect of ctxdeploy, or memory that ran out. A traceback or the one line above it says which.",
    2: "Wrong usage: an option, a setting, two of them that exclude each other, or a name that does not exist. "
    "A package that is not there is 3, a GPU or a runtime that cannot run on this machine 13.",
    INTERRUPTED: "Interrupted (Ctrl-C). What was extracted is committed.",
    TERMINATED: "Terminated (SIGTERM, SIGHUP). What was extracted is committed.",
}
HINTS = {
    11: "The artefact is kept as `*.rejected` with its figures.",
    15: "`ctxdeploy verify` says what is damaged, `ctxdeploy repair` drops it.",
    19: "`ctxdeploy info ARCHIVE --failures` lists them.",
    21: "Use `--memory-limit`, a smaller batch, or export with a smaller `--image-size`.",
    22: "Use a smaller `--learning-rate`.",
}


def cell(text: str) -> str:
    """Return text for a cell of a table: one line, its bars and angle brackets escaped outside code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.replace("\b", "").split()))
    plain = [part if part.startswith("`") else part.replace("<", "&lt;").replace("*", r"\*") for part in parts]
    return "".join(plain).replace("|", r"\|").replace("[default", r"\[default")


# --- exit codes


def error_classes() -> Iterator[type[errors.CtxdeployError]]:
    """Yield the errors in the order in which ``core/errors.py`` defines them."""
    for node in ast.parse(inspect.getsource(errors)).body:
        if isinstance(node, ast.ClassDef):
            yield getattr(errors, node.name)


def exit_codes() -> str:
    """Return the page of exit codes."""
    found: dict[int, tuple[str, str]] = {code: ("", text) for code, text in CODES.items()}
    for error in error_classes():
        code = error.exit_code
        if code not in found:
            text = " ".join((inspect.getdoc(error) or "").split("\n\n")[0].replace("``", "`").split())
            found[code] = (f"`{error.__name__}`", f"{text} {HINTS.get(code, '')}".strip())
        elif code == errors.ConfigError.exit_code:
            found[code] = (f"`{errors.ConfigError.__name__}`", CODES[code])
    rows = [f"| {code} | {found[code][0]} | {cell(found[code][1])} |" for code in sorted(found)]
    return "\n".join(
        [
            "# Exit codes",
            "",
            MADE,
            "Every error is one line on stderr. It names the value that is wrong and says what to do. From Python the",
            "same errors are exceptions of `ctxdeploy.core.errors`.",
            "",
            "| code | error | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


# --- options


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its whole name, groups' commands one by one."""
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        if command is None:
            raise SystemExit(f"{name} is in COMMANDS and is not a command")
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in command.commands.items())
        else:
            yield name, command


def option_rows(command: click.Command, name: str) -> Iterator[str]:
    """Yield the rows of a command's options, as ``--help`` says them."""
    context = click.Context(command, info_name=name, max_content_width=10_000)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and (record[1] or isinstance(parameter, click.Option)):
            flag, text = record
            yield f"| `{flag.replace('|', '¦')}` | {cell(text)} |".replace("¦", r"\|")


def options() -> str:
    """Return the page of options."""
    lines = ["# Commands and options", "", MADE, "`ctxdeploy COMMAND --help` prints the same.", ""]
    for name, command in commands():
        context = click.Context(command, info_name=f"ctxdeploy {name}")
        about = inspect.cleandoc(command.help or "").replace("\b", "").strip()
        pieces = " ".join(command.collect_usage_pieces(context))
        lines += [f"## {name}", "", f"    ctxdeploy {name} {pieces}", ""]
        lines += [" ".join(cell(part).split()) + "\n" for part in about.split("\n\n")]
        rows = list(option_rows(command, name))
        if rows:
            lines += ["| option | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


# --- exports


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows), ""]


def export_formats() -> str:
    """Return the page of what an export may be asked for."""
    matrix = [
        (f"`{name}`", *("yes" if label in entry.precisions else "–" for label in PRECISIONS), cell(entry.lacks) or "–")
        for name, entry in ((name, TARGETS[name]) for name in EXPORT_TARGETS)
    ]
    files = [(f"`{member.label}`", f"`{member.file}`") for member in Precision]
    lines = [
        "# Export formats and arguments",
        "",
        MADE,
        "`ctxdeploy export` makes a bundle: a folder with one file for each precision, and engines for GPUs.",
        "An artefact is kept only if it computes what PyTorch computes ([how it is compared](../formats.md)).",
        "",
        "## Runtimes and precisions",
        "",
        "`--target` names the runtime, `--precision` the precision; each may be given several times.",
        "",
        *table(("target", *PRECISIONS, "why not the others"), matrix),
        "## Files",
        "",
        "ONNX files serve every runtime. TensorRT builds its engines from them (`ctxdeploy build`); an engine is",
        "`engine-PRECISION-KEY.plan`, and its key names the GPU and the version of TensorRT.",
        "",
        *table(("precision", "file in the bundle"), files),
    ]
    for name in ("export", "build", "verify", "diff"):
        command = cli.get_command(click.Context(cli), name)
        if command is None:
            raise SystemExit(f"{name} is not a command")
        rows = list(option_rows(command, name))
        lines += [f"## Arguments of `ctxdeploy {name}`", "", "| option | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


# --- published figures


def figures(pair: tuple[float | None, float | None]) -> str:
    """Return medium and hard as tables print them."""
    if pair == (None, None):
        return "–"
    return " / ".join("–" if figure is None else f"{figure:.1f}" for figure in pair)


def published_figures() -> str:
    """Return the page of what authors published."""
    notes = sorted({row.caution for row in PUBLISHED if row.caution})
    sources = sorted({row.source for row in PUBLISHED})
    lines = [
        "# Published figures",
        "",
        MADE,
        "Mean average precision in percent on Revisited Oxford and Paris, medium / hard, and with the million",
        "distractors (R1M), as their sources print it. None of it was measured by ctxdeploy; `ctxdeploy eval`",
        "measures yours.",
        "",
    ]
    for framework in FRAMEWORKS:
        rows: list[tuple[str, ...]] = [
            (
                f"`{row.name}`",
                cell(row.network),
                cell(row.training),
                *(figures(pair) for pair in (row.roxford, row.rparis, row.roxford_1m, row.rparis_1m)),
                "–" if row.memory_gb is None else f"{row.memory_gb:g}",
                f"{sources.index(row.source) + 1}"
                + (f" ({chr(97 + notes.index(row.caution))})" if row.caution else ""),
            )
            for row in rows_of(framework)
        ]
        head = ("row", "network", "trained on", "ROxf", "RPar", "ROxf + R1M", "RPar + R1M", "GB at 1M", "source (note)")
        lines += [f"## {framework}", "", *table(head, rows)]
    lines += ["## Sources", "", *(f"{number}. {cell(text)}" for number, text in enumerate(sources, 1)), ""]
    lines += ["## Notes", "", *(f"- ({chr(97 + number)}) {cell(text)}" for number, text in enumerate(notes)), ""]
    return "\n".join(lines)


# --- the service


def openapi() -> str:
    """Return what ``/openapi.json`` says of a service, whatever it serves."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


PAGES = {
    FOLDER / "exit-codes.md": exit_codes,
    FOLDER / "options.md": options,
    FOLDER / "export-formats.md": export_formats,
    FOLDER / "published-figures.md": published_figures,
    ROOT / "ctxdeploy" / "service" / "openapi.json": openapi,
}


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; name the pages that are out of date")
    check = parser.parse_args().check
    importlib.invalidate_caches()
    stale: list[Any] = []
    for path, make in PAGES.items():
        text = make()
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            stale.append(path.relative_to(ROOT).as_posix())
        elif not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"{', '.join(stale)}: not what the code says; run  make pages\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
