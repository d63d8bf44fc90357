"""How fast is the whole of `ctxdeploy index`, what does it survive, and does its memory stay flat?

    python benchmarks/indexing.py whole --photos minibench/images --bundle how.ctxbundle --checkpoint how.pth
    python benchmarks/indexing.py kills --photos minibench/images     # a few minutes
    python benchmarks/indexing.py shapes --photos minibench/images    # ten minutes

- `whole`: photos a second of the command with a codebook that is there (listing, reading, decoding, network,
  assignment, shards, commits), in each engine, beside the limit, the network alone on photos that are decoded already,
  and beside HOW's way, PyTorch fp32 on one photo at a time, each decoded when its turn comes. In turns.
- `kills`: views of photos are indexed once undisturbed, and once while the process (or one of the workers that decode
  for it) gets SIGKILL at random moments; it is started again until it says that it is done. Then: the same names,
  failures and answers (every score of every photo), the same bytes after `ctxdeploy compact`, nothing left behind.
- `shapes`: small photos of many different shapes. Engines keep something for every shape that they meet, allocators
  fragment, queues fill. The memory of the command and of its workers (anonymous pages in RAM) is read twice a second;
  the figure is the mean of the last tenth of the photos over that of the tenth after the first tenth.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ctxdeploy.bench import (
    BundleEngine,
    Question,
    WindowConfig,
    index_case,
    measure,
    photo_case,
    photo_files,
    prepare,
    publish,
    pytorch_case,
)
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Bundle, Extraction
from ctxdeploy.core.progress import Display
from ctxdeploy.core.samples import NAMES, ViewConfig, make_view, sample_photo
from ctxdeploy.core.types import Precision
from ctxdeploy.evaluation import AsmkRetrieval
from ctxdeploy.export import ExportConfig, export_bundle, save_checkpoint, untrained_network
from ctxdeploy.export.networks import Architecture, NetworkConfig
from ctxdeploy.index import Index
from ctxdeploy.runtime import Extractor, find_photos

ENGINES = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
VIEW = ViewConfig(shift=0.05, shrink=0.3, rotation=6, light=0.3, occlusion=0.2, blur=0.8)
# Exit codes of a run that is done: all photos, or all but those that cannot be read.
DONE = (0, 19)
DISPLAY = Display(quiet=False)


def whole(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Measure the command, the network alone and HOW's way."""
    bundle = bundles.open(options.bundle)
    photos = photo_files(options.photos, options.count or 200, options.work)
    engines = {
        f"{name} {precision}": BundleEngine(bundle=bundle, backend=name, precision=precision, threads=None)
        for name, precision in ENGINES
    }
    made = prepare(engines["onnxruntime fp32"], photos, options.words, options.work, DISPLAY)
    cases = [index_case(f"index, {label}", "sweep", engine, made) for label, engine in engines.items()]
    cases += [photo_case(f"network, {label}", "sweep", engine, photos) for label, engine in engines.items()]
    how = pytorch_case(bundle, photos[:: max(1, len(photos) // options.torch_photos)], None, options.checkpoint)
    question = Question(kind="end-to-end", settings={}, cases=[*cases, how], known={})
    window = WindowConfig(windows=options.rounds, block=options.rounds)
    found = measure(question, options.work / "whole.json", window, DISPLAY, restart=True).content["results"]["cases"]
    slow, results = found[how.label]["per_second"], {}
    for label in engines:
        alone, rate = 1 / found[f"network, {label}"]["stages"]["network"]["mean"], found[f"index, {label}"]
        results[label] = {
            "network_alone_photos_per_second": alone,
            "photos_per_second": rate["per_second"],
            "fraction_of_network_alone": rate["per_second"] / alone,
            "times_hows_way": rate["per_second"] / slow,
            "stages": {name: of["mean"] for name, of in rate["stages"].items()},
        }
    lines = [
        f"{label}: {of['photos_per_second']:.2f} photos/s, {of['fraction_of_network_alone']:.2f} of the limit (the "
        f"network alone), {of['times_hows_way']:.1f} times PyTorch on one photo at a time"
        for label, of in results.items()
    ]
    result = {"photos": len(photos), "words": options.words, "how": {"photos_per_second": slow}, "results": results}
    return result, lines


def kills(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Make the photos, index them undisturbed and disturbed, compare."""
    folder, count = options.work / "photos", options.count or 10_000
    write_views(folder, _sources(options.photos), [160] * count)
    for number in range(60):  # cut, empty, not a photo
        view = (folder / "00" / "view_000000.jpg").read_bytes()
        content = (view[: len(view) // 2], b"", b"not a photo")[number % 3]
        (folder / f"{number % 100:02d}" / f"bad_{number:04d}.jpg").write_bytes(content)
    bundle = small_bundle(options.work / "small.ctxbundle", 160)
    archives = [_removed(options.work / f"{name}.ctxindex") for name in ("undisturbed", "killed")]
    flags = ("--model", bundle.path, "--json", "-q", "--commit-seconds", 1, "--training-photos", 2000, "--words", 1024)
    start = time.monotonic()
    process = start_index(folder, archives[0], *flags)
    out, err = process.communicate()
    if process.returncode not in DONE:
        raise SystemExit(err)
    undisturbed = {"seconds": time.monotonic() - start, **json.loads(out)}
    disturbed = _disturbed(partial(start_index, folder, archives[1], *flags), random.Random(options.seed))
    queries = sorted(folder.glob("*/view_*.jpg"))[:: max(1, count // 100)][:100]
    equal = _compared(archives[0], archives[1], bundle, queries)
    kept = {key: undisturbed[key] for key in ("seconds", "found", "indexed", "failed", "stages")}
    result = {"photos": count, "unreadable": 60, "undisturbed": kept, "killed": disturbed, "equal": equal}
    lines = [f"{name}: {'as undisturbed' if same else 'DIFFERENT'}" for name, same in equal.items()]
    if not all(equal.values()):
        raise SystemExit("\n".join(lines))
    return result, [*lines, f"{disturbed['seconds']:.0f} s with {disturbed['kills']} kills; no limit was measured"]


def _disturbed(start: Callable[[], "subprocess.Popen[str]"], chance: random.Random) -> dict[str, Any]:
    begin, code = time.monotonic(), None
    counts = {"runs": 0, "kills": 0, "worker_kills": 0, "orphans": 0}
    while code not in DONE:
        process, known = start(), set[int]()
        counts["runs"] += 1
        end = time.monotonic() + chance.uniform(4, 12)
        strike = time.monotonic() + chance.uniform(4, 12) / 2 if chance.random() < 0.5 else float("inf")
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
            known.update(children(process.pid))
            if time.monotonic() > strike and known:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(sorted(known)), signal.SIGKILL)
                counts["worker_kills"] += 1
                strike = float("inf")
        if process.poll() is None:
            process.kill()
            counts["kills"] += 1
        _, err = process.communicate()
        code = process.returncode
        gone = time.monotonic() + 5
        while any(map(is_alive, known)) and time.monotonic() < gone:
            time.sleep(0.05)
        counts["orphans"] += sum(map(is_alive, known))
        if code not in (*DONE, -signal.SIGKILL):
            raise SystemExit(f"the run ended with {code}: {err}")
    return {"seconds": time.monotonic() - begin, **counts}


def _compared(calm: Path, killed: Path, bundle: Bundle, queries: list[Path]) -> dict[str, bool]:
    extractor = Extractor(bundle)
    with Index.open(calm) as one, Index.open(killed) as other:
        names = [list(index.names()) for index in (one, other)]
        failures = [sorted((f["name"], f["reason"], f["stage"]) for f in index.failures()) for index in (one, other)]
        answers = True
        for query in queries:
            descriptors = extractor.extract_one(query)
            found = [{h.name: h.score for h in index.search(descriptors, len(names[0]))} for index in (one, other)]
            answers = answers and found[0] == found[1]
        sound = not one.verify() and not other.verify()
    for archive in (calm, killed):
        subprocess.run([sys.executable, "-m", "ctxdeploy.cli.main", "compact", str(archive), "-q"], check=True)
        with Index.open(archive, writable=True) as index:
            index.collect_garbage()
    return {
        "names": sorted(names[0]) == sorted(names[1]) and len(names[1]) == len(set(names[1])),
        "failures": failures[0] == failures[1],
        "answers": answers,
        "sound": sound,
        "bytes_after_compaction": _content(calm) == _content(killed),
        "no_spool_left": not _training(killed).exists(),
    }


def shapes(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Index photos of many shapes in each engine."""
    folder, count, chance = options.work / "photos", options.count or 20_000, np.random.default_rng(options.seed)
    sides = [(int(w), int(h)) for w, h in chance.integers(48, 161, (4 * options.shapes, 2))]
    kinds = list(dict.fromkeys(sides))[: options.shapes]
    write_views(folder, _sources(options.photos), [kinds[i] for i in chance.integers(0, len(kinds), count)])
    bundle = small_bundle(options.work / "small.ctxbundle", 160)
    engines = {}
    for name, precision in ENGINES:
        flags = ("--model", bundle.path, "--backend", name, "--precision", precision, "--json", "--words", 4096)
        archive = _removed(options.work / f"{name}-{precision}.ctxindex")
        engines[f"{name} {precision}"] = _followed(
            start_index(folder, archive, *flags, "--training-photos", 1000), count
        )
    lines = [
        f"{engine}: memory of the last tenth {100 * of['growth']:+.1f} %, peak {of['peak_mb']:.0f} MB; the limit is 0 %"
        for engine, of in engines.items()
    ]
    return {"photos": count, "shapes": len(kinds), "engines": engines}, lines


def _followed(process: "subprocess.Popen[str]", total: int) -> dict[str, Any]:
    """Read memory until a run has ended."""
    done, samples, start = [0], list[tuple[int, float, float]](), time.monotonic()

    def follow() -> None:
        for line in process.stderr or ():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("task") == "indexing":
                done[0] = event["done"]

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    while process.poll() is None:
        own = resident(process.pid)
        samples.append((done[0], (own + sum(map(resident, children(process.pid)))) / 1e6, own / 1e6))
        time.sleep(0.5)
    seconds = time.monotonic() - start
    reader.join(5)
    report = json.loads(process.stdout.read() if process.stdout else "")
    early = float(np.mean([mb for n, mb, _ in samples if 0.1 * total < n <= 0.2 * total]))
    late = float(np.mean([mb for n, mb, _ in samples if n > 0.9 * total]))
    return {
        "seconds": seconds,
        "photos_per_second": (report["indexed"] + report["failed"]) / seconds,
        "after_first_tenth_mb": early,
        "last_tenth_mb": late,
        "growth": late / early - 1,
        "peak_mb": max(mb for _, mb, _ in samples),
        "stages": report["stages"],
        "samples": [(n, round(mb, 1), round(own, 1)) for n, mb, own in samples[:: max(1, len(samples) // 200)]],
    }


def small_bundle(path: Path, image_size: int) -> Bundle:
    """Return a bundle of an untrained one-scale ResNet-18 (to layer3), fp32 and bf16, made unless it is there."""
    if not path.exists():
        config = NetworkConfig(family="how", architecture=Architecture.RESNET18, skip_layer=1)
        extraction = Extraction(scales=(1.0,), top_k=100, dim=config.descriptor_dim)
        network = untrained_network(config, extraction, [sample_photo(name) for name in NAMES], seed=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(network, path.with_suffix(".pth"), image_size=image_size)
        settings = ExportConfig(targets=("onnxruntime", "openvino"), precisions=(Precision.FP32, Precision.BF16))
        export_bundle(path.with_suffix(".pth"), path, settings, retrieval=AsmkRetrieval, display=DISPLAY).check()
    return bundles.open(path)


def write_views(folder: Path, sources: list[Path], shapes: Iterable[tuple[int, int] | int]) -> None:
    """Write a JPEG view for each entry of `shapes`: its longest side, or its (width, height); sources take turns.

    Views that are there are left alone.
    """
    wanted = list(shapes)
    opened: tuple[int, Any] = -1, None
    for number in sorted(range(len(wanted)), key=lambda n: n % len(sources)):
        path = folder / f"{number % 100:02d}" / f"view_{number:06d}.jpg"
        if path.exists():
            continue
        source, shape = number % len(sources), wanted[number]
        if opened[0] != source:
            with Image.open(sources[source]) as image:
                image.draft("RGB", (640, 640))
                opened = source, np.asarray(image.convert("RGB"))
        longest = shape if isinstance(shape, int) else max(shape)
        view = make_view(opened[1], np.random.default_rng(number), replace(VIEW, longest=round(longest / 0.9)))
        if not isinstance(shape, int):
            view = view.resize(shape, Image.Resampling.BILINEAR)
        path.parent.mkdir(parents=True, exist_ok=True)
        view.save(path, quality=90)


def start_index(photos: Path, archive: Path, *options: object) -> "subprocess.Popen[str]":
    """Start `ctxdeploy index` in a session of its own."""
    command = [sys.executable, "-m", "ctxdeploy.cli.main", "index", str(photos), "-o", str(archive), *map(str, options)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that live."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def resident(pid: int) -> int:
    """Return the bytes of a process's own memory in RAM, without mapped files; 0 if it is gone."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    return 0


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _sources(folder: Path) -> list[Path]:
    return [photo.path for photo in find_photos(folder) if photo.path]


def _training(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.training")


def _removed(archive: Path) -> Path:
    for path in (archive, _training(archive)):
        shutil.rmtree(path, ignore_errors=True)
    return archive


def _content(archive: Path) -> dict[str, str]:
    files = [*archive.glob("shards/*"), *archive.glob("names/*"), archive / "codebook.safetensors"]
    return {str(path.relative_to(archive)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


MEASUREMENTS = {"whole": whole, "kills": kills, "shapes": shapes}


def main() -> None:
    """Read the options, measure, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=MEASUREMENTS)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, help="photos: 200 of whole, 10,000 of kills, 20,000 of shapes")
    parser.add_argument("--bundle", type=Path, help="of whole, with an artefact for each engine")
    parser.add_argument("--checkpoint", type=Path, help="of whole, that the bundle was made from")
    parser.add_argument("--torch-photos", type=int, default=50, help="of whole")
    parser.add_argument("--words", type=int, default=16384, help="of whole")
    parser.add_argument("--rounds", type=int, default=1, help="of whole")
    parser.add_argument("--shapes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="the default is work/MEASUREMENT")
    parser.add_argument("-o", "--output", type=Path, help="the default is results/MEASUREMENT.json")
    options = parser.parse_args()
    here, name = Path(__file__).parent, options.measurement
    options.work = options.work or here / "work" / name
    if name == "whole":
        if options.bundle is None or options.checkpoint is None:
            parser.error("whole needs --bundle and --checkpoint")
        shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True, exist_ok=True)
    result, lines = MEASUREMENTS[name](options)
    publish(result, options.output or here / "results" / f"{name}.json", lines)


if __name__ == "__main__":
    main()
