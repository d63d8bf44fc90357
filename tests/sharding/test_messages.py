"""Messages: what was changed on its way is an error, never a crash, a wrong array, or a wrong photo."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, CtxdeployError, ShardError, StaleStateError
from ctxdeploy.index import Index, write_message
from ctxdeploy.sharding import MessageError, ShardedIndex
from ctxdeploy.sharding.envelope import Asked
from ctxdeploy.sharding.message import REPLY, REQUEST, VERSION, Message

SETTINGS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = np.random.default_rng(2).normal(size=(30, 40)).astype(np.float32)
QUESTIONS: dict[str, Callable[[Any, list[str]], Any]] = {
    "search": lambda index, names: index.search_batch([ROWS, names[0]], 7, expand=2, idf=True),
    "among": lambda index, names: index.search_batch([ROWS], 7, among=index.subset(prefixes=["a/"], names=names[:9])),
    "global": lambda index, names: index.search_global(names[:3], 5),
    "scores": lambda index, names: index.scores(names[:3], names[3:9]),
    "stored": lambda index, names: index.aggregated(names[:4]),
    "features": lambda index, names: index.stored_features(names[:3]),
    "facts": lambda index, names: (index.photo_sizes(names[:3]), index.file_of(names[0]), names[0] in index),
    "list": lambda index, names: list(index.names()),
    "info": lambda index, names: index.info(),
    "printed": lambda index, names: index.printed_name("b/\\xe9"),
    "ready": lambda index, names: index.is_ready(),
}


@pytest.fixture(scope="module")
def names(archives: dict[str, Path]) -> list[str]:
    with Index.open(archives["descriptors"]) as index:
        return list(index.names())


def mutated(data: bytes, random: Random) -> bytes:
    """Return bytes in which something is changed, cut off or added."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 3)):
        place, kind = random.randrange(len(changed) + 1), random.choice(["byte", "bit", "bit", "cut", "more"])
        if kind == "cut":
            del changed[place:]
        elif kind == "more":
            changed[place:place] = random.randbytes(random.randint(1, 9))
        elif place < len(changed):
            changed[place] = random.randrange(256) if kind == "byte" else changed[place] ^ 1 << random.randrange(8)
    return bytes(changed)


@pytest.fixture
def recorded(archives: dict[str, Path], serve: Callable[..., Any], names: list[str]) -> tuple[Any, list[bytes]]:
    """A server of one of two parts, and the requests that it got."""
    shards, transports = serve(archives["descriptors"], 2)
    seen: list[bytes] = []
    answer = transports[0].server.answer
    transports[0].server.answer = lambda request, *, deadline=None: (seen.append(request), answer(request))[1]
    index = ShardedIndex.open(archives["descriptors"], shards)
    for ask in QUESTIONS.values():
        ask(index, names)
    index.close()
    del transports[0].server.answer
    return transports[0].server, seen


@SETTINGS
@given(data=st.data())
def test_a_changed_request_is_answered_or_refused(recorded: tuple[Any, list[bytes]], data: st.DataObject) -> None:
    server, seen = recorded
    request = data.draw(st.sampled_from(seen))
    assert Message.decode(server.answer(request), REPLY, "reply").facts is not None
    try:
        reply = server.answer(mutated(request, Random(data.draw(st.integers(0, 1 << 32)))))
    except (ConfigError, StaleStateError):
        return
    Message.decode(reply, REPLY, "reply")


