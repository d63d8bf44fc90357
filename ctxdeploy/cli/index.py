"""``ctxdeploy index``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxdeploy.archive import default_archive, find_model, has_model, is_archive, open_model
from ctxdeploy.cli.options import (
    PATH,
    backend_config,
    backend_options,
    extraction_config,
    extraction_options,
    json_option,
    model_option,
    print_json,
    quiet_option,
)
from ctxdeploy.core.errors import ConfigError, SomePhotosFailedError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.indexing.commit import IndexingReport
from ctxdeploy.indexing.estimate import Estimate, estimate
from ctxdeploy.indexing.failure_limit import NO_LIMIT, FailureLimit
from ctxdeploy.indexing.job import IndexingConfig, index_photos, plan_indexing
from ctxdeploy.indexing.plan import Plan
from ctxdeploy.models.finding import display_name

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig, Extractor, ExtractorConfig
    from ctxdeploy.runtime.sources import PhotoList

# Seconds of a run from which on its limiting stage says something; before, starting the workers counts too much.
ADVISED_FROM = 10.0
# Failed photos that are named on stderr; the archive lists all.
NAMED_FAILURES = 5


@click.command("index")
@click.argument("place")
@click.option("-o", "--output", type=PATH, metavar="ARCHIVE", help="[default: PLACE's name with .ctxindex, here]")
@model_option
@click.option("--codebook", type=PATH, metavar="FILE", help="Codebook to use [default: the model's, or trained].")
@click.option("--words", type=int, metavar="N", help="Train a codebook of this size from the photos.")
@click.option("--training-photos", type=int, default=5000, show_default=True, help="Photos that train the codebook.")
@click.option("--geometry", is_flag=True, help="Keep the position and scale of each descriptor (8 bytes).")
@click.option("--sync", is_flag=True, help="Remove photos from the archive that are gone from PLACE.")
@click.option("--moved", is_flag=True, help="The archive's photos are at PLACE now.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, how long it would take; nothing is written.")
@click.option("--retry-failed", is_flag=True, help="Try photos again that could not be decoded before.")
@click.option("--max-failures", metavar="N|P%", help="Stop when more photos fail; a share counts from 100 photos on.")
@click.option(
    "--commit-seconds",
    type=float,
    default=10.0,
    show_default=True,
    help="Least time between two commits; it grows to a tenth of the run, 300 at most.",
)
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Look into folders below.")
@click.option("--gc", is_flag=True, help="At the end, remove files of interrupted runs and former states.")
@extraction_options
@backend_options
@json_option
@quiet_option
def command(
    place: str,
    output: Path | None,
    model: str | None,
    codebook: Path | None,
    words: int | None,
    training_photos: int,
    geometry: bool,
    sync: bool,
    moved: bool,
    dry_run: bool,
    retry_failed: bool,
    max_failures: str | None,
    commit_seconds: float,
    recursive: bool,
    gc: bool,
    backend: str,
    precision: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Index the photos of PLACE. Run it again to take in new and changed photos, or to continue after an interruption.

    Without --model the built-in model is used, ctx-small, or the only *.ctxbundle here; an archive that exists keeps
    its own. Without --codebook and --words the model's codebook is used; where it has none, one is trained from the
    photos.

    PLACE is a folder, a list (.txt, .csv, .jsonl), a tar file, several (shards-{000..099}.tar), or a URL (s3://…).

    Photos that cannot be read are listed in the archive and skipped; the exit code is then 19. A changed photo that
    cannot be read keeps its old descriptors until it can be, or is removed.
    """
    from ctxdeploy.runtime.sources import list_photos

    config = IndexingConfig(
        codebook=codebook,
        words=words,
        training_photos=training_photos,
        geometry=geometry,
        sync=sync,
        moved=moved,
        retry_failed=retry_failed,
        patience=NO_LIMIT if max_failures is None else FailureLimit.parse(max_failures),
        commit_seconds=commit_seconds,
        collect_garbage=gc,
    )
    engine, extraction = backend_config(backend, precision, threads), extraction_config()
    archive = output or default_archive(place)
    shown = Display(quiet=quiet, as_json=as_json)
    listing = list_photos(place, recursive=recursive)
    if dry_run:
        _dry_run(archive, model, engine, extraction, listing, config, as_json)
        return
    extractor = _extractor(archive, model, engine, extraction)
    used = extractor.bundle.path
    about = {"model": "its model" if used.parent == archive else display_name(used), **extractor.description()}
    shown.say(
        f"{counted(len(listing.photos), 'photo')}; {about['model']}; "
        f"{about['backend']} {about['precision']} on {about['device']}"
    )
    try:
        report = index_photos(listing, archive, extractor, config, shown)
    except KeyboardInterrupt:
        click.echo("ctxdeploy: what was done is kept; run the same command again to continue", err=True)
        raise
    _print(archive, report, about, as_json)
    _remark(archive, listing, report, about, shown)


