"""Who is asked what: the part and the state that every request names, around the request itself."""

import hashlib
from dataclasses import dataclass
from typing import Self

from ctxdeploy.core.part import Part
from ctxdeploy.index import Manifest
from ctxdeploy.sharding.fields import Shape
from ctxdeploy.sharding.message import MAX_NAMES, REQUEST, Message
from ctxdeploy.sharding.requests import (
    CountsRequest,
    FactsRequest,
    FeaturesRequest,
    GlobalRequest,
    ListRequest,
    PrintedRequest,
    Request,
    ScoresRequest,
    SearchRequest,
    SelectRequest,
    StoredRequest,
    VectorsRequest,
)

_MAX_NUMBER = 1 << 62


@dataclass(frozen=True, kw_only=True)
class StateKey:
    """Which state is asked: the number of its manifest, and a hash that no other archive has."""

    number: int
    sha256: str

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        return cls(number=manifest.number, sha256=hashlib.sha256(manifest.encode()).hexdigest())


_KINDS: dict[str, type[Request]] = {
    one.kind: one
    for one in (
        SearchRequest,
        ScoresRequest,
        StoredRequest,
        VectorsRequest,
        FeaturesRequest,
        FactsRequest,
        GlobalRequest,
        SelectRequest,
        ListRequest,
        PrintedRequest,
        CountsRequest,
    )
}
# Which states a server holds; it opens the newest if that is the one that the request names.
STATUS = "status"
KINDS = (*sorted(_KINDS), STATUS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A request as it came: its kind, part and state are known, the rest is read for an opened state.

    Attributes:
        kind: one of ``KINDS``.
        part: that is asked.
        state: that is asked.
        message: the rest.
    """

    kind: str
    part: Part
    state: StateKey
    message: Message

    def encode(self) -> bytes:
        """Return it as bytes; ``ConfigError`` if they are too many."""
        state = {"number": self.state.number, "manifest": self.state.sha256}
        facts = {**self.message.facts, "kind": self.kind, "of": [self.part.number, self.part.count], **state}
        return Message(facts=facts, arrays=self.message.arrays).encode(REQUEST)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the request in some bytes; ``MessageError`` if there is none."""
        message = Message.decode(data, REQUEST, "the request")
        kind = message.text("kind", most=32)
        if kind not in KINDS:
            raise message.wrong(f"its kind is {kind!r}")
        state = StateKey(number=message.count("number", most=_MAX_NUMBER), sha256=message.text("manifest", most=64))
        return cls(kind=kind, part=read_part(message), state=state, message=message)

    def request(self, shape: Shape) -> Request:
        """Return what is asked of an opened state; ``MessageError`` if it is wrong."""
        return _KINDS[self.kind].read(self.message, shape)


def read_part(message: Message) -> Part:
    """Return the part that a message names."""
    given = message.facts.get("of")
    if not isinstance(given, list) or len(given) != 2 or not all(type(one) is int for one in given):
        raise message.wrong("it names no part")
    if not 1 <= given[0] <= given[1] <= MAX_NAMES:
        raise message.wrong(f"it names the part {given[0]}/{given[1]}")
    return Part(number=given[0], count=given[1])