@SETTINGS
@given(data=st.data())
def test_a_changed_reply_leaves_its_part_out_or_says_another_thing(
    archives: dict[str, Path], serve: Callable[..., Any], names: list[str], data: st.DataObject
) -> None:
    shards, transports = serve(archives["descriptors"], 2)
    random = Random(data.draw(st.integers(0, 1 << 32)))  # drawn here: replies come in other threads
    transports[0].after = lambda reply: mutated(reply, random)
    index = ShardedIndex.open(archives["descriptors"], shards)
    ask = QUESTIONS[data.draw(st.sampled_from(sorted(QUESTIONS)))]
    try:
        index.settled(lambda: ask(index.for_query(), names))
    except CtxdeployError:
        pass
    finally:
        index.close()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"words": np.array([5, 5], np.uint16)}, "do not rise"),
        ({"words": np.array([5, 24], np.uint16)}, "do not rise within"),
        ({"words": np.array([5, 6], np.int32)}, "words is not an array"),
        ({"codes": np.zeros((3, 1), np.uint64)}, "codes has the shape"),
        ({"codes": np.full((2, 1), 1 << 63, np.uint64)}, "bits set beyond the dimension"),
        ({"word_ends": np.array([0, 3], np.uint32)}, "word_ends does not rise from 0 to 2"),
        ({"word_ends": np.array([1, 2], np.uint32)}, "word_ends does not rise"),
        ({"terms": np.array([1], np.uint32)}, "has the query 1 of 1"),
        ({"coefficients": np.array([np.nan])}, "NaN"),
        ({"term_ends": np.array([0, 2], np.uint32)}, "term_ends"),
        ({"top": 0}, "top is 0"),
        ({"top": True}, "top is True"),
        ({"top": 1 << 20}, "not a whole number in"),
        ({"alpha": 1e99}, r"alpha 1e\+99 is not a number in"),
        ({"alpha": 101.0}, "alpha 101.0 is not a number in 0..100"),
        ({"idf": 1}, "idf is 1"),
        ({"kind": "delete"}, "its kind is 'delete'"),
        ({"of": [2, 2]}, "for part 2/2 of the shards, and this server has 1/2"),
        ({"of": [3, 2]}, "names the part 3/2"),
        ({"restricted": True}, "among is not an array"),
        ({"counts": np.zeros(3, np.uint32)}, "counts has the shape"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_archive_is_refused(
    archives: dict[str, Path], serve: Callable[..., Any], change: dict[str, Any], text: str
) -> None:
    path = archives["descriptors"]
    shards, transports = serve(path, 2)
    index, seen = ShardedIndex.open(path, shards), []
    transports[0].after = lambda reply: reply
    before = transports[0].server.answer
    transports[0].server.answer = lambda request, *, deadline=None: (seen.append(request), before(request))[1]
    with Index.open(path) as one:
        (query,) = one.aggregated(["a/001.jpg"])
    query = type(query)(words=query.words[:2], codes=query.codes[:2])
    index.search_batch([query], 3)
    index.close()
    asked = Asked.decode(seen[0])
    message = Message(facts=dict(asked.message.facts), arrays=dict(asked.message.arrays))
    assert len(message.arrays["words"]) == 2
    for name, value in change.items():
        if isinstance(value, np.ndarray):
            message.arrays[name] = value
        else:
            message.facts[name] = value
    data = write_message(REQUEST, VERSION, message.facts, message.arrays)
    with pytest.raises(MessageError, match=text):
        before(data)


def test_a_part_of_another_archive_or_count_is_not_taken_for_this_one(
    archives: dict[str, Path], serve: Callable[..., Any]
) -> None:
    shards, _ = serve(archives["descriptors"], 2)
    index = ShardedIndex.open(archives["idf"], shards)
    assert not index.is_ready()
    with pytest.raises(ShardError, match="does not hold the state"):
        index.for_query().search_batch([ROWS], 3)
    index.close()


def test_replies_that_are_too_large_or_of_another_version_are_refused(
    archives: dict[str, Path], serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, transports = serve(archives["idf"], 2)
    index = ShardedIndex.open(archives["idf"], shards)
    transports[0].after = lambda reply: reply.replace(b'"format_version":"1"', b'"format_version":"2"')
    query = index.for_query()
    query.search_batch([ROWS], 3)
    assert [str(part) for part in query.missing] == ["1/2"]
    transports[0].after = lambda reply: reply
    monkeypatch.setattr("ctxdeploy.sharding.message.MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="too many for one message of 1,000"):
        index.for_query().search_batch([ROWS] * 40, 3)
    index.close()
    server = transports[0].server
    with pytest.raises(MessageError, match="above 1,000"):
        server.answer(bytes(1001), deadline=Deadline())
