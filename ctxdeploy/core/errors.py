"""Every way a user's request can fail, one class and one exit code each.

The message of an error names the offending value and the command or flag that fixes it. The command line prints it as
one line and leaves with ``exit_code``; a traceback means a defect of ours.
"""

from ctxdeploy.core.rivals import install_command


class CtxdeployError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class ConfigError(CtxdeployError, ValueError):
    """A setting or an argument is out of its range, or two of them exclude each other."""

    exit_code = 2


class MissingExtraError(CtxdeployError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: that is missing, as pip calls it.
        extra: of ctxdeploy that installs it.
    """

    exit_code = 3

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: run  {install_command(package, extra)}")


class CheckpointError(CtxdeployError):
    """A file is not a checkpoint of a known network, or its tensors do not fit the network it names."""

    exit_code = 10


class ParityError(CtxdeployError):
    """An artefact does not compute what the network computes: it must not be used, on this machine at least."""

    exit_code = 11


class BundleError(CtxdeployError):
    """A bundle is damaged, incomplete or of a newer format."""

    exit_code = 12


class BackendError(CtxdeployError):
    """A runtime, PyTorch included, cannot run on the device or in the precision that was asked for, on this machine."""

    exit_code = 13


class PhotoError(CtxdeployError):
    """A photo cannot be read, or a box does not lie in it."""

    exit_code = 14


class ArchiveError(CtxdeployError):
    """An index archive or a codebook is damaged, incomplete, locked or of a newer format."""

    exit_code = 15


class MismatchError(CtxdeployError):
    """Descriptors of one model or preprocessing meet an archive made with another."""

    exit_code = 16


class NoPhotosError(CtxdeployError):
    """There is nothing to index."""

    exit_code = 17


class StorageError(CtxdeployError):
    """A folder cannot be written: permission, disk full, read-only file system."""

    exit_code = 18


class SomePhotosFailedError(CtxdeployError):
    """The run is complete and committed, but some photos could not be read; they are listed in the archive."""

    exit_code = 19


class TooManyFailuresError(CtxdeployError):
    """More photos failed than ``--max-failures`` allows; what was done is committed."""

    exit_code = 20


class OutOfMemoryError(BackendError):
    """A batch does not fit into the memory that there is; a smaller one may."""

    exit_code = 21


class TrainingError(CtxdeployError):
    """A training cannot go on, because its loss is not finite any more."""

    exit_code = 22


class DownloadError(CtxdeployError):
    """A model cannot be fetched: no server answers, the file is not there, or it is not a checkpoint."""

    exit_code = 23


class ServiceError(CtxdeployError):
    """A service refuses what it was asked over HTTP, is not reached, or answers what no `ctxdeploy serve` says.

    Args:
        message: one line: what was asked of which service, and what came of it.
        status: of HTTP; None where no reply came.
        code: that the service gives: the class of an error of ours, or a word such as ``QueueFull``; of what the client
            itself finds: ``NotReached``, ``Timeout``, ``BadReply``.
        detail: what the service says; empty where no reply came.
        request_id: by which its log names the request.
    """

    exit_code = 24

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "BadReply",
        detail: str = "",
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.detail, self.request_id = status, code, detail, request_id


class DeadlineError(CtxdeployError):
    """A result was not there in the time that was given for it, or nobody waits for it any more."""

    exit_code = 25


class ShardError(CtxdeployError):
    """A part of a sharded archive does not answer: none of its servers, or none in time."""

    exit_code = 26


class StaleStateError(CtxdeployError):
    """A server of shards does not hold the state of the archive that it is asked about.

    Args:
        message: one line: which server, and what it holds.
        held: the numbers of the states that it holds.
    """

    exit_code = 27

    def __init__(self, message: str, *, held: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.held = held


class LeaseLostError(ArchiveError):
    """Another process took the archive from this one, which gave no sign of life: it commits nothing any more."""

    exit_code = 28


class MixedPackagesError(CtxdeployError, ImportError):
    """Packages are installed that write the same files: one has overwritten the other, or took them away."""

    exit_code = 29
