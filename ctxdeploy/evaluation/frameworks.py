"""The ways to search that an evaluation compares: global vectors, these and then local descriptors, local ones."""

from dataclasses import dataclass, field, replace

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.evaluation.published import FRAMEWORKS, GLOBAL, GLOBAL_THEN_LOCAL, LOCAL, PublishedRow, find_row
from ctxdeploy.evaluation.reranking import Reranking
from ctxdeploy.query import ASMK, GEOMETRY, RERANK, RERANK_BY

_VERIFIED = 100  # by DELG, of its authors' tables


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to search.

    Attributes:
        rank: one of ``FRAMEWORKS``.
        rerank: photos of the first stage that are ordered anew.
        rerank_by: what orders them, ``asmk`` or ``geometry``.
        refine: so many of the first by global vectors are ordered by vectors refined by their neighbours.
        reranking: what follows the search by local descriptors.
    """

    rank: str
    rerank: int = RERANK
    rerank_by: str = ASMK
    refine: int = 0
    reranking: Reranking = field(default_factory=Reranking)

    @property
    def key(self) -> str:
        """Its name in rankings and JSON."""
        first = "asmk" if self.rank == LOCAL else self.rank
        by = "-geometry" if self.rank != GLOBAL and (self.rerank_by == GEOMETRY or self.reranking.verify) else ""
        return f"{first}{by}"

    @property
    def label(self) -> str:
        """Its name in tables."""
        verify = self.reranking.verify
        geometry = f", {verify} by geometry" if verify and self.rerank_by != GEOMETRY else ""
        refined = f", {self.refine} refined" if self.refine and self.rank != LOCAL else ""
        if self.rank == GLOBAL:
            return f"global vectors{refined}"
        if self.rank == LOCAL:
            return f"local, ASMK{geometry}"
        by = "geometry" if self.rerank_by == GEOMETRY else f"ASMK{geometry}"
        return f"global{refined}, then {self.rerank} by {by}"


@dataclass(frozen=True, kw_only=True)
class FrameworkConfig:
    """Which ways to search are evaluated.

    Attributes:
        rank: what orders the answers, one of ``FRAMEWORKS``.
        rerank: with global-then-local, so many are ordered anew,
        rerank_by: by ``asmk`` or ``geometry``.
        refine_global: so many of the first by global vectors are ordered anew, as ``QueryConfig.refine_global``.
        framework: ``all``: a table of all three frameworks, with what was published beside it.
        row: name of a published row, which says model and way to search.
    """

    rank: str = setting(LOCAL, "--rank", "What orders the answers.", choices=FRAMEWORKS)
    rerank: int = setting(RERANK, "--rerank", "With global-then-local: so many are ordered anew.", metavar="N")
    rerank_by: str = setting(ASMK, "--rerank-by", "What orders them: ASMK, or geometry alone.", choices=RERANK_BY)
    refine_global: int = setting(
        0, "--refine-global", "Order so many of the first by global vectors refined by their neighbours.", metavar="N"
    )
    framework: str | None = setting(
        None, "--framework", "A table of the three frameworks, beside published figures.", choices=("all",)
    )
    row: str | None = setting(
        None, "--row", "Evaluate a row of the published tables, such as 'DELG R101', with its model.", metavar="NAME"
    )

    def __post_init__(self) -> None:
        check_types(self)
        for flag, value, known in (("--rank", self.rank, FRAMEWORKS), ("--rerank-by", self.rerank_by, RERANK_BY)):
            if value not in known:
                raise ConfigError(f"{flag} {value!r} is unknown: give {', '.join(known)}")
        if self.rerank < 1:
            raise ConfigError(f"--rerank {self.rerank} is not positive: give how many are ordered anew")
        several = self.framework is not None or self.row is not None
        if several and (self.rank != LOCAL or (self.framework is not None and self.row is not None)):
            raise ConfigError("--framework, --row and --rank exclude each other: each says what orders the answers")
        if self.row is not None:
            find_row(self.row)
        if self.refine_global < 0 or (self.refine_global and self.rank == LOCAL and self.framework is None):
            raise ConfigError(
                f"--refine-global {self.refine_global} says how many of the first by global vectors are refined: give "
                f"0 or more, with --rank {GLOBAL}, --rank {GLOBAL_THEN_LOCAL} or --framework all"
            )
        two_stages = self.rank == GLOBAL_THEN_LOCAL or several
        if not two_stages and (self.rerank != RERANK or self.rerank_by != ASMK):
            raise ConfigError(f"--rerank and --rerank-by need --rank {GLOBAL_THEN_LOCAL} or --framework all")

    @property
    def published(self) -> PublishedRow | None:
        """The row that is asked for."""
        return None if self.row is None else find_row(self.row)

    @property
    def is_table(self) -> bool:
        """Whether a table is wanted, and not the figures of one way to search."""
        return self.framework is not None or self.row is not None

    def methods(self, reranking: Reranking, *, with_local: bool, with_global: bool) -> tuple[Method, ...]:
        """Return what is evaluated, in the order of the table.

        Args:
            reranking: what follows a search by local descriptors.
            with_local: the model gives local descriptors.
            with_global: rank by global vectors too.

        Raises:
            ConfigError: local descriptors are asked for of a model without.
        """
        plain = replace(reranking, verify=0)
        if self.framework is not None and with_local:
            refine = self.refine_global
            two = Method(rank=GLOBAL_THEN_LOCAL, rerank=self.rerank, refine=refine, reranking=plain)
            both = [Method(rank=GLOBAL, refine=refine), two, Method(rank=LOCAL, reranking=plain)]
            if reranking.verify:
                by = replace(two, rerank_by=GEOMETRY, reranking=reranking)
                both[2:2] = [by]
                both.append(Method(rank=LOCAL, reranking=reranking))
            return tuple(both)
        rank = self.rank
        if self.framework is not None:
            rank = GLOBAL
        if self.published is not None:
            return (self._of_row(self.published, reranking),)
        if rank != GLOBAL and not with_local:
            raise ConfigError(f"the model gives no local descriptors: say --rank {GLOBAL}")
        first = Method(
            rank=rank,
            rerank=self.rerank,
            rerank_by=self.rerank_by,
            refine=0 if rank == LOCAL else self.refine_global,
            reranking=plain if rank == GLOBAL else self._verifying(reranking),
        )
        return (first, Method(rank=GLOBAL)) if with_global and rank != GLOBAL else (first,)

    def _verifying(self, reranking: Reranking) -> Reranking:
        return replace(reranking, verify=self.rerank) if self.rerank_by == GEOMETRY else reranking

    def _of_row(self, row: PublishedRow, reranking: Reranking) -> Method:
        """Return how the authors of a row search."""
        if row.framework == GLOBAL_THEN_LOCAL:
            verified = replace(reranking, verify=_VERIFIED)
            return Method(rank=row.framework, rerank=_VERIFIED, rerank_by=GEOMETRY, reranking=verified)
        return Method(rank=row.framework, reranking=reranking if row.framework == LOCAL else Reranking())
