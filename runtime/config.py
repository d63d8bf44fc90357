"""Settings: which photos are refused, how they flow, how servers are asked.

The command line makes its options from these classes, so that nothing but ``ctxdeploy.core`` is imported here.
"""

import os
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from ctxdeploy.core.cpu import available_processors
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types, parse_bytes, setting

# A larger file is not a photo: reading it would only fill the memory.
MAX_BYTES = 2 << 30
MAX_PIXELS = 178_956_970  # twice Pillow's MAX_IMAGE_PIXELS, where Pillow itself starts to refuse
# Stands in the reason of a photo that has more. Reasons cross processes as texts.
TOO_MANY_PIXELS = "the limit against decompression bombs"

# The network may take so many times as long as a photo may take to decode: ResNet-101 with seven scales takes half a
# minute on one slow core, and ten such processes may share it.
NETWORK_TIMES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """Which photos are refused, and whether damaged ones are taken.

    Attributes:
        max_pixels: a photo with more, as its header says, is refused before it is decoded.
        accept_truncated: take a photo whose end is missing; what is missing is grey.
    """

    max_pixels: int = setting(MAX_PIXELS, "--max-pixels", "A photo with more has failed.", metavar="N")
    accept_truncated: bool = setting(
        False, "--accept-truncated", "Take photos whose end is missing; what is missing is grey."
    )

    def __post_init__(self) -> None:
        check_types(self)
        if not 1 <= self.max_pixels <= 1 << 32:
            raise ConfigError(f"--max-pixels {self.max_pixels} is outside 1..{1 << 32}")

    def metadata(self) -> dict[str, Any]:
        """Return the limits as JSON prints them."""
        return asdict(self)


DEFAULT_LIMITS = DecodeLimits()


