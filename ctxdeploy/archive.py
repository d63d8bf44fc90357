"""A photo archive: an index, with the model that made it and the folder that its photos came from.

Beside the index's own files an archive holds ``model/``, a copy of the bundle, so that it answers queries wherever it
is moved, and ``origin.json``, which names the place of the photos (for thumbnails, and to refuse another place).
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import MANIFEST, MAX_MANIFEST, Bundle
from ctxdeploy.core.errors import (
    ArchiveError,
    BundleError,
    ConfigError,
    CtxdeployError,
    MismatchError,
)
from ctxdeploy.core.files import (
    checksum,
    folder_bytes,
    new_folder,
    remove_folder,
    remove_leftovers,
    storing,
    write_file,
)
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.text import printable
from ctxdeploy.core.urls import is_url, without_secrets
from ctxdeploy.judgement import Judgement
from ctxdeploy.models import find_bundle, only_here
from ctxdeploy.object_storage.place import given_url, mirrored_url

if TYPE_CHECKING:
    from ctxdeploy.index import Index, QueriedIndex
    from ctxdeploy.object_storage.config import CacheConfig
    from ctxdeploy.runtime import BackendConfig, Extractor, ExtractorConfig
    from ctxdeploy.runtime.sources import PhotoList

SUFFIX = ".ctxindex"
CURRENT = "CURRENT"
_MODEL = "model"
ORIGIN = "origin.json"
_FIRST = "manifest-000000.json"
# Bytes of the file that names the state in force: a name and a hash.
_MAX_POINTER = 4096
# How the model of an archive begins that was made of descriptor files: which network made these nobody knows.
DESCRIPTOR_FILES = "descriptor files"


def is_archive(path: Path) -> bool:
    """Return whether a folder is (or claims to be) an index archive, perhaps a damaged one without ``CURRENT``, or one
    of which nothing was fetched yet from object storage."""
    # manifest-000000.json alone is left by a creation that was interrupted: nothing is in it.
    is_here = (path / CURRENT).exists() or any(file.name != _FIRST for file in path.glob("manifest-*.json"))
    return is_here or mirrored_url(path) is not None


def is_bundle(path: Path) -> bool:
    """Return whether a folder is (or claims to be) a bundle."""
    return (path / MANIFEST).exists()


def default_archive(place: str) -> Path:
    """Return the archive of a place of photos: ``<its name>.ctxindex`` in the working folder.

    The name is that of the folder, of a file without its extension, or the last part of a URL.
    """
    if "://" not in place and Path(place).is_dir():
        name = Path(place).resolve().name
    else:
        public = without_secrets(place) if is_url(place) else place
        name = PurePosixPath(public.partition("?")[0]).stem.partition("{")[0].strip("-_.")
    return Path(f"{name or 'photos'}{SUFFIX}")


def find_archive(given: str | None, flag: str = "--index", cache: "CacheConfig | None" = None) -> Path:
    """Return the archive to query: the given one, ``CTXDEPLOY_INDEX``, or the only one in the working folder.

    ``flag``: what names one, for the message of ``ConfigError``. Of a URL it is the folder in which that is read here
    (``archive_folder``).
    """
    named = given or os.environ.get("CTXDEPLOY_INDEX")
    if named:
        return archive_folder(named, cache=cache)
    found = only_here(SUFFIX, flag)
    if found is None:
        raise ConfigError(
            f"there is no *{SUFFIX} in this folder: name one with {flag} or CTXDEPLOY_INDEX, or make one with  "
            "ctxdeploy index DIR"
        )
    return found


def archive_folder(
    given: str | os.PathLike[str], *, writable: bool = False, cache: "CacheConfig | None" = None
) -> Path:
    """Return the folder of an archive; of a URL the one in which it is read here, of which nothing is fetched yet.

    Args:
        given: a folder, or a URL of object storage.
        writable: it is to be written.
        cache: what may be kept here of archives at URLs.

    Raises:
        ArchiveError: ``writable``, and it is an archive on object storage.
        ConfigError: such URLs are not read, or there is no folder for the cache.
    """
    url = given_url(given)
    if writable and (url is not None or mirrored_url(Path(given)) is not None):
        shown = printable(without_secrets(url or mirrored_url(Path(given)) or ""))
        raise ArchiveError(
            f"{shown} is read only here: add photos with  ctxdeploy index PLACE -o {shown}  ; or fetch it, change "
            "that, and publish it, with  ctxdeploy fetch  and  ctxdeploy push"
        )
    if url is None:
        return Path(given)
    from ctxdeploy.object_storage.mirror import mirror_folder

    return mirror_folder(url, cache)


def has_model(archive: Path) -> bool:
    """Return whether an archive carries its bundle (one whose making was interrupted may not)."""
    return is_bundle(archive / _MODEL)


def descriptor_files_of(archive: Path) -> str | None:
    """Return the suffixes of the descriptor files that an archive was made of; None if a network made it."""
    from ctxdeploy.index import BareIndex

    try:
        with BareIndex.open(archive) as index:
            source = index.source
    except ArchiveError:  # whoever opens it says why
        return None
    return source.description if source is not None and source.model.startswith(DESCRIPTOR_FILES) else None


def store_model(archive: Path, bundle: Bundle) -> None:
    """Copy a bundle into an archive that has none yet, or a damaged one; durable, whole or not at all."""
    target = archive / _MODEL
    try:
        ctxdeploy.core.bundle.open(target)
        return
    except BundleError:
        pass
    remove_leftovers(archive)
    remove_folder(target)
    copy_model(bundle, target)


def copy_model(bundle: Bundle, target: Path) -> None:
    """Copy a bundle without its codebook to a new folder; durable, whole or not at all."""
    with new_folder(target) as partial:
        # The files that it lists: not those that failed the parity check and lie beside them.
        for name in sorted({ctxdeploy.core.bundle.MANIFEST, *(artefact.file for artefact in bundle.artefacts)}):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, partial / name)
        if bundle.codebook is not None:  # the archive has a codebook of its own
            replace(bundle, path=partial, codebook=None).write_manifest()


def open_model(archive: Path, given: str | os.PathLike[str] | None = None, *, check_hashes: bool = True) -> Bundle:
    """Open the bundle to use with an archive: that of the given name or path, else its own.

    Raises:
        ArchiveError: it has none, and none is given.
        BundleError: the bundle is damaged.
    """
    if given:
        return ctxdeploy.core.bundle.open(find_bundle(given), check_hashes=check_hashes)
    if not has_model(archive):
        files = descriptor_files_of(archive)
        if files is not None:
            raise ArchiveError(
                f"{archive} was made of descriptor files ({files}), and no network comes with them: ask with a photo "
                "that it holds (--indexed NAME), or with descriptors (Index.search of ctxdeploy.index)"
            )
        raise ArchiveError(f"{archive} carries no model: give the bundle that made it with --model")
    return ctxdeploy.core.bundle.open(archive / _MODEL, check_hashes=check_hashes)


def open_extractor(
    archive: Path,
    given: str | os.PathLike[str] | None,
    backend: "BackendConfig | None" = None,
    config: "ExtractorConfig | None" = None,
) -> "Extractor":
    """Load the network to use with an archive that may not exist yet: that of the given name or path, else its own."""
    from ctxdeploy.runtime import Extractor

    return Extractor(open_model(archive, given), backend=backend, config=config)


def check_model(index: "QueriedIndex", bundle: Bundle) -> None:
    """Raise ``MismatchError`` unless the bundle makes the descriptors that the archive holds."""
    index.check_source(model=bundle.model_id, preprocessing=bundle.preprocessing.hash)


# Half of an archive in int8 whose descriptors have a mean cosine of 0.9994 to PyTorch's, half in fp32: nothing was lost
# that could be measured (docs/archives.md). What is further away was not.
_NEAR = 0.999


def check_precision(
    archive: Path, bundle: Bundle, precision: str, *, other: str = "", former: str | None = None
) -> str | None:
    """Return what is to be said where photos are added in another precision than those before; None if in the same.

    Args:
        archive: new or not; of one without ``origin.json`` it is not known.
        bundle: the model, which says how far each precision is from PyTorch.
        precision: of the photos to be added.
        other: `` of <the archive that they come from>``; empty if a network makes them now.
        former: of the photos before; as ``origin.json`` says if None.

    Raises:
        MismatchError: descriptors of the two are not near enough to rank as one.
    """
    if former is None:
        former = (extraction_of(archive) or {}).get("precision", precision)
    if former == precision:
        return None
    for label in (former, precision):
        near = _cosine(bundle, label)
        if near is None or near < _NEAR:
            advice = "index those photos anew" if other else f"give --precision {former}, or another archive with -o"
            far = (
                f"{label} has a mean cosine of {near:.3f} to the network, and {_NEAR} is needed"
                if near
                else (f"how near {label} is to the network was not measured")
            )
            raise MismatchError(
                f"{archive} was made in {former}; descriptors in {precision}{other} would not rank with its own "
                f"({far}): {advice}"
            )
    return f"the archive's photos were described in {former} before, now in {precision}; they rank as one"


def _cosine(bundle: Bundle, precision: str) -> float | None:
    """Return the least mean cosine to PyTorch that was measured in a precision; None if it was not."""
    parities = [artefact.parity for artefact in bundle.artefacts if artefact.precision == precision]
    found = [parity.get("cosine_mean") for parity in parities]
    return min((value for value in found if isinstance(value, float)), default=None)


def open_state(path: Path, at: str | int | None) -> "Index":
    """Open an archive for reading: as it is, or as it was at a snapshot, or at the number of a manifest.

    Raises:
        ArchiveError: no archive, damaged, or that manifest is not there any more.
        ConfigError: no such snapshot.
    """
    from ctxdeploy.index import Index

    if mirrored_url(path) is not None:
        from ctxdeploy.object_storage.mirror import Mirror

        return Mirror(path).open(at)
    return Index.open(path, at=at)


def read_pointer(path: Path) -> bytes:
    """Return what changes with each commit: what ``CURRENT`` holds, of an archive on object storage there.

    Raises:
        OSError: it cannot be read here.
        ArchiveError: it cannot be read there.
    """
    if mirrored_url(path) is not None:
        from ctxdeploy.object_storage.mirror import Mirror

        return Mirror(path).pointer()
    return read_regular(path / CURRENT, _MAX_POINTER)


def archive_facts(index: "QueriedIndex") -> dict[str, Any]:
    """Return what an archive holds: counts, bytes, codebook, settings, model and place; all fits into JSON."""
    path = index.path
    facts = {"kind": "archive", **index.info(), "folder_bytes": folder_bytes(path)}
    facts |= {"photos": photo_place(path), "extraction": extraction_of(path)}
    if has_model(path):
        model = open_model(path, check_hashes=False).metadata()
        facts["model"] = {key: model[key] for key in ("network", "source", "preprocessing", "extraction")}
    return facts


def archive_problems(path: Path) -> list[str]:
    """Read every byte of an archive, its snapshots and its model; return one line for each problem.

    Raises:
        NewerFormatError: a newer ctxdeploy wrote it, so that nothing can be said about it.
    """
    from ctxdeploy.index import Index, NewerFormatError

    try:
        Index.open(path).close()
    except NewerFormatError:
        raise
    except ArchiveError:  # it is among the problems
        pass
    problems = Index.problems(path)
    # An archive made in Python has neither model nor origin.
    ours = (path / _MODEL).exists() or (path / ORIGIN).exists()
    checks = (photo_place, Judgement.load) if ours else (Judgement.load,)
    for check in (open_model, *checks) if ours and descriptor_files_of(path) is None else checks:
        try:
            check(path)
        except CtxdeployError as error:
            problems.append(str(error))
    return problems


def check_origin(archive: Path, photos: "PhotoList") -> None:
    """Raise ``ConfigError`` if an archive holds the photos of another place, unless that was a folder and is gone."""
    former = photo_place(archive)
    if former is None or former == photos.place or not ("://" in former or os.path.lexists(former)):
        return
    raise ConfigError(
        f"{archive} holds the photos of {former}: index {photos.place} into an archive of its own with -o, or index a "
        "place above both; if the photos have moved there, say  --moved"
    )


def forget_damaged_origin(archive: Path) -> str | None:
    """Remove ``origin.json`` if it is damaged, and return what was wrong with it; the next indexing writes it anew."""
    try:
        photo_place(archive)
    except ArchiveError as error:
        with storing(archive / ORIGIN):
            (archive / ORIGIN).unlink()
        return str(error)
    return None


def store_origin(archive: Path, photos: "PhotoList", extraction: Mapping[str, Any], *, moved: bool = False) -> None:
    """Remember the place of the photos, and what extracted them last (backend, precision, device).

    A place replaces the former, which must be gone unless ``moved`` is set.
    """
    if not moved:
        check_origin(archive, photos)
    folder = None if photos.folder is None else _hex(str(photos.folder.resolve()))
    facts = {"photos": _hex(photos.place), "folder": folder, "extraction": dict(extraction)}
    text = json.dumps({**facts, "checksum": checksum(facts)}) + "\n"
    write_file(archive / ORIGIN, [text.encode("ascii")])


def photo_place(archive: Path) -> str | None:
    """Return the folder, file or URL that named the photos when they were indexed; None if it is not known."""
    origin = _read_origin(archive)
    return None if origin is None else _text(origin["photos"])


def photo_folder(archive: Path) -> Path | None:
    """Return the folder that the photos' names are paths in; None if there is none, or it is not known."""
    origin = _read_origin(archive)
    folder = None if origin is None else origin.get("folder", origin["photos"])
    return None if folder is None else Path(_text(folder))


