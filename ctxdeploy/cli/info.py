"""``ctxdeploy info``."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ctxdeploy.archive import archive_folder, is_archive, is_bundle, last_run
from ctxdeploy.cli.options import ANY_FOLDER, at_option, echo, json_option, print_json
from ctxdeploy.core import bundle
from ctxdeploy.core.device import CUDA, gpu_present
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import counted, printable
from ctxdeploy.index import SearchPlace
from ctxdeploy.models import find_bundle
from ctxdeploy.object_storage.place import shown_place
from ctxdeploy.photo_index import PhotoIndex

# Values of a list that are shown; JSON has all.
LISTED = 12
# What is nested deeper is not a field of ours.
_MAX_INDENT = 40


@click.command("info")
@click.argument("path", type=ANY_FOLDER, metavar="BUNDLE|ARCHIVE")
@at_option
@click.option("--failures", is_flag=True, help="Only the photos that could not be read, one JSON object a line.")
@json_option
def command(path: Path, at: str | None, failures: bool, as_json: bool) -> None:
    """Say what a BUNDLE or an ARCHIVE holds, and which photos of an archive could not be read: the gist, and all."""
    path = archive_folder(path)
    if failures:
        with PhotoIndex.open(path, at=at) as index:
            for failure in index.failures():
                print_json(failure)
        return
    facts = describe(path, at)
    if as_json:
        print_json(facts)
        return
    for line in _gist(facts, at):
        echo(line)
    echo("")
    _print(facts)


def describe(path: Path, at: str | None = None) -> dict[str, Any]:
    """Return the content of a bundle or an archive, perhaps as it was at another state, as JSON takes it."""
    path = path if is_archive(path) else find_bundle(path)
    if is_archive(path):
        with PhotoIndex.open(path, at=at) as index:
            facts = {
                **index.info(),
                "path": shown_place(path),
                "last_run": last_run(path),
                "writer": writer_facts(path),
                "search": _search_facts(index),
            }
            return {**facts, "failed_photos": index.failures()}
    if is_bundle(path):
        if at is not None:
            raise ConfigError(f"--at {at}: {path} is a bundle, which has one state: leave out --at")
        return {"kind": "bundle", "path": str(path), **bundle.open(path, check_hashes=False).metadata()}
    raise not_either(path)


def _search_facts(index: PhotoIndex) -> dict[str, Any]:
    """Return where a search runs that is told nothing else, and the GPU that might do it, as JSON takes it."""
    with index.reading() as state:
        place, can = state.search_place, state.keeps_local and state.config.binary
    gpu = gpu_present() if can else None
    return {**place.metadata(), "available_gpu": None if gpu is None else gpu.label}


def writer_facts(archive: Path) -> dict[str, Any] | None:
    """Return who has an archive's lease, as JSON takes it; None if nobody has. It may be dead."""
    from ctxdeploy.index import writer_of

    found = writer_of(archive)
    return None if found is None else found[0].metadata(found[1])


def writer_line(facts: dict[str, Any]) -> str:
    """Return ``writer_facts`` in words."""
    return _text(
        f"being written by process {facts['process']} on {facts['host']} ({facts['command']}, since {facts['since']})"
    )


def not_either(path: Path) -> ConfigError:
    """Return the error for a path that is neither a bundle nor an archive."""
    what = "is neither a bundle nor an archive" if path.exists() else "does not exist"
    return ConfigError(f"{printable(str(path))} {what}: name a folder made by  ctxdeploy export  or  index")


