"""Forms of context behind a trunk: smoothing, graph, attention. Each begins as the average that the model has.

Or near it: the Gaussian of 3×3 begins with weights .82, .67 and .82 for the centre, the one of 5×5 and 7×7 with the
width of the average.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ctxdeploy.export.networks import Edges, GaussianSmoothing, GraphConvolution, Refinement, Smoothing, l2_attention
from ctxdeploy.export.networks.smoothing import gaussian_smoothing
from ctxdeploy.training.start import network_from


@dataclass(frozen=True, kw_only=True)
class Form:
    """What stands between trunk and selection.

    Attributes:
        smoothing: kind and side of the window.
        confident: a Gaussian has a self-confidence, not 1.
        graph: edges of one block on the features of a scale, as the package has it, or None.
        selected: the same, linear, on the selected descriptors of all scales: x + softmax(cosines / t) x W, W from 0.
        queries: of ``selected``: cosines of the descriptors (``none``), or products of learned queries and keys, which
            begin as the descriptors (``same``) or at random (``random``): self-attention.
        attention: ``norm``; ``learned``: times exp(w·x), w from 0; ``smooth``: a Gaussian of one width of its own;
            ``burst``: times (Σ cosines³ to the 2,000 strongest positions)^-γ, γ from 0.
    """

    smoothing: tuple[str, int] = ("average", 3)
    confident: bool = True
    graph: Edges | None = None
    selected: bool = False
    queries: str = "none"
    attention: str = "norm"


FORMS = {
    "none": Form(),
    "plain": Form(smoothing=("none", 1)),
    "average5": Form(smoothing=("average", 5)),
    "gauss3": Form(smoothing=("gaussian", 3)),
    "gauss5": Form(smoothing=("gaussian", 5)),
    "gauss7": Form(smoothing=("gaussian", 7)),
    "gauss3-noself": Form(smoothing=("gaussian", 3), confident=False),
    "gauss5-noself": Form(smoothing=("gaussian", 5), confident=False),
    "graph": Form(graph=Edges.SOFTMAX),
    "attention-features": Form(graph=Edges.ATTENTION),
    "graph-selected": Form(selected=True),
    "attention": Form(selected=True, queries="same"),
    "attention-random": Form(selected=True, queries="random"),
    "att-learned": Form(attention="learned"),
    "att-smooth": Form(attention="smooth"),
    "att-burst": Form(attention="burst"),
    "both": Form(smoothing=("gaussian", 3), selected=True),
    "both-features": Form(smoothing=("gaussian", 3), graph=Edges.SOFTMAX),
    "gauss3-att": Form(smoothing=("gaussian", 3), attention="learned"),
}
# Of bandwidth (through softplus) and self-confidence (through a sigmoid), by the side of the window.
BEGIN = {3: (-1.5, 1.5), 5: (0.1, 2.0), 7: (0.1, 2.0)}
_ROWS = 1024
_BURST = 2


class Head(nn.Module):
    """The last layer of the trunk and all behind it."""

    def __init__(self, checkpoint: Path, form: Form, seed: int) -> None:
        super().__init__()
        self.form = form
        kind, side = form.smoothing
        graph = None if form.graph is None else Refinement(blocks=1, edges=form.graph)
        smoothing = Smoothing(kind=kind, kernel_size=side)
        network, _ = network_from(checkpoint, seed, smoothing=smoothing, refinement=graph)
        network.eval()
        self.expand, self.whiten = network.backbone.blocks[-1], network.dim_reduction
        self.refinement, self.smoothing = network.refinement, network.smoothing
        self.new = nn.ParameterDict()
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.smoothing, GaussianSmoothing):
            nn.init.normal_(self.smoothing.predict.weight, std=0.005, generator=generator)
            with torch.no_grad():
                self.smoothing.predict.bias.copy_(torch.tensor(BEGIN[side]))
        if form.selected:
            dim = network.config.descriptor_dim
            self.new["mix"] = nn.Parameter(torch.zeros(dim, dim))
            self.new["logt"] = nn.Parameter(torch.tensor(math.log(0.1)))
            for name in ("query", "key") if form.queries != "none" else ():
                drawn = torch.randn(dim, dim, generator=generator) * dim**-0.5
                self.new[name] = nn.Parameter(torch.eye(dim) if form.queries == "same" else drawn)
        if form.attention == "learned":
            self.new["weight"] = nn.Parameter(torch.zeros(network.config.channels))
        if form.attention == "smooth":
            self.new["shape"] = nn.Parameter(torch.tensor([2.0, 2.0]))
        if form.attention == "burst":
            self.new["gamma"] = nn.Parameter(torch.tensor(0.0))

    def groups(self, rate: float) -> list[dict[str, object]]:
        """Return what is trained, with its rates: a fifth for the trunk, tenfold for the few numbers that are new.

        Matrices and temperatures of graphs have the plain rate: with ten times as much the temperature went below 0.
        """
        slow = ("mix", "query", "key", "refinement.blocks.0.weight", "refinement.blocks.0.temperature")
        new = [(n, p) for n, p in self.named_parameters() if n.startswith(("new.", "refinement.", "smoothing."))]
        groups = [
            (list(self.expand.parameters()), 0.2, 0.01),
            (list(self.whiten.parameters()), 1.0, 0.01),
            ([p for n, p in new if not n.endswith(slow)], 10.0, 0.0),
            ([p for n, p in new if n.endswith(slow)], 1.0, 0.0),
        ]
        return [
            {"params": members, "lr": rate * factor, "rate": rate * factor, "weight_decay": decay}
            for members, factor, decay in groups
            if members
        ]

    def descriptors(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return descriptors B×D×h×w and attention B×h×w, as the losses of a recipe take them."""
        z, attention = self._dense(maps.float())
        shape = z.shape
        z, attention = self._together(z.flatten(2).transpose(1, 2), attention.flatten(1))
        return z.transpose(1, 2).reshape(shape), attention.reshape(shape[0], *shape[2:])

    @torch.inference_mode()
    def describe(self, maps: list[Tensor], top: int) -> np.ndarray:
        """Return the ``top`` descriptors of a photo n×D float32, strongest first, from its maps at all scales."""
        found = [self._dense(level) for level in maps]
        z = torch.cat([level[0].flatten(1).T for level, _ in found])
        attention = torch.cat([level.flatten() for _, level in found])
        burst = self.form.attention == "burst"
        z, attention = self._together(*_strongest(z, attention, _BURST * top if burst else top))
        return _strongest(z[0], attention[0], top)[0][0].numpy() if burst else z[0].numpy()

    def _dense(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        x = self.expand(maps)
        if self.refinement is not None:
            x = _graph(x, self.refinement.blocks[0])
        attention = l2_attention(x)
        if self.form.attention == "learned":
            attention = attention * torch.exp((x * self.new["weight"][:, None, None]).sum(1))
        if self.form.attention == "smooth":
            width, confidence = F.softplus(self.new["shape"][0]), torch.sigmoid(self.new["shape"][1])
            one = torch.ones_like(attention)[:, None]
            attention = gaussian_smoothing(attention[:, None], one * width, one * confidence, 3)[:, 0]
        return self._smoothed(self.whiten(x), x), attention

    def _smoothed(self, z: Tensor, x: Tensor) -> Tensor:
        """Smooth whitened features: means commute with the whitening, at a fifth of the work."""
        if not isinstance(self.smoothing, GaussianSmoothing):
            return self.smoothing(z)
        maps = self.smoothing.predict(x)
        confidence = torch.sigmoid(maps[:, 1:]) if self.form.confident else torch.ones_like(maps[:, 1:])
        return gaussian_smoothing(z, F.softplus(maps[:, :1]), confidence, self.smoothing.kernel_size)

    def _together(self, z: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Return descriptors B×N×D and attention B×N after what each position learns of all others."""
        unit = F.normalize(z, dim=2)
        if self.form.attention == "burst":
            count = (torch.relu(unit @ unit.transpose(1, 2)) ** 3).sum(2)
            attention = attention * count.clamp(min=1) ** -self.new["gamma"]
        if self.form.selected:
            queries, keys = (unit @ self.new[name] if name in self.new else unit for name in ("query", "key"))
            edges = torch.softmax(queries @ keys.transpose(1, 2) / self.new["logt"].exp(), -1)
            z = z + (edges @ z) @ self.new["mix"]
        return z, attention


def _strongest(z: Tensor, attention: Tensor, count: int) -> tuple[Tensor, Tensor]:
    chosen = attention.topk(min(count, len(attention))).indices
    return z[None, chosen], attention[None, chosen]


def _graph(x: Tensor, block: GraphConvolution) -> Tensor:
    """Return what ``GraphConvolution`` does, in fewer and larger products."""
    nodes = x.flatten(2).transpose(1, 2)
    unit = F.normalize(nodes, dim=2, eps=1e-12)
    projected = nodes @ block.weight
    queries, keys = (unit @ projection for projection in block.projections()) if block.projections() else (unit, unit)
    rows = [
        torch.softmax(part @ keys.transpose(1, 2) / block.temperature, -1) @ projected
        for part in queries.split(_ROWS, dim=1)
    ]
    return (nodes + torch.relu(torch.cat(rows, 1))).transpose(1, 2).reshape(x.shape)
