"""URLs: which are read, and without what must not be shown."""

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import unquote, urlsplit

from ctxdeploy.core.errors import ConfigError

# What a list, or another file that came from elsewhere, may name without being told.
PROTOCOLS = ("file", "http", "https", "s3", "s3a", "gs", "gcs")
# fsspec below 2026.6 renders the templates of such a file as programs, which run with the rights of who reads them.
_NEVER = ("reference",)

# Parameters that say what is shown and how. All others are left out of what is shown or kept: nobody knows by what
# names servers call sessions, signatures and keys.
_HARMLESS = re.compile(
    r"""id|name|filename|file|path|photo|image|img|picture|pic|album|gallery|category|collection|set|page|number|no|n|index
    |frame|rev|revision|version|ver|v|versionid|generation|width|height|size|w|h|x|y|z|x0|y0|x1|y1|quality|q|format|fmt|fm
    |ext|type|fit|crop|scale|dpr|zoom|rotate|resolution|res|lang|locale|year|month|day|date|view|raw|download|dl|alt|auto
    |mode|color|colour|bg|sort|order|c|o|offset|limit|start|end|prefix|delimiter""",
    re.IGNORECASE | re.VERBOSE,
)
# A JSON web token, under whatever name.
_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+")
_MAX_VALUE = 200
_CREDENTIALS = re.compile(r"(://)[^/]*@")
_PATH_PARAMETER = re.compile(r";([^;/=]+=[^;/]*)")  # http://host/a.jpg;jsessionid=…
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")
# A path that was made of a URL has lost a slash.
_PATH = re.compile(r"\b(?:https?|ftps?|sftp|s3a?|gc?s):/[^/\s\"'<>][^\s\"'<>]*")
_NAT64 = IPv6Network("64:ff9b::/96")
_AFTER = ".,:;)]}"  # what follows a URL in a sentence


def is_url(text: str) -> bool:
    """Return whether a text is a URL, and no path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def url_of(path: str) -> str | None:
    """Return the URL that a path was meant to be, since paths lose one of its slashes; None for a path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+", path)
    return None if found is None else f"{found[1]}://{path[found.end() :]}"


def protocol_of(url: str) -> str:
    """Return ``s3``, ``https``, …"""
    return url.partition("://")[0].lower()


def is_web(url: str) -> bool:
    """Return whether a URL is of HTTP: only there do queries and fragments mean anything."""
    return protocol_of(url) in ("http", "https")


def check_protocol(url: str, named: Sequence[str] | None = None) -> None:
    """Raise ``ConfigError`` for a URL that is not read.

    Args:
        url: what is asked for.
        named: protocols that the user allowed, where the URL stands in a file; None where he gave it himself.
    """
    protocol = protocol_of(url)
    if protocol in _NEVER:
        raise ConfigError(f"{protocol}:// is not read: such a file can run programs")
    if "::" in url and protocol not in PROTOCOLS:  # the usual ones are not chains, whatever stands in their paths
        raise ConfigError(
            f"a chain of addresses ({protocol}://…::…) is not read: copy the photos here, or give their own URL"
        )
    if named is not None and protocol not in (*PROTOCOLS, *named):
        raise ConfigError(
            f"{protocol}:// is not read from a list: if you trust its author, add  --allow-protocol {protocol}"
        )


def without_secrets(url: str) -> str:
    """Return a URL without users and passwords, without parameters but harmless ones, and without fragment."""
    url = _CREDENTIALS.sub(r"\1", url)
    if not is_web(url):
        return url
    address, _, query = url.partition("#")[0].partition("?")
    address = _PATH_PARAMETER.sub(lambda found: found[0] if _is_harmless(found[1]) else "", address)
    kept = [field for field in re.split("[&;]", query) if field and _is_harmless(field)]
    return f"{address}?{'&'.join(kept)}" if kept else address


def redacted(text: str) -> str:
    """Return a text whose URLs have lost their secrets; those with blanks inside must come without them."""
    if ":/" not in text:
        return text
    text = _URL.sub(lambda found: _shown(found[0]), text)
    return _PATH.sub(lambda found: _shown(found[0].replace(":/", "://")).replace("://", ":/"), text)


def _shown(text: str) -> str:
    url = text.rstrip(_AFTER)
    return without_secrets(url) + text[len(url) :]


def _is_harmless(field: str) -> bool:
    name, equals, value = field.partition("=")
    if _TOKEN.search(unquote(value)) or len(value) > _MAX_VALUE:
        return False
    return _HARMLESS.fullmatch(unquote(name)) is not None or (not equals and name.isdecimal() and len(name) < 10)


def host_of(url: str) -> tuple[str | None, int | None]:
    """Return host and port of a URL of HTTP; (None, None) if it has none that can be understood."""
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None, None


def redirect_refusal(start: str, here: str, there: str) -> str | None:
    """Return why a server's redirection is not followed, None if it is.

    Args:
        start: the URL that was asked for first.
        here: the URL that answered.
        there: where it leads, absolute.
    """
    former, scheme = protocol_of(here), protocol_of(there)
    if scheme not in (former, "https") or not is_web(there):
        return f"the server redirects from {former} to {scheme}, which is not followed"
    # A server of the internet must not make this machine ask its own network, or the metadata service of its cloud.
    if host_of(there)[0] != host_of(start)[0] and is_public(start) and not is_public(there):
        return f"the server redirects to {host_of(there)[0]}, a private address, which is not followed"
    return None


def is_public(url: str) -> bool:
    """Return whether the host of a URL of HTTP lies in the internet, as far as that can be told."""
    host = (host_of(url)[0] or "").rstrip(".").lower()
    if not host or host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return False
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):  # a proxy may know it
        return True
    return all(_is_global(str(address)) for address in found)


def _is_global(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address.sixtofour is not None:
            address = address.sixtofour
        elif address in _NAT64:
            address = IPv4Address(int(address) & 0xFFFFFFFF)
    return address.is_global and not address.is_multicast
