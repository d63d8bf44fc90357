"""``ctxdeploy models``."""

from pathlib import Path

import click

from ctxdeploy.cli.options import PATH, check_there, configured, echo, json_option, options_of, print_json, quiet_option
from ctxdeploy.cli.parity import parity_line
from ctxdeploy.core.bundle import CODEBOOK
from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.models import DownloadConfig, ModelInfo, find_checkpoint, list_models, models_folder
from ctxdeploy.models.pulling import MIRROR, address, find_published, pull, remove
from ctxdeploy.models.release import ReleaseConfig, card_text, release_model


@click.group("models", invoke_without_command=True)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the models that have a name: built in, fetched, and those that can be fetched."""
    if context.invoked_subcommand is not None:
        return
    for model in list_models():
        if as_json:
            print_json(model.metadata())
        else:
            _print(model)


def _print(model: ModelInfo) -> None:
    size = "" if model.bytes is None else f", {model.bytes / 1e6:.1f} MB"
    dim = "" if model.dim is None else f", {model.dim} dimensions"
    whole = "" if model.global_dim is None else f", global {model.global_dim} dimensions"
    words = "" if model.words is None else f", {model.words:,} words"
    echo(f"{model.name}: {printable(model.what)}{dim}{whole}{words}{size}")
    echo(f"    licence: {printable(model.licence)}")
    if model.sha256 is not None and model.path is None:
        length = "not published" if model.file_bytes is None else f"{model.file_bytes:,} bytes"
        echo(f"    {model.sha256}; size: {length}")
    echo(f"    {_where(model)}")


def _where(model: ModelInfo) -> str:
    """Return where a model is, or what to do to have it."""
    if model.path is not None:
        return printable(str(model.path))
    if model.kind == "unavailable":
        return printable(str(model.problem))
    pull_it = f"ctxdeploy models pull {model.name}"
    return (
        f"open {model.url} in a browser, then  {pull_it} --file FILE" if model.by_hand else f"fetch it with  {pull_it}"
    )


@command.command("release")
@click.argument("checkpoint", type=PATH)
@click.option(
    "-o", "--output", type=PATH, required=True, metavar="DIR", help="Folder to make; its name is the model's."
)
@click.option("--photos", type=PATH, multiple=True, required=True, metavar="DIR", help="Train the codebook on these.")
@click.option("--card", type=PATH, metavar="FILE", help="Text of the card; an earlier card's facts are left out.")
@options_of(ReleaseConfig)
@json_option
@quiet_option
def release_command(
    checkpoint: Path,
    output: Path,
    photos: tuple[Path, ...],
    card: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the folder of a model from a trained CHECKPOINT: a bundle with a codebook, the checkpoint, and a card.

    Matrices are rounded to float16, the graph is compared with PyTorch, and the codebook is trained on the photos; the
    same arguments give the same codebook. In the folder of models (see  ctxdeploy models pull --help) it can be used by
    its name.
    """
    from ctxdeploy.core.files import folder_bytes

    try:
        text = "" if card is None else card_text(card)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--card {card} cannot be read: {error}") from error
    config = configured(ReleaseConfig)
    trained, display = find_checkpoint(checkpoint), Display(quiet=quiet)
    check_there(CheckpointError, trained)
    released = release_model(trained, output, photos, config, text=text, display=display)
    size = folder_bytes(output)
    if as_json:
        facts = {"photos": released.photos, "rounding": released.rounding, "left_out": released.left_out}
        print_json({"model": str(output), "bytes": size, **released.bundle.metadata(), **facts})
        return
    echo(f"{printable(str(output))}: {size / 1e6:.2f} MB")
    for artefact in released.bundle.artefacts:
        echo(f"  {artefact.target} {artefact.precision}: {parity_line(artefact)}")
    for reason in released.left_out:
        echo(f"  left out: {reason}")


@command.command("pull")
@click.argument("name")
@click.option("--url", metavar="URL", help=f"Fetch from here [default: {MIRROR}/FILE, or the authors' address].")
@click.option("--file", "local", type=PATH, metavar="FILE", help="Take this file, which you downloaded yourself.")
@click.option("--to", type=PATH, metavar="DIR", help="Folder of models [default: in CTXDEPLOY_HOME, or for this user].")
@click.option("--accept-licence", is_flag=True, help="Agree to terms that are more than attribution.")
@options_of(DownloadConfig)
@json_option
@quiet_option
def pull_command(
    name: str,
    url: str | None,
    local: Path | None,
    to: Path | None,
    accept_licence: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch a checkpoint or a codebook that its authors published, export it, and keep it under its NAME.

    The names, and what cannot be had, are listed by  ctxdeploy models.

    Run it again after an interruption: a file that has arrived is not fetched again. The folder of models is
    $CTXDEPLOY_HOME/models, else ctxdeploy/models in $XDG_DATA_HOME or ~/.local/share; a model in another folder is
    named by its path.
    """

    model = find_published(name, agreed=accept_licence)
    if url is not None and local is not None:
        raise ConfigError("--url and --file exclude each other: the file is here, or it is fetched")
    source, folder = local or address(model, url), to or models_folder()
    display = Display(quiet=quiet, as_json=as_json)
    echo(f"ctxdeploy: {name}: licence {model.licence}", err=True)
    try:
        pulled = pull(model, source, folder, display=display, config=configured(DownloadConfig))
    except KeyboardInterrupt:
        echo("ctxdeploy: a file that has arrived is kept; run the same command again", err=True)
        raise
    origin = pulled.origin
    if as_json:
        facts = {"name": name, "model": str(pulled.path), "new": pulled.new, "licence": model.licence}
        print_json({**facts, "origin": None if origin is None else vars(origin)})
        return
    state = "fetched" if pulled.new else "was here already"
    echo(f"{name}: {state}, {printable(str(pulled.path))}")
    if origin is not None:
        known = "the known one" if origin.known_sha256 else "not known to ctxdeploy before; recorded with the model"
        echo(f"  {origin.bytes:,} bytes, sha256 {origin.sha256} ({known})")
    if pulled.bundle is None:
        given = name if folder == models_folder() else printable(str(pulled.path / CODEBOOK))
        echo(f"  use it with  --codebook {given}")
        return
    echo(f"  {parity_line(pulled.bundle.artefact())}")
    given = name if folder == models_folder() else printable(str(pulled.path))
    echo(f"  use it with  --model {given}")


@command.command("remove")
@click.argument("name")
@click.option("--to", type=PATH, metavar="DIR", help="Folder of models, as with  pull.")
def remove_command(name: str, to: Path | None) -> None:
    """Remove a fetched model, or what an interrupted  pull  left of it."""

    echo(f"removed {printable(str(remove(name, to or models_folder())))}")
