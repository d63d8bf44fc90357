"""What an artefact computes against what a reference computes, in the figures that decide about retrieval.

- ``parity``: figures, tolerances and the verdict, ``global_parity`` those of global descriptors; ``agreement``: of the
  answers; ``matching``: which row of one side is which of the other's;
- ``parity_run``: the photos and what the reference made of them; ``photos``: where they come from;
- ``decoders``: the pixels of a model's decoder beside libjpeg's;
- ``verify``: an artefact, or a whole bundle, in the engines of this machine.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.export.parity.agreement import Agreement
    from ctxdeploy.export.parity.decoders import DecoderDifference, compare_decoders
    from ctxdeploy.export.parity.global_parity import GLOBAL_TOLERANCES, GlobalParity
    from ctxdeploy.export.parity.matching import Matching
    from ctxdeploy.export.parity.parity import TOLERANCES, Image, Parity, Run
    from ctxdeploy.export.parity.parity_run import ParityPhotos, ParityRun, Retrieval
    from ctxdeploy.export.parity.photos import decoded, folder_calibration, folder_parity_photos, sample_parity_photos
    from ctxdeploy.export.parity.verify import Verified, record_parity, torch_runner, verify_bundle

__all__ = [
    "GLOBAL_TOLERANCES",
    "TOLERANCES",
    "Agreement",
    "DecoderDifference",
    "GlobalParity",
    "Image",
    "Matching",
    "Parity",
    "ParityPhotos",
    "ParityRun",
    "Retrieval",
    "Run",
    "Verified",
    "compare_decoders",
    "decoded",
    "folder_calibration",
    "folder_parity_photos",
    "record_parity",
    "sample_parity_photos",
    "torch_runner",
    "verify_bundle",
]

_HOMES = {
    "Agreement": "agreement",
    "DecoderDifference": "decoders",
    "GLOBAL_TOLERANCES": "global_parity",
    "GlobalParity": "global_parity",
    "Image": "parity",
    "Matching": "matching",
    "Parity": "parity",
    "ParityPhotos": "parity_run",
    "ParityRun": "parity_run",
    "Retrieval": "parity_run",
    "Run": "parity",
    "TOLERANCES": "parity",
    "Verified": "verify",
    "compare_decoders": "decoders",
    "decoded": "photos",
    "folder_calibration": "photos",
    "folder_parity_photos": "photos",
    "record_parity": "verify",
    "sample_parity_photos": "photos",
    "torch_runner": "verify",
    "verify_bundle": "verify",
}

__getattr__, __dir__ = door(__name__, _HOMES)
