"""What our own operators take of a photo's time: smoothing and graph refinement beside the trunk, in PyTorch in fp16.

Their functions of standard operators, as every runtime gets them. A kernel of our own can save no more than this.
"""

from typing import Any

from networks import network_of, shape
from rows import Rows, gpu_or_cpu, needed, run_step, seconds_of

_NETWORKS = ("ctx both R18", "ctx both R50-")


def run(rows: Rows) -> None:
    device = gpu_or_cpu(rows)
    for name in _NETWORKS[:1] if rows.rehearse else _NETWORKS:
        rows.measure(name, lambda name=name: _shares(rows, name, device))  # type: ignore[misc]
    if rows.rehearse:
        return  # the kernel runs on a GPU; tests/export/test_kernels.py interprets it
    for channels, positions in ((1024, 12_288), (512, 3072)):
        label = f"kernel of graph attention, {positions} positions, {channels} channels"
        rows.measure(label, lambda c=channels, n=positions: _kernel(c, n))  # type: ignore[misc]


def _shares(rows: Rows, name: str, device: str) -> dict[str, Any]:
    """Return milliseconds of a photo over all scales: the trunk, the graph refinement and the smoothing."""
    import torch

    kind = torch.float32 if rows.rehearse else torch.float16
    network = network_of(rows, name).to(device=device, dtype=kind, memory_format=torch.channels_last)
    batch, (height, width) = 1 if rows.rehearse else 8, shape(rows)
    total = dict.fromkeys(("trunk", "refinement", "smoothing"), 0.0)
    repeats = 1 if rows.rehearse else 10
    with torch.inference_mode():
        for scale in network.extraction.scales:
            size = (batch, 3, int(height * scale), int(width * scale))
            pixels = torch.randn(size, device=device, dtype=kind).contiguous(memory_format=torch.channels_last)
            features = network.backbone(pixels)
            calls = {
                "trunk": lambda: network.backbone(pixels),  # noqa: B023 (called before the next scale)
                "refinement": lambda: network.refinement(features),  # noqa: B023
                # Exported networks whiten first, so that smoothing works on as many channels as descriptors have.
                "smoothing": lambda: network.smoothing(features),  # noqa: B023
            }
            for part, call in calls.items():
                total[part] += 1000 * seconds_of(call, device, repeats=repeats, warm=2)["seconds"] / batch
    whole = sum(total.values())
    return {
        "milliseconds": total,
        "batch": batch,
        "shares": {part: value / whole for part, value in total.items()},
        "channels": network.config.channels,
    }


def _kernel(channels: int, positions: int) -> dict[str, Any]:
    """Return seconds of our kernel and of the operators it stands for, fp16, and how far their results differ."""
    needed("triton", "Triton is not installed (extra kernels)")
    import torch

    from ctxdeploy.export.operators.attention import graph_attention
    from ctxdeploy.export.operators.compiling import LOW, attention_constants
    from ctxdeploy.export.operators.rewriting import SHRINK

    dim, batch = 64, 1
    torch.manual_seed(0)
    x = torch.randn(batch, positions, channels, device="cuda")
    queries, keys = (torch.randn(batch, positions, dim, device="cuda").half() for _ in "qk")
    values, temperature = (torch.randn_like(x) * SHRINK).half(), torch.tensor(8.0, device="cuda")
    y, grid = torch.full_like(x, float("nan")), (-(-positions // LOW.rows), -(-channels // LOW.channels), batch)
    constants = attention_constants(channels, dim, LOW)

    def kernel() -> None:
        graph_attention[grid](
            x, queries, keys, values, temperature, positions, y, **constants, num_warps=LOW.warps, num_stages=LOW.stages
        )

    def function() -> torch.Tensor:
        blocks = [
            torch.softmax((block @ keys.transpose(1, 2)).float() / temperature, 2).half() @ values
            for block in queries.chunk(32 if channels == 1024 else 8, 1)
        ]
        return x + torch.relu(torch.cat(blocks, 1).float() / SHRINK)

    with torch.inference_mode():
        kernel()
        difference = float((y - function()).abs().max())
        return {
            "kernel": seconds_of(kernel, "cuda", repeats=20),
            "function": seconds_of(function, "cuda", repeats=20),
            "largest_difference": difference,
        }


if __name__ == "__main__":
    run_step(run)
