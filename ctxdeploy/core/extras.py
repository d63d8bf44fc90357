"""Import of optional dependencies, with the pip commands in the error when one is missing or hidden by another."""

import importlib
import os
from typing import Any

from ctxdeploy.core.errors import MissingExtraError, MixedPackagesError
from ctxdeploy.core.origin import install_line
from ctxdeploy.core.rivals import RIVALS, installed


def require(module: str, extra: str) -> Any:
    """Return the imported ``module``.

    Raises:
        MissingExtraError: it is not installed; the message names the command that installs the extra.
        MixedPackagesError: several packages hold it, and have overwritten each other.
    """
    if module in RIVALS:
        check_unmixed(module)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise MissingExtraError(module.partition(".")[0], extra) from error
        raise


def require_onnxruntime() -> Any:
    """Return ONNX Runtime, imported with its telemetry off. That of ``onnxruntime-gpu`` runs on a CPU as well.

    From 1.29 on it sends events about models and sessions to its maker, unless one of these variables is set before it
    is imported. What people do with their photos must stay with them. A value that the user has set stays.

    Raises:
        MissingExtraError: it is not installed.
        MixedPackagesError: two of its packages are, or one of two was uninstalled.
    """
    for variable in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):
        os.environ.setdefault(variable, "1")
    return _whole("onnxruntime", "InferenceSession", "cpu")


def require_onnxruntime_gpu() -> Any:
    """Return ONNX Runtime with its provider for CUDA.

    Raises:
        MissingExtraError: there is none, or one without that provider, in whose place it has to come.
        MixedPackagesError: as of ``require_onnxruntime``, or there is cuDNN for two versions of CUDA.
    """
    if not installed(RIVALS["onnxruntime"]):
        raise MissingExtraError("onnxruntime-gpu", "cuda")
    module = require_onnxruntime()
    if "CUDAExecutionProvider" not in module.get_available_providers():
        raise MissingExtraError("onnxruntime-gpu", "cuda")
    major = str(getattr(module, "cuda_version", "") or "13").partition(".")[0]
    check_unmixed("nvidia.cudnn", f"pip install nvidia-cudnn-cu{major}  (what needs the other, in another environment)")
    return module


def require_faiss(extra: str) -> Any:
    """Return faiss, of whichever package; raises as ``require``."""
    return _whole("faiss", "IndexFlatL2", extra)


def require_faiss_gpu() -> Any:
    """Return faiss with what it has for GPUs of NVIDIA.

    Raises:
        MissingExtraError: there is none, or one for a CPU, in whose place it has to come.
        MixedPackagesError: two of its packages are installed, or one of two was uninstalled.
    """
    if not installed(RIVALS["faiss"]):
        raise MissingExtraError("faiss-gpu", "cuda")
    module = require_faiss("cuda")
    if not hasattr(module, "StandardGpuResources"):
        raise MissingExtraError("faiss-gpu", "cuda")
    return module


def check_unmixed(module: str, again: str = "") -> None:
    """Raise ``MixedPackagesError`` if several packages are installed that write into the folder of a module.

    Args:
        module: a key of ``RIVALS``.
        again: the command that installs the right one of them, for the message; ``_again`` knows it if empty.
    """
    found = installed(RIVALS[module])
    if len(found) > 1:
        raise MixedPackagesError(
            f"{' and '.join(found)} are both installed and overwrite each other in the folder "
            f"{module.replace('.', '/')}: run  pip uninstall -y {' '.join(found)}  and then  {again or _again(module)}"
        )


def _again(module: str) -> str:
    if module == "onnxruntime":
        return f"{install_line('cuda')}  (GPU) or  {install_line('cpu')}  (CPU alone)"
    if module == "faiss":
        return "pip install faiss-gpu  (GPU) or  pip install faiss-cpu  (CPU alone)"
    return install_line(module)


def _whole(module: str, name: str, extra: str) -> Any:
    """Return a module that has a certain name in it: where its files went with a rival's, an empty folder is left."""
    failure: ImportError | None = None
    try:
        found = require(module, extra)
        if hasattr(found, name):
            return found
    except MixedPackagesError:
        raise
    except ImportError as error:
        failure = error
    there = installed(RIVALS[module])
    if not there:
        raise failure or MissingExtraError(module, extra)
    from importlib.metadata import version

    why = str(failure or f"it has no {name}").partition("\n")[0]
    raise MixedPackagesError(
        f"{there[0]} is installed but cannot be imported ({why}): its files go where another package of the folder "
        f"{module} is uninstalled: run  pip install --force-reinstall --no-deps {there[0]}=={version(there[0])}"
    ) from failure
