"""``ctxdeploy models``."""

from pathlib import Path

import click

from ctxdeploy.cli.options import PATH, ScalesType, json_option, print_json, quiet_option
from ctxdeploy.cli.parity import parity_line
from ctxdeploy.errors import ConfigError
from ctxdeploy.models.card import card_text
from ctxdeploy.models.listing import Entry, entries
from ctxdeploy.models.release import ReleaseConfig
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
@click.option("--card", type=PATH, metavar="FILE", help="Text of the card; an earlier card's facts are left out.")
@click.option("--threads", type=int, help="Of the network [default: the runtime's choice].")
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
