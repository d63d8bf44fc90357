"""Keys: who may read, and who may write."""

import hashlib
import hmac
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.reading import read_regular
from ctxdeploy.service.config import ServiceConfig

READ, WRITE = "read", "write"
READ_VARIABLE, WRITE_VARIABLE = "CTXDEPLOY_READ_KEYS", "CTXDEPLOY_WRITE_KEYS"
# A key is tried as often as the service answers: 16 letters and digits chosen at random are 95 bits.
_SHORTEST = 16
_MAX_FILE = 1 << 20
_HOW = "make one with  openssl rand -hex 32"


@dataclass(frozen=True, kw_only=True, repr=False)
class Keys:
    """The keys that a service takes, as hashes: the keys themselves are not kept.

    Attributes:
        read: SHA-256 of the keys that may search and look.
        write: of those that may add and remove as well.
        warnings: what is to be said of the files that they stand in.
    """

    read: frozenset[bytes] = frozenset()
    write: frozenset[bytes] = frozenset()
    warnings: tuple[str, ...] = ()

    @classmethod
    def load(cls, config: ServiceConfig, environment: Mapping[str, str]) -> Self:
        """Return the keys of files and of the environment.

        Raises:
            ConfigError: a file cannot be read or holds no key, or a key is too short or not of one word.
        """
        warnings: list[str] = []
        found: dict[str, set[bytes]] = {READ: set(), WRITE: set()}
        for kind, flag, path, variable in (
            (READ, "--read-key-file", config.read_key_file, READ_VARIABLE),
            (WRITE, "--write-key-file", config.write_key_file, WRITE_VARIABLE),
        ):
            if path is not None:
                found[kind] |= _hashes(_lines(flag, path), f"{flag} {path}")
                warnings += _warnings(flag, path)
            if variable in environment:
                words = environment[variable].replace(",", " ").split()
                found[kind] |= _hashes(words, variable)
        return cls(read=frozenset(found[READ]), write=frozenset(found[WRITE]), warnings=tuple(warnings))

    def __bool__(self) -> bool:
        return bool(self.read or self.write)

    def __repr__(self) -> str:
        return f"<Keys: {len(self.read)} to read, {len(self.write)} to write>"

    def allows(self, key: str | None, what: str) -> bool | None:
        """Return whether a key may read or write; None where it is none of the keys, or none is given.

        Where there is no key at all everybody may do both. Every key is compared, in a time that does not depend on
        where they differ.
        """
        if not self:
            return True
        if key is None:
            return None
        given = _hash(key)
        writes = _is_among(given, self.write)
        reads = _is_among(given, self.read)
        if not (writes or reads):
            return None
        return writes or what == READ


def _is_among(given: bytes, keys: Iterable[bytes]) -> bool:
    found = False
    for key in keys:
        found |= hmac.compare_digest(given, key)
    return found


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _lines(flag: str, path: Path) -> list[str]:
    """Return the keys of a file, one a line; empty lines and those that begin with # are none."""
    try:
        text = read_regular(path, _MAX_FILE).decode("ascii")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{flag} {path} is not plain text: give a file with a key a line") from error
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be read: {error.strerror or error}") from error
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _hashes(keys: Iterable[str], where: str) -> set[bytes]:
    """Return the hashes of keys; the message of an error names the place, and never the key."""
    found = set()
    for number, key in enumerate(keys, 1):
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"{where}: key {number} is not one word of ASCII letters, digits and signs: {_HOW}")
        if len(key) < _SHORTEST:
            raise ConfigError(f"{where}: key {number} has {len(key)} characters, fewer than {_SHORTEST}: {_HOW}")
        found.add(_hash(key))
    if not found:
        raise ConfigError(f"{where} holds no key: {_HOW}")
    return found


def _warnings(flag: str, path: Path) -> list[str]:
    mode = path.stat().st_mode if os.name == "posix" else 0
    if mode & stat.S_IROTH:
        return [f"{flag} {path} may be read by every user of this machine: run  chmod o-r {path}"]
    return []
