"""``ctxdeploy diff``."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxdeploy.cli.options import BUNDLE, PATH, configured, echo, json_option, options_of, print_json, quiet_option
from ctxdeploy.core.errors import ParityError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.targets import CPU_TARGETS
from ctxdeploy.export.diff import DiffConfig
from ctxdeploy.models import find_bundle, is_name
from ctxdeploy.querying.photo import check_photo

if TYPE_CHECKING:
    from ctxdeploy.export.parity import Image

SAMPLE = "coffee"
# Of graphs outside of a bundle, and of default for those in one: every layer shows, in a fifth of the time of 1024.
DEFAULT_SIZE = 512

_engine = click.Choice(CPU_TARGETS)
_hint = click.Choice(["fp32", "bf16", "fp16"])


@click.command("diff")
@click.argument("a", metavar="A", shell_complete=BUNDLE.shell_complete)
@click.argument("b", metavar="B", shell_complete=BUNDLE.shell_complete)
@click.option("--photo", type=PATH, metavar="FILE", help="To compare on [default: one of scikit-image].")
@click.option("--image-size", type=click.IntRange(min=16), default=DEFAULT_SIZE, show_default=True, metavar="PIXELS")
@options_of(DiffConfig)
@click.option("--backend-a", type=_engine, help="Runtime of A [default: the artefact's].")
@click.option("--backend-b", type=_engine, help="Runtime of B [default: the artefact's].")
@click.option("--precision-a", type=_hint, help="That OpenVINO computes A in [default: the artefact's].")
@click.option("--precision-b", type=_hint, help="That OpenVINO computes B in [default: the artefact's].")
@click.option("--html", type=PATH, metavar="FILE", help="Write a page with a plot as well.")
@json_option
@quiet_option
def command(
    a: str,
    b: str,
    photo: Path | None,
    image_size: int,
    backend_a: str | None,
    backend_b: str | None,
    precision_a: str | None,
    precision_b: str | None,
    html: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the first layer where artefact B diverges from A: a BUNDLE, a BUNDLE:precision, or an .onnx file each.

    In place of a BUNDLE the name of a model may stand.

    Every layer of both is compared on one photo. The exit code is 0 when all are within the tolerance, else 11. The
    default tolerance is that of the lower precision: fp32 0.001, fp16 0.05, bf16 0.3, int8 0.7. A smaller --tolerance
    looks closer; the layer that adds most to the error is named in any case.
    """
    if photo is not None:
        check_photo(photo)
    from ctxdeploy.core.extras import require
    from ctxdeploy.export.diff import compare_graphs, side

    config = configured(DiffConfig)
    if html is not None:
        require("matplotlib", "export")
    left, right = side(_named(a), backend_a, precision_a), side(_named(b), backend_b, precision_b)
    size = min(image_size, left.image_size or image_size, right.image_size or image_size)
    found = compare_graphs(left, right, _image(photo, size), config, Display(quiet=quiet).say)
    if html is not None:
        from ctxdeploy.report import write_diff

        write_diff(html, found)
    if as_json:
        print_json(found.metadata())
    else:
        from ctxdeploy.report import diff_lines

        echo(*diff_lines(found))
    if found.diverged:
        raise ParityError(found.verdict())


def _named(text: str) -> str:
    """Return the path of a model's bundle for its name, with the precision behind it; any other text as it is."""
    name, colon, precision = text.partition(":")
    return text if Path(text).exists() or not is_name(name) else f"{find_bundle(name)}{colon}{precision}"


def _image(photo: Path | None, image_size: int) -> "Image":
    """Return the photo, H×W×3 uint8, scaled down as every photo is."""
    from ctxdeploy.core.types import Preprocessing
    from ctxdeploy.runtime import decode_photo

    source: Path | bytes
    if photo is not None:
        source = photo
    else:
        from PIL import Image as Pillow

        from ctxdeploy.core.samples import sample_photo

        buffer = io.BytesIO()
        Pillow.fromarray(sample_photo(SAMPLE)).save(buffer, "PNG", compress_level=1)
        source = buffer.getvalue()
    return decode_photo(source, Preprocessing(image_size=image_size)).pixels
