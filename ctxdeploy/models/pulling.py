"""A file of the authors' to a model or a codebook that commands take by its name."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ctxdeploy.core import bundle
from ctxdeploy.core.bundle import CODEBOOK, MANIFEST, Bundle
from ctxdeploy.core.errors import CheckpointError, ConfigError, DownloadError, StorageError
from ctxdeploy.core.extras import require
from ctxdeploy.core.files import (
    copy_file,
    file_sha256,
    make_folder,
    move,
    remove_folder,
    remove_leftovers,
)
from ctxdeploy.core.locks import WriterLock
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.core.urls import protocol_of, without_secrets
from ctxdeploy.models.authors import PUBLISHED, Published
from ctxdeploy.models.checks import check_file, check_network
from ctxdeploy.models.download import Download, DownloadConfig, check_url, fetch
from ctxdeploy.models.finding import refuse_unavailable
from ctxdeploy.models.listing import Origin, read_origin, write_origin
from ctxdeploy.models.table import BUILT_IN, is_name
from ctxdeploy.models.unpacking import unpack

MIRROR = "CTXDEPLOY_MIRROR"
_PULL = ".pull-"


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A model or a codebook that was fetched.

    Attributes:
        path: its folder.
        bundle: opened; None for a codebook.
        origin: where it came from; None if that is not recorded.
        new: False if it was there already.
    """

    path: Path
    bundle: Bundle | None
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
        refuse_unavailable(name)
        raise ConfigError(f"{name!r} cannot be fetched: choose one of {', '.join(PUBLISHED)}")
    if model.terms is not None and not agreed:
        raise ConfigError(
            f"{name} is published under {model.licence} ({model.terms}): add --accept-licence if you agree to that"
        )
    return model


def address(model: Published, url: str | None) -> str:
    """Return where to fetch a model from: the given address, the mirror in ``CTXDEPLOY_MIRROR``, or the authors'.

    Raises:
        ConfigError: it is not a URL of HTTP, or the authors name only a page for people.
    """
    mirror = os.environ.get(MIRROR)
    found = url or (f"{mirror.rstrip('/')}/{model.file}" if mirror else model.url)
    if found is None:
        raise ConfigError(
            f"{model.name} has no address that a program can fetch: open {model.page} in a browser, and then say  "
            f"ctxdeploy models pull {model.name} --file FILE"
        )
    check_url(found)
    return found


def pull(
    model: Published, url: str | Path, folder: Path, *, display: Display, config: DownloadConfig | None = None
) -> Pulled:
    """Fetch a checkpoint, export it, and put the bundle into the folder of models under its name; or a codebook.

    If it is interrupted, the next call begins the download anew, or goes on with the export if the file has arrived.

    Args:
        model: what.
        url: from where; or the file, if it is here.
        folder: of models; made if it is not there.
        display: shows progress.
        config: of the download.

    Raises:
        ConfigError: the file is not there.
        MissingExtraError: of the extra ``export``.
        DownloadError: see ``fetch``; or what came is not a checkpoint, or not the known one.
        ParityError: its graph does not compute what PyTorch computes.
        StorageError: the folder cannot be written, or another process writes it.
        BundleError: the model is there, but damaged.
    """
    is_codebook = model.gives == "codebook"
    if isinstance(url, Path) and not url.is_file():
        raise ConfigError(f"--file {printable(str(url))} is not a file")
    for package in ("pooch",) if is_codebook else ("torch", "onnx", "onnxscript", "skimage", "pooch"):
        require(package, "export")
    target, work = folder / model.name, folder / f"{_PULL}{model.name}"
    with _locked(folder):
        if (target / (CODEBOOK if is_codebook else MANIFEST)).exists():
            return _pulled(target, is_codebook, new=False)
        try:
            work.mkdir(exist_ok=True)
            origin = _fetched(model, url, work, config or DownloadConfig(), display)
            checkpoint = _checkpoint(model, origin, work)
            move((_converted if is_codebook else _exported)(checkpoint, work, origin, display), target)
            shutil.rmtree(work, ignore_errors=True)
        except OSError as error:
            raise StorageError(f"{folder} cannot be written: {error.strerror or error}") from error
        finally:
            with suppress(OSError):  # nothing has arrived, or it is gone
                work.rmdir()
    return _pulled(target, is_codebook, new=True)


def _pulled(target: Path, is_codebook: bool, *, new: bool) -> Pulled:
    opened = None if is_codebook else bundle.open(target)
    return Pulled(path=target, bundle=opened, origin=read_origin(target), new=new)


