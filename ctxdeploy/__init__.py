"""From a trained local-descriptor network to a photo archive that answers queries.

The parts are imported on their own, so that none pays for another's dependencies:

- ``ctxdeploy.export``: networks and checkpoints to verified ONNX bundles (needs the extra ``export``);
- ``ctxdeploy.runtime``: photos to local descriptors through a bundle (needs the extra ``cpu``);
- ``ctxdeploy.index``: descriptors to an ASMK archive, and search in it;
- ``ctxdeploy.core.bundle``: the folder that carries a network from the first part to the second.
"""

from pathlib import Path

# In the root of a checkout Python finds this folder before the installed package. The three subpackages are then not in
# it, but beside it.
if not Path(__file__).with_name("index").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

__version__ = "0.1.0"
