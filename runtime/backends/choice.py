"""A bundle in the runtime and on the device that a configuration means, on this machine."""

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module

from ctxdeploy.core import device as devices
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import AUTO, Device, Gpu, NoGpuError, asked_gpu, find_gpu, gpu_present
from ctxdeploy.core.errors import BackendError, CtxdeployError, OutOfMemoryError
from ctxdeploy.core.progress import announce, hint
from ctxdeploy.core.targets import CPU_TARGETS, CUDA, ENGINE_TARGETS, TARGETS, choose_for, label_of
from ctxdeploy.runtime.backends.base import Backend, first_line, is_out_of_memory
from ctxdeploy.runtime.backends.config import BackendConfig


def open_backend(bundle: Bundle, config: BackendConfig, flag: str = "--backend") -> Backend:
    """Load a bundle into the runtime that ``config`` means.

    ``auto`` for the runtime and the device is TensorRT if the bundle has an engine for the GPU of this machine, else
    ONNX Runtime on that GPU, else what ``choose_for`` says of the CPU. What does not start is passed over, and said so.
    A GPU that was asked for is never replaced by the CPU.

    Args:
        bundle: opened.
        config: what is wanted.
        flag: what gave the name of the runtime, for messages.

    Raises:
        MissingExtraError, MixedPackagesError: the runtime is not installed, or hidden by another package.
        BackendError: the runtime cannot run the bundle in this precision on this machine.
    """
    search = _Search(bundle, config, flag)
    for found in search:
        try:
            backend = _loaded(bundle, found)
        except CtxdeployError as error:
            if search.may_go_on(found):
                search.obstacles.append(error)
                continue
            if isinstance(error, NoGpuError):
                raise search.told(error) from error
            raise
        search.explain(found)
        return backend
    raise search.reason


def resolve(bundle: Bundle, config: BackendConfig) -> BackendConfig:
    """Return a configuration with the runtime and the device that it means for a bundle here; nothing is loaded.

    Raises:
        As ``open_backend``, for a GPU that was asked for and is not there or cannot be used.
    """
    search = _Search(bundle, config)
    for found in search:
        if found.name not in CPU_TARGETS and search.gpu is None:
            try:
                find_gpu(found.gpu)
            except NoGpuError as error:
                raise search.told(error) from error
        return found
    raise search.reason


def _loaded(bundle: Bundle, config: BackendConfig) -> Backend:
    entry = TARGETS[config.name]
    try:
        backend: Backend = getattr(import_module(entry.module), entry.class_name)(bundle, config)
    except RuntimeError as error:  # of CUDA itself; what a runtime says of a model is of a class of ours already
        kind = OutOfMemoryError if is_out_of_memory(error) else BackendError
        raise kind(f"{entry.label} cannot start on {config.device}: {_meant(error)}") from error
    return backend


def _meant(error: RuntimeError) -> str:
    said = first_line(error)
    if "InsufficientDriver" not in said:
        return f"{said}: check  nvidia-smi"
    return (
        f"the driver is older than the CUDA of the packages ({said}): CUDA 13 needs 580 or later; update it, or "
        "install the extra cuda12 in a new environment"
    )


class _Search:
    """What ``auto`` may mean, the best first.

    Attributes:
        gpu: that is there, where one was looked for.
        obstacles: why what would have been better cannot be had.
    """

    def __init__(self, bundle: Bundle, config: BackendConfig, flag: str = "--backend") -> None:
        self._bundle, self._config, self._flag = bundle, config, flag
        self._device = Device.parse(config.device)
        self.gpu: Gpu | None = None
        self.obstacles: list[CtxdeployError] = []

    def __iter__(self) -> Iterator[BackendConfig]:
        config, device = self._config, self._device
        if config.name != AUTO:
            there = Device(kind=devices.CPU if config.name in CPU_TARGETS else devices.CUDA, number=device.number)
            yield replace(config, device=there.label)
            return
        if device.kind == devices.CUDA:
            self.gpu = asked_gpu(device, instead=self._instead)
        elif device.kind == AUTO:
            self.gpu = gpu_present()
        if self.gpu is not None:
            from ctxdeploy.runtime.backends.obstacle import obstacle_of  # 4 ms, which a machine without a GPU saves

            for name in (*ENGINE_TARGETS, CUDA):
                obstacle = obstacle_of(self._bundle, name, config.precision, self.gpu)
                if obstacle is None:
                    yield replace(config, name=name, device=Device(kind=devices.CUDA, number=device.number).label)
                else:
                    self.obstacles.append(obstacle)
        if device.kind != devices.CUDA:
            name = choose_for(self._bundle, config.precision)
            if name in CPU_TARGETS:
                yield replace(config, name=name, device=devices.CPU)
            elif self.gpu is None:
                self.obstacles.append(self._none_for_precision())

    def may_go_on(self, found: BackendConfig) -> bool:
        """Return whether something else may do, where what was found does not start."""
        return self._config.name == AUTO and found.name not in CPU_TARGETS

    def explain(self, found: BackendConfig) -> None:
        """Say what was taken, where there was a choice: what is used of a GPU, or what would use it."""
        if self.gpu is None:
            return
        if found.name in CPU_TARGETS:
            hint("gpu", f"the network runs on the CPU; {self.gpu.label} is there as well, but {self.reason}")
            return
        why = "the bundle has an engine for it" if found.name in ENGINE_TARGETS else f"{self.obstacles[0]}"
        announce(f"{label_of(found.name)} runs the network on {found.device}, {self.gpu.label}: {why}")

    def told(self, error: NoGpuError) -> BackendError:
        """Return the error of a GPU that is not there, with the flags that asked for it and what to give instead."""
        flags = [] if self._config.name == AUTO else [f"{self._flag} {self._config.name}"]
        flags += [f"--device {self._device.label}"] if self._device.kind == devices.CUDA else []
        return error.asked_by(" ".join(flags), self._instead)

    @property
    def _instead(self) -> str:
        """What can be given where there is no GPU."""
        able = choose_for(self._bundle, self._config.precision)
        if able not in CPU_TARGETS:
            return "give another --precision"
        if self._config.name == AUTO:
            return f"give --device {devices.CPU}"
        alone = "" if self._device.kind == AUTO else " without --device"
        return f"give {self._flag} {able}{alone}"

    @property
    def reason(self) -> CtxdeployError:
        """Why no runtime uses the GPU: that of ONNX Runtime, which needs no engine, where it has the precision."""
        return self.obstacles[-1] if self._config.precision in TARGETS[CUDA].precisions else self.obstacles[0]

    def _none_for_precision(self) -> CtxdeployError:
        """Return why a precision that no CPU has cannot be had."""
        try:
            find_gpu(0)
        except BackendError as error:
            return BackendError(
                f"--precision {self._config.precision} runs on a GPU alone: {error}, or give another --precision"
            )
        return BackendError(
            f"--precision {self._config.precision} runs on a GPU alone, and none was found: start again"
        )
