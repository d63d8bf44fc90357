"""``ctxdeploy index``."""

from pathlib import Path

import click

from ctxdeploy.archive import default_archive, find_model, has_model, is_archive, open_model
from ctxdeploy.cli.options import (
    PATH,
    backend_config,
    backend_options,
    json_option,
    model_option,
    print_json,
    quiet_option,
)
from ctxdeploy.errors import SomePhotosFailedError
from ctxdeploy.indexing import IndexingConfig, IndexingReport, index_photos
from ctxdeploy.progress import Display
from ctxdeploy.text import printable

# Failed photos that are named on stderr; the archive lists all.
NAMED_FAILURES = 5


@click.command("index")
@click.argument("folder", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="ARCHIVE", help="[default: FOLDER's name with .ctxindex, here]")
@model_option
@click.option("--codebook", type=PATH, metavar="FILE", help="Codebook to use [default: trained from the photos].")
@click.option("--words", type=int, metavar="N", help="Size of the codebook [default: fits the number of descriptors].")
@click.option("--training-photos", type=int, default=5000, show_default=True, help="Photos that train the codebook.")
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Look into folders below.")
@click.option("--decode-threads", type=int, default=2, show_default=True, help="Threads that read and decode photos.")
@click.option("--gc", is_flag=True, help="At the end, remove files of interrupted runs and former states.")
@backend_options
@json_option
@quiet_option
def command(
    folder: Path,
    output: Path | None,
    model: str | None,
    codebook: Path | None,
    words: int | None,
    training_photos: int,
    recursive: bool,
    decode_threads: int,
    gc: bool,
    backend: str,
    precision: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Index the photos of FOLDER. Run it again to add new photos, or to continue after an interruption.

    Photos that cannot be read are listed in the archive and skipped; the exit code is then 19.
    """
    from ctxdeploy import bundle as bundles
    from ctxdeploy.runtime import Extractor, ExtractorConfig, PhotoFailure, find_photos

    config = IndexingConfig(codebook=codebook, words=words, training_photos=training_photos)
    engine = backend_config(backend, precision, threads)
    archive = output or default_archive(folder)
    unreadable: list[PhotoFailure] = []
    photos = find_photos(folder, recursive, unreadable=unreadable)
    own = is_archive(archive) and model is None and has_model(archive)
    bundle = open_model(archive) if own else bundles.open(find_model(model))
    extractor = Extractor(bundle, backend=engine, config=ExtractorConfig(decode_threads=decode_threads))
    shown = Display(quiet=quiet)
    remark = shown.say
    about = extractor.description()
    remark(f"{len(photos):,} photos; {about['backend']} {about['precision']} on {about['device']}")
    try:
        report = index_photos(
            folder, photos, archive, extractor, config, shown, unreadable=unreadable, collect_garbage=gc
        )
    except KeyboardInterrupt:
        click.echo("ctxdeploy: what was done is kept; run the same command again to continue", err=True)
        raise
    _print(archive, report, about, as_json)
    if report.missing:
        remark(f"{report.missing} photos of the archive are no longer in {folder}; queries still find them")
    if report.changed:
        remark(f"{report.changed} photos have changed since they were indexed; their old descriptors stay")
    if report.failed:
        for failure in report.failures[:NAMED_FAILURES]:
            remark(f"  {failure['name']}: {failure['reason']}")
        raise SomePhotosFailedError(
            f"{report.failed} of {report.found} photos could not be read; see  ctxdeploy info {printable(str(archive))}"
        )


def _print(archive: Path, report: IndexingReport, about: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json({"archive": str(archive), **report.metadata(), "extraction": about})
        return
    each = f" ({report.descriptors / report.indexed:.0f} descriptors each)" if report.indexed else ""
    click.echo(
        f"{printable(str(archive))}: {report.indexed} photos added{each}, "
        f"{report.unchanged} unchanged, {report.failed} failed, in {report.seconds:.1f} s"
    )
