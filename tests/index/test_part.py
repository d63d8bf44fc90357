"""Parts of an archive's shards, opened alone, and archives opened without any."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.part import Part
from ctxdeploy.index import BareIndex, Index, IndexConfig, IndexPart
from ctxdeploy.index.storage.format import encode
from ctxdeploy.index.storage.message import MAX_FACTS, read_message, write_message

Make = Callable[..., Any]


@pytest.fixture
def archive(make_archive: Make, make_photos: Make) -> Path:
    path: Path = make_archive(make_photos(23), IndexConfig(shard_images=4))
    with Index.open(path, writable=True) as index:
        index.remove(["003", "010"])
    return path


def test_parts_hold_every_photo_once_and_score_as_the_whole(archive: Path, make_photos: Make) -> None:
    query = make_photos(1, seed=5)[0]
    with Index.open(archive) as one:
        wanted = {hit.name: hit.score for hit in one.search(query, 99)}
        rare = {hit.name: hit.score for hit in one.search(query, 99, idf=True)}
        names = list(one.names())
    parts = [IndexPart.open(archive, Part(number=number, count=3)) for number in (1, 2, 3)]
    counts = np.sum([part.word_counts() for part in parts], axis=0)
    found, found_rare, held = {}, {}, []
    for part in parts:
        asked = part.asked([query])[0].query
        scoring = part.config.scoring()
        found |= {hit.name: hit.score for hit in part.search_part([[(asked, 1.0)]], 99, scoring=scoring)[0]}
        idf = part.config.scoring(idf=True)
        hits = part.search_part([[(asked, 1.0)]], 99, scoring=idf, counts=counts)[0]
        found_rare |= {hit.name: hit.score for hit in hits}
        held += list(part.names())
        assert len(part) == len(names) and part.photos == len(list(part.names()))
        with pytest.raises(ConfigError, match="idf needs the words of all shards"):
            part.search(query, 5, idf=True)
        part.close()
        with pytest.raises(ArchiveError, match="is closed"):
            part.search(query)
    assert sorted(held) == sorted(names) and len(names) == 21
    assert found == wanted and found_rare == rare


def test_without_shards_there_is_what_a_query_needs(archive: Path, make_photos: Make) -> None:
    with Index.open(archive) as one, BareIndex.open(archive) as bare:
        assert len(bare) == len(one) and list(bare.names()) == [] and "000" not in bare
        assert bare.info() == one.info() and bare.manifest == one.manifest and bare.is_newest()
        mine, theirs = (index.asked([make_photos(1)[0]])[0].query for index in (bare, one))
        assert np.array_equal(mine.words, theirs.words) and np.array_equal(mine.codes, theirs.codes)
        with pytest.raises(ConfigError, match="'000' is not in"):
            bare.aggregated(["000"])
        with Index.open(archive, writable=True) as writer:
            writer.remove("000")
        assert not bare.is_newest()
        assert writer.state.manifest.number == one.manifest.number + 1


def test_a_state_of_a_part_is_kept_from_garbage_collection(archive: Path) -> None:
    with IndexPart.open(archive, Part(number=1, count=2)) as part, Index.open(archive, writable=True) as writer:
        writer.compact(purge=True)
        writer.collect_garbage()
        assert len(part.search("000")) > 0
    with Index.open(archive, writable=True) as writer:
        assert writer.collect_garbage()


def test_a_damaged_shard_of_a_part_is_named(archive: Path) -> None:
    with Index.open(archive) as one:
        first, second = (entry.file for entry in one.manifest.shards[:2])
    (archive / second).unlink()
    IndexPart.open(archive, Part(number=1, count=2)).close()
    with pytest.raises(ArchiveError, match="is missing"):
        IndexPart.open(archive, Part(number=2, count=2))
    (archive / first).write_bytes(b"nothing")
    with pytest.raises(ArchiveError, match="too few"):
        IndexPart.open(archive, Part(number=1, count=2))


def test_a_message_is_read_as_it_was_written() -> None:
    facts, arrays = {"a": [1, "é\udce9"], "b": None}, {"x": np.arange(6, dtype=np.float64).reshape(2, 3)}
    data = write_message("kind", 3, facts, arrays)
    assert data == write_message("kind", 3, dict(reversed(facts.items())), arrays)
    found, read = read_message(data, "kind", 3, "it")
    assert found == facts and np.array_equal(read["x"], arrays["x"]) and not read["x"].flags.writeable
    with pytest.raises(ValueError, match="above"):
        write_message("kind", 3, {"a": "x" * MAX_FACTS}, {})


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"format": "other", "format_version": "3", "facts": "{}"}, "format is 'other'"),
        ({"format": "kind", "format_version": "2", "facts": "{}"}, "format_version '2'"),
        ({"format": "kind", "format_version": "3"}, "facts are not valid JSON"),
        ({"format": "kind", "format_version": "3", "facts": "[1]"}, "facts are not an object"),
        ({"format": "kind", "format_version": "3", "facts": "[" * 9999}, "facts are not valid JSON"),
        ({"format": "kind", "format_version": "3", "facts": " " * (MAX_FACTS + 1)}, "bytes of facts"),
    ],
)
def test_what_is_no_message_is_refused(metadata: dict[str, str], text: str) -> None:
    data = b"".join(bytes(piece) for piece in encode({}, metadata))
    with pytest.raises(ArchiveError, match=text):
        read_message(data, "kind", 3, "it")