def remove(name: str, folder: Path) -> Path:
    """Remove a model from the folder of models, with what was fetched of it; return where it was.

    Raises:
        ConfigError: it is built in, or not there.
        StorageError: it cannot be removed, or another process writes the folder.
    """
    if name in BUILT_IN:
        raise ConfigError(f"{name} is built in: it goes with ctxdeploy itself")
    model, work = folder / name, folder / f"{_PULL}{name}"
    there = [path for path in (model / MANIFEST, model / CODEBOOK, work) if is_name(name) and path.exists()]
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


def _fetched(model: Published, url: str | Path, work: Path, config: DownloadConfig, display: Display) -> Origin:
    """Return the origin of the authors' file in the folder of this pull, where it is whole."""
    file = work / model.file
    shown = f"file:{url.name}" if isinstance(url, Path) else without_secrets(url)
    origin = read_origin(work)
    if origin is None or not file.exists() or origin.url != shown or file_sha256(file) != origin.sha256:
        shutil.rmtree(work)  # a process that was killed may have left something
        work.mkdir()
        if isinstance(url, Path):
            origin = _origin(model, shown, _copied(url, file, shown), file)
        else:
            display.say(f"fetching {shown}")
            if model.sha256 is None:
                display.say(_unverified(model, url))
            origin = _origin(model, shown, fetch(url, file, config, display), file)
        write_origin(work, origin)
    return origin


def _copied(source: Path, file: Path, shown: str) -> Download:
    """Copy a file that its user downloaded."""
    copy_file(source, file)
    return Download(url=shown, etag=None, last_modified=None)


def _unverified(model: Published, url: str) -> str:
    way = "" if protocol_of(url) == "https" else ", over a connection that anybody on the way can change"
    prefix = model.sha256_prefix
    known = "publish no sha256" if prefix is None else f"publish only the first {len(prefix)} digits of the sha256"
    return (
        f"unverified: the authors {known} of {model.file}{way}; what comes is read as data, compared with PyTorch, and "
        "its sha256 is recorded"
    )


def _origin(model: Published, url: str, download: Download, file: Path) -> Origin:
    sha256 = file_sha256(file)
    return Origin(
        url=url,
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


def _checkpoint(model: Published, origin: Origin, work: Path) -> Path:
    """Return the checkpoint in the folder of this pull, unpacked if it is packed.

    Raises:
        DownloadError: the file is not the known one, damaged, or not a checkpoint of a known network; it is removed.
    """
    file = work / model.file
    try:
        check_file(model, origin, file)
        if not model.is_archive:
            found = file
        else:
            remove_folder(work / "unpacked")  # of a run that was interrupted
            found = unpack(file, work / "unpacked" / model.file.removesuffix(".tar.gz"))
        if model.gives != "codebook":
            check_network(found, origin)
    except DownloadError:
        file.unlink()
        remove_folder(work / "unpacked")
        raise
    return found


def _new(work: Path) -> Path:
    """Return a path for the finished folder; what an interrupted run left there is removed."""
    for left in work.glob("model*"):
        shutil.rmtree(left, ignore_errors=True)
    return work / "model"


def _exported(checkpoint: Path, work: Path, origin: Origin, display: Display) -> Path:
    """Return the folder of the finished model inside that of the pull."""
    from ctxdeploy.evaluation import AsmkRetrieval
    from ctxdeploy.export import export_bundle

    made = _new(work)
    export_bundle(checkpoint, made, retrieval=AsmkRetrieval, display=display).check()
    if checkpoint.is_dir():
        shutil.copytree(checkpoint, made / checkpoint.name)
    else:
        shutil.copyfile(checkpoint, made / checkpoint.name)
    write_origin(made, origin)
    return made


def _converted(checkpoint: Path, work: Path, origin: Origin, display: Display) -> Path:
    """Return the folder of a finished codebook inside that of the pull."""
    from ctxdeploy.indexing.given_codebook import open_given

    try:
        codebook = open_given(checkpoint)
    except (CheckpointError, ConfigError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise DownloadError(f"{origin.url} gave something other than a codebook; it was removed: {error}") from error
    made = _new(work)
    make_folder(made)
    codebook.save(made / CODEBOOK)
    display.say(f"{len(codebook):,} words of {codebook.dim} dimensions")
    write_origin(made, origin)
    return made
