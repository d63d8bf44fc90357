"""Which convolutions must stay fp32, so that a graph of eight bits keeps a tolerance: as few as needed, by measuring.

Each convolution is quantised alone, on a few photos at one scale, and the noise that it adds to the trunk's output is
its sensitivity. The most sensitive ones are kept, twice as many at every attempt, until the graph is accepted;
bisection then finds how many of them were needed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import INPUT_NAME
from ctxdeploy.core.errors import ConfigError, ParityError
from ctxdeploy.export.int8.calibration import Image, Int8Config, Ranges, calibrate, open_session
from ctxdeploy.export.int8.layers import find_trunk, subgraph
from ctxdeploy.export.int8.qdq import INT8, EightBits, quantise

# Returns why a graph (an ``onnx.ModelProto``) is refused, and an empty text for one that is accepted.
Check = Callable[[Any], str]
# Names a step as it begins.
Report = Callable[[str], None]

_PHOTOS = 3


def search(
    proto: Any,
    photos: Mapping[str, Image],
    check: Check,
    config: Int8Config | None = None,
    *,
    kind: EightBits = INT8,
    report: Report = lambda step: None,
) -> tuple[Any, dict[str, Any]]:
    """Calibrate, and keep the fewest convolutions in fp32 with which ``check`` accepts the graph.

    Args:
        proto: the fp32 graph, which is not changed.
        photos: H×W×3 uint8 by name, at the size at which they enter the network.
        check: judges a quantised graph.
        config: how many photos, and how many convolutions may be kept.
        kind: type of eight bits.
        report: called with the name of each step.

    Returns:
        The graph, and what made it, for ``Artefact.details``: ranges and where they come from, the convolutions
        kept, the noise of each (relative power in the trunk's output) and every attempt.

    Raises:
        ParityError: no graph was accepted; the message says what the best one missed.
        ConfigError: there is no photo, a name in ``config.keep`` is unknown, or the graph has no trunk.
    """
    config = config or Int8Config()
    report(f"calibrating on {min(len(photos), config.max_photos)} {config.source}")
    ranges = calibrate(proto, photos, config)
    layers = find_trunk(proto).layers
    max_kept = max(len(config.keep), int(config.max_kept * len(layers)))
    attempts: list[dict[str, Any]] = []

    def attempt(kept: list[str]) -> Any:
        report(f"{kind.label} with {len(kept)} of {len(layers)} convolutions in fp32")
        graph = quantise(proto, ranges, keep=kept, kind=kind)
        reason = check(graph)
        attempts.append({"kept": len(kept), "refused": reason})
        return None if reason else graph

    order = [name for name in layers if name in config.keep]
    noise: dict[str, float] = {}
    graph = attempt(order)
    count = len(order)
    if graph is None and count < max_kept:
        report("measuring the sensitivity of every convolution")
        noise = sensitivities(proto, ranges, {name: photos[name] for name in ranges.photos[:_PHOTOS]}, kind)
        order += [name for name in sorted(noise, key=lambda name: -noise[name]) if name not in config.keep]
        count, graph = _fewest(attempt, order, count, max_kept)
    if graph is None:
        raise ParityError(
            f"{kind.label} misses its tolerance even with {attempts[-1]['kept']} of {len(layers)} convolutions in fp32 "
            f"({attempts[-1]['refused']}): calibrate on photos of your own archive with --calibrate, "
            "or give --precision bf16"
        )
    return graph, {
        "scheme": f"QDQ, symmetric {kind.label}, weights per channel",
        "calibration": {"source": config.source, **ranges.metadata(), "method": kind.method},
        "convolutions": len(layers),
        "kept_fp32": sorted(order[:count], key=list(layers).index),
        "noise": {name: float(f"{value:.4g}") for name, value in noise.items()},
        "attempts": attempts,
    }


def sensitivities(proto: Any, ranges: Ranges, photos: Mapping[str, Image], kind: EightBits = INT8) -> dict[str, float]:
    """Return for each convolution of the trunk the noise in the trunk's outputs when it alone is quantised.

    Noise is the error's power over that of the output around its mean per channel, at one scale, the fifth of seven.
    Where a network gives local descriptors and a global one, the trunk has two outputs, and their noise is added.
    """
    trunk = find_trunk(proto)
    ends = trunk.ends
    scales = [row for row in trunk.by_scale(ends) if len(row) == len(ends)]
    if not scales:
        raise ConfigError(f"no scale of the graph has all outputs of its trunk ({', '.join(ends)}): export it anew")
    part = subgraph(proto, scales[len(scales) * 2 // 3].values())
    wanted = _outputs(part, photos)  # in fp32
    powers = [sum(float(((x - x.mean(axis=(0, 2, 3), keepdims=True)) ** 2).sum()) for x in maps) for maps in wanted]
    noise = {}
    for name in trunk.layers:
        others = [other for other in trunk.layers if other != name]
        found = _outputs(kind.runnable(quantise(part, ranges, keep=others, kind=kind)), photos)
        noise[name] = sum(
            sum(float(((x - y) ** 2).sum()) for x, y in zip(maps, others_maps, strict=True)) / max(power, 1e-30)
            for maps, others_maps, power in zip(wanted, found, powers, strict=True)
        )
    return noise


def _outputs(proto: Any, photos: Mapping[str, Image]) -> list[list[NDArray[np.float32]]]:
    """Return the maps of every photo for each output."""
    session = open_session(proto)
    runs = [session.run(None, {INPUT_NAME: photo[None]}) for photo in photos.values()]
    return [list(maps) for maps in zip(*runs, strict=True)]


def _fewest(attempt: Callable[[list[str]], Any], order: list[str], refused: int, max_kept: int) -> tuple[int, Any]:
    """Return the smallest number of names from the front of ``order`` that is accepted, and its graph; None if none is.

    It is taken for granted that one more fp32 convolution never makes a graph worse.
    """
    graph, count = None, refused
    step = 1
    while graph is None and count < max_kept:
        refused, count = count, min(count + step, max_kept)
        graph = attempt(order[:count])
        step *= 2
    accepted = count
    while graph is not None and accepted - refused > 1:
        middle = (accepted + refused) // 2
        smaller = attempt(order[:middle])
        if smaller is None:
            refused = middle
        else:
            accepted, graph = middle, smaller
    return accepted, graph
