"""Exit codes are part of the command line's interface: scripts rely on them."""

import importlib.metadata
from pathlib import Path

import ctxdeploy
from ctxdeploy.core import errors
from ctxdeploy.core.origin import install_line

CODES = {
    "CtxdeployError": 1,
    "ConfigError": 2,
    "MissingExtraError": 3,
    "CheckpointError": 10,
    "ParityError": 11,
    "BundleError": 12,
    "BackendError": 13,
    "PhotoError": 14,
    "ArchiveError": 15,
    "MismatchError": 16,
    "NoPhotosError": 17,
    "StorageError": 18,
    "SomePhotosFailedError": 19,
    "TooManyFailuresError": 20,
    "OutOfMemoryError": 21,
    "TrainingError": 22,
    "DownloadError": 23,
    "ServiceError": 24,
    "DeadlineError": 25,
    "ShardError": 26,
    "StaleStateError": 27,
    "LeaseLostError": 28,
    "MixedPackagesError": 29,
}


def classes() -> dict[str, type[errors.CtxdeployError]]:
    found = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    assert all(issubclass(value, errors.CtxdeployError) for value in found.values())
    return found


def test_every_error_keeps_its_exit_code() -> None:
    assert {name: value.exit_code for name, value in classes().items()} == CODES


def test_exit_codes_are_distinct_and_state_their_own() -> None:
    assert len(set(CODES.values())) == len(CODES)
    for name, value in classes().items():
        assert "exit_code" in vars(value), f"{name} inherits its code"
        assert value.__doc__


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.MissingExtraError, ImportError)
    assert issubclass(errors.MixedPackagesError, ImportError)


def test_a_missing_extra_names_the_command() -> None:
    line = install_line("export")
    assert line.startswith("pip install ") and line.count("[export]") == 1
    assert str(errors.MissingExtraError("torch", "export")) == f"torch is not installed: run  {line}"


def test_the_extras_named_in_errors_exist() -> None:
    import tomllib

    root = Path(ctxdeploy.__file__).parents[1]
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {"export", "cpu", "cuda", "tensorrt"} <= set(extras["optional-dependencies"])
    assert importlib.metadata.version("ctxdeploy") == ctxdeploy.__version__, root
