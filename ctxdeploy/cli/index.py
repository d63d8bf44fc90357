"""``ctxdeploy index``."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ctxdeploy.archive import check_precision, default_archive, has_model, is_archive, open_extractor
from ctxdeploy.cli.options import (
    ARCHIVE,
    PATH,
    check_values,
    configured,
    echo,
    given_flags,
    json_option,
    model_option,
    options_of,
    print_json,
    quiet_option,
    with_values,
)
from ctxdeploy.cluster.config import ClusterConfig
from ctxdeploy.core.bundle import CODEBOOK, Bundle
from ctxdeploy.core.device import AUTO
from ctxdeploy.core.errors import ConfigError, CtxdeployError, SomePhotosFailedError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.targets import CPU_TARGETS
from ctxdeploy.core.text import counted, printable
from ctxdeploy.core.urls import is_url
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.described_photo import list_descriptors
from ctxdeploy.indexing.descriptor_files import DescriptorFilesJob
from ctxdeploy.indexing.job import plan_indexing
from ctxdeploy.indexing.plan import TODO, Estimate, IndexingPlan, Kind, estimate
from ctxdeploy.indexing.quantiser import check_sample
from ctxdeploy.indexing.report import IndexingReport
from ctxdeploy.models import display_name, find_bundle, find_model
from ctxdeploy.object_storage.fetch import working_archive
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.runtime import BackendConfig, ExtractorConfig
from ctxdeploy.runtime.backends import open_backend
from ctxdeploy.runtime.sources import PhotoList, RemoteConfig, Selection, list_photos

# Seconds of a run from which on its limiting stage says something; before, starting the workers counts too much.
ADVISED_FROM = 10.0
# Failed photos that are named on stderr; the archive lists all.
NAMED_FAILURES = 5
# Precisions that may take less time, best first; an archive is of one.
FASTER = {"fp32": ("int8", "bf16"), "bf16": ("int8",)}
_TYPED = "ctxdeploy.typed"


class _Command(click.Command):
    """Keeps what was typed, for advice that repeats it, and leaves PLACE alone after an option without a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_TYPED] = tuple(args)
        try:
            return super().parse_args(ctx, with_values(args, IndexingConfig))
        except click.UsageError as error:
            check_values(error, args, IndexingConfig)
            raise


