"""FIRe in float64, written from the formulas of the paper: loops over positions and templates, nothing shared.

``state`` is a state dict of numpy arrays under the names of a FIRe checkpoint without their ``lit.``.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """Normalise one vector to mean 0 and variance 1, then scale and shift it."""
    mean = sum(x) / len(x)
    variance = sum((x - mean) ** 2) / len(x)
    return (x - mean) / math.sqrt(variance + 1e-5) * weight + bias


def softmax(logits: list[float]) -> list[float]:
    """Exponentials that sum to 1."""
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def integrate(x: Array, state: dict[str, Array], steps: int) -> tuple[Array, Array]:
    """Return super-features N×D and the last attention n×N (each column sums to 1) of positions n×C."""
    normed = [layer_norm(row, state["norm_inputs.weight"], state["norm_inputs.bias"]) for row in x]
    keys = [state["project_k.weight"] @ row for row in normed]
    values = [state["project_v.weight"] @ row for row in normed]
    templates = [row.copy() for row in state["templates_init"][0]]
    scale = len(templates[0]) ** -0.5
    attention = np.zeros((len(x), len(templates)))
    for _ in range(steps):
        queries = []
        for template in templates:
            of_template = layer_norm(template, state["norm_templates.weight"], state["norm_templates.bias"])
            queries.append(state["project_q.weight"] @ of_template * scale)
        for p, key in enumerate(keys):
            attention[p] = softmax([float(key @ query) for query in queries])
        for t in range(len(templates)):
            attention[:, t] += 1e-8
            attention[:, t] /= sum(attention[:, t])
            templates[t] = templates[t] + sum(attention[p, t] * value for p, value in enumerate(values))
            hidden = layer_norm(templates[t], state["norm_mlp.weight"], state["norm_mlp.bias"])
            hidden = np.maximum(state["mlp.0.weight"] @ hidden + state["mlp.0.bias"], 0.0)
            templates[t] = templates[t] + state["mlp.2.weight"] @ hidden + state["mlp.2.bias"]
    return np.array(templates), attention


def resize(image: Array, scale: float) -> Array:
    """Bilinear, half-pixel centres, no antialias, sampled at the ratio 1/scale; C×H×W."""
    _, height, width = image.shape
    rows, columns = max(1, math.floor(height * scale)), max(1, math.floor(width * scale))
    out = np.zeros((image.shape[0], rows, columns))
    for row in range(rows):
        y0, y1, fy = _taps(row, height, scale)
        for column in range(columns):
            x0, x1, fx = _taps(column, width, scale)
            top = image[:, y0, x0] * (1 - fx) + image[:, y0, x1] * fx
            bottom = image[:, y1, x0] * (1 - fx) + image[:, y1, x1] * fx
            out[:, row, column] = top * (1 - fy) + bottom * fy
    return out


def _taps(index: int, size: int, scale: float) -> tuple[int, int, float]:
    source = max(0.0, (index + 0.5) / scale - 0.5)
    low = min(int(source), size - 1)
    return low, min(low + 1, size - 1), source - low


def descriptors_of_scale(features: Array, size: tuple[int, int], state: dict[str, Array], steps: int) -> list[Array]:
    """Return descriptors N×D, attention N and positions N×2 from features C×h×w of an image of ``size`` (H, W)."""
    channels, rows, columns = features.shape
    lit = {name.removeprefix("lit."): tensor for name, tensor in state.items() if name.startswith("lit.")}
    vectors, attention = integrate(features.reshape(channels, -1).T, lit, steps)
    weight, bias = state["dim_reduction.weight"][:, :, 0, 0], state["dim_reduction.bias"]
    positions = np.zeros((len(vectors), 2))
    for t in range(len(vectors)):
        for r in range(rows):
            for c in range(columns):
                centre = np.array([(c + 0.5) * size[1] / columns, (r + 0.5) * size[0] / rows])
                positions[t] += attention[r * columns + c, t] * centre
    strength = np.array([math.sqrt(sum(vector**2) + 1e-10) for vector in vectors])
    return [np.array([weight @ vector + bias for vector in vectors]), strength, positions]
