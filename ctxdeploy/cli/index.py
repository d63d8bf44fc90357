"""``ctxdeploy index``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxdeploy.adding import IndexingReport
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
from ctxdeploy.indexing import IndexingConfig, index_photos, plan_indexing
from ctxdeploy.planning import Plan
from ctxdeploy.progress import Display
from ctxdeploy.text import counted, printable

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig, Extractor

# Failed photos that are named on stderr; the archive lists all.
NAMED_FAILURES = 5


@click.command("index")
@click.argument("folder", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="ARCHIVE", help="[default: FOLDER's name with .ctxindex, here]")
@model_option
@click.option("--codebook", type=PATH, metavar="FILE", help="Codebook to use [default: trained from the photos].")
@click.option("--words", type=int, metavar="N", help="Size of the codebook [default: fits the number of descriptors].")
@click.option("--training-photos", type=int, default=5000, show_default=True, help="Photos that train the codebook.")
@click.option("--geometry", is_flag=True, help="Keep the position and scale of each descriptor (8 bytes).")
@click.option("--sync", is_flag=True, help="Remove photos from the archive whose files are gone from FOLDER.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; nothing is written and no model needed.")
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Look into folders below.")
@click.option("--workers", type=int, metavar="N", help="Processes that read and decode photos [default: 2].")
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
    geometry: bool,
    sync: bool,
    dry_run: bool,
    recursive: bool,
    workers: int | None,
    gc: bool,
    backend: str,
    precision: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Index the photos of FOLDER. Run it again to take in new and changed photos, or to continue after an interruption.

    Photos that cannot be read are listed in the archive and skipped; the exit code is then 19. A changed photo that
    cannot be read keeps its old descriptors until it can be, or is removed.
    """
    from ctxdeploy.runtime import PhotoFailure, find_photos

    config = IndexingConfig(
        codebook=codebook,
        words=words,
        training_photos=training_photos,
        geometry=geometry,
        sync=sync,
        collect_garbage=gc,
    )
    engine = backend_config(backend, precision, threads)
    archive = output or default_archive(folder)
    unreadable: list[PhotoFailure] = []
    photos = find_photos(folder, recursive, unreadable=unreadable)
    if dry_run:
        plan = plan_indexing(folder, photos, archive, config, unreadable)
        _print_plan(archive, plan, [failure.name for failure in unreadable], sync, as_json)
        return
    extractor = _extractor(archive, model, engine, workers)
    shown = Display(quiet=quiet)
    about = extractor.description()
    shown.say(f"{counted(len(photos), 'photo')}; {about['backend']} {about['precision']} on {about['device']}")
    try:
        report = index_photos(folder, photos, archive, extractor, config, shown, unreadable=unreadable)
    except KeyboardInterrupt:
        click.echo("ctxdeploy: what was done is kept; run the same command again to continue", err=True)
        raise
    _print(archive, report, about, as_json)
    _remark(archive, folder, report, shown)


def _extractor(archive: Path, model: str | None, engine: "BackendConfig", workers: int | None) -> "Extractor":
    from ctxdeploy import bundle as bundles
    from ctxdeploy.runtime import Extractor, ExtractorConfig

    own = is_archive(archive) and model is None and has_model(archive)
    bundle = open_model(archive) if own else bundles.open(find_model(model))
    config = ExtractorConfig() if workers is None else ExtractorConfig(workers=workers)
    return Extractor(bundle, backend=engine, config=config)


def _remark(archive: Path, folder: Path, report: IndexingReport, shown: Display) -> None:
    """Say what a user may not expect, and raise if photos could not be read."""
    if report.missing:
        shown.say(
            f"the files of {counted(report.missing, 'photo')} of the archive are gone from {folder}; queries still "
            "find them:  --sync  removes them"
        )
    if report.replaced < report.changed:
        shown.say(
            f"{counted(report.changed - report.replaced, 'changed photo')} could not be read; queries still find what "
            "they showed before"
        )
    if report.failed:
        for failure in report.failures[:NAMED_FAILURES]:
            shown.say(f"  {failure['name']}: {failure['reason']}")
        raise SomePhotosFailedError(
            f"{report.failed} of {report.found} photos could not be read; see  ctxdeploy info {printable(str(archive))}"
        )


def _print_plan(archive: Path, plan: Plan, unreadable: list[str], sync: bool, as_json: bool) -> None:
    if as_json:
        print_json({"archive": str(archive), "dry_run": True, **plan.metadata(), "unreadable_folders": unreadable})
        return
    kinds = list(plan.kinds())
    labels = {"gone": "gone, to be removed" if sync else "gone (--sync removes them)", "failed_before": "failed before"}
    new = "" if is_archive(archive) else " (new)"
    click.echo(
        f"{printable(str(archive))}{new}: {len(plan.new)} to add, {len(plan.changed)} to replace, "
        f"{plan.unchanged} unchanged, {len(plan.gone)} gone; nothing was done"
    )
    for kind, count, names in kinds:
        if names:
            more = ", …" if count > len(names) else ""
            click.echo(f"  {labels.get(kind, kind)}: {', '.join(map(printable, names))}{more}")
    for name in unreadable:
        click.echo(f"  cannot be listed: {printable(name)}")


def _print(archive: Path, report: IndexingReport, about: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json({"archive": str(archive), **report.metadata(), "extraction": about})
        return
    taken = report.indexed + report.replaced
    facts = [f"{counted(report.indexed, 'photo')} added", *([f"{report.replaced} replaced"] if report.replaced else [])]
    if taken:
        facts[-1] += f" ({report.descriptors / taken:.0f} descriptors each)"
    facts.append(f"{report.unchanged} unchanged")
    if report.removed:
        facts.append(f"{report.removed} removed")
    facts.append(f"{report.failed} failed")
    click.echo(f"{printable(str(archive))}: {', '.join(facts)}, in {report.seconds:.1f} s")
