"""Local feature integration (LIT) of FIRe: attention that gathers positions into super-features (``networks.md``)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.export.networks.config import Lit
from ctxdeploy.export.networks.operators import emit_operators, is_exporting

# Added to every share, so that a template that no position attends to gets the mean of all. Both are scaled, which the
# division undoes: 1e-8 vanishes in fp16, and the exporter takes an addition of it for one of 0 and leaves it out.
_SHARE_SCALE, _SHARE_EPSILON = 1e4, 1e-8 * 1e4


def local_feature_integration(x: Tensor, weights: tuple[Tensor, ...], steps: int) -> tuple[Tensor, Tensor]:
    """Update the templates in rounds of attention to the positions.

    The formulas have keys k = Wk·x, queries q = s·Wq·t and values v = Wv·x. But q·k = (s·Wkᵀ·Wq·t)·x, and a weighted
    sum of values is Wv times the weighted sum of x: here the N templates are projected and never the n positions, of
    which there are up to 48 times as many (12,288 at scale 2.0 of a 768×1024 photo and stride 16).

    Args:
        x: B×n×C.
        weights: as ``LocalFeatureIntegration.weights`` returns them.
        steps: T.

    Returns:
        Super-features B×N×D, and the attention of the last step, B×n×N, which sums to 1 over the n positions.
    """
    norms, query_key, value, templates, mlp = weights[:6], *weights[6:9], weights[9:]
    x = F.layer_norm(x, x.shape[-1:], norms[0], norms[1])
    dim = templates.shape[-1:]
    state = templates.expand(x.shape[0], -1, -1)
    attention = x
    for _ in range(steps):
        queries = F.layer_norm(state, dim, norms[2], norms[3]) @ query_key
        # Over the templates: each position is shared out among them.
        shares = torch.softmax(x @ queries.transpose(1, 2), dim=2) * _SHARE_SCALE + _SHARE_EPSILON
        # Divided before the product: in fp16 a sum over all positions could overflow, a mean cannot.
        attention = shares / shares.sum(dim=1, keepdim=True)
        state = state + (attention.transpose(1, 2) @ x) @ value
        hidden = torch.relu(F.linear(F.layer_norm(state, dim, norms[4], norms[5]), mlp[0], mlp[1]))
        state = state + F.linear(hidden, mlp[2], mlp[3])
    return state, attention


class LocalFeatureIntegration(nn.Module):
    """B×n×C positions to B×N×D super-features, under the parameter names of FIRe's checkpoints."""

    def __init__(self, channels: int, config: Lit) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.templates_init = nn.Parameter(torch.zeros(1, config.templates, dim))
        self.project_q = nn.Linear(dim, dim, bias=False)
        self.project_k = nn.Linear(channels, dim, bias=False)
        self.project_v = nn.Linear(channels, dim, bias=False)
        self.norm_inputs = nn.LayerNorm(channels)
        self.norm_templates = nn.LayerNorm(dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim))

    def weights(self) -> tuple[Tensor, ...]:
        """Return the weights: of the three norms, s·Wqᵀ·Wk (D×C), Wvᵀ (C×D), templates (1×N×D), and of the MLP."""
        norms = (self.norm_inputs, self.norm_templates, self.norm_mlp)
        linear = (cast(nn.Linear, self.mlp[0]), cast(nn.Linear, self.mlp[2]))
        pairs = [(layer.weight, layer.bias) for layer in (*norms, *linear)]
        before, after = pairs[:3], pairs[3:]
        products = (self._query_key(), self.project_v.weight.T, self.templates_init)
        return (*(w for pair in before for w in pair), *products, *(w for pair in after for w in pair))

    def _query_key(self) -> Tensor:
        product: Tensor = self.project_q.weight.T @ self.project_k.weight
        return product * float(self.config.dim**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return local_feature_integration(x, self.weights(), self.config.steps)


class FoldedIntegration(nn.Module):
    """A ``LocalFeatureIntegration`` for exporting: its products are constants, and it emits its operator."""

    def __init__(self, module: LocalFeatureIntegration) -> None:
        super().__init__()
        self.config = module.config
        with torch.no_grad():
            self.constants = nn.ParameterList(w.detach().contiguous() for w in module.double().weights()).float()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights, steps = tuple(self.constants), self.config.steps
        if not is_exporting():
            return local_feature_integration(x, weights, steps)
        batch, positions, _ = x.shape
        shapes = ((batch, self.config.templates, self.config.dim), (batch, positions, self.config.templates))
        features, attention = emit_operators("LocalFeatureIntegration", (x, *weights), {"steps": steps}, shapes)
        return features, attention
