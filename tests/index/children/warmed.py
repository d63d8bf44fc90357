"""Does in a process of its own what follows warming up, and prints the loops that were compiled, before and after.

    warmed.py              which loops of the package nothing has called, after warming up
    warmed.py FOLDER       what adding, asking, verifying and changing archives in FOLDER still compile

numba itself says what it compiles, not what keeps the code.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numba.core import event

from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.index import Codebook, Index, IndexConfig, VerificationConfig, verify, warm_up


def compiled(recorder: Any) -> list[str]:
    """Return names and types of the loops whose compilation began."""
    begun = [happened for _, happened in recorder.buffer if happened.is_start]
    return [f"{one.data['dispatcher'].py_func.__name__} {one.data['args']}" for one in begun]


def use(folder: Path) -> None:
    """Make archives with photos of other sizes and numbers than the rehearsal has, and ask them."""
    random = np.random.default_rng(3)
    for dim, words in ((48, 80), (128, 5000)):
        codebook = Codebook.train(random.normal(size=(2 * words, dim)).astype(np.float32), words, iterations=1)
        codebook.save(folder / f"{dim}.words")
        for binary, geometry in ((True, "none"), (False, "none"), (True, "descriptors"), (True, "codes")):
            path = folder / f"{dim}-{binary}-{geometry}"
            config = IndexConfig(binary=binary, geometry=geometry)
            with Index.create(path, Codebook.load(folder / f"{dim}.words"), config=config) as index:
                photos = [photo(random, dim, count) for count in (0, 1, 7, 300, 90)]
                index.add_many((f"{number}.jpg", one) for number, one in enumerate(photos))
            with Index.open(path) as index:
                asked = photos[3]
                asked.vectors.flags.writeable = False
                hits = index.search(asked, 100, expand=1, idf=True)
                index.search_batch([one.vectors for one in photos] * 8, 3, among=[hit.name for hit in hits])
                list(index.search_all(3))
                index.scores(["3.jpg"], ["1.jpg", "2.jpg", "4.jpg"])
                if index.config.keeps("codes"):
                    stored = [index.features(hit.name) for hit in hits]
                    verify(index.features(asked), stored, VerificationConfig())
                    verify(index.features(hits[0].name), stored, VerificationConfig(matches="codes", turn=1))
            with Index.open(path, writable=True) as index:
                index.remove("3.jpg")
                index.compact(purge=True)
    vectors = np.eye(40, 24, dtype=np.float32)
    with Index.create(folder / "global", None, config=IndexConfig(global_vectors="int8", global_dim=24)) as index:
        for number, vector in enumerate(vectors):
            index.add(str(number), None, global_descriptor=vector)
    with Index.open(folder / "global") as index:
        index.search_global(vectors[:1], 5)


def photo(random: np.random.Generator, dim: int, count: int) -> LocalDescriptors:
    """Return descriptors with places."""
    vectors, places = random.normal(size=(count, dim)), 900 * random.random((count, 2))
    scales = random.random(count)
    return LocalDescriptors(
        vectors=vectors.astype(np.float32), positions=places.astype(np.float32), scales=scales.astype(np.float32)
    )


def main() -> None:
    """Warm up, and say what is left."""
    with event.install_recorder("numba:compile") as recorder:
        first = warm_up()
        before = compiled(recorder)
        recorder.buffer.clear()
        if len(sys.argv) > 1:
            use(Path(sys.argv[1]))
        again = compiled(recorder)
    from ctxdeploy.index.kernels.intrinsics import LOOPS

    uncalled = [loop.py_func.__qualname__ for loop in LOOPS if not loop.signatures]
    print(json.dumps({"report": first.metadata(), "before": before, "again": again, "uncalled": uncalled}))


if __name__ == "__main__":
    main()
