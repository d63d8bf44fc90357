"""The device that trains: which one, what it must be able to do, and how it is made to compute the same again."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ctxdeploy.core.device import AUTO, CPU, Device, NoGpuError, find_gpu
from ctxdeploy.core.errors import BackendError, TrainingError

# cuBLAS sums in one order only with workspaces of its own; it reads this when it is first used.
_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# GPUs before Ampere have no bf16: PyTorch imitates it, more slowly than fp32.
_BF16_FROM = (8, 0)
# Of PyTorch about an operator that may sum in another order in the next run.
_NOT_DETERMINISTIC = ".*does not have a deterministic implementation.*"


def training_device(text: str, precision: str) -> torch.device:
    """Return the device that ``--device`` means; ``auto`` is the first GPU, or the CPU where PyTorch sees none.

    Raises:
        ConfigError: there is no device of that name.
        BackendError: it is not there, this PyTorch cannot use it, or it has not the precision.
    """
    device = Device.parse(text)
    if device.kind == CPU or (device.kind == AUTO and not torch.cuda.is_available()):
        return torch.device("cpu")
    os.environ.setdefault(*_WORKSPACE)
    if not torch.cuda.is_available():
        raise _none_for(device)
    count = torch.cuda.device_count()
    if device.number >= count:
        there = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise BackendError(
            f"--device {device.label}: PyTorch sees {there}: give another number, or give --device {CPU}"
        )
    capability = torch.cuda.get_device_capability(device.number)
    if precision == "bf16" and capability < _BF16_FROM:
        name = torch.cuda.get_device_name(device.number)
        raise BackendError(
            f"--precision bf16: {name} ({capability[0]}.{capability[1]}) computes none: give --precision fp32"
        )
    return torch.device("cuda", device.number)


def _none_for(device: Device) -> BackendError:
    """Return why PyTorch sees no GPU, and what to do."""
    asked, instead = f"--device {device.label}", f"give --device {CPU}"
    if torch.version.cuda is None:
        return BackendError(
            f"{asked}: PyTorch {torch.__version__} is one for CPUs: install one for CUDA (docs/training.md), or "
            f"{instead}"
        )
    try:
        gpu = find_gpu(device.number)
    except NoGpuError as error:
        return error.asked_by(asked, instead)
    return BackendError(
        f"{asked}: PyTorch {torch.__version__} cannot use {gpu.label}: check that the driver is new enough for it, or "
        f"{instead}"
    )


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Let a GPU compute the same again, as a CPU does: one algorithm for each operator, fp32 that is fp32.

    PyTorch's settings are those of the process; they are what they were afterwards. An operator that has no such
    algorithm runs as it is.
    """
    if device.type != "cuda":
        yield
        return
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    memory: Any = torch.utils.deterministic  # a module whose attributes are settings
    filled, tf32 = memory.fill_uninitialized_memory, torch.backends.cuda.matmul.allow_tf32
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with ExitStack() as stack:
            exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            stack.enter_context(exact)
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=_NOT_DETERMINISTIC)
            if device.index:  # else the first GPU would keep a context for what is copied to another
                stack.enter_context(torch.cuda.device(device))
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        memory.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    """Say in one line that the GPU's memory is too small.

    Raises:
        TrainingError: it is.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        total = ""
        if device.type == "cuda":
            total = f" ({torch.cuda.get_device_properties(device).total_memory / 1e9:.0f} GB)"
        raise TrainingError(
            f"the memory of {device}{total} is not enough for this training: give less of --set pairs=, tuples= or "
            "view_size=, and accumulate= for more batches a step"
        ) from error
