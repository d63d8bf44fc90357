"""What a network sees in one photo: maps of its intermediate values, and the edges of its graph, as numbers.

    from ctxdeploy.core import bundle
    from ctxdeploy.runtime.inspection import inspect_photo

    found = inspect_photo(bundle.open("my-bundle"), "photo.jpg")
    found.levels[0].attention

The values are those of the exported graph in ONNX Runtime: neither PyTorch nor a checkpoint is needed.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.runtime.inspection.inspecting import InspectionConfig, inspect_photo
    from ctxdeploy.runtime.inspection.maps import (
        BlockEdges,
        Chosen,
        Edge,
        Inspection,
        LevelMaps,
        Preparation,
        SuperFeatures,
    )

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

_HOMES = {
    "BlockEdges": "ctxdeploy.runtime.inspection.maps",
    "Chosen": "ctxdeploy.runtime.inspection.maps",
    "Edge": "ctxdeploy.runtime.inspection.maps",
    "Inspection": "ctxdeploy.runtime.inspection.maps",
    "InspectionConfig": "ctxdeploy.runtime.inspection.inspecting",
    "LevelMaps": "ctxdeploy.runtime.inspection.maps",
    "Preparation": "ctxdeploy.runtime.inspection.maps",
    "SuperFeatures": "ctxdeploy.runtime.inspection.maps",
    "inspect_photo": "ctxdeploy.runtime.inspection.inspecting",
}

__getattr__, __dir__ = door(__name__, _HOMES)
