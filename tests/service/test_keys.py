"""Keys: which are taken, where from, and what they open."""

import re
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.service import ServiceConfig
from ctxdeploy.service.keys import Keys
from ctxdeploy.service.middleware import needed_key
from ctxdeploy.service.server import _without_effect, check_address

READER, WRITER = "reader-0123456789", "writer-0123456789"


def test_keys_come_from_files_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the team\n\n  {READER}\t\nsecond-0123456789\n")
    environment = {"CTXDEPLOY_READ_KEYS": "third-0123456789,fourth-0123456789", "CTXDEPLOY_WRITE_KEYS": WRITER}
    keys = Keys.load(ServiceConfig(read_key_file=file), environment)
    for key in (READER, "second-0123456789", "third-0123456789", "fourth-0123456789"):
        assert (keys.allows(key, "read"), keys.allows(key, "write")) == (True, False)
    assert (keys.allows(WRITER, "read"), keys.allows(WRITER, "write")) == (True, True)
    for key in (None, "", READER[:-1], f"{READER}x", READER.upper(), "caf\u00e9", "\udcff"):
        assert keys.allows(key, "read") is None
    assert READER not in repr(keys)


def test_without_keys_everybody_may() -> None:
    assert Keys().allows(None, "write") is True


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no key"),
        (b"# nothing\n", "holds no key"),
        (b"too-short\n", "key 1 has 9 characters, fewer than 16"),
        (b"a-key-that-is-long enough\n", "key 1 is not one word"),
        (b"\xff\xfe-0123456789abcdef\n", "is not plain text"),
    ],
)
def test_bad_key_files_are_refused_without_the_key(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Keys.load(ServiceConfig(write_key_file=file), {})
    assert "--write-key-file" in str(caught.value)
    assert "too-short" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.load(ServiceConfig(read_key_file=tmp_path / "none"), {})
    with pytest.raises(ConfigError, match="CTXDEPLOY_READ_KEYS holds no key"):
        Keys.load(ServiceConfig(), {"CTXDEPLOY_READ_KEYS": ""})


def test_a_file_that_others_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(READER)
    file.chmod(0o644)
    assert "chmod o-r" in Keys.load(ServiceConfig(read_key_file=file), {}).warnings[0]
    file.chmod(0o600)
    assert Keys.load(ServiceConfig(read_key_file=file), {}).warnings == ()


def test_an_open_address_needs_keys_or_a_word() -> None:
    keys = Keys.load(ServiceConfig(), {"CTXDEPLOY_READ_KEYS": READER})
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError, match="--allow-no-keys"):
            check_address(ServiceConfig(host=host), Keys())
        check_address(ServiceConfig(host=host), keys)
        check_address(ServiceConfig(host=host, allow_no_keys=True), Keys())
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"):
        check_address(ServiceConfig(host=host), Keys())


def test_what_changes_something_needs_a_key_to_write() -> None:
    for method, path, needed in (
        ("GET", "/v1/search", "read"),
        ("POST", "/v1/search", "read"),
        ("POST", "/v1/search/batch", "read"),
        ("POST", "/v1/descriptors", "read"),
        ("POST", "/v1/photos", "write"),
        ("PUT", "/v1/photos/a", "write"),
        ("DELETE", "/v1/photos/a", "write"),
        ("BREW", "/v1/anything", "write"),
        ("GET", "/", None),
        ("GET", "/readyz", None),
        ("GET", "/metrics", None),
    ):
        assert needed_key(method, path, metrics=False) == needed, (method, path)
    assert needed_key("GET", "/metrics", metrics=True) == "read"


@pytest.fixture
def guarded(connect: Any, album: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a service with a key to read and one to write."""
    client = connect(album.archive, config=ServiceConfig(metrics_need_key=True), prepare=False)
    service = client.app.state.service
    service.readiness.done()
    service.keys = Keys.load(service.config, {"CTXDEPLOY_READ_KEYS": READER, "CTXDEPLOY_WRITE_KEYS": WRITER})
    return client


def test_a_key_is_given_in_either_header(guarded: Any) -> None:
    for headers in (
        {"Authorization": f"Bearer {READER}"},
        {"authorization": f"bearer  {READER}"},
        {"X-API-Key": WRITER},
    ):
        assert guarded.get("/v1/archives", headers=headers).status_code == 200
        assert guarded.get("/metrics", headers=headers).status_code == 200
    assert guarded.get("/livez").status_code == 200
    assert guarded.get("/readyz").status_code == 200


def test_without_a_key_nothing_is_told(guarded: Any) -> None:
    for path in ("/v1/archives", "/v1/nothing", "/v1/search", "/metrics"):
        for headers in ({}, {"X-API-Key": "wrong-0123456789"}, {"Authorization": f"Basic {READER}"}):
            answer = guarded.get(path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "NoKey")
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_to_read_does_not_write(guarded: Any) -> None:
    answer = guarded.delete("/v1/photos/first/coffee.jpg", headers={"X-API-Key": READER})
    assert (answer.status_code, answer.json()["code"]) == (403, "KeyOnlyReads")
    assert guarded.delete("/v1/nothing", headers={"X-API-Key": WRITER}).status_code == 404


def test_settings_that_do_nothing_beside_the_keys_are_said() -> None:
    reads, writes = Keys(read=frozenset({b"r"})), Keys(write=frozenset({b"w"}))
    for config, keys, said in (
        (ServiceConfig(writable=True), reads, "--writable does nothing"),
        (ServiceConfig(metrics_need_key=True), Keys(), "--metrics-need-key does nothing"),
    ):
        (line,) = _without_effect(config, keys)
        assert said in line and "-key-file" in line
    assert _without_effect(ServiceConfig(writable=True, metrics_need_key=True), writes) == []
    assert _without_effect(ServiceConfig(writable=True), Keys()) == []
