"""The precisions of a network: one table that export, bundles and runtimes share."""

from enum import Enum

from ctxdeploy.errors import ConfigError


class Precision(Enum):
    """Arithmetic of a network's convolutions and matrix products, and the ONNX file that is written for it.

    Norms, attention, exponentials, row sums and the values given to TopK are fp32 in every one of them.
    """

    FP32 = ("fp32", "model.onnx")
    FP16 = ("fp16", "model.fp16.onnx")
    BF16 = ("bf16", "model.bf16.onnx")
    INT8 = ("int8", "model.int8.onnx")

    def __init__(self, label: str, file: str) -> None:
        self.label = label
        self.file = file

    @classmethod
    def parse(cls, label: str) -> "Precision":
        """Return the member of a label; ``ConfigError`` names those there are."""
        for member in cls:
            if member.label == label:
                return member
        raise ConfigError(f"precision {label!r} is unknown: give --precision {', '.join(m.label for m in cls)}")
