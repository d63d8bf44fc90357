"""URLs without what must not be shown."""

import re
from urllib.parse import urlsplit

# Parameters that sign a request or carry a key: Amazon's, Google's and Azure's signed URLs, and customary names.
_SECRET = re.compile(
    r"x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id"
    r"|sig|sv|se|st|sp|sr|spr|sip|ss|srt|sdd|sk[a-z]+|(.*[_-])?token|(.*[_-])?secret|(api[_-]?|access[_-]?)?key|auth"
    r"|password|passwd|pwd",
    re.IGNORECASE,
)


def is_url(text: str) -> bool:
    """Return whether a text is a URL, and no path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def protocol_of(url: str) -> str:
    """Return ``s3``, ``https``, …"""
    return url.partition("://")[0].lower()


def is_web(url: str) -> bool:
    """Return whether a URL is of HTTP: only there do queries and fragments mean anything."""
    return protocol_of(url) in ("http", "https")


def without_secrets(url: str) -> str:
    """Return a URL without user and password, signature, keys and fragment."""
    protocol, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    url = f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"
    if not is_web(url):
        return url
    address, _, query = url.partition("#")[0].partition("?")
    kept = [field for field in query.split("&") if field and not _SECRET.fullmatch(field.partition("=")[0])]
    return f"{address}?{'&'.join(kept)}" if kept else address


def host_of(url: str) -> tuple[str | None, int | None]:
    """Return host and port of a URL of HTTP; (None, None) if it has none that can be understood."""
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None, None
