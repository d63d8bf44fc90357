"""Engines of TensorRT and TensorRT-RTX: for which machine one was built, and whether that is this machine.

Shared by ``ctxdeploy.export``, which builds engines, and ``ctxdeploy.runtime``, which runs them. The package itself is
passed around as ``trt``: ``tensorrt`` or ``tensorrt_rtx``, whose names are nearly the same.
"""

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.device import Gpu
from ctxdeploy.core.errors import BackendError, MissingExtraError
from ctxdeploy.core.extras import check_unmixed
from ctxdeploy.core.files import settings_sha256
from ctxdeploy.core.rivals import RIVALS
from ctxdeploy.core.targets import TARGETS, TENSORRT_RTX, label_of

if TYPE_CHECKING:
    import tensorrt as trt

# Compute capabilities that a plan of TensorRT-RTX has kernels for when none is asked for; "+" means that and later.
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0+")
# The one step between major versions that version-compatible engines survive (NVIDIA's support matrix of 11.4.1).
_MAJOR_STEPS = ((10, 11),)


class Hardware(Enum):
    """GPUs that an engine runs on: the model it was built on, Ampere and later, or any of the same capability."""

    NONE = "none"
    AMPERE_PLUS = "ampere-plus"
    SAME_COMPUTE_CAPABILITY = "same-compute-capability"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What an engine meets when it is loaded: target, version of its package, and the GPU."""

    target: str
    version: str
    gpu: Gpu


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What an engine depends on.

    Attributes:
        target: ``tensorrt`` or ``tensorrt-rtx``.
        version: of that package.
        gpu: model it was built on; None for TensorRT-RTX, which builds for compute capabilities.
        capabilities: such as ``8.9``, or ``12.0+`` for that and later ones.
        version_compatible: whether later versions may load it.
        hardware: GPUs that may run it.
        plugins: sha256 of the code of each kernel of ours in it, by name; nothing has to be loaded for them.
        options: all other settings of the build.
    """

    target: str
    version: str
    gpu: str | None
    capabilities: tuple[str, ...]
    version_compatible: bool = False
    hardware: Hardware = Hardware.NONE
    plugins: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """Return twelve hex digits that differ between keys."""
        return settings_sha256(self.metadata())[:12]

    def metadata(self) -> dict[str, Any]:
        """Return a JSON-serialisable form that ``parse`` reads."""
        return {**asdict(self), "capabilities": list(self.capabilities), "hardware": self.hardware.value}

    @classmethod
    def parse(cls, metadata: Mapping[str, Any]) -> "EngineKey":
        """Return the key that ``metadata`` wrote; ``BackendError`` where it is not valid."""
        try:
            key = cls(
                **{
                    **metadata,
                    "capabilities": tuple(metadata["capabilities"]),
                    "hardware": Hardware(metadata["hardware"]),
                }
            )
            for text in (key.version, *(capability.rstrip("+") for capability in key.capabilities)):
                _numbers(text)
            # What these hold decides which machine runs the engine, and what code.
            if not key.capabilities or type(key.version_compatible) is not bool or type(key.plugins) is not dict:
                raise ValueError("an entry is of another type, or empty")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BackendError(f"the engine's key is not valid ({error!r}): build it anew") from error
        return key


def check_key(details: Mapping[str, Any], here: Machine, *, precision: str, bundle: str = "BUNDLE") -> None:
    """Raise ``BackendError``, in one line with the command to build it anew, unless an engine may run on a machine.

    Args:
        details: of the engine's ``Artefact``; its ``key`` is the metadata of an ``EngineKey``.
        here: the machine.
        precision: of the engine, for the command in the message.
        bundle: what the command in the message names.
    """
    command = f"run  ctxdeploy build {bundle} --target {here.target} --precision {precision}"
    if "key" not in details:
        raise BackendError(f"the engine has no key that says which machine it was built for: {command}")
    key = EngineKey.parse(details["key"])
    differences = _differences(key, here)
    if differences:
        there = f"{key.gpu} ({key.capabilities[0]})" if key.gpu else f"capabilities {', '.join(key.capabilities)}"
        raise BackendError(
            f"engine was built for {there} with {label_of(key.target)} {key.version}, here is "
            f"{here.gpu.label} with {label_of(here.target)} {here.version} ({', '.join(differences)}): {command}"
        )


def _differences(key: EngineKey, here: Machine) -> list[str]:
    if key.target != here.target:
        return ["another package"]
    found = []
    if not _version_fits(key, here.version):
        found.append("another version")
    if not _gpu_fits(key, here.gpu):
        found.append("another GPU")
    return found


def _version_fits(key: EngineKey, version: str) -> bool:
    if key.version == version:
        return True
    built, running = _numbers(key.version), _numbers(version)
    same = built[0] == running[0] or (built[0], running[0]) in _MAJOR_STEPS
    return key.version_compatible and same and running >= built


def _gpu_fits(key: EngineKey, gpu: Gpu) -> bool:
    built = [(_numbers(text.rstrip("+")), text.endswith("+")) for text in key.capabilities]
    if key.target == TENSORRT_RTX:
        return any(gpu.capability == low or (later and gpu.capability >= low) for low, later in built)
    if key.hardware is Hardware.AMPERE_PLUS:
        return gpu.capability >= (8, 0)
    same = (gpu.capability, False) in built
    return same and (key.hardware is Hardware.SAME_COMPUTE_CAPABILITY or key.gpu == gpu.name)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal()) or (int(version),)


def import_package(target: str) -> Any:
    """Return the module of a target, which may be missing or broken; nothing of it is constructed."""
    module, extra = TARGETS[target].package, TARGETS[target].extra
    if module in RIVALS:
        check_unmixed(module)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise MissingExtraError(module, extra) from error
        raise BackendError(f"{module} cannot be imported: {error}") from error
    except (ImportError, OSError) as error:  # a library of NVIDIA's that is not there
        raise BackendError(f"{module} cannot be imported: {error}") from error


def make_log(trt: Any) -> Any:
    """Return a logger with the list ``errors`` of what was reported as one, in the order of time."""

    class Log(trt.ILogger):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: "trt.ILogger.Severity", msg: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(msg)

    return Log()


def logged_errors(log: Any) -> str:
    """Return the errors that a logger recorded, each once, in one line of at most 600 characters."""
    lines = dict.fromkeys(" ".join(message.split()) for message in log.errors)
    return "; ".join(lines)[:600] or "no reason given"
