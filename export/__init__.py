"""Checkpoints of retrieval networks to verified bundles. Needs the extra ``export``.

- ``ctxdeploy.export.networks``: the networks in PyTorch and the table that names them;
- ``ctxdeploy.export.checkpoint``: the checkpoint formats that load;
- ``ctxdeploy.export.graph.graph``: network to ONNX;
- ``ctxdeploy.export.parity.parity``: what the ONNX graph computes against what PyTorch computes;
- ``ctxdeploy.export.export``: all of it, from a checkpoint to a bundle.
"""
