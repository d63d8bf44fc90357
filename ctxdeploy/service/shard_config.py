"""Settings of search over shards: what a shard server and a front are told."""

from dataclasses import dataclass
from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.part import Part
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.text import printable
from ctxdeploy.sharding.config import TransportConfig
from ctxdeploy.sharding.http_shards import server_urls


@dataclass(frozen=True, kw_only=True)
class ShardingConfig:
    """Of which part of an archive's shards a service is the server, or which servers it asks.

    Attributes:
        shards: the part that it searches for a front; None if it is not a shard server.
        shard: of each part, in their order, the URLs of its servers; none if it is not a front.
        shard_key_file: holds the key that shard servers ask for; it may stand in ``CTXDEPLOY_SHARD_KEY`` instead.
        shard_timeout: seconds that an answer of a part may take; a part that takes longer is left out.
    """

    shards: Part | None = setting(
        None,
        "--shards",
        "Search this part of the archive's shards for a front, and answer nothing else.",
        metavar="I/N",
        parse=Part.parse,
    )
    shard: tuple[str, ...] = setting(
        (), "--shard", "Search over shard servers: once for each part, its servers with commas.", metavar="URL[,URL]"
    )
    shard_key_file: Path | None = setting(
        None, "--shard-key-file", "Holds the key that shard servers ask for.", metavar="FILE"
    )
    shard_timeout: float = setting(
        10.0, "--shard-timeout", "A part that takes longer to answer is left out.", metavar="SECONDS"
    )

    def __post_init__(self) -> None:
        check_types(self)
        if self.shards is not None and self.shard:
            raise ConfigError("--shards and --shard exclude each other: a shard server asks no others")
        if not isinstance(self.shard, tuple) or not all(isinstance(text, str) for text in self.shard):
            raise ConfigError(f"--shard {self.shard!r} is not a list of texts: give one for each part")
        if self.shard_key_file is not None and not self.shard:
            raise ConfigError("--shard-key-file is of a front: give --shard, or --read-key-file for who may ask here")
        if not 0 < self.shard_timeout < 3600:
            raise ConfigError(f"--shard-timeout {self.shard_timeout:g} is not a time of less than an hour in seconds")
        urls = [url for part in self.servers for url in part]
        twice = next((url for url in urls if urls.count(url) > 1), None)
        if twice is not None:
            raise ConfigError(f"--shard names {printable(twice)} twice: each server searches one part")

    @property
    def servers(self) -> tuple[tuple[str, ...], ...]:
        """The URLs of each part's servers; ``ConfigError`` for what is none."""
        try:
            return tuple(map(server_urls, self.shard))
        except ConfigError as error:
            raise ConfigError(f"--shard: {error}") from error

    @property
    def transport(self) -> TransportConfig:
        """How servers are asked."""
        return TransportConfig(timeout=self.shard_timeout)
