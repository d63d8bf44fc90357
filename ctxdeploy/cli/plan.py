"""``ctxdeploy plan``."""

from pathlib import Path

import click

from ctxdeploy.archive import has_model, open_model
from ctxdeploy.capacity.config import PlanConfig
from ctxdeploy.capacity.costs import ARCHIVE as OF_ARCHIVE
from ctxdeploy.capacity.costs import GIVEN, MEASURED, MODEL, PART_TYPES, Costs
from ctxdeploy.capacity.measurement import Measurement
from ctxdeploy.capacity.plan import Plan, make_plan
from ctxdeploy.capacity.subject import Subject, chosen, subject_of_archive, subject_of_model
from ctxdeploy.cli.options import (
    ARCHIVE,
    PATH,
    check_values,
    configured,
    echo,
    given_values,
    json_option,
    model_option,
    options_of,
    print_json,
    quiet_option,
    with_values,
)
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.bundle import open as open_bundle
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.models import find_model
from ctxdeploy.runtime import BackendConfig

_FILE = Path("ctxdeploy-measured.json")


class _Command(click.Command):
    """Leaves the next option alone after an option without a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, with_values(args, PlanConfig))
        except click.UsageError as error:
            check_values(error, args, PlanConfig)
            raise


@click.command("plan", cls=_Command)
@model_option
@click.option("--archive", type=ARCHIVE, help="Its photos, settings and bytes are those of the plan.")
@click.option("--measure", is_flag=True, help="Measure this machine first, for about a minute.")
@click.option(
    "--measured",
    type=PATH,
    metavar="FILE",
    help=f"What --measure writes, and what a later plan takes. [default: {_FILE}, with --measure alone]",
)
@click.option(
    "--sample", type=PATH, metavar="FOLDER", help="With --measure: photos like those to come. [default: sample photos]"
)
@click.option(
    "--work", type=PATH, metavar="DIR", help="With --measure: on the disk to be measured. [default: that of FILE]"
)
@options_of(PlanConfig, *PART_TYPES, BackendConfig)
@json_option
@quiet_option
def command(
    model: str | None,
    archive: Path | None,
    measure: bool,
    measured: Path | None,
    sample: Path | None,
    work: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say how many hours, bytes and machines an archive will take, and how long its queries: before the work is done.

    Every assumption is printed with its value and where it came from: this machine (--measure), an archive that is
    there (--archive), or the authors' machine; each is an option. What does not fit is said, with what to do.
    """
    config, shown = configured(PlanConfig), Display(quiet=quiet, as_json=as_json)
    given = {name: float(value) for (owner, name), value in given_values().items() if owner in PART_TYPES}
    Costs().updated(given, GIVEN)
    if not measure and (sample is not None or work is not None):
        raise ConfigError(f"{'--sample' if sample is not None else '--work'} says how to measure: add --measure")
    kept = None if measured is None or measure else Measurement.read(measured)
    bundle = _bundle(model, archive)
    subject = _subject(bundle, archive)
    planned = None
    if config.photos or archive is not None or not measure:
        planned = chosen(subject, config, 0 if bundle is None else bundle.extraction.global_dim)
    if measure:
        file = measured or _FILE
        kept = _measure(bundle, sample, file, work or file, shown)
    if planned is not None:
        plan = _plan(planned, kept, given, config)
        _print(plan, as_json)
    elif kept is not None:
        _print_measured(kept, as_json)
    if kept is not None and kept.was_busy:
        shown.say(
            f"the machine was busy when it was measured (load average {kept.load:.1f} on {kept.machine['processors']} "
            "processors): its own figures are better; measure again when it is quiet"
        )
    if kept is not None and kept.model != subject.model:
        shown.say("the photos of --measured were extracted by another model: theirs are not taken; measure again")


def _bundle(model: str | None, archive: Path | None) -> Bundle | None:
    """Return the named model; else that of the archive, if it has one; else the one that ``index`` takes."""
    if model is None and archive is not None:
        return open_model(archive, check_hashes=False) if has_model(archive) else None
    return open_bundle(find_model(model), check_hashes=False)


def _subject(bundle: Bundle | None, archive: Path | None) -> Subject:
    if archive is not None:
        return subject_of_archive(archive)
    if bundle is None:
        raise ConfigError("a plan is made for a model or like an archive: give --model or --archive")
    return subject_of_model(bundle)


def _measure(bundle: Bundle | None, sample: Path | None, file: Path, work: Path, shown: Display) -> Measurement:
    """Measure this machine, and keep what was found in a file."""
    from ctxdeploy.capacity.calibration import calibrate

    if bundle is None:
        raise ConfigError("the archive has no model whose speed could be measured: give it with --model")
    place = work / "calibration" if work.is_dir() else work
    found = calibrate(bundle, configured(BackendConfig), sample, place, shown)
    found.write(file)
    shown.say(f"measured; kept in {printable(str(file))}: a later plan takes it with --measured")
    return found


def _plan(subject: Subject, kept: Measurement | None, given: dict[str, float], config: PlanConfig) -> Plan:
    """Gather the assumptions, those that are given last, and compute."""
    from ctxdeploy.bench.machine import machine

    costs = Costs().updated(subject.usual, MODEL)
    if kept is not None:
        costs = costs.updated(kept.for_model(subject.model, subject.config.global_vectors, subject.words), MEASURED)
    costs = costs.updated(subject.facts, OF_ARCHIVE)
    about = machine() if kept is None else kept.machine
    return make_plan(
        subject,
        costs.updated(given, GIVEN),
        config,
        processors=int(about["processors"]),
        memory=about.get("memory_bytes"),
    )


def _print(plan: Plan, as_json: bool) -> None:
    if as_json:
        print_json(plan.metadata())
        return
    from ctxdeploy.report.capacity import plan_lines

    echo(*plan_lines(plan))


def _print_measured(kept: Measurement, as_json: bool) -> None:
    if as_json:
        print_json(kept.metadata())
        return
    from ctxdeploy.report.capacity import assumption_lines

    echo(*assumption_lines(Costs().updated(kept.costs, MEASURED), "Measured here, and what is assumed besides"))
