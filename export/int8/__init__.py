"""The fp32 graph of a network as one int8 file that ONNX Runtime, OpenVINO and TensorRT all read, and as fp8.

- ``layers``: the convolutions and tensors of the trunk, by name;
- ``calibration``: the range of each tensor, from photos;
- ``qdq``: QuantizeLinear and DequantizeLinear in the graph; ``fp8``: its numbers;
- ``search``: which convolutions must stay fp32.

The trunk alone is quantised; refinement, smoothing, whitening, attention, selection and resizing stay fp32.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.export.int8.calibration import Int8Config

__all__ = ["Int8Config"]

_HOMES = {"Int8Config": "calibration"}

__getattr__, __dir__ = door(__name__, _HOMES)
