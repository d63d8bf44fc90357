"""Forms (multipart/form-data): a whole body in memory to its parts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ctxdeploy.service.problems import ProblemError

FORM = "multipart/form-data"
_MAX_BOUNDARY = 200
_MAX_HEADER = 16 << 10  # bytes


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file of a form.

    Attributes:
        name: of the field.
        file_name: that the sender gives it; None if the field is not a file.
        data: its bytes.
    """

    name: str
    file_name: str | None
    data: bytes


@dataclass(kw_only=True)
class _Open:
    """A part while it is read."""

    headers: dict[str, str] = field(default_factory=dict)
    name: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    data: list[bytes] = field(default_factory=list)


def parse_form(data: bytes, content_type: str, max_parts: int) -> list[Part]:
    """Return the parts of a form.

    Args:
        data: the whole body.
        content_type: with the boundary.
        max_parts: that it may have.

    Raises:
        ProblemError: it is not such a form (400), or has too many parts (422).
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary or len(boundary) > _MAX_BOUNDARY:
        raise ProblemError(400, f"the {FORM} has no boundary: let what sends the form set Content-Type", code="BadForm")
    reader = _FormReader(max_parts)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(data)
        parser.finalize()
    except FormParserError as error:
        raise ProblemError(
            400, f"the body is not {FORM} with the boundary of its Content-Type: {error}", code="BadForm"
        ) from error
    if not reader.is_whole:
        raise ProblemError(400, f"the body is not {FORM}: its end is missing", code="BadForm")
    return reader.parts


class _FormReader:
    """Collects the parts of a form in memory."""

    def __init__(self, max_parts: int) -> None:
        self._max_parts = max_parts
        self._open = _Open()
        self.parts: list[Part] = []
        self.is_whole = False

    def callbacks(self) -> Any:
        """Return what the parser calls."""
        calls: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_end": self._whole,
        }
        return calls

    def _begin(self) -> None:
        if len(self.parts) >= self._max_parts:
            raise ProblemError(422, f"the form has more than {self._max_parts:,} parts", code="TooMany")
        self._open = _Open()

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._open.data.append(data[start:end])

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._add(self._open.name, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._add(self._open.value, data[start:end])

    def _add(self, text: bytearray, more: bytes) -> None:
        text += more
        if len(text) > _MAX_HEADER:
            raise ProblemError(400, f"a header of the form has more than {_MAX_HEADER:,} bytes", code="BadForm")

    def _header_end(self) -> None:
        name = self._open.name.decode("latin-1").lower()
        self._open.headers[name] = self._open.value.decode("latin-1")
        self._open.name, self._open.value = bytearray(), bytearray()

    def _end(self) -> None:
        _, options = parse_options_header(self._open.headers.get("content-disposition", ""))
        file_name = options.get(b"filename")
        self.parts.append(
            Part(
                name=options.get(b"name", b"").decode("utf-8", "replace"),
                file_name=None if file_name is None else file_name.decode("utf-8", "surrogateescape"),
                data=b"".join(self._open.data),
            )
        )

    def _whole(self) -> None:
        self.is_whole = True
