"""Import of optional dependencies, with the pip command in the error when one is missing."""

import importlib
from typing import Any

from ctxdeploy.errors import MissingExtraError


def require(module: str, extra: str) -> Any:
    """Return the imported ``module``.

    Raises:
        MissingExtraError: it is not installed; the message names ``pip install 'ctxdeploy[extra]'``.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise MissingExtraError(module.partition(".")[0], extra) from error
        raise
