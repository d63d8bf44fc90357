"""How long all photos take to be extracted, and what lost machines cost meanwhile."""

from dataclasses import dataclass

from ctxdeploy.capacity.costs import Costs
from ctxdeploy.capacity.figures import BYTES, COUNT, RATE, SECONDS, figure
from ctxdeploy.capacity.storage import Holdings
from ctxdeploy.capacity.subject import Subject

_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class ExtractionTimes:
    """All photos through the network, on all machines."""

    rate: float = figure("photos a second, all machines", RATE)
    seconds: float = figure("all photos", SECONDS)
    limit: str
    last_list: float = figure("longer at most, while the last lists run", SECONDS)
    losses: float = figure("machines lost meanwhile, expected", COUNT)
    redone: float = figure("work done twice for them, of one machine", SECONDS)
    photo_bytes: float = figure("read: files of photos", BYTES)
    written_bytes: float = figure("written: segments", BYTES)
    network: float = figure("through each machine's network in a second, photos and segments", BYTES)


def extraction_times(
    subject: Subject, costs: Costs, held: Holdings, *, machines: int, list_size: int
) -> ExtractionTimes:
    """Return how long the photos take on so many machines alike.

    A machine takes ``seconds_per_photo`` a photo, or as long as its network needs to bring it, whichever is longer. A
    lost machine's list is begun again: half of it was done, on average.
    """
    photo, network = costs.photo, costs.machine.network
    written = held.on_disk / subject.photos
    moved = (photo.photo_bytes + written) / network
    each = max(photo.seconds_per_photo, moved)
    share = costs.machine.worker_share if machines > 1 else 1.0
    size = min(list_size, subject.photos)
    plain = subject.photos * each / (machines * share)
    lost_each_second = machines / (costs.machine.machine_days * _DAY)
    half = size * each / 2
    losses = lost_each_second * plain
    redone = losses * half
    seconds = plain + redone / machines
    rate = subject.photos / seconds
    return ExtractionTimes(
        rate=rate,
        seconds=seconds,
        limit="network" if moved > photo.seconds_per_photo else "processors",
        last_list=size * each,
        losses=losses,
        redone=redone,
        photo_bytes=subject.photos * photo.photo_bytes,
        written_bytes=held.on_disk,
        network=rate / machines * (photo.photo_bytes + written),
    )
