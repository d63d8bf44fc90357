"""Where something computes: the CPU, or one of the GPUs of NVIDIA that the driver shows.

The driver itself is asked, by ctypes: neither a package of NVIDIA's nor a context on the GPU is needed. Where there is
no driver, looking for it takes a fraction of a millisecond.
"""

import re
from dataclasses import dataclass
from typing import Any

from ctxdeploy.core.errors import BackendError, ConfigError

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
_NAME = re.compile(r"cuda(?::(\d{1,3}))?")
_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
# Of CUdevice_attribute, and statuses of the driver.
_MAJOR, _MINOR = 75, 76
_NO_DEVICE = 100
_NAME_BYTES = 256


@dataclass(frozen=True, kw_only=True)
class Device:
    """What ``--device`` says.

    Attributes:
        kind: ``auto``, ``cpu`` or ``cuda``.
        number: of the GPU, within those that ``CUDA_VISIBLE_DEVICES`` leaves; 0 of any other kind.
    """

    kind: str = AUTO
    number: int = 0

    @classmethod
    def parse(cls, text: str, flag: str = "--device") -> "Device":
        """Return the device of ``auto``, ``cpu``, ``cuda`` (the first GPU) or ``cuda:N``; else ``ConfigError``.

        ``flag``: what gave it.
        """
        if text in (AUTO, CPU):
            return cls(kind=text)
        found = _NAME.fullmatch(text)
        if found is None:
            raise ConfigError(f"{flag} {text!r} is unknown: give {flag} auto, cpu, cuda or cuda:N")
        return cls(kind=CUDA, number=int(found[1] or 0))

    @property
    def label(self) -> str:
        """Return it as ``--device`` takes it, a GPU with its number."""
        return f"{CUDA}:{self.number}" if self.kind == CUDA else self.kind


class NoGpuError(BackendError):
    """A GPU is not there, or its driver does not work. The message ends with what to do about that."""

    def asked_by(self, what: str, instead: str) -> BackendError:
        """Return the error as the user is told it.

        Args:
            what: asked for the GPU, such as ``--device cuda:0``.
            instead: can be done without it, such as ``give --device cpu``.
        """
        return BackendError(f"{what}: {self}, or {instead}")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as the driver describes it.

    Attributes:
        name: of the model, such as ``NVIDIA A100-SXM4-40GB``.
        capability: of its compute units, such as (8, 0).
        memory: bytes; 0 if not known.
    """

    name: str
    capability: tuple[int, int]
    memory: int = 0

    @property
    def label(self) -> str:
        """Return name and compute capability, such as ``NVIDIA A100 (8.0)``."""
        return f"{self.name} ({self.capability[0]}.{self.capability[1]})"


def gpu_present(number: int = 0) -> Gpu | None:
    """Return a GPU, or None where there is none of that number, or no driver that works."""
    try:
        return find_gpu(number)
    except BackendError:
        return None


def asked_gpu(device: Device, flag: str = "--device", instead: str = "") -> Gpu | None:
    """Return the GPU that a device asks for; None where it asks for none.

    Args:
        device: asked for.
        flag: what gave it, with which the message of an error begins.
        instead: what else can be given; ``cpu`` with the same flag if empty.

    Raises:
        BackendError: it is not there.
    """
    if device.kind != CUDA:
        return None
    try:
        return find_gpu(device.number)
    except NoGpuError as error:
        raise error.asked_by(f"{flag} {device.label}", instead or f"give {flag} {CPU}") from error


def find_gpu(number: int = 0) -> Gpu:
    """Return a GPU by its number within ``CUDA_VISIBLE_DEVICES``; it is asked for its name, and not used.

    The driver is initialised by that: a process that is forked later cannot use the GPU.

    Raises:
        NoGpuError: there is no driver, it does not work, or it shows no such GPU.
    """
    driver = _driver()
    if driver is None:
        raise NoGpuError("there is no NVIDIA driver (libcuda cannot be loaded): run this where the GPU is")
    status = driver.cuInit(0)
    if status not in (0, _NO_DEVICE):
        raise _unusable("cuInit", status)
    count = _integer(driver, "cuDeviceGetCount") if status == 0 else 0
    if not count:
        raise NoGpuError("the NVIDIA driver shows no GPU: check CUDA_VISIBLE_DEVICES")
    if number >= count:
        there = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise NoGpuError(f"there is no GPU cuda:{number}, the NVIDIA driver shows {there}: give another number")
    return _described(driver, _integer(driver, "cuDeviceGet", number))


def _driver() -> Any:
    """Return the driver's library, or None."""
    import ctypes

    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _described(driver: Any, device: int) -> Gpu:
    import ctypes

    name, memory = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    _ask(driver, "cuDeviceGetName", name, _NAME_BYTES, device)
    _ask(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    major, minor = (_integer(driver, "cuDeviceGetAttribute", code, device) for code in (_MAJOR, _MINOR))
    return Gpu(name=name.value.decode(errors="replace"), capability=(major, minor), memory=memory.value)


def _integer(driver: Any, function: str, *arguments: int) -> int:
    """Return the number that a function of the driver writes where its first argument says."""
    import ctypes

    value = ctypes.c_int()
    _ask(driver, function, ctypes.byref(value), *arguments)
    return value.value


def _ask(driver: Any, function: str, *arguments: Any) -> None:
    status = getattr(driver, function)(*arguments)
    if status:
        raise _unusable(function, status)


def _unusable(function: str, status: int) -> NoGpuError:
    return NoGpuError(f"the NVIDIA driver is not usable ({function} returned {status}): check  nvidia-smi")
