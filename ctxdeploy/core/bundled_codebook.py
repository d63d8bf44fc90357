"""The codebook of a bundle: its entry in ``bundle.json``, and its file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import BundleError, ConfigError, CtxdeployError
from ctxdeploy.core.files import copy_file, file_sha256

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook


@dataclass(frozen=True, kw_only=True)
class CodebookFile:
    """The codebook that a bundle carries.

    Attributes:
        file: path inside the bundle.
        sha256: of the file's bytes.
        bytes: size of the file.
        words: W.
        id: of the codebook, see ``ctxdeploy.index.Codebook``.
    """

    file: str
    sha256: str
    bytes: int
    words: int
    id: str


def check_codebook(file: Path, dim: int) -> "Codebook":
    """Read every byte of a codebook's file and return it.

    Args:
        file: what ``Codebook.save`` wrote.
        dim: of the descriptors that it is for.

    Raises:
        ConfigError: it has another dimension.
        ArchiveError: it is no codebook, or damaged.
    """
    from ctxdeploy.index import Codebook

    codebook = Codebook.load(file)
    codebook.check(str(file))
    if codebook.dim != dim:
        raise ConfigError(
            f"codebook {file} has dimension {codebook.dim}, the model {dim}: give the codebook of this model, or none"
        )
    return codebook


def copy_codebook(file: Path, target: Path, dim: int) -> CodebookFile:
    """Copy the file of a codebook into a bundle and return its entry; see ``Bundle.with_codebook``."""
    codebook = check_codebook(file, dim)
    copy_file(file, target)
    return CodebookFile(
        file=target.name,
        sha256=file_sha256(target),
        bytes=target.stat().st_size,
        words=len(codebook),
        id=codebook.id,
    )


def load_codebook(path: Path, entry: CodebookFile, dim: int) -> "Codebook":
    """Return the codebook of an entry; ``BundleError`` if it is another one, or cannot be read."""
    from ctxdeploy.index import Codebook

    try:
        codebook = Codebook.load(path)
    except CtxdeployError as error:
        raise BundleError(f"{error}: export the bundle anew") from error
    if (codebook.id, len(codebook), codebook.dim) != (entry.id, entry.words, dim):
        raise BundleError(f"{path} is not the codebook that its bundle describes: export the bundle anew")
    return codebook
