"""Settings of what a machine keeps of archives on object storage; light, since options are made from them."""

import os
from dataclasses import dataclass
from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.host import user_cache
from ctxdeploy.core.settings import check_types, parse_bytes, setting

# Not CTXDEPLOY_CACHE: machine code is often kept where nobody may write.
CACHE, CACHE_SIZE = "CTXDEPLOY_ARCHIVE_CACHE", "CTXDEPLOY_CACHE_SIZE"
DEFAULT_BYTES = 64 << 30
_FOLDER = "archives"


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Where files of published archives are kept, and how many.

    Attributes:
        folder: of the cache; that of ``CTXDEPLOY_ARCHIVE_CACHE``, or the user's folder of caches, if None.
        size: bytes of all files at most; that of the environment (``CTXDEPLOY_CACHE_SIZE``), or 64 GiB, if None.
    """

    folder: Path | None = None
    size: int | None = setting(
        None,
        "--cache-size",
        "Of what is kept here of archives on object storage.",
        metavar="SIZE",
        parse=parse_bytes,
        default_text="CTXDEPLOY_CACHE_SIZE, or 64GiB",
    )

    def __post_init__(self) -> None:
        check_types(self)
        if self.size is not None and self.size < 1:
            raise ConfigError(f"--cache-size {self.size} is not an amount of bytes: give one such as 50GB")

    @property
    def bytes(self) -> int:
        """The size in force."""
        if self.size is not None:
            return self.size
        named = os.environ.get(CACHE_SIZE)
        if not named:
            return DEFAULT_BYTES
        try:
            return max(parse_bytes(named), 1)
        except ValueError as error:
            raise ConfigError(f"{CACHE_SIZE} {named!r} {error}") from error

    @property
    def is_given(self) -> bool:
        """Whether anybody said how large the cache may be."""
        return self.size is not None or bool(os.environ.get(CACHE_SIZE))

    @property
    def path(self) -> Path:
        """The folder in force."""
        if self.folder is not None:
            return self.folder.absolute()
        named = os.environ.get(CACHE)
        if named:
            return Path(named).absolute()
        user = user_cache()
        if user is None:
            raise ConfigError(f"there is no folder of caches (HOME is not set): name one with {CACHE}")
        return user / _FOLDER
