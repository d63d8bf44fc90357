"""What the machine is, and what it reaches: memory by a copy, each precision by products of matrices."""

import importlib.metadata
import os
import platform
import subprocess
from typing import Any

from rows import Rows, gpu_or_cpu, run_step, seconds_of

# Asked of nvidia-smi.
_ASKED = (
    "name",
    "driver_version",
    "memory.total",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.limit",
    "pci.bus_id",
)
_PACKAGES = (
    "torch", "onnxruntime-gpu", "onnxruntime", "tensorrt", "numba", "numba-cuda", "cuda-bindings", "faiss-gpu",
    "nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12", "triton", "numpy", "simplejpeg",
)  # fmt: skip
# Bytes that a copy reads, and the side of matrices.
_BYTES, _SIDE = 4 << 30, 8192


def run(rows: Rows) -> None:
    rows.measure("facts", lambda: _facts(rows))
    device = gpu_or_cpu(rows)
    rows.measure("copy", lambda: _copy(rows, device))
    for precision in ("bf16", "fp32") if rows.rehearse else ("bf16", "fp16", "tf32", "fp32", "int8", "fp8"):
        rows.measure(f"products {precision}", lambda precision=precision: _products(rows, device, precision))  # type: ignore[misc]


def _facts(rows: Rows) -> dict[str, Any]:
    found: dict[str, Any] = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
    }
    found["versions"] = {}
    for package in _PACKAGES:
        try:
            found["versions"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if not rows.rehearse:
        command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        found["gpu"] = dict(zip(_ASKED, (part.strip() for part in answer.splitlines()[0].split(",")), strict=True))
    return found


def _copy(rows: Rows, device: str) -> dict[str, Any]:
    """Return the bytes a second that a copy within the GPU's memory reads and writes."""
    import torch

    count = (1 << 20 if rows.rehearse else _BYTES) // 4
    # Not zeros, which some memories move faster.
    source = torch.arange(count, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    found = seconds_of(lambda: target.copy_(source), device, repeats=3 if rows.rehearse else 20)
    return {"bytes_per_second": 2 * 4 * count / found["seconds"], **found}


def _products(rows: Rows, device: str, precision: str) -> dict[str, Any]:
    """Return the operations a second of products of large random matrices."""
    import torch

    side = 256 if rows.rehearse else _SIDE
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator, device=device) for _ in range(2))
    call: Any
    if precision in ("bf16", "fp16"):
        kind = torch.bfloat16 if precision == "bf16" else torch.float16
        a, b = a.to(kind), b.to(kind)
        call = lambda: a @ b  # noqa: E731
    elif precision == "int8":
        c, d = ((x * 40).clamp(-127, 127).to(torch.int8) for x in (a, b))
        d = d.t().contiguous().t()  # column after column, as cuBLAS wants it
        call = lambda: torch._int_mm(c, d)  # noqa: E731
    elif precision == "fp8":
        e, f = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        one = torch.ones((), device=device)
        call = lambda: torch._scaled_mm(e, f, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)  # noqa: E731
    else:
        call = lambda: a @ b  # noqa: E731
    found = seconds_of(call, device, repeats=3 if rows.rehearse else 20)
    return {"flop_per_second": 2 * side**3 / found["seconds"], **found}


if __name__ == "__main__":
    run_step(run)
