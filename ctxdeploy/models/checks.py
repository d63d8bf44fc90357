"""What has arrived, looked at before anything is made of it."""

import zipfile
from pathlib import Path

from ctxdeploy.core.errors import CheckpointError, DownloadError
from ctxdeploy.models.authors import Published
from ctxdeploy.models.listing import Origin


def check_file(model: Published, origin: Origin, file: Path) -> None:
    """Raise ``DownloadError`` if a file is not the known one, or damaged."""
    if model.bytes is not None and origin.bytes != model.bytes:
        raise DownloadError(
            f"{origin.url} gave {origin.bytes:,} bytes instead of {model.bytes:,}: it is not the authors' file, and "
            "was removed"
        )
    if model.sha256 is not None and origin.sha256 != model.sha256:
        raise DownloadError(
            f"{origin.url} gave a file with sha256 {origin.sha256} instead of {model.sha256}: it is not the authors' "
            "checkpoint, and was removed"
        )
    if model.sha256_prefix is not None and not origin.sha256.startswith(model.sha256_prefix):
        raise DownloadError(
            f"{origin.url} gave a file with sha256 {origin.sha256}, which should begin with {model.sha256_prefix}, as "
            f"the name {model.file} says: it is not the authors' checkpoint, and was removed"
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


def check_network(checkpoint: Path, origin: Origin) -> None:
    """Raise ``DownloadError`` if a checkpoint is not one of a known network."""
    from ctxdeploy.export import load_checkpoint

    try:
        load_checkpoint(checkpoint).network()
    except CheckpointError as error:
        raise DownloadError(
            f"{origin.url} gave something other than a checkpoint of a known network; it was removed: {error}"
        ) from error
