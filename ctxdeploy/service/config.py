"""Settings of the service. The options of ``ctxdeploy serve`` are made from them, so nothing heavy is imported."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types, parse_bytes, setting

LOG_FORMATS = ("text", "json")


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
        max_bytes: of the body of a request.
        max_pixels: of a photo.
        max_top: hits that may be asked for.
        max_batch: photos of one request.
        timeout: seconds that a request may take, waiting included.
        max_queue: requests that may wait; more are refused.
        max_running: requests that are answered at the same time, each in a thread.
        batch_size: photos of one size that the network takes at once.
        gather: searches that wait are asked together.
        refresh_seconds: between two looks for a newer state of an archive.
        grace_seconds: that requests have to end when the service is told to.
        allow_origins: pages of other servers that may ask (CORS); none if empty.
        log_format: ``text``, or ``json``: an object a line.
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
    max_bytes: int = setting(
        64 << 20, "--max-bytes", "Of the body of a request.", metavar="SIZE", parse=parse_bytes, default_text="64MiB"
    )
    max_pixels: int = setting(178_956_970, "--max-pixels", "A photo with more is refused.", metavar="N")
    max_top: int = setting(1000, "--max-top", "Results that a request may ask for.", metavar="N")
    max_batch: int = setting(64, "--max-batch", "Photos of one request.", metavar="N")
    timeout: float = setting(30.0, "--timeout", "A request that takes longer has failed.", metavar="SECONDS")
    max_queue: int = setting(64, "--max-queue", "Requests that may wait; more are refused.", metavar="N")
    max_running: int = setting(8, "--max-running", "Requests that are answered at the same time.", metavar="N")
    batch_size: int = setting(1, "--batch-size", "Photos of one size that the network takes at once.", metavar="N")
    gather: bool = setting(True, "--gather/--no-gather", "Ask searches that wait together.")
    refresh_seconds: float = setting(
        1.0, "--refresh", "Between two looks for photos that others added.", metavar="SECONDS"
    )
    grace_seconds: float = setting(
        30.0, "--grace", "That requests have to end when the service is told to end.", metavar="SECONDS"
    )
    allow_origins: tuple[str, ...] = setting(
        (), "--allow-origin", "Let pages of this server ask (CORS); may be repeated.", metavar="URL"
    )
    log_format: str = setting("text", "--log-format", "Of the log on stderr.", choices=LOG_FORMATS)

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"--port {self.port} is outside 0..65535")
        for flag, value in (
            ("--max-bytes", self.max_bytes),
            ("--max-pixels", self.max_pixels),
            ("--max-top", self.max_top),
            ("--max-batch", self.max_batch),
            ("--max-queue", self.max_queue),
            ("--max-running", self.max_running),
            ("--batch-size", self.batch_size),
        ):
            if value < 1:
                raise ConfigError(f"{flag} {value} is not positive")
        for flag, seconds in (
            ("--timeout", self.timeout),
            ("--refresh", self.refresh_seconds),
            ("--grace", self.grace_seconds),
        ):
            if not 0 < seconds <= 86_400:
                raise ConfigError(f"{flag} {seconds:g} is not a time of up to a day in seconds")
        if self.log_format not in LOG_FORMATS:
            raise ConfigError(f"--log-format {self.log_format!r} is unknown: give {', '.join(LOG_FORMATS)}")

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine reaches the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
