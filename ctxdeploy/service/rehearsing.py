"""What a service does before it is ready, so that the first request waits for nothing."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, StorageError
from ctxdeploy.index import warm_up
from ctxdeploy.query import QueryConfig
from ctxdeploy.service.logs import log
from ctxdeploy.service.readiness import Readiness

if TYPE_CHECKING:
    from ctxdeploy.runtime import ExtractionObserver
    from ctxdeploy.service.archives import Archives, ServedArchive


def rehearse(archives: "Archives", readiness: Readiness, observer: "ExtractionObserver") -> None:
    """Compile what searches run, load the networks, and answer once from each archive."""
    readiness.step("compiling kernels")
    try:
        found = warm_up()
        if not found.kept:
            log.warning(
                f"{found.compiled} loops were compiled in {found.seconds:.0f} s and could not be kept, so that every "
                "start compiles them: fill a folder ahead with  CTXDEPLOY_CACHE=FOLDER ctxdeploy warm-up  ; and set "
                "CTXDEPLOY_CACHE here"
            )
    except StorageError as error:  # no temporary folder: asking compiles most of it as well
        log.warning(str(error))
    for served in archives:
        readiness.step(f"loading the model of {served.name}")
        archives.load(served, observer)
    for served in archives:
        readiness.step(f"asking {served.name} once")
        _ask(served)


def _ask(served: "ServedArchive") -> None:
    """Ask with a photo in the ways that have code of their own."""
    if not len(served.photos) or served.extractor is None:
        return
    for config in (QueryConfig(turn="none"), QueryConfig(turn="none", verify=1)):
        try:
            for _ in served.photos.search_many([sample()], config):
                pass
        except ConfigError:  # it keeps nothing to verify by
            continue


def sample() -> NDArray[np.uint8]:
    """Return a small photo, of noise, 96×128×3 uint8."""
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
