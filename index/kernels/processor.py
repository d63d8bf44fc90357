"""The processor that loops are compiled for: this one, or a level of x86-64 that many have.

Code is kept for one processor. An image that is built on one machine and runs on others carries code of none of them,
unless it is made for what all of them have.
"""

import os
from functools import cache
from typing import Any

import numba
from llvmlite import binding as llvm  # type: ignore[import-untyped]
from numba.core.registry import cpu_target

from ctxdeploy.core.errors import ConfigError

PROCESSOR = "CTXDEPLOY_PROCESSOR"
_SETTINGS: Any = numba.config
# What a level adds to the one before, in LLVM's words (System V ABI of x86-64, "micro-architecture levels").
_ADDED = {
    "x86-64-v2": "cx16 sahf popcnt sse sse2 sse3 ssse3 sse4.1 sse4.2",
    "x86-64-v3": "avx avx2 bmi bmi2 f16c fma lzcnt movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}


@cache
def target() -> tuple[str, str, str]:
    """Return triple, name and features that numba compiles for, as ``CTXDEPLOY_PROCESSOR`` says.

    Raises:
        ConfigError: it is no level, this processor lacks one of its features, or numba has compiled for another
            processor in this process.
    """
    level = os.environ.get(PROCESSOR, "")
    wanted = ",".join(f"+{name}" for name in _features(level)) if level else None
    if wanted is not None:
        # numba reads both when it first compiles, in the whole process.
        before = _SETTINGS.CPU_NAME, _SETTINGS.CPU_FEATURES
        _SETTINGS.CPU_NAME, _SETTINGS.CPU_FEATURES = level, wanted
    triple, name, found = (str(part) for part in cpu_target.target_context.codegen().magic_tuple())
    if wanted is not None and found != wanted:
        _SETTINGS.CPU_NAME, _SETTINGS.CPU_FEATURES = before
        raise ConfigError(
            f"{PROCESSOR}={level}: numba has compiled for another processor in this process before: import "
            "ctxdeploy.index.kernels.processor first, or set NUMBA_CPU_NAME and NUMBA_CPU_FEATURES"
        )
    return triple, name, found


def has(*features: str) -> bool:
    """Tell whether numba compiles for a processor with all of LLVM's features."""
    known = target()[2].split(",")
    return all(f"+{feature}" in known for feature in features)


def _features(level: str) -> list[str]:
    if level not in _ADDED:
        raise ConfigError(f"{PROCESSOR}={level} is unknown: give {', '.join(_ADDED)}, or leave it unset for this one")
    levels = list(_ADDED)
    features = [name for one in levels[: levels.index(level) + 1] for name in _ADDED[one].split()]
    here = llvm.get_host_cpu_features()
    if missing := [name for name in features if not here.get(name)]:
        raise ConfigError(
            f"{PROCESSOR}={level}: this processor, {llvm.get_host_cpu_name()}, lacks {', '.join(missing)}: give a "
            "lower level, or leave it unset"
        )
    return features
