"""What every step stands on: its options, its rows, its photos, and the time of work on a GPU."""

import argparse
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from driver import LACKING, ROW

# The exit code of a step that lacks a package, a GPU or what an earlier step makes.
_LACKS = 3
# The frame of photos that networks are measured with.
WIDTH, HEIGHT = 1024, 768


class LackingError(Exception):
    """What a step needs and is not there; it is said, and the next run tries again."""


class Rows:
    """The rows of a step: those of an earlier run are kept, each new one is told at once.

    Attributes:
        rehearse: tiny sizes, no GPU.
        work: folder of the run.
        photos: folder given, or None.
        steps: what other steps found so far.
    """

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--work", type=Path, required=True)
        parser.add_argument("--done", type=Path, required=True)
        parser.add_argument("--photos", type=Path)
        parser.add_argument("--rehearse", action="store_true")
        options = parser.parse_args()
        self.work, self.rehearse, self.photos = options.work, options.rehearse, options.photos
        content = json.loads(options.done.read_text(encoding="utf-8"))
        self._done, self.steps = content["rows"], content["steps"]
        threading.Thread(target=_end_with_driver, daemon=True).start()

    def measure(self, name: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Return a row, measured unless it is there already; one that fails is told, and does not stop the others."""
        if name in self._done:
            found: dict[str, Any] = self._done[name]
            return found
        began = time.monotonic()
        try:
            found = call()
        except LackingError as error:
            self.tell(name, {"error": f"{LACKING}: {error}"})
            return None
        except Exception as error:  # whatever it is, the other rows are measured
            traceback.print_exc()
            self.tell(name, {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})
            return None
        self.tell(name, {**found, "took_seconds": round(time.monotonic() - began, 2)})
        return found

    def has(self, name: str) -> bool:
        """Return whether an earlier run has measured a row."""
        return name in self._done

    def tell(self, name: str, found: dict[str, Any]) -> None:
        """Keep a row."""
        print(ROW + json.dumps({"name": name, "found": found}), flush=True)

    def of(self, step: str) -> dict[str, Any]:
        """Return the rows of another step."""
        rows: dict[str, Any] = self.steps.get(step, {}).get("rows", {})
        return rows

    def folder(self, name: str) -> Path:
        """Return a folder of the run."""
        path = self.work / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def run_step(run: Callable[[Rows], None]) -> None:
    """Run a step as a process; what it lacks altogether is one line and an exit code of its own."""
    rows = Rows()
    try:
        run(rows)
    except LackingError as error:
        print(f"{LACKING}: {error}", flush=True)
        sys.exit(_LACKS)


def needed(module: str, why: str) -> Any:
    """Return a module, or say that it is lacking."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LackingError(f"{why} ({error})") from error


def gpu_or_cpu(rows: Rows) -> str:
    """Return PyTorch's device of a step: the GPU, or in a rehearsal the CPU."""
    torch = needed("torch", "PyTorch is not installed")
    if rows.rehearse:
        return "cpu"
    if not torch.cuda.is_available():
        raise LackingError("PyTorch sees no GPU")
    return "cuda"


def seconds_of(call: Callable[[], object], device: str, *, repeats: int, warm: int = 3) -> dict[str, float]:
    """Return median, least and largest seconds of a call, on a GPU by its own events."""
    import statistics

    import torch

    for _ in range(warm):
        call()
    times = []
    for _ in range(repeats):
        if device == "cpu":
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
            continue
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        call()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1000)
    return {"seconds": statistics.median(times), "least": min(times), "largest": max(times)}


def photo_arrays(rows: Rows, count: int, *, width: int = WIDTH, height: int = HEIGHT) -> list[Any]:
    """Return photos, all of one shape, H×W×3 uint8: cut from those of the folder, or of scikit-image."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    pictures = _pictures(rows)
    made = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        side = min(picture.width / width, picture.height / height) * random.uniform(0.7, 1.0)
        left = random.uniform(0, picture.width - side * width)
        top = random.uniform(0, picture.height - side * height)
        box = (left, top, left + side * width, top + side * height)
        cut = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
        made.append(np.asarray(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else cut))
    return made


def photo_folder(rows: Rows, count: int, *, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Return a folder of that many JPEG files of one shape."""
    from PIL import Image

    folder = rows.folder(f"photos-{width}x{height}")
    missing = [number for number in range(count) if not (folder / f"{number:05d}.jpg").exists()]
    if missing:
        pixels = photo_arrays(rows, count, width=width, height=height)
        for number in missing:
            partial = folder / f"{number:05d}.partial"
            Image.fromarray(pixels[number]).save(partial, format="JPEG", quality=90)
            partial.replace(folder / f"{number:05d}.jpg")
    return folder


def _pictures(rows: Rows) -> list[Any]:
    from PIL import Image

    if rows.photos is not None:
        files = [path for path in sorted(rows.photos.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
        if files:
            return [Image.open(path).convert("RGB") for path in files[:: max(1, len(files) // 40)]]
    needed("skimage", "scikit-image, which has the photos, is not installed: give --photos")
    from ctxdeploy.core.samples import sample_photo

    names = (
        ("coffee", "astronaut") if rows.rehearse else ("astronaut", "coffee", "chelsea", "rocket", "retina", "brick")
    )
    return [Image.fromarray(sample_photo(name)) for name in names]


def _end_with_driver() -> None:
    """End this process, and all that it started, when the one that started it is gone."""
    while os.read(0, 1):  # not sys.stdin, whose lock Python wants when it ends
        pass
    if os.getpgid(0) == os.getpid():  # else it was started by hand, in the group of a shell
        os.killpg(0, signal.SIGKILL)
