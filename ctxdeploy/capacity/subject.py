"""What the archive will be: that of a model, or one like an archive that is there, which tells of its photos."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxdeploy.capacity.config import PlanConfig
from ctxdeploy.capacity.costs import (
    QUERY_WORDS_PER_FEATURE,
    USUAL_SKEW,
    USUAL_WORDS,
    WORDS_PER_FEATURE,
    for_words,
)
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import counted

if TYPE_CHECKING:
    from ctxdeploy.index import Index, IndexConfig

# Words of a codebook that is trained from many photos, where a model carries none.
_TRAINED_WORDS = 65_536
# Photos of an archive that are asked with, to see how many words a query has.
_ASKED = 64
_NO_WORDS = {"features_per_photo": 0.0, "words_per_photo": 0.0, "query_words": 0.0}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is planned for.

    Attributes:
        name: of the model or the archive.
        model: id of the model; empty if it is not known.
        config: what the archive keeps.
        words, dim: of its codebook; both 0 without one.
        photos: of the archive; 0 of a model.
        cells: of global vectors.
        usual: what follows from the model, or from the words of the archive's photos, by the usual ratios.
        facts: what the archive's photos say of the assumptions.
        held: photos, bytes, shards and postings of the archive, where there is one.
        remarks: for people.
    """

    name: str
    config: "IndexConfig"
    words: int
    dim: int
    model: str = ""
    photos: int = 0
    cells: int = 0
    usual: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def subject_of_model(bundle: Bundle) -> Subject:
    """Return an archive of a model's descriptors, with its settings as ``index`` takes them."""
    from ctxdeploy.index import IndexConfig

    extraction = bundle.extraction
    remarks: tuple[str, ...] = ()
    if "local" not in extraction.gives:
        config = IndexConfig(global_vectors="fp16", global_dim=extraction.global_dim)
        return Subject(name=bundle.path.name, config=config, words=0, dim=0, model=bundle.model_id, usual=_NO_WORDS)
    words = _TRAINED_WORDS if bundle.codebook is None else bundle.codebook.words
    if bundle.codebook is None:
        remarks = (f"{bundle.path.name} carries no codebook: one is trained first; planned with --words {words}",)
    features = float(extraction.top_k)
    usual = {
        "features_per_photo": features,
        "words_per_photo": WORDS_PER_FEATURE * features,
        **for_words({"query_words": QUERY_WORDS_PER_FEATURE * features, "skew": USUAL_SKEW}, USUAL_WORDS, words),
    }
    return Subject(
        name=bundle.path.name,
        config=IndexConfig(),
        words=words,
        dim=extraction.dim,
        model=bundle.model_id,
        usual=usual,
        remarks=remarks,
    )


def subject_of_archive(path: Path) -> Subject:
    """Return an archive like one that is there, and what its photos tell.

    Raises:
        ArchiveError: it is not an archive, or damaged.
        ConfigError: it holds no photos.
    """
    from ctxdeploy.index import Index

    with Index.open(path) as index:
        if not len(index):
            raise ConfigError(f"{path} holds no photos, of which a plan could be made: index some first")
        facts = index.info()
        manifest = index.state.manifest
        query_words = facts["words_per_image"] * QUERY_WORDS_PER_FEATURE / WORDS_PER_FEATURE
        return Subject(
            name=path.name,
            config=index.config,
            words=manifest.words,
            dim=manifest.dim,
            model="" if index.source is None else index.source.model,
            photos=len(index),
            cells=facts["global"]["cells"] or 0,
            usual=for_words({"query_words": query_words, "skew": USUAL_SKEW}, USUAL_WORDS, manifest.words),
            facts=_photo_facts(index, facts),
            held={
                "photos": len(index),
                "bytes": facts["bytes"] + len(manifest.encode()),
                "shards": facts["shards"],
                "postings": facts["postings"],
            },
        )


def _photo_facts(index: "Index", info: Mapping[str, Any]) -> dict[str, float]:
    """Return what an archive says of its photos; what it does not keep is left out."""
    shards = index.state.shards
    photos = sum(map(len, shards))
    names = sum(int(shard.name_offsets[-1]) for shard in shards)
    found = {"name_bytes": names / photos}
    if not index.keeps_local:
        return {**found, **_NO_WORDS}
    found["words_per_photo"] = info["words_per_image"]
    sizes = [shard.sizes[shard.sizes >= 0] for shard in shards]
    known = np.concatenate(sizes)
    if len(known):
        found["photo_bytes"] = max(float(known.mean()), 1.0)
    if info["features"]["kept"] != "none":
        found["features_per_photo"] = info["features"]["count"] / photos
    if photos > 1 and info["postings"]:
        found |= asked_facts(index)
    return found


