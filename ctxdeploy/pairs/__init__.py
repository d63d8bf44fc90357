"""Which photos of an archive are worth matching with each other, and which are the same photo twice.

The names below are imported on first use.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.pairs.config import PairsConfig
    from ctxdeploy.pairs.duplicates import Duplicate, DuplicatesConfig, find_duplicates
    from ctxdeploy.pairs.files import FORMATS, check_names, encode_pairs, read_pairs, write_pairs
    from ctxdeploy.pairs.finding import FoundPairs, Pair, find_pairs

__all__ = [
    "FORMATS",
    "Duplicate",
    "DuplicatesConfig",
    "FoundPairs",
    "Pair",
    "PairsConfig",
    "check_names",
    "encode_pairs",
    "find_duplicates",
    "find_pairs",
    "read_pairs",
    "write_pairs",
]

_HOMES = {
    "Duplicate": "duplicates",
    "DuplicatesConfig": "duplicates",
    "FORMATS": "files",
    "FoundPairs": "finding",
    "Pair": "finding",
    "PairsConfig": "config",
    "check_names": "files",
    "encode_pairs": "files",
    "find_duplicates": "duplicates",
    "find_pairs": "finding",
    "read_pairs": "files",
    "write_pairs": "files",
}

__getattr__, __dir__ = door(__name__, _HOMES)
