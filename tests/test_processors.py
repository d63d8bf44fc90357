"""How many processors a process may use: groups as Docker, Kubernetes and systemd make them, and a real one."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctxdeploy import processors
from ctxdeploy.processors import available_processors, quota_processors
from ctxdeploy.runtime.backends.base import BackendConfig

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")


def system(root: Path, groups: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="a container of version 2"),
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 2, id="one and a half"),
        pytest.param("0::/\n", {"cpu.max": "10000 100000\n"}, 1, id="a tenth"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, None, id="no quota"),
        pytest.param(
            "0::/kube.slice/pod1/c\n",
            {"cpu.max": "max 100000", "kube.slice/pod1/cpu.max": "300000 100000", "kube.slice/pod1/c/cpu.max": "max 1"},
            3,
            id="that of a group above",
        ),
        pytest.param("0::/docker/abc\n", {"cpu.max": "400000 100000"}, 4, id="a path of the host's"),
        pytest.param(
            "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
            {
                "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
                "memory/docker/abc/cpu.cfs_quota_us": "100000\n",
            },
            3,
            id="version 1",
        ),
        pytest.param(
            "4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, id="no quota, 1"
        ),
        pytest.param("0::/a\n", {"unified/a/cpu.max": "100000 100000\n"}, 1, id="both versions"),
        pytest.param("nonsense\n\n1::\n", {"cpu.max": "lots\n"}, None, id="nothing that can be read"),
    ],
)
def test_the_least_quota_of_the_groups_counts(tmp_path: Path, groups: str, files: dict[str, str], quota: int) -> None:
    assert quota_processors(system(tmp_path, groups, files)) == quota


def test_without_groups_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quota_processors(tmp_path) is None
    monkeypatch.setattr(processors, "quota_processors", lambda: None)
    assert available_processors() == AFFINITY and BackendConfig().engine_threads is None


def test_an_engine_is_told_of_a_quota_that_is_less_than_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_affinity", lambda: 64)
    monkeypatch.setattr(processors, "quota_processors", lambda: 3)
    assert (available_processors(), BackendConfig().engine_threads) == (3, 3)
    assert BackendConfig(threads=8).engine_threads == 8
    monkeypatch.setattr(processors, "quota_processors", lambda: 64)
    assert (available_processors(), BackendConfig().engine_threads) == (64, None)


@pytest.fixture
def group() -> Iterator[Path]:
    """Return a control group whose processes may use half a processor."""
    old = (V1 / "cpu.cfs_quota_us").exists() or (V1 / "cgroup.procs").exists()
    folder = (V1 if old else V2) / f"ctxdeploy-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        if old:
            (folder / "cpu.cfs_period_us").write_text("100000")
            (folder / "cpu.cfs_quota_us").write_text("50000")
        else:
            (folder / "cpu.max").write_text("50000 100000")
    except OSError as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"control groups cannot be made here: {error}")
    yield folder
    folder.rmdir()


def test_a_process_in_a_real_group_sees_its_quota(group: Path) -> None:
    script = "import sys; from pathlib import Path; Path(sys.argv[1]).write_text('0'); "
    script += "from ctxdeploy.processors import quota_processors; print(quota_processors())"
    try:
        found = subprocess.run(
            [sys.executable, "-c", script, str(group / "cgroup.procs")], capture_output=True, text=True, check=True
        )
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a process cannot be put in a group here: {error.stderr.splitlines()[-1]}")
    assert found.stdout == "1\n"
