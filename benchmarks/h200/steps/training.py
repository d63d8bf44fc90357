"""Steps a second of a training, and whether a run that was interrupted gives the weights of one that was not."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rows import Rows, gpu_or_cpu, photo_arrays, run_step


def run(rows: Rows) -> None:
    device = gpu_or_cpu(rows)
    for precision in ("fp32",) if rows.rehearse else ("bf16", "fp32"):
        rows.measure(f"interrupted, {precision}", lambda p=precision: _interrupted(rows, device, p))  # type: ignore[misc]
        rows.measure(f"steps, {precision}", lambda p=precision: _steps(rows, device, p))  # type: ignore[misc]


def _landmarks(rows: Rows) -> Path:
    """Return a folder of folders of views of photos."""
    import numpy as np
    from PIL import Image

    from ctxdeploy.core.samples import ViewConfig, make_view

    folder = rows.folder("landmarks")
    if (folder / "whole").exists():
        return folder / "whole"
    random = np.random.default_rng(0)
    for number, photo in enumerate(photo_arrays(rows, 3 if rows.rehearse else 12, width=512, height=384)):
        place = folder / "parts" / f"{number:03d}"
        place.mkdir(parents=True, exist_ok=True)
        for i in range(2 if rows.rehearse else 5):
            view = make_view(photo, random, ViewConfig(longest=128 if rows.rehearse else 512))
            Image.fromarray(np.asarray(view)).save(place / f"{i}.jpg", quality=90)
    return (folder / "parts").rename(folder / "whole")


def _train(rows: Rows, folder: Path, device: str, config: Any, workers: int | None) -> Any:
    from ctxdeploy.core.progress import Display
    from ctxdeploy.export.networks import Architecture, NetworkConfig, Refinement, Smoothing
    from ctxdeploy.training import RunConfig, Start, train
    from ctxdeploy.training.sets import read_set

    network = NetworkConfig(
        family="ctx",
        architecture=Architecture.RESNET18_HALF if rows.rehearse else Architecture.RESNET18,
        skip_layer=1,
        dim=16 if rows.rehearse else 128,
        smoothing=Smoothing(kind="gaussian"),
        refinement=Refinement(blocks=1),
    )
    run = RunConfig(device=device, save_seconds=0, workers=workers)
    photos = read_set("landmarks", _landmarks(rows))
    return train(folder, photos, Start(network=network), config, run, Display(quiet=True))


def _config(rows: Rows, precision: str, steps: int) -> Any:
    from ctxdeploy.training import OptimiserConfig, PairsConfig, TrainConfig

    recipe = PairsConfig(pairs=3, view_size=64) if rows.rehearse else PairsConfig()
    return TrainConfig(recipe=recipe, optimiser=OptimiserConfig(warmup=2), steps=steps, precision=precision)


def _interrupted(rows: Rows, device: str, precision: str) -> dict[str, Any]:
    """Train whole, and in two parts: the second begins from the state that the first one left."""
    import shutil

    import torch

    from ctxdeploy.export import load_checkpoint
    from ctxdeploy.training import trainer

    steps = 2 if rows.rehearse else 16
    trainer.LOG_STEPS = steps // 2
    config, places = _config(rows, precision, steps), [rows.work / f"{kind}-{precision}" for kind in ("whole", "parts")]
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
    # No processes: their start would be most of it.
    whole = _train(rows, places[0], device, config, 0)
    save = trainer.save_state

    def stop(path: Path, content: dict[str, Any]) -> None:
        save(path, content)
        raise KeyboardInterrupt

    trainer.save_state = stop
    try:
        _train(rows, places[1], device, config, 0)
    except KeyboardInterrupt:
        pass
    finally:
        trainer.save_state = save
    parts = _train(rows, places[1], device, config, 0)
    one, other = (load_checkpoint(trained.model).state for trained in (whole, parts))
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    largest = max((float((one[n].float() - other[n].float()).abs().max()) for n in differing), default=0.0)
    return {"steps": steps, "equal": not differing, "differing": differing[:5], "largest_difference": largest}


def _steps(rows: Rows, device: str, precision: str) -> dict[str, Any]:
    """Return steps a second of the second half of a run, batches made by processes."""
    import csv
    import shutil

    from ctxdeploy.training import trainer

    steps = 2 if rows.rehearse else 400
    trainer.LOG_STEPS = 1 if rows.rehearse else 50
    place = rows.work / f"steps-{precision}"
    shutil.rmtree(place, ignore_errors=True)
    began = time.perf_counter()
    _train(rows, place, device, replace(_config(rows, precision, steps)), 1 if rows.rehearse else None)
    with (place / "log.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    later = [float(line["seconds"]) for line in lines[len(lines) // 2 :]]
    losses = {part: float(lines[-1][part]) for part in ("global", "match", "local")}
    return {
        "steps_per_second": len(later) / sum(later),
        "steps": steps,
        "whole_seconds": time.perf_counter() - began,
        "losses": losses,
    }


if __name__ == "__main__":
    run_step(run)
