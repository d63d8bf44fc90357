"""``ctxdeploy models``."""

from pathlib import Path

import click

from ctxdeploy.cli.options import PATH, ScalesType, json_option, print_json, quiet_option
from ctxdeploy.cli.parity import parity_line
from ctxdeploy.errors import ConfigError
from ctxdeploy.models.card import card_text
from ctxdeploy.models.download import DownloadConfig
from ctxdeploy.models.finding import models_folder
from ctxdeploy.models.listing import Entry, entries
from ctxdeploy.models.pulling import MIRROR
from ctxdeploy.models.release import ReleaseConfig
from ctxdeploy.models.table import PUBLISHED
from ctxdeploy.progress import Display
from ctxdeploy.text import printable


@click.group("models", invoke_without_command=True)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the models that have a name: built in, fetched, and those that can be fetched."""
    if context.invoked_subcommand is not None:
        return
    for entry in entries():
        if as_json:
            print_json(entry.metadata())
        else:
            _print(entry)


def _print(entry: Entry) -> None:
    size = "" if entry.bytes is None else f", {entry.bytes / 1e6:.1f} MB"
    dim = "" if entry.dim is None else f", {entry.dim} dimensions"
    words = "" if entry.words is None else f", {entry.words:,} words"
    where = f"fetch it with  ctxdeploy models pull {entry.name}" if entry.path is None else printable(str(entry.path))
    click.echo(f"{entry.name}: {printable(entry.what)}{dim}{words}{size}")
    click.echo(f"    licence: {printable(entry.licence)}")
    click.echo(f"    {where}")


@command.command("release")
@click.argument("checkpoint", type=PATH)
@click.option(
    "-o", "--output", type=PATH, required=True, metavar="DIR", help="Folder to make; its name is the model's."
)
@click.option("--photos", type=PATH, multiple=True, required=True, metavar="DIR", help="Train the codebook on these.")
@click.option("--words", type=int, default=ReleaseConfig.words, show_default=True, help="Size of the codebook.")
@click.option("--training-photos", type=int, default=ReleaseConfig.training_photos, show_default=True)
@click.option("--seed", type=int, default=ReleaseConfig.seed, show_default=True, help="Of the sample and of k-means.")
@click.option("--scales", type=ScalesType(), default=ReleaseConfig.scales, metavar="S,S,…", help="Image pyramid.")
@click.option("--top-k", type=int, default=ReleaseConfig.top_k, show_default=True, help="Descriptors of a photo.")
@click.option("--image-size", type=int, default=ReleaseConfig.image_size, show_default=True, help="Longest side.")
@click.option("--int8", is_flag=True, help="Add a graph in int8, fitted to --photos.")
@click.option("--card", type=PATH, metavar="FILE", help="Text of the card; an earlier card's facts are left out.")
@click.option("--threads", type=int, help="Of the network [default: the runtime's choice, or a CPU quota].")
@json_option
@quiet_option
def release_command(
    checkpoint: Path,
    output: Path,
    photos: tuple[Path, ...],
    words: int,
    training_photos: int,
    seed: int,
    scales: tuple[float, ...],
    top_k: int,
    image_size: int,
    int8: bool,
    card: Path | None,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the folder of a model from a trained CHECKPOINT: a bundle with a codebook, the checkpoint, and a card.

    Matrices are rounded to float16, the graph is compared with PyTorch, and the codebook is trained on the photos; the
    same arguments give the same codebook. In the folder of models (see  ctxdeploy models pull --help) it can be used by
    its name.
    """
    from ctxdeploy.archive import folder_bytes
    from ctxdeploy.models.finding import find_checkpoint
    from ctxdeploy.models.release import release

    try:
        text = "" if card is None else card_text(card)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--card {card} cannot be read: {error}") from error
    config = ReleaseConfig(
        scales=scales,
        top_k=top_k,
        image_size=image_size,
        words=words,
        training_photos=training_photos,
        seed=seed,
        threads=threads,
        int8=int8,
    )
    released = release(find_checkpoint(checkpoint), output, photos, config, text=text, display=Display(quiet=quiet))
    size = folder_bytes(output)
    if as_json:
        facts = {"photos": released.photos, "rounding": released.rounding, "left_out": released.left_out}
        print_json({"model": str(output), "bytes": size, **released.bundle.metadata(), **facts})
        return
    click.echo(f"{printable(str(output))}: {size / 1e6:.2f} MB")
    for artefact in released.bundle.artefacts:
        click.echo(f"  {artefact.target} {artefact.precision}: {parity_line(artefact.parity)}")
    for reason in released.left_out:
        click.echo(f"  left out: {reason}")


@command.command("pull")
@click.argument("name", metavar=f"[{'|'.join(PUBLISHED)}]")
@click.option("--url", metavar="URL", help=f"Fetch from here [default: {MIRROR}/FILE, or the authors' address].")
@click.option("--to", type=PATH, metavar="DIR", help="Folder of models [default: in CTXDEPLOY_HOME, or for this user].")
@click.option("--accept-licence", is_flag=True, help="Agree to terms that are more than attribution.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=DownloadConfig.timeout, show_default=True)
@json_option
@quiet_option
def pull_command(
    name: str,
    url: str | None,
    to: Path | None,
    accept_licence: bool,
    timeout: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch a checkpoint that its authors published, export it, and keep it under its NAME.

    Run it again after an interruption: it goes on where it was. The folder of models is $CTXDEPLOY_HOME/models, else
    ctxdeploy/models in $XDG_DATA_HOME or ~/.local/share; a model in another folder is named by its path.
    """
    from ctxdeploy.models.pulling import address, find_published, pull

    model = find_published(name, agreed=accept_licence)
    source, folder = address(model, url), to or models_folder()
    display = Display(quiet=quiet, as_json=as_json)
    click.echo(f"ctxdeploy: {name}: licence {model.licence}", err=True)
    try:
        pulled = pull(model, source, folder, display=display, config=DownloadConfig(timeout=timeout))
    except KeyboardInterrupt:
        click.echo("ctxdeploy: what has arrived is kept; run the same command again to continue", err=True)
        raise
    origin = pulled.origin
    if as_json:
        facts = {"name": name, "model": str(pulled.bundle.path), "new": pulled.new, "licence": model.licence}
        print_json({**facts, "origin": None if origin is None else vars(origin)})
        return
    state = "fetched" if pulled.new else "was here already"
    click.echo(f"{name}: {state}, {printable(str(pulled.bundle.path))}")
    if origin is not None:
        known = "the known one" if origin.known_sha256 else "not known to ctxdeploy before; recorded with the model"
        click.echo(f"  {origin.bytes:,} bytes, sha256 {origin.sha256} ({known})")
    click.echo(f"  {parity_line(pulled.bundle.artefact().parity)}")
    given = name if folder == models_folder() else printable(str(pulled.bundle.path))
    click.echo(f"  use it with  --model {given}")


@command.command("remove")
@click.argument("name")
@click.option("--to", type=PATH, metavar="DIR", help="Folder of models, as with  pull.")
def remove_command(name: str, to: Path | None) -> None:
    """Remove a fetched model, or what an interrupted  pull  left of it."""
    from ctxdeploy.models.pulling import remove

    click.echo(f"removed {printable(str(remove(name, to or models_folder())))}")
