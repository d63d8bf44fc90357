"""Where the time of an extraction goes."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(kw_only=True)
class Flow:
    """Seconds and counts of one ``Extractor.extract``, growing while it runs.

    Reading and decoding run beside each other and beside the network: their seconds are summed over all workers.
    Waiting and network are seconds of the thread that takes the results: they add up to at most the time that passed.

    Attributes:
        photos: results so far, failures among them.
        failed: failures.
        read: reading photos that are no files (tar, servers).
        decode: decoding and scaling; for files reading too.
        waiting: the network had nothing to do, for no photo was ready.
        network: the network ran.
        replaced_workers: processes that died or hung.
        halved_batches: batches that did not fit into memory.
    """

    photos: int = 0
    failed: int = 0
    read: float = 0.0
    decode: float = 0.0
    waiting: float = 0.0
    network: float = 0.0
    replaced_workers: int = 0
    halved_batches: int = 0

    def metadata(self) -> dict[str, Any]:
        """Return the figures as JSON prints them."""
        return asdict(self)
