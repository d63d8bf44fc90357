"""Settings: options before variables before the file before defaults; whatever is wrong is named with its place."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import settings_of
from ctxdeploy.object_storage.config import CacheConfig
from ctxdeploy.runtime import BackendConfig
from ctxdeploy.service import ServiceConfig
from ctxdeploy.service.settings import load_settings


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return a function that writes a file of settings."""

    def write(text: str) -> Path:
        path = tmp_path / "serve.toml"
        path.write_text(text)
        return path

    return write


def test_options_go_before_variables_before_the_file(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write('port = 1\nmax-top = 2\nmax_queue = 3\nmax-bytes = "1MiB"\nhost = "::1"\n')
    monkeypatch.setenv("CTXDEPLOY_MAX_TOP", "20")
    monkeypatch.setenv("CTXDEPLOY_PORT", "10")
    found = load_settings({(ServiceConfig, "port"): 100}, file).service
    assert (found.port, found.max_top, found.max_queue, found.max_bytes, found.host) == (100, 20, 3, 1 << 20, "::1")
    assert found.timeout == ServiceConfig().timeout
    monkeypatch.setenv("CTXDEPLOY_CONFIG", str(file))
    assert load_settings({}).service.max_queue == 3


def test_variables_are_read_as_options_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("MAX_BYTES", "2MiB"),
        ("GATHER", "false"),
        ("ALLOW_ORIGIN", "https://a.example, https://b.example"),
        ("READ_KEY_FILE", "/keys"),
        ("TIMEOUT", "2.5"),
        ("THREADS", "3"),
        ("LOG_FORMAT", "json"),
        ("CACHE_SIZE", "3GB"),
        ("WRITABLE", "1"),
        ("GRACE", ""),
    ):
        monkeypatch.setenv(f"CTXDEPLOY_{name}", value)
    settings = load_settings({})
    found = settings.service
    assert (found.max_bytes, found.gather, found.timeout, found.log_format) == (2 << 20, False, 2.5, "json")
    assert found.allow_origins == ("https://a.example", "https://b.example")
    assert (found.read_key_file, found.writable, found.grace_seconds) == (Path("/keys"), True, 30.0)
    assert settings.backend == BackendConfig(threads=3) and settings.cache == CacheConfig(size=3 * 10**9)


def test_every_setting_may_stand_in_a_file(write: Any) -> None:
    lines = []
    for field in [*settings_of(ServiceConfig), *settings_of(BackendConfig), *settings_of(CacheConfig)]:
        key = field.setting.flag.split("/")[0].removeprefix("--")
        if field.default is not None:
            value = str(field.default).lower() if isinstance(field.default, bool) else repr(field.default)
            lines.append(f"{key} = {'[]' if field.default == () else value}")
    assert load_settings({}, write("\n".join(lines))).service == ServiceConfig()


