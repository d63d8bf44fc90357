"""Which runtime runs a network, and where."""

from dataclasses import dataclass

from ctxdeploy.core.device import AUTO, Device
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.targets import PRECISIONS, TARGETS, choose


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """Which runtime runs the network, and how; ``ConfigError`` for a combination that no runtime has.

    Attributes:
        name: a row of ``ctxdeploy.core.targets``, or ``auto``: on a CPU ONNX Runtime for fp32, OpenVINO for bf16.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        device: ``cpu``, ``cuda`` for the first GPU, ``cuda:N``, or ``auto``: that of the runtime, or what
            ``open_backend`` finds for a bundle.
        cuda_graphs: capture the work of a shape of batches that comes again on a GPU, and launch it as one.
        threads: of the network; if None the runtime's own choice, or that of a CPU quota.
    """

    name: str = setting(AUTO, "--backend", "Runtime; auto is the fastest for the device.", choices=(AUTO, *TARGETS))
    precision: str = setting("fp32", "--precision", "Of the network.", choices=PRECISIONS)
    device: str = setting(
        AUTO,
        "--device",
        "cpu, cuda or cuda:N; auto takes a GPU if it and all that it needs are there.",
        metavar="DEVICE",
    )
    cuda_graphs: bool = setting(
        True,
        "--cuda-graphs/--no-cuda-graphs",
        "Launch what comes again on a GPU at once, instead of kernel by kernel.",
        default_text="cuda-graphs",
    )
    threads: int | None = setting(
        None, "--threads", "Of the network.", default_text="the runtime's choice, or a CPU quota"
    )

    def __post_init__(self) -> None:
        check_types(self)
        choose(self.name, self.precision, self.device)
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ConfigError(f"{self.threads} threads are outside 1..1024: give another --threads")

    @property
    def engine(self) -> str:
        """Name of the runtime that is meant, never ``auto``; a bundle and a machine may have a better one."""
        return choose(self.name, self.precision, self.device)

    @property
    def gpu(self) -> int:
        """Number of the GPU that is meant, for a runtime that needs one."""
        return Device.parse(self.device).number
