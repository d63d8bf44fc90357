"""Depthwise convolution in bf16 whose gradients are computed in fp32.

The gradients of a 5×5 depthwise convolution take 2 to 5 times longer in bf16 than in fp32 on a CPU (144 channels,
56×56, 40 views: 0.39 s for 0.08 on one core with AVX-512): they were half of a step.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class LowPrecisionDepthwise(torch.autograd.Function):
    """A convolution with as many groups as channels, under autocast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding)
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        wanted = [ctx.needs_input_grad[0], True, True]
        settings = ([len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight), wanted)
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradients[0].float(), x.float(), weight, *settings
        )
        return None if of_x is None else of_x.to(x.dtype), of_weight, of_bias, None, None


def in_low_precision(x: Tensor) -> bool:
    """Return whether a convolution of ``x`` is computed in bf16 on a CPU and will be differentiated."""
    return torch.is_grad_enabled() and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