def default_workers() -> int:
    """Return how many workers there are unless told: one for two processors it may use, from 2 to 16.

    With the network on two cores one is enough: it waited 1 % of its time for photos of 6 megapixels (ResNet-18 in
    bf16). The second is for the photo that takes long.
    """
    return min(max(available_processors() // 2, 2), 16)


@dataclass(frozen=True, kw_only=True)
class ExtractorConfig:
    """How photos flow.

    Attributes:
        batch_size: photos of one size that the network takes at once; if None as many as suit the backend
            (``Backend.fitting_batch``), which an ``Extractor`` writes here.
        workers: so many photos are decoded, and files read, at the same time.
        isolated: decode in worker processes: a photo that crashes the decoder or takes too long is a failure, and the
            others go on. Otherwise photos are decoded in threads of this process, without a time limit. A process takes
            0.2 s to start and 38 MB; a photo then costs 0.5 ms more (1.05 of the time of a JPEG of 6 megapixels, 1.3 of
            one of 2 ms), and the whole run no more than with threads, since the network takes longer than either.
        photo_timeout: seconds that a photo may take to decode, and to be read; the network may take ten times as long.
        read_threads: threads that read photos which are not files (members of tar and zip files, photos of
            servers).
        lookahead: photos that may be decoded ahead of the network (3 MB each at 1024 pixels).
        max_pending: decoded photos that may wait for others of their size.
        max_age: a photo that waits leaves when this many others came after it.
        limits: which photos are refused.
        memory_limit: bytes for this process and its workers together, of which photos, workers and batches take their
            share (``ctxdeploy.runtime.memory``); no limit if None.
    """

    workers: int = setting(
        default_factory=default_workers,
        flag="--workers",
        help="Processes that read and decode photos.",
        metavar="N",
        default_text="fits the cores",
    )
    batch_size: int | None = setting(
        None,
        "--batch-size",
        "Photos of one size that the network takes at once.",
        metavar="N",
        default_text="1 on a CPU, on a GPU what fits it",
    )
    read_threads: int = setting(
        8, "--read-threads", "Photos read at once from servers, tar and zip files.", metavar="N"
    )
    photo_timeout: float = setting(
        60.0,
        "--photo-timeout",
        "A photo that takes longer to read or decode, or ten times as long in the network, has failed.",
        metavar="SECONDS",
    )
    isolated: bool = os.name == "posix"
    lookahead: int = 8
    max_pending: int = 64
    max_age: int = 256
    limits: DecodeLimits = DEFAULT_LIMITS
    memory_limit: int | None = setting(
        None, "--memory-limit", "Of the whole command, such as 4GB.", metavar="SIZE", parse=parse_bytes
    )

    def __post_init__(self) -> None:
        check_types(self)
        if not 1 <= self.workers <= 256:
            raise ConfigError(f"{self.workers} workers are outside 1..256: give another --workers")
        if not 1 <= self.read_threads <= 256:
            raise ConfigError(f"{self.read_threads} reading threads are outside 1..256: give another --read-threads")
        if not 0 < self.photo_timeout <= 86_400:
            raise ConfigError(
                f"{self.photo_timeout:g} s for a photo are not within a day: give another --photo-timeout"
            )
        if self.isolated and os.name != "posix":
            raise ConfigError("worker processes need Linux or macOS: give isolated=False")
        if self.lookahead < 1:
            raise ConfigError(f"lookahead {self.lookahead} is below 1")
        if self.memory_limit is not None and self.memory_limit < 1:
            raise ConfigError(
                f"a memory limit of {self.memory_limit} bytes is not positive: give another --memory-limit"
            )
        if self.batch < 1:
            raise ConfigError(f"batch size {self.batch_size} is below 1: give another --batch-size")
        if self.max_pending < 1 or self.max_age < 1:
            raise ConfigError(f"max_pending {self.max_pending} and max_age {self.max_age} must be at least 1")

    @property
    def batch(self) -> int:
        """Photos of one size that the network takes at once; 1 where nothing is said."""
        return 1 if self.batch_size is None else self.batch_size

    def in_force(self, image_size: int, waiting: int | None) -> "ExtractorConfig":
        """Return the settings that an extraction runs with.

        All workers have photos, and a batch can wait until it is full. Within a limit of memory, half of the photos
        that wait are ahead of the network and half wait for others of their size.

        Args:
            image_size: longest side of a decoded photo in pixels.
            waiting: bytes for decoded photos that wait; no limit if None.
        """
        lookahead, max_pending = (
            max(self.lookahead, self.workers, self.batch),
            max(self.max_pending, self.batch),
        )
        if waiting is None:
            return replace(self, lookahead=lookahead, max_pending=max_pending)
        max_photos = max(waiting // (6 * image_size**2), 1)
        return replace(
            self,
            batch_size=min(self.batch, max_photos),
            max_pending=min(max_pending, max_photos),
            lookahead=min(lookahead, max(max_photos, self.workers)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteConfig:
    """How servers are asked.

    Attributes:
        attempts: at most so many requests for one photo, or for one page of a listing.
        backoff: seconds before the second attempt; doubled before each further one. Each pause is shortened at random
            by up to half, so that threads that failed together do not come back together.
        connect_timeout: seconds to connect.
        timeout: seconds for one request, from connecting to the last byte.
        allow_protocols: that a list may name beside file, http, https, s3 and gs.
    """

    attempts: int = 5
    backoff: float = 0.5
    connect_timeout: float = 10.0
    timeout: float = 60.0
    allow_protocols: tuple[str, ...] = setting(
        (),
        "--allow-protocol",
        "Let a list name URLs of this kind too; may be repeated.",
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        check_types(self)
        for name in self.allow_protocols:
            if re.fullmatch("[a-z][a-z0-9+.-]*", name) is None:
                raise ConfigError(f"--allow-protocol {name!r} is not the beginning of a URL such as sftp")
        if self.attempts < 1:
            raise ConfigError(f"{self.attempts} attempts are too few: give at least 1")
        if not (self.backoff >= 0 and self.connect_timeout > 0 and self.timeout > 0):
            raise ConfigError(f"{self}: its seconds must be positive")
