"""``ctxdeploy export``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxdeploy.archive import BUNDLE_SUFFIX
from ctxdeploy.cli.options import PATH, json_option, print_json, quiet_option
from ctxdeploy.errors import ConfigError
from ctxdeploy.extras import require
from ctxdeploy.progress import Display
from ctxdeploy.text import printable

if TYPE_CHECKING:
    from ctxdeploy.export.parity import Image

# Photos of --photos that are compared; a photo takes about 3 s (PyTorch and ONNX Runtime, ResNet-18, two cores).
MOST_PHOTOS = 16


class _Scales(click.ParamType[tuple[float, ...]]):
    name = "numbers"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list such as 1.414,1,0.707", param, ctx)


@click.command("export")
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", type=PATH, help=f"Bundle to make [default: CHECKPOINT's name with {BUNDLE_SUFFIX}].")
@click.option("--scales", type=_Scales(), metavar="S,S,…", help="Image pyramid [default: the checkpoint's].")
@click.option("--top-k", type=int, metavar="K", help="Descriptors of a photo [default: the checkpoint's].")
@click.option("--image-size", type=int, metavar="PIXELS", help="Longest side of a photo [default: the checkpoint's].")
@click.option("--draft", is_flag=True, help="Decode JPEGs at reduced size: 2.5 times faster, not quite HOW's pixels.")
@click.option("--inline", is_flag=True, help="Standard operators only: our own operators' bodies in their place.")
@click.option("--photos", type=PATH, metavar="DIR", help="Compare on these photos [default: some of scikit-image].")
@json_option
@quiet_option
def command(
    checkpoint: Path,
    output: Path | None,
    scales: tuple[float, ...] | None,
    top_k: int | None,
    image_size: int | None,
    draft: bool,
    inline: bool,
    photos: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn a CHECKPOINT of HOW or ctx into a bundle: an ONNX graph that was compared with PyTorch on photos.

    A graph that differs from PyTorch is not kept, and the exit code is 11.
    """
    require("torch", "export")
    from ctxdeploy.export.checkpoint import load_checkpoint
    from ctxdeploy.export.export import ExportConfig, export

    config = ExportConfig(scales=scales, top_k=top_k, image_size=image_size, draft=draft, inline=inline)
    output = output or Path(checkpoint.with_suffix(BUNDLE_SUFFIX).name)
    chosen = None
    if photos is not None:
        chosen = _decoded(photos, config.preprocessing(load_checkpoint(checkpoint)).image_size, draft)
    bundle = export(checkpoint, output, config, photos=chosen, report=Display(quiet=quiet).say)
    parity = bundle.artefacts[0].parity
    if as_json:
        print_json({"bundle": str(output), **bundle.metadata()})
        return
    click.echo(
        f"{printable(str(output))}: descriptor cosine ≥ {parity['cosine_min']:.6f} (mean {parity['cosine_mean']:.6f}), "
        f"overlap of positions ≥ {parity['overlap_min']:.4f}, against PyTorch on {len(parity['photos'])} photos"
    )


def _decoded(folder: Path, image_size: int, draft: bool) -> dict[str, "Image"]:
    """Return up to ``MOST_PHOTOS`` photos of a folder, spread over it, as they enter the network."""
    from ctxdeploy.preprocessing import Preprocessing
    from ctxdeploy.runtime import decode_photo, find_photos

    found = find_photos(folder)
    step = max(1, len(found) // MOST_PHOTOS)
    preprocessing = Preprocessing(image_size=image_size, draft=draft)
    decoded = {}
    for photo in found[::step][:MOST_PHOTOS]:
        if photo.path is None:
            raise ConfigError(f"{photo.name} is no file")
        decoded[photo.name] = decode_photo(photo.path, preprocessing).pixels
    return decoded
