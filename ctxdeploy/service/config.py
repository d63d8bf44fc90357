"""Settings of the service. The options of ``ctxdeploy serve`` are made from them, so nothing heavy is imported."""

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.archive import SUFFIX
from ctxdeploy.core.device import CPU, Device
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types, parse_bytes, setting
from ctxdeploy.service.shard_config import ShardingConfig

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig

LOG_FORMATS = ("text", "json")
# As ``Host`` has it without a port, and ``Origin`` has it.
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?")
_NAME = re.compile(r"[\w.-][\w. -]{0,99}")


@dataclass(frozen=True, kw_only=True)
class ArchivePlace:
    """An archive to serve.

    Attributes:
        path: its folder.
        name: that requests give; if None that of the folder without its suffix.
        model: the bundle that made it, where it does not carry it: a folder, or a name of ``ctxdeploy models``.
        backend: what runs its model; that of the service if None.
    """

    path: Path
    name: str | None = None
    model: str | None = None
    backend: "BackendConfig | None" = None

    def __post_init__(self) -> None:
        if self.name is not None and _NAME.fullmatch(self.name) is None:
            raise ConfigError(f"{self.name!r} is not a name for an archive: give letters, digits, spaces and . _ -")

    @property
    def shown(self) -> str:
        """The name that requests give."""
        own = self.path.resolve().name.removesuffix(SUFFIX)
        # Bytes that are no text fit into no URL and no metric.
        return own.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if self.name is None else self.name


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """How a service listens, whom it answers, and what it refuses.

    Attributes:
        host: address to listen on.
        port: of it; 0 for any that is free.
        read_key_file, write_key_file: files that hold a key a line; who asks needs one of them. A write key reads too.
            Keys may stand in the environment instead: ``CTXDEPLOY_READ_KEYS``, ``CTXDEPLOY_WRITE_KEYS``.
        allow_no_keys: listen on another address than loopback without keys.
        metrics_need_key: ``/metrics`` asks for a read key as well.
        writable: photos may be added and removed.
        store_photos: the file of a photo that is added is stored in the folder that the archive's photos came from,
            under its name; and ``file=true`` removes it again.
        max_jobs: requests that add or remove photos, and wait for that.
        max_job_bytes: of the photos that wait to be added.
        write_timeout: seconds that they may wait for another process that writes the archive.
        max_bytes: of the body of a request.
        max_body_memory: bytes of the bodies of all requests together.
        max_pixels: of a photo.
        max_top: hits that may be asked for.
        max_batch: photos of one request.
        timeout: seconds that a request may take, waiting included.
        max_queue: requests that may wait; more are refused.
        max_running: requests that are answered at the same time, each in a thread.
        max_connections: that are open at the same time; of more, those are closed that have asked nothing for the
            longest time.
        keep_alive: seconds that a connection may ask nothing.
        batch_size: photos of one size that the network takes at once; if None what suits the backend.
        gather: searches that wait are asked together.
        search_device: where postings are searched: ``cpu``, or a GPU that holds those of all archives, ``cuda:N``.
        refresh_seconds: between two looks for a newer state of an archive.
        drain_seconds: that requests are still taken in when the service is told to end, while ``/readyz`` says that it
            ends: balancers need them to send requests elsewhere.
        grace_seconds: that requests have to end when the service is told to.
        allow_origins: pages of other servers that may ask (CORS); none if empty.
        allow_hosts: names that it is asked by. On loopback without keys other names are refused: a page of a browser
            could use one of its own.
        log_format: ``text``, or ``json``: an object a line.
        sharding: of a shard server, or of a front.
    """

    host: str = setting("127.0.0.1", "--host", "Address to listen on.")
    port: int = setting(8000, "--port", "Port to listen on; 0: any that is free.")
    read_key_file: Path | None = setting(
        None, "--read-key-file", "Who asks needs one of the keys of this file, one a line.", metavar="FILE"
    )
    write_key_file: Path | None = setting(
        None, "--write-key-file", "Who adds or removes needs one of the keys of this file.", metavar="FILE"
    )
    allow_no_keys: bool = setting(False, "--allow-no-keys", "Listen on another address than loopback without any key.")
    metrics_need_key: bool = setting(False, "--metrics-need-key", "Ask for a read key at /metrics as well.")
    writable: bool = setting(False, "--writable", "Let photos be added and removed.")
    store_photos: bool = setting(
        True, "--store-photos/--no-store-photos", "Store the files of photos that are added among the archive's photos."
    )
    max_jobs: int = setting(1000, "--max-jobs", "Requests to add or remove that may wait.", metavar="N")
    max_job_bytes: int = setting(
        256 << 20,
        "--max-job-bytes",
        "Of the photos that wait to be added.",
        metavar="SIZE",
        parse=parse_bytes,
        default_text="256MiB",
    )
    write_timeout: float = setting(
        300.0, "--write-timeout", "That they may wait for another writer.", metavar="SECONDS"
    )
    max_bytes: int = setting(
        64 << 20, "--max-bytes", "Of the body of a request.", metavar="SIZE", parse=parse_bytes, default_text="64MiB"
    )
    max_body_memory: int = setting(
        1 << 30,
        "--max-body-memory",
        "Of all bodies together; more are refused.",
        metavar="SIZE",
        parse=parse_bytes,
        default_text="1GiB",
    )
    max_pixels: int = setting(178_956_970, "--max-pixels", "A photo with more is refused.", metavar="N")
    max_top: int = setting(1000, "--max-top", "Results that a request may ask for.", metavar="N")
    max_batch: int = setting(64, "--max-batch", "Photos of one request.", metavar="N")
    timeout: float = setting(30.0, "--timeout", "A request that takes longer has failed.", metavar="SECONDS")
    max_queue: int = setting(64, "--max-queue", "Requests that may wait; more are refused.", metavar="N")
    max_running: int = setting(8, "--max-running", "Requests that are answered at the same time.", metavar="N")
    max_connections: int = setting(
        4096, "--max-connections", "Open at the same time; the idlest of more are closed.", metavar="N"
    )
    keep_alive: float = setting(
        15.0, "--keep-alive", "That a connection may ask nothing, or take to ask.", metavar="SECONDS"
    )
    batch_size: int | None = setting(
        None,
        "--batch-size",
        "Photos of one size that the network takes at once.",
        metavar="N",
        default_text="1 on a CPU, on a GPU what fits it",
    )
    gather: bool = setting(True, "--gather/--no-gather", "Ask searches that wait together.")
    search_device: str = setting(
        "cpu",
        "--search-device",
        "Where postings are searched: cpu, cuda or cuda:N.",
        metavar="DEVICE",
    )
    refresh_seconds: float = setting(
        1.0, "--refresh", "Between two looks for photos that others added.", metavar="SECONDS"
    )
    drain_seconds: float = setting(
        0.0, "--drain", "That requests are still taken in when the service is told to end.", metavar="SECONDS"
    )
    grace_seconds: float = setting(
        30.0, "--grace", "That requests have to end when the service is told to end.", metavar="SECONDS"
    )
    allow_origins: tuple[str, ...] = setting(
        (), "--allow-origin", "Let pages of this server ask (CORS); may be repeated.", metavar="URL"
    )
    allow_hosts: tuple[str, ...] = setting(
        (), "--allow-host", "Name that the service has besides localhost; may be repeated.", metavar="NAME"
    )
    log_format: str = setting("text", "--log-format", "Of the log on stderr.", choices=LOG_FORMATS)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)

    def __post_init__(self) -> None:
        check_types(self)
        if not self.host.strip():
            raise ConfigError("--host is empty: give an address of this machine, such as 127.0.0.1")
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"--port {self.port} is outside 0..65535")
        for flag, value in (
            ("--max-bytes", self.max_bytes),
            ("--max-body-memory", self.max_body_memory),
            ("--max-jobs", self.max_jobs),
            ("--max-job-bytes", self.max_job_bytes),
            ("--max-pixels", self.max_pixels),
            ("--max-top", self.max_top),
            ("--max-batch", self.max_batch),
            ("--max-queue", self.max_queue),
            ("--max-running", self.max_running),
            ("--max-connections", self.max_connections),
            ("--batch-size", 1 if self.batch_size is None else self.batch_size),
        ):
            if value < 1:
                raise ConfigError(f"{flag} {value} is not positive: give 1 or more")
        for flag, seconds in (
            ("--timeout", self.timeout),
            ("--refresh", self.refresh_seconds),
            ("--keep-alive", self.keep_alive),
            ("--drain", self.drain_seconds or 1.0),
            ("--write-timeout", self.write_timeout),
            ("--grace", self.grace_seconds),
        ):
            if not 0 < seconds <= 86_400:
                raise ConfigError(f"{flag} {seconds:g} is not a time of up to a day in seconds")
        if self.max_body_memory < self.max_bytes:
            raise ConfigError(
                f"--max-body-memory {self.max_body_memory:,} is less than one body may have (--max-bytes "
                f"{self.max_bytes:,}): raise it"
            )
        if self.sharding.shards is not None and self.writable:
            raise ConfigError("--shards and --writable exclude each other: a front may be writable")
        Device.parse(self.search_device, "--search-device")
        if self.sharding.shard and self.search_device != CPU:
            raise ConfigError(
                "--search-device is for who has the postings: give it to the shard servers, not the front"
            )
        if self.log_format not in LOG_FORMATS:
            raise ConfigError(f"--log-format {self.log_format!r} is unknown: give {', '.join(LOG_FORMATS)}")
        self._check_names()

    def _check_names(self) -> None:
        for name in self.allow_hosts:
            if _HOST.fullmatch(name) is None:
                raise ConfigError(f"--allow-host {name!r} is not a bare name such as photos.example.org")
        for origin in self.allow_origins:
            if _ORIGIN.fullmatch(origin) is None:
                wanted = "https://app.example.org, with a port if it has one, and no path"
                raise ConfigError(f"--allow-origin {origin!r} is not what browsers call a server: {wanted}")

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine reaches the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
