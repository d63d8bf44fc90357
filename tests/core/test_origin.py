"""The command that installs an extra is one of where ctxdeploy came from: no index has it under its name."""

import json
import shlex
from importlib import metadata
from pathlib import Path

import pytest

from ctxdeploy.core.origin import install_line

WHEEL = "ctxdeploy-0.2.0-py3-none-any.whl"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that pip can install from, with a wheel beside it."""
    folder = tmp_path / "my check'out"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    (tmp_path / WHEEL).touch()
    return folder


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make the installed ctxdeploy one of a given origin, as pip writes it; None for an index."""

    def install(origin: object) -> None:
        folder = tmp_path / "site" / "ctxdeploy-0.2.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Name: ctxdeploy\nVersion: 0.2.0\n")
        if origin is not None:
            text = origin if isinstance(origin, str) else json.dumps(origin)
            (folder / "direct_url.json").write_text(text)
        monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(folder))

    return install


def test_a_checkout(installed, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed({"url": checkout.as_uri(), "dir_info": {}})
    assert shlex.split(install_line("cpu")) == ["pip", "install", f"{checkout}[cpu]"]
    monkeypatch.chdir(checkout)
    assert install_line("cpu") == "pip install '.[cpu]'"


def test_an_editable_checkout(installed, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed({"url": checkout.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.chdir(checkout)
    assert install_line("cpu") == "pip install -e '.[cpu]'"


def test_a_checkout_that_is_gone(installed, tmp_path: Path) -> None:
    installed({"url": (tmp_path / "none").as_uri(), "dir_info": {}})
    assert install_line("cpu") == "pip install '.[cpu]'  in a checkout of ctxdeploy"


def test_a_wheel(installed, checkout: Path, tmp_path: Path) -> None:
    installed({"url": (tmp_path / WHEEL).as_uri(), "archive_info": {}})
    assert install_line("cpu") == f"pip install '{tmp_path / WHEEL}[cpu]'"


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        (
            {"url": "https://example.org/c.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}},
            "pip install 'ctxdeploy[cpu] @ git+https://example.org/c.git@ab12'",
        ),
        (
            {"url": f"https://example.org/{WHEEL}", "archive_info": {}},
            f"pip install 'ctxdeploy[cpu] @ https://example.org/{WHEEL}'",
        ),
        (None, "pip install 'ctxdeploy[cpu]'"),
        ("{", "pip install '.[cpu]'  in a checkout of ctxdeploy"),
        ("[]", "pip install '.[cpu]'  in a checkout of ctxdeploy"),
        ({"url": 5}, "pip install '.[cpu]'  in a checkout of ctxdeploy"),
    ],
)
def test_other_origins(installed, origin: object, line: str) -> None:
    installed(origin)
    assert install_line("cpu") == line


def test_not_installed_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert install_line("cpu") == "pip install '.[cpu]'  in a checkout of ctxdeploy"
