"""``ctxdeploy build``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxdeploy.cli.options import BUNDLE, configured, echo, json_option, options_of, print_json, quiet_option
from ctxdeploy.core.progress import Display
from ctxdeploy.core.targets import ENGINE_TARGETS
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import Precision
from ctxdeploy.export.tensorrt import EngineConfig
from ctxdeploy.models import check_own, find_bundle

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Artefact


@click.command("build")
@click.argument("bundle", type=BUNDLE)
@click.option("--target", type=click.Choice(list(ENGINE_TARGETS)), required=True, help="Engines of which runtime.")
@click.option(
    "--precision",
    "precisions",
    type=click.Choice([precision.label for precision in Precision]),
    multiple=True,
    default=["fp32"],
    show_default=True,
    help="Of the engine; the bundle needs an ONNX graph of it. May be given more than once.",
)
@options_of(EngineConfig)
@json_option
@quiet_option
def command(
    bundle: Path,
    target: str,
    precisions: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Build engines for the GPU of this machine from the ONNX graphs in a BUNDLE, and put them into it.

    An engine of the same target and precision is replaced. PyTorch is not needed. Engines of TensorRT-RTX are built on
    any machine and run on RTX GPUs.
    """
    import ctxdeploy.core.bundle
    from ctxdeploy.export.tensorrt import build_engine

    config = configured(EngineConfig)
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
            echo(_summary(bundle, artefact))


def _summary(bundle: Path, artefact: "Artefact") -> str:
    seconds = artefact.details["build_seconds"]
    where = printable(str(bundle / artefact.file))
    measure = f"ctxdeploy verify {printable(str(bundle))} --photos DIR --record"
    return f"{where}: {artefact.bytes / 1e6:.1f} MB, built in {seconds} s; measure it with  {measure}"
