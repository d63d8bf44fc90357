"""Which tensors the shards of an archive have; ``shard.py`` says what they hold."""

from dataclasses import dataclass

from ctxdeploy.index.codebook.aggregation import code_columns
from ctxdeploy.index.config import keeps
from ctxdeploy.index.storage.format import Wanted
from ctxdeploy.index.storage.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the shards of an archive have in common."""

    words: int
    dim: int
    binary: bool
    codebook_id: str
    geometry: str = "none"

    @classmethod
    def of(cls, manifest: Manifest) -> "Layout":
        """Return the layout of an archive's shards."""
        return cls(
            words=manifest.words,
            dim=manifest.dim,
            binary=manifest.config.binary,
            codebook_id=manifest.codebook_id,
            geometry=manifest.config.geometry,
        )

    @property
    def format_version(self) -> int:
        """The format in which shards are written."""
        return 3 if keeps(self.geometry, "codes") else 2

    def metadata(self) -> dict[str, str]:
        """Return the texts in a shard's header, but its format."""
        return {
            "kind": "binary" if self.binary else "float",
            "words": str(self.words),
            "dim": str(self.dim),
            "codebook_id": self.codebook_id,
        }

    def tensors(self, images: int, postings: int, features: int) -> dict[str, Wanted]:
        """Return type and shape of every tensor."""
        codes = ("<u8", (code_columns(self.dim), postings)) if self.binary else ("<f4", (postings, self.dim))
        wanted: dict[str, Wanted] = {
            "codes": codes,
            "images": ("<u2", (postings,)),
            "word_offsets": ("<u4", (self.words + 1,)),
            "counts": ("<u4", (images,)),
            "names": ("|u1", None),
            "name_offsets": ("<u4", (images + 1,)),
            "sizes": ("<i8", (images,)),
            "mtimes": ("<i8", (images,)),
        }
        if keeps(self.geometry, "positions"):
            wanted |= {
                "geometry_words": ("<u2", (features,)),
                "geometry_positions": ("<u2", (features, 2)),
                "geometry_scales": ("<f2", (features,)),
                "geometry_frames": ("<f4", (images, 4)),
                "geometry_offsets": ("<u4", (images + 1,)),
            }
        if keeps(self.geometry, "codes"):
            wanted["geometry_codes"] = ("<u8", (features, code_columns(self.dim)))
            wanted["geometry_sizes"] = ("<u4", (images, 2))
        if keeps(self.geometry, "descriptors"):
            wanted["geometry_vectors"] = ("|i1", (features, self.dim))
            wanted["geometry_steps"] = ("<f4", (features,))
        return wanted
