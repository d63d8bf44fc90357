"""Photos to descriptors as JSON or safetensors. It runs in threads."""

import time

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.text import json_text
from ctxdeploy.core.types import Box
from ctxdeploy.service.archives import ServedArchive
from ctxdeploy.service.record import RequestRecord

SAFETENSORS = "application/x-safetensors"


def described(served: ServedArchive, photo: bytes, box: Box | None, as_tensors: bool, record: RequestRecord) -> bytes:
    """Return what the model of an archive finds in a photo, as ``Descriptors`` says in JSON, or as a file of tensors.

    Raises:
        PhotoError, DeadlineError: as ``PhotoIndex.describe``.
    """
    since = time.perf_counter()
    found = served.photos.describe(photo, box=box, deadline=record.deadline)
    record.seconds["extract"] = time.perf_counter() - since
    local, whole = found.descriptors, found.global_descriptor
    tensors: dict[str, NDArray[np.float32]] = {
        "vectors": local.vectors,
        "attention": local.attention,
        "positions": local.positions,
        "scales": local.scales,
    }
    model = served.photos.bundle.model_id
    if as_tensors:
        return _file(tensors | ({} if whole is None else {"global": whole.vector}), model, found.size)
    facts = {
        "archive": served.name,
        "model": model,
        "size": None if found.size is None else list(found.size),
        "box": None if box is None else [box.x0, box.y0, box.x1, box.y1],
        **{name: array.tolist() for name, array in tensors.items()},
        "global_vector": None if whole is None else whole.vector.tolist(),
        "seconds": {**record.seconds, "total": record.total},
    }
    return json_text(facts).encode()


def _file(tensors: dict[str, NDArray[np.float32]], model: str, size: tuple[int, int] | None) -> bytes:
    from safetensors.numpy import save

    facts = {"model": model} | ({} if size is None else {"width": str(size[0]), "height": str(size[1])})
    return bytes(save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata=facts))
