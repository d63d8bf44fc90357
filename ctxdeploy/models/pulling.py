"""An authors' checkpoint to a model that commands take by its name."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ctxdeploy.core import bundle
from ctxdeploy.core.bundle import MANIFEST, Bundle
from ctxdeploy.core.errors import CheckpointError, ConfigError, DownloadError, StorageError
from ctxdeploy.core.extras import require
from ctxdeploy.core.files import WriterLock, file_sha256, make_folder, move, remove_folder, remove_leftovers
from ctxdeploy.core.progress import Display
from ctxdeploy.core.urls import protocol_of, without_secrets
from ctxdeploy.models.download import Download, DownloadConfig, check_url, fetch
from ctxdeploy.models.listing import Origin, read_origin, write_origin
from ctxdeploy.models.table import BUILT_IN, PUBLISHED, Published, is_name

MIRROR = "CTXDEPLOY_MIRROR"
_PULL = ".pull-"


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A model that was fetched.

    Attributes:
        bundle: opened.
        origin: where it came from; None if that is not recorded.
        new: False if it was there already.
    """

    bundle: Bundle
    origin: Origin | None
    new: bool


def find_published(name: str, *, agreed: bool) -> Published:
    """Return the model to fetch.

    Raises:
        ConfigError: there is none of that name, it is built in, or its terms were not agreed to.
    """
    if name in BUILT_IN:
        raise ConfigError(f"{name} is built in: nothing needs to be fetched")
    model = PUBLISHED.get(name)
    if model is None:
        raise ConfigError(f"{name!r} cannot be fetched: choose one of {', '.join(PUBLISHED)}")
    if model.terms is not None and not agreed:
        raise ConfigError(
            f"{name} is published under {model.licence} ({model.terms}): add --accept-licence if you agree to that"
        )
    return model


def address(model: Published, url: str | None) -> str:
    """Return where to fetch a model from: the given address, the mirror in ``CTXDEPLOY_MIRROR``, or the authors'."""
    mirror = os.environ.get(MIRROR)
    found = url or (f"{mirror.rstrip('/')}/{model.file}" if mirror else model.url)
    check_url(found)
    return found


def pull(model: Published, url: str, folder: Path, *, display: Display, config: DownloadConfig | None = None) -> Pulled:
    """Fetch a checkpoint, export it, and put the bundle into the folder of models under its name.

    If it is interrupted, the next call begins the download anew, or goes on with the export if the file has arrived.

    Args:
        model: what.
        url: from where.
        folder: of models; made if it is not there.
        display: shows progress.
        config: of the download.

    Raises:
        MissingExtraError: of the extra ``export``.
        DownloadError: see ``fetch``; or what came is not a checkpoint, or not the known one.
        ParityError: its graph does not compute what PyTorch computes.
        StorageError: the folder cannot be written, or another process writes it.
        BundleError: the model is there, but damaged.
    """
    for package in ("torch", "onnx", "onnxscript", "skimage", "pooch"):
        require(package, "export")
    target, work = folder / model.name, folder / f"{_PULL}{model.name}"
    with _locked(folder):
        if (target / MANIFEST).exists():
            return Pulled(bundle=bundle.open(target), origin=read_origin(target), new=False)
        try:
            work.mkdir(exist_ok=True)
            origin = _fetched(model, url, work, config or DownloadConfig(), display)
            made = _exported(model, work, origin, display)
            move(made, target)
            shutil.rmtree(work, ignore_errors=True)
        except OSError as error:
            raise StorageError(f"{folder} cannot be written: {error.strerror or error}") from error
        finally:
            with suppress(OSError):  # nothing has arrived, or it is gone
                work.rmdir()
    return Pulled(bundle=bundle.open(target), origin=origin, new=True)


def remove(name: str, folder: Path) -> Path:
    """Remove a model from the folder of models, with what was fetched of it; return where it was.

    Raises:
        ConfigError: it is built in, or not there.
        StorageError: it cannot be removed, or another process writes the folder.
    """
    if name in BUILT_IN:
        raise ConfigError(f"{name} is built in: it goes with ctxdeploy itself")
    model, work = folder / name, folder / f"{_PULL}{name}"
    there = [path for path in (model / MANIFEST, work) if is_name(name) and path.exists()]
    if not there:
        raise ConfigError(f"there is no model {name!r} in {folder}:  ctxdeploy models  lists those that there are")
    with _locked(folder):
        for path in (model, work):
            remove_folder(path)
    return model


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing the folder of models."""
    make_folder(folder)
    lock = WriterLock(folder, busy=StorageError)
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def _fetched(model: Published, url: str, work: Path, config: DownloadConfig, display: Display) -> Origin:
    """Return the origin of the checkpoint in the folder of this pull, where it is whole and sound."""
    file = work / model.file
    origin = read_origin(work)
    if origin is None or not file.exists() or origin.url != without_secrets(url) or file_sha256(file) != origin.sha256:
        shutil.rmtree(work)  # a process that was killed may have left something
        work.mkdir()
        display.say(f"fetching {without_secrets(url)}")
        if model.sha256 is None:
            way = "" if protocol_of(url) == "https" else ", over a connection that anybody on the way can change"
            display.say(
                f"unverified: the authors publish no sha256 of {model.file}{way}; what comes is read as data, compared "
                "with PyTorch, and its sha256 is recorded"
            )
        origin = _origin(model, url, fetch(url, file, config, display), file)
        write_origin(work, origin)
    try:
        _check(model, origin, file)
    except DownloadError:
        file.unlink()
        raise
    return origin


def _origin(model: Published, url: str, download: Download, file: Path) -> Origin:
    sha256 = file_sha256(file)
    return Origin(
        url=without_secrets(url),
        final_url=download.url,
        file=model.file,
        bytes=file.stat().st_size,
        sha256=sha256,
        known_sha256=sha256 == model.sha256,
        etag=download.etag,
        last_modified=download.last_modified,
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
        licence=model.licence,
    )


def _check(model: Published, origin: Origin, file: Path) -> None:
    """Raise ``DownloadError`` if a file is not the known one, damaged, or not a checkpoint of a known network."""
    from ctxdeploy.export import load_checkpoint

    if model.sha256 is not None and origin.sha256 != model.sha256:
        raise DownloadError(
            f"{origin.url} gave a file with sha256 {origin.sha256} instead of {model.sha256}: it is not the authors' "
            "checkpoint, and was removed"
        )
    # PyTorch's own format is a zip file, whose checksums PyTorch does not compare.
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as parts:
                damaged = parts.testzip()
        except (OSError, zipfile.BadZipFile) as error:
            damaged = str(error)
        if damaged is not None:
            raise DownloadError(f"{origin.url} gave a damaged file ({damaged}); it was removed: fetch it again")
    try:
        load_checkpoint(file).network()
    except CheckpointError as error:
        raise DownloadError(
            f"{origin.url} gave something other than a checkpoint of a known network; it was removed: {error}"
        ) from error


def _exported(model: Published, work: Path, origin: Origin, display: Display) -> Path:
    """Return the folder of the finished model inside that of the pull."""
    from ctxdeploy.evaluation import AsmkRetrieval
    from ctxdeploy.export import export_bundle

    for left in work.glob("model*"):  # of a run that was interrupted
        shutil.rmtree(left, ignore_errors=True)
    made = work / "model"
    export_bundle(work / model.file, made, retrieval=AsmkRetrieval, display=display).check()
    shutil.copyfile(work / model.file, made / model.file)
    write_origin(made, origin)
    return made
