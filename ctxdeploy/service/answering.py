"""Questions to answers as JSON. It runs in threads."""

from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.text import counted, json_text, short
from ctxdeploy.query import Answer, QueryConfig
from ctxdeploy.querying.photo import IndexedPhoto, Photo
from ctxdeploy.service.archives import ServedArchive
from ctxdeploy.service.bodies import Upload, check_format
from ctxdeploy.service.problems import ProblemError, problem_fields
from ctxdeploy.service.record import RequestRecord
from ctxdeploy.service.schemas import BatchOptions, SearchOptions
from ctxdeploy.service.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence


def answered(
    served: ServedArchive,
    photo: "Photo | IndexedPhoto",
    config: QueryConfig,
    options: SearchOptions,
    record: RequestRecord,
) -> bytes:
    """Return the answer of an archive to one photo, as ``SearchAnswer`` says in JSON.

    Raises:
        ProblemError: the archive holds no photo of this name (404).
        CtxdeployError: as ``PhotoIndex.answer``.
    """
    try:
        answer = served.photos.answer(photo, config, deadline=record.deadline)
    except PhotoError:
        check_name(served, photo)  # afterwards: where shards are elsewhere, it is one more question to them
        raise
    record.seconds["extract"] = answer.extract_seconds
    record.seconds["search"] = answer.search_seconds
    return json_text(answer_fields(served, answer, options, record)).encode()


def answered_batch(
    service: Service,
    served: ServedArchive,
    upload: Upload | None,
    config: QueryConfig,
    options: BatchOptions,
    record: RequestRecord,
    path: str,
) -> bytes:
    """Return the answers to several photos, as ``SearchAnswers`` says in JSON."""
    parts = [] if upload is None else upload.photos()
    asked: list[Photo | IndexedPhoto] = [part.data for part in parts]
    asked += [IndexedPhoto(name=name) for name in options.indexed]
    if len(asked) > service.config.max_batch:
        limit = service.config.max_batch
        raise ProblemError(422, f"{counted(len(asked), 'photo')} are more than {limit} (--max-batch)", code="TooMany")
    refused = {place: error for place, photo in enumerate(asked) if (error := _refusal(served, photo)) is not None}
    sound = [photo for place, photo in enumerate(asked) if place not in refused]
    found = iter(served.photos.search_many(sound, config))
    answers = []
    for place in range(len(asked)):
        record.deadline.check()
        answer = refused[place] if place in refused else next(found)
        if isinstance(answer, Answer):
            for stage, seconds in (("extract", answer.extract_seconds), ("search", answer.search_seconds)):
                record.seconds[stage] = record.seconds.get(stage, 0.0) + seconds
            answers.append(answer_fields(served, answer, options, record))
        else:
            answers.append(problem_fields(service.problem(answer), record.request_id, path))
    return json_text({"answers": answers}).encode()


def _refusal(served: ServedArchive, photo: "Photo | IndexedPhoto") -> ProblemError | None:
    try:
        if isinstance(photo, bytes):
            check_format(photo)
        check_name(served, photo)
    except ProblemError as problem:
        return problem
    return None


def check_name(served: ServedArchive, photo: "Photo | IndexedPhoto") -> None:
    """Raise ``ProblemError`` (404) for the name of a photo that the archive does not hold."""
    if not isinstance(photo, IndexedPhoto) or photo.name in served.photos:
        return
    if "\\" in photo.name:
        with served.photos.reading() as index:
            if index.printed_name(photo.name) != photo.name:
                return
    raise ProblemError(404, f"{served.name} holds no photo of this name: {short(photo.name, 200)}", code="NoSuchPhoto")


def answer_fields(
    served: ServedArchive, answer: Answer, options: SearchOptions, record: RequestRecord
) -> dict[str, Any]:
    """Return an answer as ``SearchAnswer`` has it."""
    fields = answer.metadata()
    fields["archive"] = served.name
    fields["seconds"] |= {"queue": record.seconds.get("queue", 0.0), "total": record.total}
    fields["remarks"] = [served.told(remark) for remark in (*answer.remarks, *answer.notes)]
    # A part of an archived photo is asked with its file: that it is archived its name says.
    named = getattr(options, "indexed", ())
    is_archived = answer.is_indexed or answer.photo.name in ((named,) if isinstance(named, str) else named)
    asked = [answer.photo.name] if is_archived and answer.size is None else []
    with served.photos.reading() as index:
        sizes = index.for_query(record.deadline).photo_sizes([*(hit.name for hit in answer.hits), *asked])
    for result in fields["results"]:
        result["size"] = sizes[result["name"]]
    size = answer.size or (sizes[answer.photo.name] if asked else None)
    fields["size"] = None if size is None else list(size)
    if answer.missing:
        served.count_partial()
    fields["coverage"] = {"searched": answer.searched, "photos": answer.photos, "missing": list(answer.missing)}
    if options.matches:
        for result, hit in zip(fields["results"], answer.hits, strict=True):
            result["matches"] = _matches(hit)
    return fields


def _matches(hit: Any) -> "Sequence[Sequence[float]]":
    found = hit.verification
    if found is None:
        return []
    pairs = zip(found.query_points, found.photo_points, strict=True)
    return [[*map(float, here), *map(float, there)] for here, there in pairs]
