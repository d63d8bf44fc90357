"""``ctxdeploy export``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxdeploy.cli.options import PATH, check_there, configured, echo, json_option, options_of, print_json, quiet_option
from ctxdeploy.cli.parity import parity_line
from ctxdeploy.core.errors import ArchiveError, CheckpointError, ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import Precision
from ctxdeploy.export import ExportConfig, TritonConfig
from ctxdeploy.indexing.codebook import add_codebook, read_codebook
from ctxdeploy.models import BUNDLE_SUFFIX, find_checkpoint

if TYPE_CHECKING:
    from ctxdeploy.export.parity import Image, ParityPhotos


@click.command("export")
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", type=PATH, help=f"Bundle to make [default: CHECKPOINT's name with {BUNDLE_SUFFIX}].")
@options_of(ExportConfig, TritonConfig)
@click.option(
    "--calibrate", type=PATH, metavar="DIR", help="Photos that int8 and fp8 are fitted to [default: scikit-image's]."
)
@click.option("--codebook", type=PATH, metavar="FILE", help="Codebook that the bundle carries, for `index` to use.")
@click.option("--photos", type=PATH, metavar="DIR", help="Compare on these photos [default: some of scikit-image].")
@click.option("--report", type=PATH, metavar="FILE", help="Write a page with figures and plots of every artefact.")
@click.option("--triton", type=PATH, metavar="DIR", help="Write a model repository for Triton.")
@json_option
@quiet_option
def command(
    checkpoint: Path,
    output: Path | None,
    calibrate: Path | None,
    codebook: Path | None,
    photos: Path | None,
    report: Path | None,
    triton: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn the CHECKPOINT of a network into a bundle of artefacts that were compared with PyTorch on photos.

    CHECKPOINT is a file, or the name of a model that  ctxdeploy models  lists.

    An artefact that differs from PyTorch by more than its precision allows is kept as *.rejected with its report, and
    the exit code is 11.
    """
    output = output or Path(Path(checkpoint.name).stem + BUNDLE_SUFFIX)
    checkpoint = find_checkpoint(checkpoint)
    check_there(CheckpointError, checkpoint)
    check_there(ArchiveError, codebook)
    check_there(ConfigError, photos, calibrate)
    require("torch", "export")
    from ctxdeploy.evaluation import AsmkRetrieval
    from ctxdeploy.export import export_bundle

    for flag, package, extra in ((report, "matplotlib", "export"), (triton, "tritonclient", "triton")):
        if flag is not None:
            require(package, extra)
    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"{report.parent} is not a folder: make it first, or choose another --report")
    config, serving = configured(ExportConfig), configured(TritonConfig)
    _check_together(config, serving, calibrate, triton)
    if codebook is not None:
        _check_codebook(codebook, checkpoint, config)
    display = Display(quiet=quiet)
    chosen, fitted = _photos(checkpoint, config, photos, calibrate, display)
    exported = export_bundle(
        checkpoint,
        output,
        config,
        retrieval=AsmkRetrieval,
        photos=chosen,
        calibration=fitted,
        display=display,
    )
    if codebook is not None:
        exported = replace(exported, bundle=add_codebook(exported.bundle, codebook))
    if as_json:
        rejected = [vars(artefact) for artefact in exported.rejected]
        print_json({"bundle": str(output), **exported.bundle.metadata(), "rejected": rejected})
    else:
        echo(f"{printable(str(output))}:")
        for artefact in (*exported.bundle.artefacts, *exported.rejected):
            kind = "engine" if artefact.format == "engine" else "graph"
            what = f"{artefact.target} {artefact.precision} {kind}, {artefact.bytes / 1e6:.1f} MB"
            echo(f"  {what}: {parity_line(artefact)}")
    if report is not None:
        from ctxdeploy.report import write_bundle_report

        write_bundle_report(report, exported.bundle, exported.rejected)
    if triton is not None:
        from ctxdeploy.export import write_model_repository

        write_model_repository(exported.bundle, triton, serving)
    exported.check()


def _check_together(config: ExportConfig, serving: TritonConfig, calibrate: Path | None, triton: Path | None) -> None:
    """Raise ``ConfigError`` for an option that says something of another one, which is not given."""
    if triton is None and serving != TritonConfig():
        raise ConfigError("--triton-kind is for a model repository: add --triton DIR")
    if calibrate is not None and not {Precision.INT8, Precision.FP8} & set(config.precisions):
        raise ConfigError("--calibrate is for int8 and fp8: add --precision int8")
    if calibrate is None and config.int8 != ExportConfig().int8:
        raise ConfigError("--calibration-photos is a number of photos of a folder: add --calibrate DIR")


def _check_codebook(codebook: Path, checkpoint: Path, config: ExportConfig) -> None:
    read_codebook(codebook, config.load(checkpoint).config.descriptor_dim)


def _photos(
    checkpoint: Path, config: ExportConfig, photos: Path | None, calibrate: Path | None, display: Display
) -> tuple["ParityPhotos | None", "dict[str, Image] | None"]:
    """Return the user's photos to compare on, and those to fit int8 and fp8 to; None where none are given."""
    if photos is None and calibrate is None:
        return None, None
    from ctxdeploy.export.parity import folder_calibration, folder_parity_photos

    preprocessing = config.preprocessing(config.load(checkpoint))
    chosen = None if photos is None else folder_parity_photos(photos, preprocessing)
    if calibrate is None:
        return chosen, None
    return chosen, folder_calibration(calibrate, preprocessing, config.int8.max_photos, display)
