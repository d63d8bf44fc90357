"""What a part of an archive answers to each kind of request, as messages."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.text import printable
from ctxdeploy.index import Combination, Hit, IndexPart, Subset
from ctxdeploy.sharding.fields import Shape, feature_arrays, hit_arrays, photo_arrays
from ctxdeploy.sharding.message import Message, name_arrays, row_array
from ctxdeploy.sharding.requests import (
    PAGE,
    CountsRequest,
    FactsRequest,
    FeaturesRequest,
    GlobalRequest,
    ListRequest,
    PrintedRequest,
    Request,
    Restriction,
    ScoresRequest,
    SearchRequest,
    SelectRequest,
    StoredRequest,
    VectorsRequest,
)

# Restrictions whose photos are kept: a query asks several times.
_SUBSETS = 16


class PartAnswers:
    """Answers requests from a part of one state of an archive. Any number of threads may ask at once.

    Args:
        index: the part.
    """

    def __init__(self, index: IndexPart) -> None:
        self._index = index
        self.shape = Shape.of(index.manifest)
        self._lock = threading.Lock()
        self._subsets: OrderedDict[Restriction, Subset] = OrderedDict()

    def answer(self, request: Request) -> Message:
        """Return what the part answers.

        Raises:
            ConfigError: the archive cannot be asked so.
        """
        return self._answers[type(request)](request)

    @cached_property
    def _answers(self) -> dict[type[Request], Callable[[Any], Message]]:
        return {
            SearchRequest: self._search,
            ScoresRequest: self._scores,
            StoredRequest: self._stored,
            VectorsRequest: self._vectors,
            FeaturesRequest: self._features,
            FactsRequest: self._facts,
            GlobalRequest: self._global,
            SelectRequest: self._select,
            ListRequest: self._list,
            PrintedRequest: self._printed,
            CountsRequest: self._counts,
        }

    def _search(self, request: SearchRequest) -> Message:
        self._index.state.check_local()
        combinations: list[Combination] = [
            [(request.queries[place], coefficient) for place, coefficient in terms] for terms in request.combinations
        ]
        among = self._subset(request.among)
        found = self._index.search_part(
            combinations,
            request.top,
            scoring=request.scoring,
            among=among,
            added=request.added,
            counts=request.counts,
        )
        return self._hits(found, request.among, among)

    def _global(self, request: GlobalRequest) -> Message:
        among = self._subset(request.among)
        found: list[list[Hit]] = []
        if len(request.vectors):
            found = self._index.search_global(request.vectors, request.top, among=among, probes=request.probes)
        return self._hits(found, request.among, among)

    def _hits(self, found: list[list[Hit]], wanted: Restriction | None, among: Subset | None) -> Message:
        """Return hits, and how many of the names that were given the part holds."""
        held = 0 if among is None or wanted is None or wanted.names is None else len(wanted.names) - len(among.unknown)
        return Message(facts={"held": held}, arrays=hit_arrays(found))

    def _scores(self, request: ScoresRequest) -> Message:
        self._index.state.check_local()
        rows, scores = self._index.scores_part(
            request.queries, request.names, scoring=request.scoring, counts=request.counts
        )
        return Message(arrays={"rows": row_array(rows), "scores": scores})

    def _stored(self, request: StoredRequest) -> Message:
        self._index.state.check_local()
        rows, photos = self._index.stored_part(request.names)
        return Message(arrays={"rows": row_array(rows), **photo_arrays(photos, self.shape)})

    def _vectors(self, request: VectorsRequest) -> Message:
        rows, vectors = self._index.vectors_part(request.names)
        return Message(arrays={"rows": row_array(rows), "vectors": vectors})

    def _features(self, request: FeaturesRequest) -> Message:
        rows, features = self._index.packed_part(request.names)
        return Message(arrays={"rows": row_array(rows), **feature_arrays(features, self.shape)})

    def _facts(self, request: FactsRequest) -> Message:
        rows, facts = self._index.facts_part(request.names)
        sizes = [(0, 0) if one.size is None else one.size for one in facts]
        files = [(-1, -1) if one.file is None else (one.file.size, one.file.mtime_ns) for one in facts]
        arrays: dict[str, NDArray[Any]] = {
            "rows": row_array(rows),
            "sizes": np.array(sizes, np.uint32).reshape(len(facts), 2),
            "files": np.array(files, np.int64).reshape(len(facts), 2),
        }
        return Message(arrays=arrays)

    def _select(self, request: SelectRequest) -> Message:
        among = self._index.subset(prefixes=request.among.prefixes, names=request.among.names)
        unknown, unused = set(among.unknown), set(among.unused)
        names = request.among.names or ()
        held = np.flatnonzero([name not in unknown for name in names])
        used = np.flatnonzero([prefix not in unused for prefix in request.among.prefixes])
        return Message(facts={"photos": len(among)}, arrays={"held": row_array(held), "used": row_array(used)})

    def _subset(self, among: Restriction | None) -> Subset | None:
        if among is None:
            return None
        with self._lock:
            known = self._subsets.get(among)
            if known is not None:
                self._subsets.move_to_end(among)
                return known
        found = self._index.subset(prefixes=among.prefixes, names=among.names)
        with self._lock:
            self._subsets[among] = found
            while len(self._subsets) > _SUBSETS:
                self._subsets.popitem(last=False)
        return found

    def _list(self, request: ListRequest) -> Message:
        shards = self._index.state.shards
        if request.shard >= len(shards):
            return Message(facts={"shard": len(shards), "photo": 0, "is_last": True}, arrays=name_arrays("names", []))
        shard = shards[request.shard]
        end = min(request.number + PAGE, len(shard))
        numbers = np.arange(min(request.number, end), end)
        names = [shard.name(number) for number in numbers[shard.live[numbers]].tolist()]
        following = (request.shard + 1, 0) if end == len(shard) else (request.shard, end)
        facts = {"shard": following[0], "photo": following[1], "is_last": following[0] == len(shards)}
        return Message(facts=facts, arrays=name_arrays("names", names))

    def _printed(self, request: PrintedRequest) -> Message:
        found: list[str] = []
        for name in self._index.names() if "\\" in request.text else ():
            if len(found) < 2 and not name.isprintable() and printable(name) == request.text:
                found.append(name)
        return Message(arrays=name_arrays("names", found))

    def _counts(self, request: CountsRequest) -> Message:
        counts = self._index.word_counts().astype(np.uint32)
        return Message(facts={"features": self._index.info()["features"]["count"]}, arrays={"counts": counts})