def _gist(facts: dict[str, Any], at: str | None) -> Iterator[str]:
    """Yield what an owner wants to know first."""
    path = printable(facts["path"])
    if facts["kind"] == "bundle":
        yield f"{path}: {_network(facts['network'], facts['extraction'])}"
        if facts["source"].get("remarks"):
            yield f"  checkpoint: {_text(facts['source'].get('format'))}; {_text(facts['source']['remarks'])}"
        for artefact in facts["artefacts"]:
            yield f"  {_text(artefact['target'])} {_text(artefact['precision'])}: {artefact['bytes'] / 1e6:.1f} MB"
        yield _words(facts.get("codebook"))
        return
    when = "" if at is None else f" at {printable(at)}"
    yield f"{path}{when}: {counted(facts['images'], 'photo')}, {facts['folder_bytes'] / 1e6:.1f} MB on disk"
    failed = len(facts["failed_photos"])
    listed = shlex.join(("ctxdeploy", "info", facts["path"], "--failures", *(() if at is None else ("--at", at))))
    some = f"{counted(failed, 'photo')} could not be read:  {printable(listed)}"
    yield f"  failures: {some if failed else 'none'}"
    ran = facts["extraction"] or {}
    engine = f", {_text(ran.get('backend'))} {_text(ran.get('precision'))} on {_text(ran.get('device'))}" if ran else ""
    yield f"  last run: {_text(facts['last_run'])}{engine}"
    if facts["writer"] is not None:
        yield f"  {writer_line(facts['writer'])}"
    yield f"  photos from: {_text(facts['photos'])}"
    if "model" in facts:
        model = _network(facts["model"]["network"], facts["model"].get("extraction"))
        yield f"  model: {_text(facts['model']['source'].get('file'))}, {model}"
    yield _words(facts["codebook"])
    yield f"  search: {_search_text(facts['search'])}"
    if facts["global"]["dim"]:
        cells = f", {counted(facts['global']['cells'], 'cell')}" if facts["global"]["cells"] else ""
        yield f"  global vectors: {facts['global']['dim']:,} dimensions, {_text(facts['global']['kept'])}{cells}"
    kept = facts["features"]
    each = f", {kept['bytes_each']} bytes each for {counted(kept['count'], 'feature')}"
    yield f"  geometry: {kept['kept']}{each if kept['bytes_each'] else ''}"


def _search_text(facts: dict[str, Any]) -> str:
    own = {name: value for name, value in facts.items() if name != "available_gpu"}
    other = f"; on {_text(facts['available_gpu'])} with  --search-device {CUDA}" if facts["available_gpu"] else ""
    return f"on {SearchPlace(**own).label}{other}"


def _words(codebook: dict[str, Any] | None) -> str:
    return f"  codebook: {'none' if codebook is None else counted(codebook['words'], 'word')}"


def _network(network: dict[str, Any], extraction: dict[str, Any] | None = None) -> str:
    extraction = extraction or {}
    parts = [] if extraction.get("top_k") == 0 else [f"{_text(network.get('dim'))} dimensions"]
    if extraction.get("global_dim"):
        parts.append(f"a global descriptor of {_text(extraction['global_dim'])} dimensions")
    return f"{_text(network.get('family'))} {_text(network.get('architecture'))}, {', '.join(parts)}"


def _print(facts: dict[str, Any], indent: int = 0) -> None:
    if indent > _MAX_INDENT:
        echo(" " * indent + "…")
        return
    for key, value in facts.items():
        label = " " * indent + printable(str(key).replace("_", " "))
        if isinstance(value, dict):
            echo(f"{label}:")
            _print(value, indent + 2)
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            echo(f"{label}: {len(value)}")
            for item in value:
                echo(" " * (indent + 2) + ", ".join(f"{k} {_shown(v)}" for k, v in item.items() if _is_short(v)))
                nested = {k: v for k, v in item.items() if isinstance(v, dict)}
                _print(nested, indent + 4)
        else:
            echo(f"{label}: {_text(value)}")


def _is_short(value: Any) -> bool:
    """Return whether a value of a listed item stands in its line: no dict, and of lists only those of numbers."""
    return not isinstance(value, dict | list) or (_is_shape(value) and len(value) <= LISTED)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _shown(value: Any) -> str:
    return "×".join(map(str, value)) if _is_shape(value) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        more = f", … ({len(value)} in all)" if len(value) > LISTED else ""
        return ", ".join(_text(item) for item in value[:LISTED]) + more or "none"
    return "none" if value is None else printable(str(value))