def last_run(archive: Path) -> str | None:
    """Return when an archive was written last, by its file that every run writes: ``2026-01-31T12:00:00+00:00``."""
    for name in (ORIGIN, CURRENT):
        try:
            seconds = (archive / name).stat().st_mtime
            return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
        except (OSError, ValueError, OverflowError):  # it is not there, or its time is none of a calendar
            continue
    return None


def extraction_of(archive: Path) -> dict[str, Any] | None:
    """Return what extracted an archive's photos last; None if it is not known."""
    origin = _read_origin(archive)
    return None if origin is None else origin["extraction"]


def _read_origin(archive: Path) -> dict[str, Any] | None:
    path = archive / ORIGIN
    try:
        origin = json.loads(read_regular(path, MAX_MANIFEST).decode("ascii"))
        _text(origin["photos"])
        if origin.get("folder") is not None:
            _text(origin["folder"])
        if not isinstance(origin["extraction"], dict):
            raise ValueError("extraction is not an object")
        # Archives of format 1 have no checksum here.
        if set(origin) != {"photos", "extraction"} and origin["checksum"] != checksum(origin):
            raise ValueError("checksum is not that of its content")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{path} is damaged: remove it and run  ctxdeploy index  again") from error
    checked: dict[str, Any] = origin
    return checked


def _hex(text: str) -> str:
    return os.fsencode(text).hex()


def _text(encoded: str) -> str:
    return os.fsdecode(bytes.fromhex(encoded))
