"""What goes in and comes out, for checks and for ``openapi.json``."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ctxdeploy.core.types import Box
from ctxdeploy.query import RERANK, QueryConfig
from ctxdeploy.service.config import ServiceConfig
from ctxdeploy.service.problems import ProblemError


class ArchiveOption(BaseModel):
    """Which archive is meant."""

    model_config = ConfigDict(extra="forbid")

    archive: Annotated[str | None, Field(description="Name of the archive; not needed where there is one.")] = None


def parsed_box(text: str | None) -> Box | None:
    """Return the box of a parameter; ``ConfigError`` if it is none."""
    return None if text is None else Box.parse(text)


class SearchOptions(ArchiveOption):
    """How an archive is asked; the words are those of ``ctxdeploy query``."""

    top: Annotated[int, Field(ge=1, description="Results at most.")] = 10
    box: Annotated[str | None, Field(description="Part of the photo: x0,y0,x1,y1 in pixels.")] = None
    rank: Annotated[
        Literal["local", "global", "global-then-local"] | None, Field(description="What orders the results.")
    ] = None
    rerank: Annotated[int, Field(ge=1, description="With global-then-local: so many are ordered anew.")] = RERANK
    rerank_by: Annotated[Literal["asmk", "geometry"], Field(description="What orders them.")] = "asmk"
    expand: Annotated[int | None, Field(ge=0, description="So many of the first results ask too.")] = None
    verify: Annotated[int, Field(ge=0, description="So many of the first results are compared by geometry.")] = 0
    verify_from: Annotated[Literal["archive", "photos"], Field(description="What they are compared by.")] = "archive"
    turn: Annotated[Literal["auto", "none", "all"], Field(description="Ask by quarter turns as well.")] = "auto"
    min_probability: Annotated[
        float | None, Field(ge=0, le=1, description="Leave out results less likely to show the same.")
    ] = None
    prefix: Annotated[list[str], Field(description="Only photos whose names begin with one of these.")] = []
    name: Annotated[list[str], Field(description="Only photos of these names.")] = []
    matches: Annotated[bool, Field(description="Give the matched points of verified results.")] = False

    def config(self, limits: ServiceConfig) -> QueryConfig:
        """Return the question for an archive; ``ProblemError`` or ``ConfigError`` for what is not allowed."""
        for name in ("top", "verify", "rerank", "expand"):
            if (getattr(self, name) or 0) > limits.max_top:
                value = getattr(self, name)
                raise ProblemError(422, f"{name}={value} is above {limits.max_top}", code="ConfigError")
        return QueryConfig(
            box=parsed_box(self.box),
            top=self.top,
            rank=self.rank,
            rerank=self.rerank,
            rerank_by=self.rerank_by,
            expand=self.expand,
            verify=self.verify,
            verify_from=self.verify_from,
            turn=self.turn,
            min_probability=self.min_probability,
            prefix=tuple(self.prefix),
            among=tuple(self.name),
        )


class DescriptorOptions(ArchiveOption):
    """Of which photo, or part of it, descriptors are wanted; the archive says by which model."""

    box: Annotated[str | None, Field(description="Part of the photo: x0,y0,x1,y1 in pixels.")] = None


class IndexedOptions(SearchOptions):
    """How an archive is asked with a photo of its own."""

    indexed: Annotated[str, Field(description="Name of the photo to ask with.")]


class BatchOptions(SearchOptions):
    """How an archive is asked with several photos."""

    indexed: Annotated[list[str], Field(description="Names of photos of the archive to ask with as well.")] = []


class Exact(BaseModel):
    """What comes out: these fields, and no others."""

    model_config = ConfigDict(extra="forbid")


class Result(Exact):
    """A photo that was found."""

    rank: int
    name: str
    score: float
    global_score: float | None
    probability: float | None
    certain: bool | None
    inliers: int | None
    affine: list[list[float]] | None
    box: list[float] | None
    size: Annotated[list[int] | None, Field(description="Width and height in pixels, of an archive with geometry.")]
    matches: Annotated[
        list[list[float]] | None, Field(description="x, y in the query and x, y in the photo, of each match.")
    ] = None


class Seconds(Exact):
    """Where the time went; total: from the first line of the request on."""

    queue: float
    extract: float
    search: float
    total: float


class Coverage(Exact):
    """What was searched."""

    searched: Annotated[int, Field(description="Photos that could be found.")]
    photos: Annotated[int, Field(description="Photos of the archive.")]
    missing: Annotated[
        list[str],
        Field(description="Parts of the shards that did not answer, such as 2/4: their photos were not searched."),
    ]


class SearchAnswer(Exact):
    """What a photo found."""

    archive: str
    state: Annotated[int, Field(description="Number of the commit that answered.")]
    query: str
    indexed: bool
    box: list[float] | None
    turn: int
    size: Annotated[list[int] | None, Field(description="Width and height of the queried photo, where that is known.")]
    rank: str
    coverage: Coverage
    found: Annotated[int | None, Field(description="Results that are certain; null where nobody knows.")]
    best_probability: float | None
    results: list[Result]
    descriptors: int | None
    seconds: Seconds
    remarks: list[str]


class Health(Exact):
    """That the service lives, or is ready."""

    status: Literal["alive", "ready"]


class Problem(Exact):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Field(description="The library's class of errors, or a word of the service.")]
    exit_code: Annotated[int | None, Field(description="That the command line has for the same error.")]
    request_id: str
    instance: str


class SearchAnswers(Exact):
    """What several photos found, in their order."""

    answers: list[SearchAnswer | Problem]


class Descriptors(Exact):
    """What a model finds in a photo: n local descriptors, strongest attention first."""

    archive: str
    model: Annotated[str, Field(description="By which model: descriptors of another one do not compare.")]
    size: Annotated[list[int] | None, Field(description="Width and height of the photo.")]
    box: list[float] | None
    vectors: Annotated[list[list[float]], Field(description="n rows of D numbers; float32, exactly.")]
    attention: Annotated[list[float], Field(description="n numbers, the largest 1.")]
    positions: Annotated[list[list[float]], Field(description="n times x, y in pixels of the photo.")]
    scales: list[float]
    global_vector: Annotated[list[float] | None, Field(description="Of the whole photo, where the model gives one.")]
    seconds: dict[str, float]


_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {"default": {"description": "What went wrong.", "content": _PROBLEM}}
