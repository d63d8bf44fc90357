"""Checkpoints of retrieval networks to bundles of verified artefacts. Needs the extra ``export``.

    from ctxdeploy.evaluation import AsmkRetrieval
    from ctxdeploy.export import ExportConfig, export_bundle

    config = ExportConfig(targets=("onnxruntime", "openvino"))
    bundle = export_bundle("how.pth", "how.ctxbundle", config, retrieval=AsmkRetrieval).check()

- ``networks``: the networks in PyTorch, and the table that names them;
- ``graph``: a network to ONNX, and its mixed precision; ``int8``: the same graph in int8;
- ``parity``: what an artefact computes against what PyTorch computes;
- ``tensorrt``: engines; ``diff``: the first layer where two artefacts diverge.

The names are imported on first use; ``import ctxdeploy.export`` loads nothing.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.export.bundle_builder import REJECTED
    from ctxdeploy.export.checkpoint import Checkpoint, load_checkpoint
    from ctxdeploy.export.checkpoint_writer import save_checkpoint, save_tensors
    from ctxdeploy.export.export import ExportConfig, Exported, export_bundle
    from ctxdeploy.export.tensor_bundle import TensorBundle
    from ctxdeploy.export.triton import TritonConfig, write_model_repository
    from ctxdeploy.export.untrained import untrained_network

__all__ = [
    "REJECTED",
    "Checkpoint",
    "ExportConfig",
    "Exported",
    "TensorBundle",
    "TritonConfig",
    "export_bundle",
    "load_checkpoint",
    "save_checkpoint",
    "save_tensors",
    "untrained_network",
    "write_model_repository",
]

_HOMES = {
    "Checkpoint": "checkpoint",
    "ExportConfig": "export",
    "Exported": "export",
    "REJECTED": "bundle_builder",
    "TensorBundle": "tensor_bundle",
    "TritonConfig": "triton",
    "export_bundle": "export",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint_writer",
    "save_tensors": "checkpoint_writer",
    "untrained_network": "untrained",
    "write_model_repository": "triton",
}

__getattr__, __dir__ = door(__name__, _HOMES)