def _extractor(archive: Path, model: str | None, engine: "BackendConfig", config: "ExtractorConfig") -> "Extractor":
    from ctxdeploy.core import bundle as bundles
    from ctxdeploy.runtime import Extractor

    own = is_archive(archive) and model is None and has_model(archive)
    bundle = open_model(archive) if own else bundles.open(find_model(model))
    return Extractor(bundle, backend=engine, config=config)


def _remark(archive: Path, listing: "PhotoList", report: IndexingReport, about: dict[str, Any], shown: Display) -> None:
    """Say what a user may not expect, and raise if photos could not be read."""
    if report.indexed + report.replaced and report.seconds >= ADVISED_FROM:
        shown.say(report.stages.advice(about["precision"], about["workers"]))
    if report.missing:
        shown.say(
            f"the files of {counted(report.missing, 'photo')} of the archive are gone from {listing.place}; queries "
            "still find them:  --sync  removes them"
        )
    if report.given_up:
        shown.say(
            f"{counted(report.given_up, 'photo')} could not be decoded before and did not change:  --retry-failed  "
            "tries them again"
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


def _dry_run(
    archive: Path,
    model: str | None,
    engine: "BackendConfig",
    extraction: "ExtractorConfig",
    listing: "PhotoList",
    config: IndexingConfig,
    as_json: bool,
) -> None:
    plan = plan_indexing(listing, archive, config)
    try:
        extractor = _extractor(archive, model, engine, extraction)
    except ConfigError as error:  # no model is needed to say what would be done
        expected, why = None, str(error)
    else:
        photos = [*plan.new.values(), *plan.changed.values()]
        expected, why = estimate(photos, archive, extractor, config), "none of a few photos could be read"
    unreadable = [failure.name for failure in listing.unreadable]
    if as_json:
        facts = {"archive": str(archive), "dry_run": True, "place": listing.place, **plan.metadata()}
        costs = None if expected is None else expected.metadata()
        print_json({**facts, "unreadable_folders": unreadable, "estimate": costs})
        return
    _print_plan(archive, plan, unreadable, config.sync)
    _print_estimate(expected, why)


def _print_plan(archive: Path, plan: Plan, unreadable: list[str], sync: bool) -> None:
    kinds = list(plan.kinds())
    labels = {
        "gone": "gone, to be removed" if sync else "gone (--sync removes them)",
        "given_up": "given up (--retry-failed tries them again)",
        "failed_before": "failed before",
    }
    new = "" if is_archive(archive) else " (new)"
    given_up = f", {len(plan.given_up)} given up" if plan.given_up else ""
    click.echo(
        f"{printable(str(archive))}{new}: {len(plan.new)} to add, {len(plan.changed)} to replace, "
        f"{plan.unchanged} unchanged{given_up}, {len(plan.gone)} gone; nothing was done"
    )
    for kind, count, names in kinds:
        if names:
            more = ", …" if count > len(names) else ""
            click.echo(f"  {labels.get(kind, kind)}: {', '.join(map(printable, names))}{more}")
    for name in unreadable:
        click.echo(f"  cannot be listed: {printable(name)}")


def _print_estimate(expected: Estimate | None, why: str) -> None:
    if expected is None:
        click.echo(f"  time and size are not estimated: {printable(why)}")
    elif expected.photos:
        click.echo(
            f"  about {expected.seconds_text} ({expected.seconds_a_photo:.2g} s a photo) and {expected.bytes_text} "
            f"({expected.descriptors:.0f} descriptors a photo), from {counted(expected.tried, 'photo')}"
        )


def _print(archive: Path, report: IndexingReport, about: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"archive": str(archive), **report.metadata(), "extraction": about})
        return
    taken = report.indexed + report.replaced
    facts = [f"{counted(report.indexed, 'photo')} added", *([f"{report.replaced} replaced"] if report.replaced else [])]
    if taken:
        facts[-1] += f" ({report.descriptors / taken:.0f} descriptors each)"
    facts.append(f"{report.unchanged} unchanged")
    if report.given_up:
        facts.append(f"{report.given_up} given up")
    if report.removed:
        facts.append(f"{report.removed} removed")
    facts.append(f"{report.failed} failed")
    click.echo(f"{printable(str(archive))}: {', '.join(facts)}, in {report.seconds:.1f} s")
