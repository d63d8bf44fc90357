"""The first state of an archive, in a folder that is new, empty, or left by a creation that was interrupted."""

from pathlib import Path

from ctxdeploy.core.errors import ArchiveError, ConfigError, StorageError
from ctxdeploy.core.files import LOCK, TEMPORARY, WriterLock, make_folder
from ctxdeploy.index.codebook.codebook import Codebook
from ctxdeploy.index.config import MAX_WORDS, DescriptorSource, IndexConfig
from ctxdeploy.index.storage.manifest import CODEBOOK, CURRENT, FOLDERS, Manifest, publish, store
from ctxdeploy.index.storage.state import Snapshot

_FIRST = "manifest-000000.json"


def create(
    folder: Path, codebook: Codebook, config: IndexConfig, source: DescriptorSource | None
) -> tuple[WriterLock, Snapshot]:
    """Make an empty archive and return its lock, held, and its state.

    Raises:
        ArchiveError: there is an archive already, or a folder with other things in it.
        ConfigError: geometry with more than 65,536 words.
        StorageError: it cannot be written.
    """
    if config.geometry and len(codebook) > MAX_WORDS:
        raise ConfigError(f"geometry holds words up to {MAX_WORDS}, but the codebook has {len(codebook)}")
    check_free(folder)
    for place in FOLDERS:
        make_folder(folder / place)
    lock = WriterLock(folder)
    try:
        check_free(folder)
        manifest = Manifest(
            number=0,
            config=config,
            source=source,
            codebook=store(folder, CODEBOOK, codebook.encode()),
            codebook_id=codebook.id,
            words=len(codebook),
            dim=codebook.dim,
        )
        publish(folder, manifest)
    except BaseException:
        lock.release()
        raise
    return lock, Snapshot(manifest, codebook, ())


def check_free(folder: Path) -> None:
    """Raise ``ArchiveError`` or ``StorageError`` unless an archive can be made at ``folder``."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        if folder.exists():
            raise ArchiveError(f"{folder} is a file, not an archive: give a new folder") from error
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}") from error
    if CURRENT in names:
        raise ArchiveError(f"{folder} is an archive already: open it to add photos, or give a new folder")
    foreign = {name for name in names - {LOCK, *FOLDERS, CODEBOOK, _FIRST} if not name.startswith(TEMPORARY)}
    if foreign:
        raise ArchiveError(f"{folder} exists and is not an archive (it holds {min(foreign)!r}): give a new folder")
