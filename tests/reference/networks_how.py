"""HOW and ctx in float64, written from the formulas: loops over positions, nothing shared with the library.

Feature maps are C×H×W numpy arrays of one photo; ``state`` is a state dict of numpy arrays by module names.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Array = NDArray[np.float64]


def average_smoothing(x: Array, size: int) -> Array:
    """Mean over the cells of the window that are inside the image."""
    _, rows, columns = x.shape
    out = np.zeros_like(x)
    for row in range(rows):
        for column in range(columns):
            window = _window(row, column, rows, columns, size)
            out[:, row, column] = sum(x[:, r, c] for r, c in window) / len(window)
    return out


def gaussian_smoothing(x: Array, bandwidth: Array, confidence: Array, size: int) -> Array:
    """The learned smoothing; bandwidth and confidence are H×W."""
    _, rows, columns = x.shape
    out = np.zeros_like(x)
    for row in range(rows):
        for column in range(columns):
            b, c = bandwidth[row, column], confidence[row, column]
            numerator, denominator = c * x[:, row, column], c
            for r, q in _window(row, column, rows, columns, size):
                if (r, q) != (row, column):
                    weight = math.exp(-b * ((r - row) ** 2 + (q - column) ** 2))
                    numerator = numerator + weight * x[:, r, q]
                    denominator = denominator + weight
            out[:, row, column] = numerator / denominator
    return out


def graph_convolution(
    x: Array,
    weight: Array,
    parameter: float,
    edges: str,
    neighbours: int,
    query: Array | None = None,
    key: Array | None = None,
) -> Array:
    """One residual block on nodes N×C; a node without edges keeps its features. Attention has two projections C×D."""
    out = x.copy()
    unit = np.stack([row / np.linalg.norm(row) if np.linalg.norm(row) > 0 else row for row in x])
    queries = unit if query is None else np.stack([row @ query for row in unit])
    keys = unit if key is None else np.stack([row @ key for row in unit])
    for i in range(len(x)):
        similarity = [float(queries[i] @ keys[j]) for j in range(len(x))]
        edge = _edges(similarity, parameter, edges, neighbours)
        total = sum(edge)
        if total > 0:
            mean = sum(e * x[j] for j, e in enumerate(edge)) / total
            out[i] = x[i] + np.maximum(mean @ weight, 0.0)
    return out


def _edges(similarity: list[float], parameter: float, edges: str, neighbours: int) -> list[float]:
    if edges == "threshold":
        return [max(s - parameter, 0.0) for s in similarity]
    if edges in ("softmax", "attention"):
        largest = max(similarity)
        powers = [math.exp((s - largest) / parameter) for s in similarity]
        return [p / sum(powers) for p in powers]
    last = sorted(similarity, reverse=True)[min(neighbours, len(similarity)) - 1]
    return [max(s, 0.0) if s >= last else 0.0 for s in similarity]


def _window(row: int, column: int, rows: int, columns: int, size: int) -> list[tuple[int, int]]:
    half = size // 2
    return [
        (r, c)
        for r in range(max(0, row - half), min(rows, row + half + 1))
        for c in range(max(0, column - half), min(columns, column + half + 1))
    ]


def resize(image: Array, scale: float) -> Array:
    """Bilinear, half-pixel centres, no antialias, sampled at the ratio input size / output size."""
    _, height, width = image.shape
    rows, columns = max(1, math.floor(height * scale)), max(1, math.floor(width * scale))
    out = np.zeros((image.shape[0], rows, columns))
    for row in range(rows):
        y0, y1, fy = _taps(row, height, rows)
        for column in range(columns):
            x0, x1, fx = _taps(column, width, columns)
            top = image[:, y0, x0] * (1 - fx) + image[:, y0, x1] * fx
            bottom = image[:, y1, x0] * (1 - fx) + image[:, y1, x1] * fx
            out[:, row, column] = top * (1 - fy) + bottom * fy
    return out


def _taps(index: int, size: int, scaled: int) -> tuple[int, int, float]:
    source = max(0.0, (index + 0.5) * size / scaled - 0.5)
    low = min(int(source), size - 1)
    return low, min(low + 1, size - 1), source - low


def trunk(x: Array, state: dict[str, Array], blocks: tuple[int, ...], bottleneck: bool) -> Array:
    """A ResNet up to the last of its ``blocks``; float64 convolutions of PyTorch, the layers by their names."""
    y = torch.from_numpy(x)[None]

    def conv(y: torch.Tensor, name: str, norm: str, stride: int) -> torch.Tensor:
        weight = torch.from_numpy(state[f"{name}.weight"])
        y = functional.conv2d(y, weight, stride=stride, padding=weight.shape[2] // 2)
        mean, var, gamma, beta = (
            torch.from_numpy(state[f"{norm}.{part}"])[:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / torch.sqrt(var + 1e-5) * gamma + beta

    y = functional.max_pool2d(conv(y, "conv1", "bn1", 2).clamp(min=0), 3, 2, 1)
    for layer, count in enumerate(blocks):
        for i in range(count):
            name, stride = f"layer{layer + 1}.{i}", 2 if layer > 0 and i == 0 else 1
            # torchvision: the stride stands in the 3×3 convolution of a bottleneck, in the first of a basic block.
            strides = (1, stride, 1) if bottleneck else (stride, 1)
            z = y
            for j, s in enumerate(strides):
                z = conv(z, f"{name}.conv{j + 1}", f"{name}.bn{j + 1}", s)
                z = z.clamp(min=0) if j + 1 < len(strides) else z
            if f"{name}.downsample.0.weight" in state:
                y = conv(y, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            y = (y + z).clamp(min=0)
    return y[0].numpy()


def descriptors_of_scale(x: Array, state: dict[str, Array], options: dict[str, object]) -> tuple[Array, Array]:
    """Return descriptors D×h×w and attention h×w of a normalised, already scaled image."""
    backbone = {name.removeprefix("backbone."): a for name, a in state.items() if name.startswith("backbone.")}
    features = trunk(x, backbone, options["blocks"], options["bottleneck"])
    channels, rows, columns = features.shape
    nodes = features.reshape(channels, -1).T
    for i in range(options["refinement_blocks"]):
        name = f"refinement.blocks.{i}"
        nodes = graph_convolution(nodes, state[f"{name}.weight"], float(state[f"{name}.threshold"]), "threshold", 0)
    features = np.ascontiguousarray(nodes.T).reshape(channels, rows, columns)
    attention = np.sqrt((features**2).sum(axis=0) + 1e-10)
    if options["smoothing"] == "gaussian":
        weight, bias = state["smoothing.predict.weight"][:, :, 0, 0], state["smoothing.predict.bias"]
        maps = np.einsum("oc,chw->ohw", weight, features) + bias[:, None, None]
        bandwidth, confidence = np.log1p(np.exp(maps[0])), 1 / (1 + np.exp(-maps[1]))
        smooth = gaussian_smoothing(features, bandwidth, confidence, 3)
    else:
        smooth = average_smoothing(features, 3)
    weight, bias = state["dim_reduction.weight"][:, :, 0, 0], state["dim_reduction.bias"]
    return np.einsum("oc,chw->ohw", weight, smooth) + bias[:, None, None], attention


def extract(photo: NDArray[np.uint8], state: dict[str, Array], options: dict[str, object]) -> list[Array]:
    """Return descriptors, attention, positions and scales of all positions, strongest first, nothing padded."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    image = np.ascontiguousarray(((photo / 255.0 - mean) / std).transpose(2, 0, 1))
    height, width = photo.shape[:2]
    rows = []
    for scale in options["scales"]:
        vectors, attention = descriptors_of_scale(resize(image, scale), state, options)
        for r in range(attention.shape[0]):
            for c in range(attention.shape[1]):
                position = ((c + 0.5) * width / attention.shape[1], (r + 0.5) * height / attention.shape[0])
                rows.append((attention[r, c], vectors[:, r, c], position, scale))
    rows.sort(key=lambda row: -row[0])
    strongest = rows[0][0]
    return [
        np.array([row[1] for row in rows]),
        np.array([row[0] / strongest for row in rows]),
        np.array([row[2] for row in rows]),
        np.array([row[3] for row in rows]),
    ]
