"""What a service does before it is ready, so that the first request waits for nothing."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, ShardError, StorageError
from ctxdeploy.core.progress import Display
from ctxdeploy.index import warm_up
from ctxdeploy.query import QueryConfig
from ctxdeploy.querying.photo import IndexedPhoto, Photo
from ctxdeploy.service.logs import log
from ctxdeploy.service.readiness import Readiness

if TYPE_CHECKING:
    from ctxdeploy.runtime import ExtractionObserver
    from ctxdeploy.service.archives import Archives, ServedArchive


class LogDisplay(Display):
    """Says in the log what is announced far below: that loops are compiled, and why."""

    def __init__(self) -> None:
        super().__init__(quiet=False)

    def say(self, text: str) -> None:
        """Log a remark, with what keeps it from coming again."""
        advice = "" if "warm-up" in text else "; `ctxdeploy warm-up` does this beforehand"
        log.warning(text + advice if text.startswith("compiling") else text)


def rehearse(archives: "Archives", readiness: Readiness, observer: "ExtractionObserver") -> None:
    """Compile what searches run, load the networks, and answer once from each archive."""
    compile_kernels(readiness)
    for served in archives:
        readiness.step(f"loading the model of {served.name}")
        archives.load(served, observer)
    for served in archives:
        readiness.step(f"asking {served.name} once")
        _ask(served)
        readiness.step(f"sorting the names of {served.name}")
        served.sort_names()


def compile_kernels(readiness: Readiness) -> None:
    """Compile what searches run, and log how long that took."""
    readiness.step("compiling search kernels")
    try:
        _compile()
    except StorageError as error:  # no temporary folder: asking compiles most of it as well
        log.warning(str(error))


def _compile() -> None:
    found = warm_up()
    if not found.compiled:
        return
    text = f"{found.compiled} search kernels were compiled in {found.seconds:.0f} s"
    if found.kept:
        log.info(f"{text} and are kept in {found.folder}")
    else:
        log.warning(
            f"{text} and could not be kept, so that every start compiles them: fill a folder ahead with  "
            "CTXDEPLOY_CACHE=FOLDER ctxdeploy warm-up  ; and set CTXDEPLOY_CACHE here"
        )


def _ask(served: "ServedArchive") -> None:
    """Ask with a photo in the ways that have code of their own; without a network, with one of the archive's."""
    if not len(served.photos):
        return
    asked: Photo | IndexedPhoto = sample()
    if served.extractor is None:
        with served.photos.reading() as index:
            asked = IndexedPhoto(name=next(iter(index.names())))
    for config in (QueryConfig(turn="none"), QueryConfig(turn="none", verify=1)):
        try:
            for _ in served.photos.search_many([asked], config):
                pass
        except (ConfigError, ShardError):  # it keeps nothing to verify by, or a shard server went away
            continue


def sample() -> NDArray[np.uint8]:
    """Return a small photo, of noise, 96×128×3 uint8."""
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
