"""Which store a URL is of."""

from ctxdeploy.core.urls import protocol_of
from ctxdeploy.object_storage.objects import Objects
from ctxdeploy.object_storage.plain import PlainObjects
from ctxdeploy.object_storage.s3 import S3Objects
from ctxdeploy.runtime.sources import RemoteConfig


def open_objects(url: str, config: RemoteConfig | None = None) -> Objects:
    """Return what lies below a URL; nothing is asked yet.

    Args:
        url: the folder.
        config: time limits and retries; the usual ones if None.

    Raises:
        ConfigError: no such protocol, or one that is not written.
        MissingExtraError: what reads the protocol is not installed.
    """
    given = config or RemoteConfig()
    return S3Objects(url, given) if protocol_of(url) in ("s3", "s3a") else PlainObjects(url, given)
