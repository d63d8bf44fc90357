"""``ctxdeploy build``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxdeploy.cli.options import PATH, json_option, print_json, quiet_option
from ctxdeploy.core.engines import PACKAGES, Hardware
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import Precision
from ctxdeploy.models.finding import check_own, find_bundle

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Artefact


class _Shape(click.ParamType[tuple[int, int, int]]):
    name = "shape"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        try:
            batch, height, width = (int(part) for part in value.lower().replace("×", "x").split("x"))
        except ValueError:
            self.fail(f"{value!r} is not photos, rows and columns such as 1x768x1024", param, ctx)
        return batch, height, width


@click.command("build")
@click.argument("bundle", type=PATH)
@click.option("--target", type=click.Choice(list(PACKAGES)), required=True, help="Engines of which runtime.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice([precision.label for precision in Precision]),
    multiple=True,
    default=["fp32"],
    show_default=True,
    help="Of the engine; the bundle needs an ONNX graph of it. May be given more than once.",
)
@click.option("--typical", type=_Shape(), metavar="BxHxW", help="Input that it is tuned for [default: one photo, 4:3].")
@click.option(
    "--max-batch", type=int, default=8, show_default=True, help="Most photos at once; memory is kept for them."
)
@click.option("--workspace", type=int, metavar="MIB", help="Scratch memory of a layer [default: all of the GPU's].")
@click.option(
    "--optimisation-level", type=int, default=3, show_default=True, help="0 builds fastest, 5 searches longest."
)
@click.option("--tf32/--no-tf32", default=False, show_default=True, help="Round the factors of fp32 products.")
@click.option("--version-compatible", is_flag=True, help="Later versions of TensorRT load it too.")
@click.option(
    "--hardware-compatibility",
    type=click.Choice([hardware.value for hardware in Hardware]),
    default=Hardware.NONE.value,
    show_default=True,
    help="Other GPUs that run it too.",
)
@click.option("--timing-cache", type=PATH, metavar="FILE", help="Keep the timings of layers here for the next build.")
@json_option
@quiet_option
def command(
    bundle: Path,
    target: str,
    precisions: tuple[str, ...],
    typical: tuple[int, int, int] | None,
    max_batch: int,
    workspace: int | None,
    optimisation_level: int,
    tf32: bool,
    version_compatible: bool,
    hardware_compatibility: str,
    timing_cache: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Build engines for the GPU of this machine from the ONNX graphs in a BUNDLE, and put them into it.

    An engine of the same target and precision is replaced. PyTorch is not needed. Engines of TensorRT-RTX are built on
    any machine and run on RTX GPUs.
    """
    import ctxdeploy.core.bundle
    from ctxdeploy.export.tensorrt import EngineConfig, build_engine

    config = EngineConfig(
        workspace=None if workspace is None else workspace << 20,
        optimisation_level=optimisation_level,
        tf32=tf32,
        version_compatible=version_compatible,
        hardware=Hardware(hardware_compatibility),
        timing_cache=timing_cache,
        typical=typical,
        max_batch=max_batch,
    )
    config.check(target)
    bundle = find_bundle(bundle)
    check_own(bundle)
    opened = ctxdeploy.core.bundle.open(bundle)
    display = Display(quiet=quiet)
    for label in dict.fromkeys(precisions):
        opened = build_engine(opened, config, target=target, precision=Precision.parse(label), display=display)
        artefact = opened.artefacts[-1]  # the engine; there may be a graph for the same runtime too
        if as_json:
            print_json(
                {
                    "bundle": str(bundle),
                    "target": target,
                    "precision": label,
                    "file": artefact.file,
                    "bytes": artefact.bytes,
                    "details": dict(artefact.details),
                }
            )
        else:
            click.echo(_summary(bundle, artefact))


def _summary(bundle: Path, artefact: "Artefact") -> str:
    seconds = artefact.details["build_seconds"]
    where = printable(str(bundle / artefact.file))
    measure = f"ctxdeploy verify {printable(str(bundle))} --photos DIR --record"
    return f"{where}: {artefact.bytes / 1e6:.1f} MB, built in {seconds} s; measure it with  {measure}"
