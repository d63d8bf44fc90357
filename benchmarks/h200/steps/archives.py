"""Parts of a synthetic archive of a million photos, with the word statistics of photos. Work of the CPU."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from archive import PARTS, part_of, sizes
from rows import Rows, run_step


def run(rows: Rows) -> None:
    photos, descriptors, words = sizes(rows)
    parts = [part_of(rows, number) for number in range(2 if rows.rehearse else PARTS)]
    share = photos // len(parts)
    with ProcessPoolExecutor(len(parts), multiprocessing.get_context("fork")) as pool:
        made = [pool.submit(make, path, share, descriptors, words, seed) for seed, path in enumerate(parts)]
        for number, future in enumerate(made):
            rows.measure(f"part {number + 1}", future.result)


def make(path: Path, photos: int, descriptors: int, words: int, seed: int) -> dict[str, Any]:
    """Make a part unless it is there."""
    import shutil

    from ctxdeploy.bench import build_archive
    from ctxdeploy.core.progress import Display

    if not path.exists():
        partial = path.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        build_archive(partial, [photos], descriptors, words, seed, Display(quiet=True))
        partial.rename(path)
    return {"photos": photos}


if __name__ == "__main__":
    run_step(run)