@click.command("index", cls=_Command)
@click.argument("place", required=False, shell_complete=PATH.shell_complete)
@click.option(
    "--descriptors",
    type=PATH,
    metavar="DIR",
    help="In place of PLACE: descriptor files of DELF or DELG; no network runs.",
)
@click.option(
    "-o", "--output", type=ARCHIVE, metavar="ARCHIVE|URL", help="[default: PLACE's name with .ctxindex, here]"
)
@model_option
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Look into folders below.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, how long it would take; nothing is written.")
@options_of(Selection, IndexingConfig, ExtractorConfig, RemoteConfig, BackendConfig, ClusterConfig)
@json_option
@quiet_option
def command(
    place: str | None,
    descriptors: Path | None,
    output: Path | None,
    model: str | None,
    recursive: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Index the photos of PLACE. Run it again to take in new and changed photos, or to continue after an interruption.

    Without --model the built-in model is used, lite-small, or the only *.ctxbundle here; an archive that exists keeps
    its own. Without --codebook and --words the model's codebook is used; where it has none, one is trained from the
    photos.

    PLACE is a folder, a list (.txt, .csv, .jsonl), a tar or zip file, several (shards-{000..099}.tar), or a URL (s3://…).
    With --descriptors a folder of .delf, .delg_local and .delg_global files takes its place; the codebook is then
    given, or trained from these.

    -o may be a URL (s3://bucket/photos.ctxindex): the archive is made here, in photos.ctxindex, and published there.

    Photos that cannot be read are listed in the archive and skipped; the exit code is then 19. A changed photo that
    cannot be read keeps its old descriptors until it can be, or is removed.
    """
    config, shown = configured(IndexingConfig), Display(quiet=quiet, as_json=as_json)
    if descriptors is not None:
        if configured(ClusterConfig).address is not None:
            raise ConfigError(
                "--cluster is for photos, whose network takes time; --descriptors needs no network: leave it out"
            )
        _check_files(descriptors, place, model, config)
        listed = list_descriptors(descriptors, recursive=recursive)
        with working_archive(output or default_archive(str(descriptors)), shown, dry_run=dry_run) as archive:
            _index_files(archive, listed, config, dry_run, as_json, shown)
        return
    if place is None:
        raise ConfigError("there is nothing to index: give PLACE, photos, or --descriptors DIR")
    remote, selection = configured(RemoteConfig), configured(Selection)
    photos = list_photos(place, recursive=recursive, remote=remote, selection=selection)
    with working_archive(output or default_archive(place), shown, dry_run=dry_run) as archive:
        if dry_run:
            _dry_run(archive, model, photos, config, as_json)
        elif configured(ClusterConfig).address is not None:
            _index_on_cluster(place, archive, model, recursive, photos, as_json, shown)
        else:
            _index_photos(archive, model, photos, config, as_json, shown)


def _index_photos(
    archive: Path, model: str | None, photos: PhotoList, config: IndexingConfig, as_json: bool, shown: Display
) -> None:
    is_new = not is_archive(archive)
    if is_new:
        check_sample(config, len(photos.photos))
    with _opened(archive, model, config) as index:
        used = index.bundle.path
        about = {"model": "its model" if used.parent == archive else display_name(used), **index.extraction()}
        shown.say(
            f"{counted(len(photos.photos), 'photo')}; {about['model']}; "
            f"{about['backend']} {about['precision']} on {about['device']}"
        )
        own = index.bundle.codebook
        if is_new and own is not None and config.codebook is None and config.words is None:
            shown.say(f"the model's own codebook of {own.words:,} words; --words N trains one from the photos")
        try:
            report = index.add(photos, config=config, display=shown)
        except KeyboardInterrupt:
            echo("ctxdeploy: what was done is kept; run the same command again to continue", err=True)
            raise
        bundle = index.bundle
    _print(archive, report, about, as_json)
    if report.indexed + report.replaced and report.seconds >= ADVISED_FROM:
        shown.say(_advice(archive, report, about, bundle))
    _remark(archive, photos, report, shown)


def _index_on_cluster(
    place: str, archive: Path, model: str | None, recursive: bool, photos: PhotoList, as_json: bool, shown: Display
) -> None:
    from ctxdeploy.cluster.job import ClusterJob
    from ctxdeploy.cluster.worker import WorkerSpec

    cluster, backend, extraction = configured(ClusterConfig), configured(BackendConfig), configured(ExtractorConfig)
    if backend.engine not in CPU_TARGETS and not cluster.worker_gpus:
        raise ConfigError(f"{backend.engine} runs on a GPU, and no worker has one: give --worker-gpus 1")
    if backend.threads is None and not cluster.worker_gpus:
        backend = replace(backend, threads=cluster.worker_cpus)
    if "--workers" not in given_flags(ExtractorConfig):
        extraction = replace(extraction, workers=min(max(cluster.worker_cpus // 2, 1), 16))
    spec = WorkerSpec(
        place=place if is_url(place) else str(Path(place).absolute()),
        folder=None if photos.folder is None else photos.folder.resolve(),
        recursive=recursive,
        selection=configured(Selection),
        remote=configured(RemoteConfig),
        backend=backend,
        extraction=extraction,
    )
    given = model if has_model(archive) else find_model(model)
    used = None if given is None else find_bundle(given)
    job = ClusterJob(archive, used, configured(IndexingConfig), cluster, spec, shown)
    try:
        report = job.run(photos)
    except KeyboardInterrupt:
        echo("ctxdeploy: what was done is kept; run the same command again to continue", err=True)
        raise
    _print(archive, report, {"backend": backend.name, "precision": backend.precision}, as_json)
    if report.indexed + report.replaced and report.seconds >= ADVISED_FROM:
        shown.say(f"of all workers: {report.stages.advice(extraction.workers)}")
    _remark(archive, photos, report, shown)


def _check_files(folder: Path, place: str | None, model: str | None, config: IndexingConfig) -> None:
    """Refuse what is about photos and their network."""
    if place is not None:
        raise ConfigError(f"--descriptors {folder} takes the place of {place}: give one of them")
    flags = given_flags(Selection, ExtractorConfig, RemoteConfig, BackendConfig)
    given = {"--model": model is not None, "--boxes": config.boxes is not None}
    refused = [flag for flag, is_given in given.items() if is_given] + [
        flag for flag in flags if flag != "--memory-limit"
    ]
    if refused:
        raise ConfigError(
            f"{refused[0]} is about photos and the network that describes them; --descriptors reads files that need "
            "neither: leave it out"
        )


def _index_files(
    archive: Path, listed: PhotoList, config: IndexingConfig, dry_run: bool, as_json: bool, shown: Display
) -> None:
    if dry_run:
        plan, why = plan_indexing(listed, archive, config), "no network runs"
        _print_dry_run(archive, plan, listed, None, why, config.sync, as_json)
        return
    shown.say(f"descriptors of {counted(len(listed.photos), 'photo')}; no network runs")
    job = DescriptorFilesJob(archive, listed, config, shown, configured(ExtractorConfig).memory_limit)
    try:
        report = job.run()
    except KeyboardInterrupt:
        echo("ctxdeploy: what was done is kept; run the same command again to continue", err=True)
        raise
    _print(archive, report, {}, as_json)
    _remark(archive, listed, report, shown)


def _opened(archive: Path, model: str | None, config: IndexingConfig) -> PhotoIndex:
    """Open an archive that exists with its own model unless another is named; make a new one."""
    backend, extraction = configured(BackendConfig), configured(ExtractorConfig)
    if not is_archive(archive):
        return PhotoIndex.create(
            archive, model=find_model(model), config=config, backend=backend, extraction=extraction
        )
    given = model if has_model(archive) else find_model(model)
    return PhotoIndex.open(archive, writable=True, model=given, backend=backend, extraction=extraction)


def _advice(archive: Path, report: IndexingReport, about: dict[str, Any], bundle: Bundle) -> str:
    """Return what limits the run; of a faster precision, the command that makes another archive, if it runs here."""
    said = report.stages.advice(about["workers"])
    if report.stages.limit != "network" or about["backend"] not in CPU_TARGETS:  # what is faster was measured on CPUs
        return said
    for precision in FASTER.get(about["precision"], ()):
        if _runs_here(bundle, precision):
            other = ("-o", str(archive.with_name(f"{archive.stem}-{precision}{archive.suffix}")))
            changed = (*other, *_own(archive, bundle), "--backend", "auto", "--precision", precision)
            return f"{said}; a new archive in {precision} may take less:  {_changed(changed)}"
    return said


def _changed(options: Sequence[str]) -> str:
    """Return the command that was typed, with some options in place of what was typed of these."""
    context = click.get_current_context()
    same = {name: set(option.opts) for option in context.command.params for name in option.opts}
    gone = {name for given in options if given in same for name in same[given]}
    kept, values = list[str](), iter(context.meta[_TYPED])
    for value in values:
        if value == "--":
            return shlex.join(("ctxdeploy", "index", *kept, *options, value, *values))
        if value in gone:
            next(values, None)
        elif value.partition("=")[0] not in gone and (value.startswith("--") or value[:2] not in gone):
            kept.append(value)
    return shlex.join(("ctxdeploy", "index", *kept, *options))


def _own(archive: Path, bundle: Bundle) -> tuple[str, ...]:
    """Return the options that make another archive with an archive's own model and codebook, if it has its own."""
    if bundle.path.parent != archive:
        return ()
    config = configured(IndexingConfig)
    given = config.codebook is not None or config.words is not None
    return ("--model", str(bundle.path), *(() if given else ("--codebook", str(archive / CODEBOOK))))


def _runs_here(bundle: Bundle, precision: str) -> bool:
    """Return whether a bundle carries a graph of a precision that this machine can run."""
    if all(a.precision != precision or a.format != "onnx" for a in bundle.artefacts):
        return False
    try:
        open_backend(bundle, replace(configured(BackendConfig), name=AUTO, precision=precision))
    except CtxdeployError:
        return False
    return True


def _remark(archive: Path, photos: PhotoList, report: IndexingReport, shown: Display) -> None:
    """Say what a user may not expect, and raise if photos could not be read."""
    if report.remarks:
        for remark in report.remarks[:NAMED_FAILURES]:
            shown.say(f"  {remark['name']}: {remark['remark']}")
        shown.say(f"{counted(len(report.remarks), 'photo')} may not be found by any query, as named above or in --json")
    if report.missing:
        shown.say(
            f"the files of {counted(report.missing, 'photo')} of the archive are gone from {photos.place}, or left out "
            "now; queries still find them:  --sync  removes them"
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
        tried = report.found + len(photos.unreadable)
        raise SomePhotosFailedError(
            f"{report.failed} of {tried} photos could not be read; see  ctxdeploy info {printable(str(archive))}"
        )


def _dry_run(archive: Path, model: str | None, photos: PhotoList, config: IndexingConfig, as_json: bool) -> None:
    plan = plan_indexing(photos, archive, config)
    try:
        given = model if is_archive(archive) and has_model(archive) else find_model(model)
    except ConfigError as error:  # no model is needed to say what would be done
        expected, why = None, str(error)
    else:
        extractor = open_extractor(archive, given, configured(BackendConfig), configured(ExtractorConfig))
        check_precision(archive, extractor.bundle, extractor.description()["precision"])
        todo = [photo for kind in TODO for photo in plan.of(kind)]
        expected, why = estimate(todo, archive, extractor, config), "none of a few photos could be read"
    _print_dry_run(archive, plan, photos, expected, why, config.sync, as_json)


def _print_dry_run(
    archive: Path,
    plan: IndexingPlan,
    photos: PhotoList,
    expected: Estimate | None,
    why: str,
    sync: bool,
    as_json: bool,
) -> None:
    if as_json:
        facts = {"archive": str(archive), "dry_run": True, "place": photos.place, **plan.metadata()}
        costs = None if expected is None else expected.metadata()
        missing = {
            "unreadable_folders": [failure.name for failure in photos.unreadable],
            "failures": [{"name": failure.name, "reason": failure.reason} for failure in photos.unreadable],
        }
        print_json({**facts, **missing, "left_out": photos.left_out.metadata(), "estimate": costs})
        return
    _print_plan(archive, plan, photos, sync)
    _print_estimate(expected, why)


def _print_plan(archive: Path, plan: IndexingPlan, photos: PhotoList, sync: bool) -> None:
    kinds = list(plan.examples())
    labels = {
        "gone": "gone, to be removed" if sync else "gone (--sync removes them)",
        "given_up": "given up (--retry-failed tries them again)",
        "failed_before": "failed before",
        "refused": "names that no archive can hold",
    }
    new = "" if is_archive(archive) else " (new)"
    given_up = f", {plan.count(Kind.GIVEN_UP)} given up" if plan.count(Kind.GIVEN_UP) else ""
    echo(
        f"{printable(str(archive))}{new}: {plan.count(Kind.NEW)} to add, {plan.count(Kind.CHANGED)} to replace, "
        f"{plan.count(Kind.UNCHANGED)} unchanged{given_up}, {len(plan.gone)} gone; nothing was done"
    )
    for kind, count, names in kinds:
        if names:
            more = ", …" if count > len(names) else ""
            echo(f"  {labels.get(kind, kind)}: {', '.join(map(printable, names))}{more}")
    for failure in photos.unreadable:
        echo(f"  cannot be listed: {printable(failure.name)} ({printable(failure.reason)})")
    for line in photos.left_out.lines():
        echo(f"  {line}")


def _print_estimate(expected: Estimate | None, why: str) -> None:
    if expected is None:
        echo(f"  time and size are not estimated: {printable(why)}")
    elif expected.photos:
        descriptors = f" ({expected.descriptors:.0f} descriptors a photo)" if expected.descriptors else ""
        echo(
            f"  about {expected.seconds_text} ({expected.seconds_a_photo:.2g} s a photo) and {expected.bytes_text}"
            f"{descriptors}, from {counted(expected.tried, 'photo')}"
        )


def _print(archive: Path, report: IndexingReport, about: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"archive": str(archive), **report.metadata(), "extraction": about})
        return
    taken = report.indexed + report.replaced
    facts = [f"{counted(report.indexed, 'photo')} added", *([f"{report.replaced} replaced"] if report.replaced else [])]
    if report.descriptors:
        facts[-1] += f" ({report.descriptors / taken:.0f} descriptors each)"
    facts.append(f"{report.unchanged} unchanged")
    if report.given_up:
        facts.append(f"{report.given_up} given up")
    if report.removed:
        facts.append(f"{report.removed} removed")
    facts.append(f"{report.failed} failed")
    if report.left_out:
        other = sum(report.left_out["other"].values())
        facts += [f"{counted(other, 'other file')} left out"] if other else []
    echo(f"{printable(str(archive))}: {', '.join(facts)}, in {report.seconds:.1f} s")
