"""Import of optional dependencies, with the pip command in the error when one is missing."""

import importlib
import os
from typing import Any

from ctxdeploy.core.errors import MissingExtraError


def require(module: str, extra: str) -> Any:
    """Return the imported ``module``.

    Raises:
        MissingExtraError: it is not installed; the message names the command that installs the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise MissingExtraError(module.partition(".")[0], extra) from error
        raise


def require_onnxruntime() -> Any:
    """Return ONNX Runtime, imported with its telemetry off.

    From 1.29 on it sends events about models and sessions to its maker, unless one of these variables is set before it
    is imported. What people do with their photos must stay with them. A value that the user has set stays.
    """
    for variable in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):
        os.environ.setdefault(variable, "1")
    return require("onnxruntime", "cpu")
