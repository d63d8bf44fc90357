"""``ctxdeploy verify``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxdeploy.archive import archive_problems, is_archive, is_bundle
from ctxdeploy.cli.info import not_either, writer_facts, writer_line
from ctxdeploy.cli.options import (
    ANY_FOLDER,
    PATH,
    check_is_here,
    check_there,
    echo,
    json_option,
    print_json,
    quiet_option,
)
from ctxdeploy.cli.parity import parity_line
from ctxdeploy.core.errors import (
    ArchiveError,
    BackendError,
    BundleError,
    CheckpointError,
    ConfigError,
    MissingExtraError,
    ParityError,
)
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.models import check_own, find_bundle, find_checkpoint

if TYPE_CHECKING:
    from ctxdeploy.export.parity import Verified


@click.command("verify")
@click.argument("path", type=ANY_FOLDER, metavar="BUNDLE|ARCHIVE")
@click.option("--photos", type=PATH, metavar="DIR", help="Run a bundle's artefacts on these photos and compare them.")
@click.option("--target", help="Compare the artefacts of this runtime alone.")
@click.option("--precision", help="Compare the artefacts of this precision alone.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="GPU of runtimes that need one.")
@click.option("--checkpoint", type=PATH, help="Compare with this checkpoint in PyTorch, not with the fp32 graph.")
@click.option("--record", is_flag=True, help="Write the figures into the bundle, for engines that were built here.")
@json_option
@quiet_option
def command(
    path: Path,
    photos: Path | None,
    target: str | None,
    precision: str | None,
    device: str,
    checkpoint: Path | None,
    record: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check every hash and every bound of a BUNDLE or an ARCHIVE (its model included).

    With --photos, run the artefacts of a bundle on this machine and compare them with its fp32 graph in ONNX Runtime,
    itself compared with PyTorch when it was exported: descriptors, selected positions, and the answers of a small
    retrieval run (its mAP where DIR holds a gnd.json). Where there is a GPU, the graphs of ONNX Runtime run there too
    (as cuda); --device cpu leaves it out. The pixels of a model that was exported with --decoder are compared with
    libjpeg's, too.

    The exit code is 0 only for a sound one; 11: an artefact differs, 12: a damaged bundle, 13: nothing that was asked
    for can run here, 15: a damaged archive.
    """
    check_is_here(path, "is on object storage", "bring it here with  ctxdeploy fetch  , and verify that")
    archive = is_archive(path)
    path = path if archive else find_bundle(path)
    checkpoint = None if checkpoint is None else find_checkpoint(checkpoint)
    check_there(CheckpointError, checkpoint)
    if not archive and not is_bundle(path):
        raise not_either(path)
    if photos is None and (target or precision or checkpoint or record):
        raise ConfigError("--target, --precision, --checkpoint and --record need photos to run: give --photos DIR")
    if photos is not None and archive:
        raise ConfigError(f"--photos: {path} is an archive; name the bundle that made it")
    if record:
        check_own(path)
    problems = archive_problems(path) if archive else _bundle_problems(path)
    facts: dict[str, Any] = {"path": str(path), "kind": "archive" if archive else "bundle", "problems": problems}
    results: list[Verified] = []
    if archive:
        facts["writer"] = writer_facts(path)
    if photos is not None and not problems:
        results = _compared(path, photos, target, precision, device, checkpoint, record, Display(quiet=quiet))
        facts["artefacts"] = [_facts_of(result) for result in results]
        facts |= _decoder(path, photos)
    if as_json:
        print_json(facts)
    elif not problems:
        echo(f"{printable(str(path))}: sound")
        if facts.get("writer") is not None:
            echo(f"  {writer_line(facts['writer'])}")
        for artefact in facts.get("artefacts", ()):
            echo(f"  {artefact['target']} {artefact['precision']}: {artefact['line']}")
        if "decoder" in facts:
            echo(f"  {facts['decoder']['line']}")
    _judge(path, archive, problems, results)


_ITSELF = "; compared with itself: give --checkpoint FILE to compare it with PyTorch"


def _judge(path: Path, archive: bool, problems: list[str], results: "list[Verified]") -> None:
    for problem in problems:
        echo(printable(problem), err=True)
    if problems and archive:
        what = counted(len(problems), "problem")
        raise ArchiveError(f"{path} is damaged ({what}): run  ctxdeploy repair {printable(str(path))}")
    if problems:
        raise BundleError(f"{path} is damaged: export it again, or restore it from a copy")
    failed = [result for result in results if result.parity.get("verdict", "passed") != "passed"]
    if failed:
        what = "; ".join(f"{r.artefact.target} {r.artefact.precision} {r.parity['verdict']}" for r in failed)
        raise ParityError(f"{path}: {what}: do not use it here, or export it again with --calibrate or --precision")
    _check_any_ran(path, results)


def _check_any_ran(path: Path, results: "list[Verified]") -> None:
    """Raise why no artefact could run, with the class and the exit code of other commands that cannot run it."""
    obstacles = [result.obstacle for result in results if result.obstacle is not None]
    if not obstacles or len(obstacles) < len(results):
        return
    if len(set(map(str, obstacles))) == 1:
        raise obstacles[0]
    raise BackendError(
        f"{path}: none of the artefacts asked for can run on this machine; why is said above of each: run this on "
        "another, or give another --target or --precision"
    )


def _bundle_problems(path: Path) -> list[str]:
    from ctxdeploy.core import bundle

    try:
        bundle.open(path)
    except BundleError as error:
        return [str(error)]
    return []


def _decoder(path: Path, photos: Path) -> dict[str, Any]:
    """Return what a bundle's decoder makes of photos; nothing if it is libjpeg."""
    from ctxdeploy.core import bundle
    from ctxdeploy.export.parity import compare_decoders

    try:
        found = compare_decoders(bundle.open(path), photos)
    except (BackendError, MissingExtraError) as error:
        return {"decoder": {"line": f"its decoder cannot run here: {error}"}}
    return {} if found is None else {"decoder": {**found.metadata(), "line": found.line}}


def _compared(
    path: Path,
    photos: Path,
    target: str | None,
    precision: str | None,
    device: str,
    checkpoint: Path | None,
    record: bool,
    display: Display,
) -> "list[Verified]":
    from ctxdeploy.core import bundle
    from ctxdeploy.evaluation import AsmkRetrieval
    from ctxdeploy.export.parity import record_parity, verify_bundle

    opened = bundle.open(path)
    results = verify_bundle(
        opened,
        photos,
        retrieval=AsmkRetrieval,
        target=target,
        precision=precision,
        device=device,
        checkpoint=checkpoint,
        display=display,
    )
    if record:
        record_parity(opened, results)
    return results


def _facts_of(result: "Verified") -> dict[str, Any]:
    """Return one artefact on this machine as JSON takes it."""
    itself = _ITSELF if result.itself else ""
    return {
        "target": result.artefact.target,
        "precision": result.artefact.precision,
        "line": result.absent or parity_line(result.artefact, result.parity) + itself,
        "parity": result.parity,
        "absent": result.absent,
    }
