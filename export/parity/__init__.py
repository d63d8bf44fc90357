"""What an artefact computes against what a reference computes, in the figures that decide about retrieval.

- ``parity``: figures, tolerances and the verdict; ``matching``: which row of one side is which of the other's;
- ``parity_run``: the photos and what the reference made of them; ``photos``: where they come from;
- ``verify``: an artefact, or a whole bundle, in the engines of this machine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxdeploy.export.parity.matching import Matching
    from ctxdeploy.export.parity.parity import (
        TOLERANCES,
        Agreement,
        Image,
        Outputs,
        Parity,
        PhotoParity,
        Run,
        compare_photo,
    )
    from ctxdeploy.export.parity.parity_run import ParityPhotos, ParityRun, Retrieval
    from ctxdeploy.export.parity.photos import (
        folder_calibration,
        folder_parity_photos,
        sample_calibration,
        sample_parity_photos,
        with_odd_shapes,
    )
    from ctxdeploy.export.parity.verify import Verified, measure, record_parity, runs_in, torch_runner, verify_bundle

__all__ = [
    "TOLERANCES",
    "Agreement",
    "Image",
    "Matching",
    "Outputs",
    "Parity",
    "ParityPhotos",
    "ParityRun",
    "PhotoParity",
    "Retrieval",
    "Run",
    "Verified",
    "compare_photo",
    "folder_calibration",
    "folder_parity_photos",
    "measure",
    "record_parity",
    "runs_in",
    "sample_calibration",
    "sample_parity_photos",
    "torch_runner",
    "verify_bundle",
    "with_odd_shapes",
]

_HOMES = {
    "Agreement": "parity",
    "Image": "parity",
    "Matching": "matching",
    "Outputs": "parity",
    "Parity": "parity",
    "ParityPhotos": "parity_run",
    "ParityRun": "parity_run",
    "PhotoParity": "parity",
    "Retrieval": "parity_run",
    "Run": "parity",
    "TOLERANCES": "parity",
    "Verified": "verify",
    "compare_photo": "parity",
    "folder_calibration": "photos",
    "folder_parity_photos": "photos",
    "measure": "verify",
    "record_parity": "verify",
    "runs_in": "verify",
    "sample_calibration": "photos",
    "sample_parity_photos": "photos",
    "torch_runner": "verify",
    "verify_bundle": "verify",
    "with_odd_shapes": "photos",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
