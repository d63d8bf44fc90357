"""What a network sees in one photo: maps of its intermediate values, and the edges of its graph, as numbers.

    from ctxdeploy import bundle
    from ctxdeploy.runtime.inspection import inspect_photo

    found = inspect_photo(bundle.open("my-bundle"), "photo.jpg")
    found.levels[0].attention

The values are those of the exported graph in ONNX Runtime: neither PyTorch nor a checkpoint is needed.
"""

from ctxdeploy.runtime.inspection.edges import BlockEdges, Edge
from ctxdeploy.runtime.inspection.inspecting import InspectionConfig, inspect_photo
from ctxdeploy.runtime.inspection.maps import Chosen, Inspection, LevelMaps, SuperFeatures
from ctxdeploy.runtime.inspection.preparation import Preparation

__all__ = [
    "BlockEdges",
    "Chosen",
    "Edge",
    "Inspection",
    "InspectionConfig",
    "LevelMaps",
    "Preparation",
    "SuperFeatures",
    "inspect_photo",
]
