"""What the benchmarks of bulk extraction share: views of photos, small networks, processes and their memory."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Bundle, Extraction
from ctxdeploy.core.progress import Display
from ctxdeploy.core.samples import NAMES, sample_photo
from ctxdeploy.core.types import Precision
from ctxdeploy.core.views import ViewConfig, make_view
from ctxdeploy.evaluation.retrieval import AsmkRetrieval
from ctxdeploy.export import ExportConfig, export_bundle, save_checkpoint, untrained_network
from ctxdeploy.export.networks import Architecture, NetworkConfig

VIEW = ViewConfig(shift=0.05, shrink=0.3, rotation=6, light=0.3, occlusion=0.2, blur=0.8)


def small_bundle(path: Path, image_size: int, top_k: int) -> Bundle:
    """Return a bundle of an untrained one-scale ResNet-18 (to layer3), fp32 and bf16, made unless it is there."""
    if not path.exists():
        config = NetworkConfig(family="how", architecture=Architecture.RESNET18, skip_layer=1)
        extraction = Extraction(scales=(1.0,), top_k=top_k, dim=config.descriptor_dim)
        network = untrained_network(config, extraction, [sample_photo(name) for name in NAMES], seed=1)
        checkpoint = path.with_suffix(".pth")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(network, checkpoint, image_size=image_size)
        settings = ExportConfig(targets=("onnxruntime", "openvino"), precisions=(Precision.FP32, Precision.BF16))
        export_bundle(checkpoint, path, settings, retrieval=AsmkRetrieval, display=Display(quiet=False)).check()
    return bundles.open(path)


def write_views(folder: Path, sources: list[Path], shapes: Iterable[tuple[int, int] | int]) -> int:
    """Write a JPEG view for each entry of ``shapes``: its longest side, or its (width, height); return how many.

    Sources take turns. Views that are there are left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    opened: tuple[int, np.ndarray] | None = None
    wanted = list(shapes)
    for number in sorted(range(len(wanted)), key=lambda n: n % len(sources)):
        path = folder / f"{number % 100:02d}" / f"view_{number:06d}.jpg"
        count += 1
        if path.exists():
            continue
        source = number % len(sources)
        if opened is None or opened[0] != source:
            with Image.open(sources[source]) as image:
                image.draft("RGB", (640, 640))
                image.thumbnail((640, 640))
                opened = source, np.asarray(image.convert("RGB"))
        shape = wanted[number]
        longest = shape if isinstance(shape, int) else max(shape)
        view = make_view(opened[1], np.random.default_rng(number), replace(VIEW, longest=round(longest / 0.9)))
        if not isinstance(shape, int):
            view = view.resize(shape, Image.Resampling.BILINEAR)
        path.parent.mkdir(exist_ok=True)
        view.save(path, quality=90)
    return count


def start_index(photos: Path, archive: Path, *options: object) -> "subprocess.Popen[str]":
    """Start ``ctxdeploy index`` in a session of its own."""
    command = [sys.executable, "-m", "ctxdeploy.cli.main", "index", str(photos), "-o", str(archive)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *map(str, options)], start_new_session=True, **pipes)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that live."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def resident(pid: int) -> int:
    """Return the bytes of a process's own memory in RAM, without mapped files; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int) -> None:
    """Send SIGKILL; a process that is gone is no error."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def waited(done: Callable[[], bool], seconds: float, interval: float = 0.05) -> bool:
    """Wait until something is done; return whether it is."""
    import time

    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(interval)
    return True
