"""What a measurement from end to end needs before it begins: a folder of just its photos, a codebook, an archive."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.progress import Display

if TYPE_CHECKING:
    from ctxdeploy.bench.questions import Engine


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Where it is.

    Attributes:
        folder: of links to the photos.
        codebook: trained on them.
        archive: of them.
        work: where more archives may be made.
    """

    folder: Path
    codebook: Path
    archive: Path
    work: Path


def prepare(engine: "Engine", photos: Sequence[Path], words: int | None, work: Path, display: Display) -> Prepared:
    """Index the photos once; the same photos, model and engine give the same codebook.

    Raises:
        NoPhotosError, ConfigError: as ``index_photos``.
        StorageError: ``work`` cannot be written.
    """
    from ctxdeploy.index import Index
    from ctxdeploy.indexing.config import IndexingConfig
    from ctxdeploy.indexing.job import index_photos
    from ctxdeploy.runtime import BackendConfig, Extractor
    from ctxdeploy.runtime.sources import list_photos

    folder, archive, codebook = work / "photos", work / "photos.ctxindex", work / "codebook.safetensors"
    try:
        folder.mkdir()
        for number, photo in enumerate(photos):
            (folder / f"{number:05d}{photo.suffix}").symlink_to(photo.resolve())
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}; choose another --work") from error
    config = BackendConfig(name=engine.backend, precision=engine.precision, threads=engine.threads)
    extractor = Extractor(engine.bundle, backend=config)
    index_photos(list_photos(str(folder)), archive, extractor, IndexingConfig(words=words), display)
    with Index.open(archive) as index:
        index.codebook.save(codebook)
    return Prepared(folder=folder, codebook=codebook, archive=archive, work=work)
