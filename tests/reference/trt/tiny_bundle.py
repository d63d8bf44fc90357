"""A bundle around a graph of a dozen nodes, with a local function in it: enough to build an engine from."""

import hashlib

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from ctxdeploy.core.bundle import Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.types import Preprocessing

TOP_K, DIM, SIZE = 40, 8, 256


def graph():
    """Return a model that takes photos and selects the 40 largest of their values, halved by ``ctx::Soften``."""
    node, value = helper.make_node, helper.make_tensor_value_info
    constants = {
        "flat": np.array([0, -1], np.int64),
        "k": np.array([TOP_K], np.int64),
        "zero": np.float32(0),
        "last": np.array([-1], np.int64),
        "times_dim": np.array([1, 1, DIM], np.int64),
        "times_two": np.array([1, 1, 2], np.int64),
    }
    half = node("Constant", [], ["half"], value=numpy_helper.from_array(np.float32(0.5), "half"))
    body = [half, node("Mul", ["x", "half"], ["y"])]
    soften = helper.make_function("ctx", "Soften", ["x"], ["y"], body, [helper.make_opsetid("", 20)])
    nodes = [
        node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        node("Reshape", ["values", "flat"], ["rows"]),
        node("Soften", ["rows"], ["soft"], domain="ctx"),
        node("Shape", ["image"], ["batch"], start=0, end=1),
        node("Concat", ["batch", "k"], ["pad_shape"], axis=0),
        node("Expand", ["zero", "pad_shape"], ["pad"]),
        node("Concat", ["soft", "pad"], ["padded"], axis=1),
        node("TopK", ["padded", "k"], ["attention", "index"], axis=1),
        node("Unsqueeze", ["attention", "last"], ["column"]),
        node("Tile", ["column", "times_dim"], ["descriptors"]),
        node("Tile", ["column", "times_two"], ["positions"]),
        node("Neg", ["attention"], ["scales"]),
    ]
    tails = {"descriptors": [DIM], "attention": [], "positions": [2], "scales": []}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [value("image", TensorProto.UINT8, ["B", "H", "W", 3])],
            [value(name, TensorProto.FLOAT, ["B", TOP_K, *tail]) for name, tail in tails.items()],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("ctx", 1)],
        functions=[soften],
        ir_version=10,
    )
    checker.check_model(model)
    return model


def write(folder):
    """Write a bundle whose graph is listed as fp32 and as fp16."""
    folder.mkdir()
    data = graph().SerializeToString()
    sha256 = hashlib.sha256(data).hexdigest()
    artefacts = []
    for file, precision in (("model.onnx", "fp32"), ("model.fp16.onnx", "fp16")):
        (folder / file).write_bytes(data)
        artefacts.append(
            Artefact(
                file=file, sha256=sha256, bytes=len(data), format="onnx", precision=precision, target="onnxruntime"
            )
        )
    Bundle(
        path=folder,
        network={"family": "tiny"},
        source={"file": "none", "sha256": sha256, "weights_sha256": sha256, "format": "none"},
        preprocessing=Preprocessing(image_size=SIZE),
        extraction=Extraction(scales=(1.0,), top_k=TOP_K, dim=DIM),
        shapes=ShapeRange(height=(1, SIZE), width=(1, SIZE)),
        artefacts=tuple(artefacts),
    ).write_manifest()
