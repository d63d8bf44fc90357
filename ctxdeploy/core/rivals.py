"""Packages that write the same files, and what to type so that none of them comes beside another."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from ctxdeploy.core.origin import install_line

# Packages that write into one folder, by what is imported from it. The last one installed has overwritten the others;
# pip sees no conflict between them, and uninstalling one takes files of the others away.
RIVALS = MappingProxyType(
    {
        "onnxruntime": (
            *("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn"),
            *("onnxruntime-training", "onnxruntime-webgpu"),
        ),
        "faiss": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12"),
        "tensorrt": ("tensorrt-cu11", "tensorrt-cu12", "tensorrt-cu13"),
        "nvidia.cudnn": ("nvidia-cudnn-cu11", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    }
)
# What extras bring of them, by the folder.
_BROUGHT = MappingProxyType(
    {
        "cpu": {"onnxruntime": "onnxruntime"},
        "cuda": {"onnxruntime": "onnxruntime-gpu", "faiss": "faiss-gpu"},
        "bench": {"faiss": "faiss-cpu"},
    }
)


def installed(packages: Sequence[str]) -> tuple[str, ...]:
    """Return those of some packages that are installed, as pip knows them; none is imported (2 ms).

    One in a folder that is later on Python's path (``pip install --target``, an environment over another) is not
    imported and overwrites nothing: it does not count beside one that comes first.
    """
    from importlib import metadata  # 40 ms, but for numba, which imports it too

    folders: dict[str, Path] = {}
    for package in packages:
        try:
            folders[package] = Path(str(metadata.distribution(package).locate_file(""))).resolve()
        except metadata.PackageNotFoundError:
            continue
    if len(set(folders.values())) < 2:
        return tuple(folders)
    path = [Path(place).resolve() for place in sys.path]
    first = min(folders.values(), key=lambda folder: path.index(folder) if folder in path else len(path))
    return tuple(package for package, folder in folders.items() if folder == first)


def install_command(package: str, extra: str) -> str:
    """Return the commands that install a package that is missing, and overwrite nothing.

    Args:
        package: that is missing, as pip calls it.
        extra: of ctxdeploy that brings it. Where it would bring a rival of what is there, the package is named alone;
            for a GPU the rivals go first.
    """
    brought = _BROUGHT.get(extra, {})
    rivals = [there for folder, own in brought.items() for there in installed(RIVALS[folder]) if there != own]
    if not rivals:
        return install_line(extra)
    if extra == "cuda":
        return f"pip uninstall -y {' '.join(rivals)}  and then  {install_line(extra)}"
    return f"pip install {package}"
