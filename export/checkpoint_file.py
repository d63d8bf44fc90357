"""Checkpoint files, read as data.

A file is read with ``weights_only=True``: it can hold tensors, plain containers and numpy numbers.
"""

import re
from pathlib import Path
from typing import Any

from ctxdeploy.errors import CheckpointError


def read(path: Path) -> dict[Any, Any]:
    """Return the dictionary that a checkpoint file holds; nothing in the file is executed.

    Raises:
        CheckpointError: it cannot be read, holds more than data, or is no dictionary.
    """
    import numpy as np
    import torch

    # HOW's own files carry training scores: a defaultdict of lists, with numpy floats in it. PyTorch fills dictionaries
    # of three kinds alone, and a defaultdict is none of them: it gets a plain one.
    plain: list[Any] = [(_plain_dict, "collections.defaultdict"), list, dict]
    plain += [np.dtype, np.float64, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
    scalar = np.float64(0).__reduce__()[0]
    plain += [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(plain):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except Exception as error:  # torch raises a dozen classes for a file that is no checkpoint
        reason = _reason(error)
        code = re.search(r"GLOBAL (\S+)", reason)
        if code:
            raise CheckpointError(
                f"{path} holds more than tensors and numbers ({code[1]}); it is not loaded, as that could run code"
            ) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__} instead of a dictionary: it is no checkpoint of HOW, ctx or FIRe"
        )
    return content


def _plain_dict(*_factory: Any) -> dict[Any, Any]:
    return {}


def _reason(error: BaseException) -> str:
    """Return the line that says what is wrong, without PyTorch's advice to load the file with its code."""
    if "weights_only" in str(error) and error.__context__ is not None:
        error = error.__context__
    return next((line.strip()[:160] for line in str(error).splitlines() if line.strip()), type(error).__name__)
