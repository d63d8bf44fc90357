"""The fp32 graph of a network as one int8 file that ONNX Runtime, OpenVINO and TensorRT all read.

- ``ctxdeploy.export.int8.layers``: the convolutions and tensors of the trunk, by name;
- ``ctxdeploy.export.int8.calibration``: the range of each tensor, from photos;
- ``ctxdeploy.export.int8.qdq``: QuantizeLinear and DequantizeLinear written into the graph;
- ``ctxdeploy.export.int8.search``: which convolutions must stay fp32.

The trunk alone is quantised; refinement, smoothing, whitening, attention, selection and resizing stay fp32.
"""

from ctxdeploy.export.int8.calibration import Int8Config, Method, Ranges, calibrate
from ctxdeploy.export.int8.layers import layer_names
from ctxdeploy.export.int8.qdq import quantise
from ctxdeploy.export.int8.search import Check, search

__all__ = ["Check", "Int8Config", "Method", "Ranges", "calibrate", "layer_names", "quantise", "search"]