def asked_facts(index: "Index") -> dict[str, float]:
    """Return words of a query, and how much more than by chance it reads, of an archive's own photos.

    Where the archive keeps descriptors, photos of it ask with as many words a descriptor as queries have. Elsewhere the
    skew is that of its words: how often two postings of different photos meet.
    """
    counts = np.zeros(index.state.manifest.words, np.int64)
    for shard in index.state.shards:
        ends = shard.word_offsets.astype(np.int64)
        counts += ends[1:] - ends[:-1]
    photos, postings, words = sum(map(len, index.state.shards)), int(counts.sum()), len(counts)
    if not index.config.keeps("descriptors"):
        meetings = float((counts.astype(np.float64) * (counts - 1)).sum())
        per_photo = postings / photos
        # Two postings of one photo never meet: what would be left of an even draw is taken for it.
        even = (postings - per_photo) * postings / words
        return {"skew": max(meetings / even, 1e-3)} if meetings else {}
    lengths, reads = [], []
    names = [name for name, _ in zip(index.names(), range(1 << 20), strict=False)]
    for name in names[:: max(1, len(names) // _ASKED)][:_ASKED]:
        features = index.features(name)
        if features is None or features.vectors is None or not len(features):
            continue
        asked = np.unique(index.codebook.assign(features.vectors, index.config.query_assignment))
        own = np.unique(features.words)
        lengths.append(len(asked))
        reads.append((int(counts[asked].sum()) - len(np.intersect1d(asked, own))) / (photos - 1))
    if not lengths or not sum(reads):
        return {}
    query_words = float(np.mean(lengths))
    return {"query_words": query_words, "skew": float(np.mean(reads)) * words * photos / (query_words * postings)}


def chosen(subject: Subject, config: PlanConfig, global_dim: int) -> Subject:
    """Return the subject with what the options of a plan say.

    Args:
        subject: of a model or an archive.
        config: the plan's.
        global_dim: of the model's global vectors; those summed from local descriptors have their dimension.

    Raises:
        ConfigError: settings that do not fit each other.
    """
    words = subject.words if config.words is None else config.words
    dim = subject.dim if config.dim is None else config.dim
    old = subject.config
    kept = old.global_vectors if config.global_vectors is None else config.global_vectors
    dim_of_vectors = config.global_dim or old.global_dim or global_dim or dim
    cells = config.global_cells or (subject.cells if kept == old.global_vectors else 0)
    if kept == "none" and config.global_cells:
        raise ConfigError("--global-cells partitions global vectors: say --global too")
    if words == 0 and kept == "none":
        raise ConfigError(f"{subject.name} gives global vectors alone: --global none would leave nothing to search")
    changed = replace(
        old,
        geometry=old.geometry if config.geometry is None else config.geometry,
        global_vectors=kept,
        global_dim=0 if kept == "none" else dim_of_vectors,
        global_search="ivf" if kept != "none" and cells else "exact",
        idf=old.idf if config.idf is None else config.idf,
    )
    if words == 0 and changed.geometry != "none":
        raise ConfigError(f"{subject.name} gives no local descriptors: leave out --geometry")
    photos = config.photos or subject.photos
    if not photos:
        raise ConfigError("how many photos? Give --photos, such as 100M, or --archive, whose photos are counted")
    facts = {name: for_words(getattr(subject, name), subject.words, words) for name in ("usual", "facts")}
    return replace(
        subject,
        usual=facts["usual"],
        facts=facts["facts"],
        config=changed,
        words=words,
        dim=dim,
        photos=photos,
        cells=cells if kept != "none" else 0,
    )


def described(subject: Subject) -> str:
    """Return in a few words what is planned for."""
    config = subject.config
    parts = [counted(subject.photos, "photo")]
    parts.append(f"{subject.words:,} words of {subject.dim} dimensions" if subject.words else "no local descriptors")
    if config.geometry != "none":
        parts.append(f"geometry {config.geometry}")
    if config.keeps_global:
        cells = f", {counted(subject.cells, 'cell')}" if subject.cells else ""
        parts.append(f"global vectors {config.global_vectors}, {config.global_dim:,} dimensions{cells}")
    return f"{subject.name}: {'; '.join(parts)}"
