"""What a run did: counts, where its time went, which stage limited it, and what would help."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.cpu import available_processors
from ctxdeploy.indexing.plan import IndexingPlan, Kind

if TYPE_CHECKING:
    from ctxdeploy.runtime import ExtractionStatistics


@dataclass(kw_only=True)
class StageTimes:
    """Seconds of the stages of a run.

    Attributes:
        read, decode: summed over the workers, which run beside the rest.
        waiting: the network waited for photos.
        network: it ran.
        assign, write: assignment to words and aggregation; shards and commits. They run beside the network,
        blocked: which had to wait for them so long.
        clustering: the codebook was trained, before anything was assigned.
    """

    read: float = 0.0
    decode: float = 0.0
    waiting: float = 0.0
    network: float = 0.0
    assign: float = 0.0
    write: float = 0.0
    blocked: float = 0.0
    clustering: float = 0.0

    def take(self, statistics: "ExtractionStatistics", before: "StageTimes") -> None:
        """Set the stages of extraction: those of an extraction that goes on, and of what was extracted before it."""
        seconds = statistics.seconds
        self.read, self.decode = before.read + seconds.read, before.decode + seconds.decode
        self.waiting, self.network = before.waiting + statistics.waiting, before.network + seconds.network

    def add(self, other: "StageTimes") -> None:
        """Add what another run took beside this one, or a part of it."""
        for stage, seconds in vars(other).items():
            setattr(self, stage, getattr(self, stage) + seconds)

    @property
    def limit(self) -> str:
        """Name of the stage that the run waits for most: ``read``, ``decode``, ``network``, ``assign`` or ``write``."""
        longest = max(self.network, self.waiting, self.blocked)
        if longest == self.network:
            return "network"
        if longest == self.waiting:
            return "decode" if self.decode >= self.read else "read"
        return "assign" if self.assign >= self.write else "write"

    def advice(self, workers: int) -> str:
        """Return what limits the run, and what would make it faster on the same archive, in one sentence."""
        cores = available_processors()
        more = f"--workers {min(2 * workers, cores)}" if workers < cores else "a bundle exported with --draft"
        return {
            "network": "the network takes most of the time",
            "decode": f"the network waits for photos to be decoded: {more} would help",
            "read": "the network waits for photos to be read: more --read-threads, or a copy nearby, would help",
            "assign": "the network waits for the assignment to words: more cores, or fewer --words, would help",
            "write": "the network waits for the disk: a faster one, or a longer --commit-seconds, would help",
        }[self.limit]

    def metadata(self) -> dict[str, Any]:
        """Return seconds and the limiting stage as JSON prints them."""
        return {**{stage: round(seconds, 3) for stage, seconds in vars(self).items()}, "limit": self.limit}


@dataclass(kw_only=True)
class IndexingReport:
    """What a run did, counted in photos.

    Attributes:
        found: in the place.
        indexed: added by this run.
        replaced: changed photos whose new descriptors took the place of the old ones.
        unchanged: in the archive already.
        given_up: could not be decoded by an earlier run, and their files are the same: not tried again.
        changed: in the archive, but their files had changed; those that could not be read keep their old descriptors.
        removed: taken from the archive, because their files are gone.
        missing: in the archive, but their files are gone; left as they are.
        failed: could not be read; the archive lists them with their reasons.
        descriptors: of the photos added and replaced.
        compacted: shards that were merged into larger ones.
        codebook: how it was trained, if this run trained it.
        seconds: of the whole run.
        stages: where they went.
        failures: of this run: name, reason, stage, seconds.
        remarks: photos that are in the archive, but that hardly any query will find: name and why.
        left_out: what of the place is not among its photos, as ``LeftOut.metadata`` gives it.
    """

    found: int = 0
    indexed: int = 0
    replaced: int = 0
    unchanged: int = 0
    given_up: int = 0
    changed: int = 0
    removed: int = 0
    missing: int = 0
    failed: int = 0
    descriptors: int = 0
    compacted: int = 0
    codebook: dict[str, Any] | None = None
    seconds: float = 0.0
    stages: StageTimes = field(default_factory=StageTimes)
    failures: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[dict[str, str]] = field(default_factory=list)
    left_out: dict[str, Any] = field(default_factory=dict)

    def take_plan(self, plan: IndexingPlan) -> None:
        """Set how many photos are as they were, changed, and given up."""
        self.unchanged, self.changed = plan.count(Kind.UNCHANGED), plan.count(Kind.CHANGED)
        self.given_up = plan.count(Kind.GIVEN_UP)

    def metadata(self) -> dict[str, Any]:
        """Return the report as JSON prints it."""
        return {**asdict(self), "stages": self.stages.metadata()}
