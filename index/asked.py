"""What a search is asked with, turned into words and codes."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.codebook.aggregation import Aggregated, aggregate, check_aggregated
from ctxdeploy.index.inputs import as_vectors
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.threads import SearchThreads

# n×D descriptors or what has them as ``vectors``, an ``Aggregated``, an ``Asked``, or the name of a stored photo.
Query = Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A query whose words have been found, as ``Searches.asked`` returns it: for several searches.

    Attributes:
        query: words and codes that ask.
        own: those with which the archive would hold the query.
    """

    query: Aggregated
    own: Aggregated


def find_words(
    state: State,
    queries: Sequence[Query],
    threads: SearchThreads,
    stored: Callable[[Sequence[str]], list[Aggregated]],
    *,
    own: bool,
) -> list[Asked]:
    """Return the words and codes of queries, descriptors of all of them assigned together.

    Args:
        state: of the archive.
        queries: of any kind.
        threads: that help.
        stored: returns words and codes of stored photos by name.
        own: whether ``Asked.own`` is wanted; else it is the query.

    Raises:
        ConfigError: a query does not fit the codebook; and what ``stored`` raises.
    """
    found: dict[int, Asked] = {}
    for number, query in enumerate(queries):
        if isinstance(query, Asked):
            found[number] = query
        elif isinstance(query, Aggregated):
            binary = state.manifest.config.binary
            check_aggregated(query, words=len(state.codebook), dim=state.codebook.dim, binary=binary, name="query")
            found[number] = Asked(query=query, own=query)
    named = [number for number, query in enumerate(queries) if isinstance(query, str)]
    photos = stored([queries[number] for number in named])
    for number, photo in zip(named, photos, strict=True):
        found[number] = Asked(query=photo, own=photo)
    rest = [number for number, query in enumerate(queries) if not isinstance(query, (str, Aggregated, Asked))]
    arrays = [as_vectors(queries[number], state.codebook.dim, "query") for number in rest]
    found |= dict(zip(rest, _aggregated(state, arrays, threads, own), strict=True))
    return [found[number] for number in range(len(queries))]


def _aggregated(state: State, queries: Sequence[NDArray[np.float32]], threads: SearchThreads, own: bool) -> list[Asked]:
    if not queries:
        return []
    config, centroids = state.manifest.config, state.codebook.centroids
    words = state.codebook.assign(np.concatenate(queries), config.query_assignment, threads=threads)
    ends = np.cumsum([len(query) for query in queries])
    found = []
    for query, part in zip(queries, np.split(words, ends[:-1]), strict=True):
        asked = aggregate(query, part, centroids, binary=config.binary)
        same = not own or config.assignment >= part.shape[1]
        nearest = part[:, : config.assignment]
        stored = asked if same else aggregate(query, nearest, centroids, binary=config.binary)
        found.append(Asked(query=asked, own=stored))
    return found


def checked_top(top: Any) -> int:
    """Return the number of hits that are wanted, at least 1.

    Raises:
        ConfigError: it is something else.
    """
    try:
        wanted = operator.index(top)
    except TypeError as error:
        raise ConfigError(f"{top!r} hits are wanted: give --top as a whole number") from error
    if isinstance(top, bool) or wanted < 1:
        raise ConfigError(f"{top} hits are wanted: give --top of at least 1")
    return wanted