def test_the_size_of_the_cache_stands_in_the_file_for_archives_at_urls_too(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTXDEPLOY_ARCHIVE_CACHE", str(tmp_path / "cache"))
    file = write('cache-size = "5MB"\n[archives]\nfar = "s3://bucket/far.ctxindex"\n')
    found = load_settings({}, file)
    assert found.cache.bytes == 5 * 10**6
    (place,) = found.archives
    assert json.loads((place.path.parent / "place.json").read_text())["bytes"] == 5 * 10**6
    assert load_settings({(CacheConfig, "size"): 7}, file).cache.bytes == 7
    with pytest.raises(ConfigError, match=r"cache-size '?much"):
        load_settings({}, write('cache-size = "much"'))


def test_archives_stand_in_the_file(write: Any) -> None:
    file = write(
        'precision = "fp16"\nbackend = "tensorrt"\n[archives]\nparis = "/photos/paris.ctxindex"\n'
        '[archives.oxford]\npath = "oxford.ctxindex"\nmodel = "how"\nprecision = "fp32"\nbackend = "onnxruntime"\n'
    )
    paris, oxford = load_settings({}, file).archives
    assert (paris.shown, paris.path, paris.model, paris.backend) == (
        "paris",
        Path("/photos/paris.ctxindex"),
        None,
        None,
    )
    assert (oxford.path, oxford.model) == (file.parent / "oxford.ctxindex", "how")
    assert oxford.backend == BackendConfig(name="onnxruntime", precision="fp32")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-tops = 3", "there is no setting 'max-tops': did you mean max-top?"),
        ("zzz = 3", "there is no setting 'zzz': there are allow-host, "),
        ('port = "many"', "serve.toml: port 'many' is wrong: Input should be a valid integer"),
        ("port = 70000", "--port 70000 is outside 0..65535 (it stands in {file}: port)"),
        ("port = true", "serve.toml: port 'True' is not what belongs here"),
        ('search-device = "gpu"', "--search-device 'gpu' is unknown: give --search-device auto, cpu, cuda or cuda:N"),
        ('max-bytes = "much"', "serve.toml: max-bytes 'much' is not an amount of memory"),
        ("[host]\na = 1", "serve.toml: host "),
        ("port =", "is not TOML: "),
        ("archives = 3", "archives is not a table"),
        ("[archives]\na = 3", "archives.a has no path"),
        ('[archives]\n"a/b" = "x"', "'a/b' is not a name for an archive"),
        ('[archives.a]\npath = "x"\ncolour = 1', "archives.a: there is no 'colour': give path, model, backend"),
        ('[archives.a]\npath = "x"\nprecision = "fp7"', "archives.a: "),
        ('[archives.a]\npath = "x"\nthreads = "many"', "archives.a: --threads 'many' is not a whole number"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(write: Any, text: str, message: str) -> None:
    file = write(text)
    with pytest.raises(ConfigError, match=re.escape(message.replace("{file}", str(file)))):
        load_settings({}, file)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"allow_hosts": ("https://photos.example.org",)},
            "--allow-host 'https://photos.example.org' is not a bare name",
        ),
        ({"allow_hosts": ("photos.example.org:8000",)}, "--allow-host 'photos.example.org:8000' is not"),
        ({"allow_hosts": ("",)}, "--allow-host '' is not"),
        ({"host": " "}, "--host is empty: give an address"),
        (
            {"allow_origins": ("app.example.org",)},
            "--allow-origin 'app.example.org' is not what browsers call a server",
        ),
        ({"allow_origins": ("https://app.example.org/",)}, "and no path"),
        ({"allow_origins": ("*",)}, "--allow-origin '*' is not"),
        ({"allow_origins": ("null",)}, "--allow-origin 'null' is not"),
    ],
)
def test_names_that_would_never_match_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        ServiceConfig(**given)


def test_names_of_servers() -> None:
    ServiceConfig(allow_hosts=("photos.example.org", "photos_1", "192.0.2.7", "[2001:db8::1]", "2001:db8::1"))
    ServiceConfig(allow_origins=("https://app.example.org", "http://localhost:3000", "http://[::1]:80", "app://-"))


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_it_starts_where_there_is_no_stdout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, json: tuple[str, ...]
) -> None:
    """As after  >&-  of a shell."""
    from ctxdeploy.cli import serve as module
    from ctxdeploy.cli.main import run

    told: list[Any] = []

    def serve(places: Any, service: Any, backend: Any, listening: Any) -> None:
        told.append(places)
        listening("http://127.0.0.1:8000")

    monkeypatch.setattr(module, "serve", serve)
    monkeypatch.setattr("sys.stdout", None)
    assert run(["serve", str(tmp_path), *json]) == 0
    assert told == [(tmp_path,)]


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_bytes(b"\xef\xbb\xbfmax-top = 7\r\n[archives]\r\na = 'a.ctxindex'\r\n")
    found = load_settings({}, file)
    assert found.service.max_top == 7 and [one.shown for one in found.archives] == ["a"]


def test_what_is_wrong_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CTXDEPLOY_PORT", "tcp://10.0.0.1:8000")
    with pytest.raises(ConfigError, match=r"^CTXDEPLOY_PORT 'tcp://10.0.0.1:8000' is wrong: .*enableServiceLinks"):
        load_settings({})
    monkeypatch.setenv("CTXDEPLOY_PORT", "-1")
    with pytest.raises(ConfigError, match=r"^--port -1 is outside 0..65535 \(it stands in CTXDEPLOY_PORT\)$"):
        load_settings({})
    with pytest.raises(ConfigError, match=r"^--port -2 is outside 0..65535$"):
        load_settings({(ServiceConfig, "port"): -2})
    with pytest.raises(ConfigError, match=r"--config .*none.toml cannot be read: No such file"):
        load_settings({}, tmp_path / "none.toml")
