"""How many processors a process may use: groups as Docker, Kubernetes and systemd make them, and a real one."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ctxdeploy.core import cpu as processors
from ctxdeploy.core.cpu import available_processors, engine_threads, quota_processors
from ctxdeploy.runtime.backends import openvino
from ctxdeploy.runtime.backends.config import BackendConfig
from ctxdeploy.runtime.backends.onnxruntime import session_options

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")


def system(root: Path, groups: str, mounts: list[tuple[str, str, str]], files: dict[str, str]) -> Path:
    """Make a file system with what is mounted: kind (with controllers), top group, place below ``/sys/fs/cgroup``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    lines = ["22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw", "broken"]
    for kind, top, place in mounts:
        name, _, controllers = kind.partition(" ")
        where = f"/sys/fs/cgroup/{place}".rstrip("/")
        lines.append(f"30 22 0:26 {top} {where} ro,nosuid shared:9 master:3 - {name} {name} rw,{controllers}")
    (root / "proc/self/mountinfo").write_text("\n".join(lines))
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


TWO = [("cgroup2", "/", "")]


def quota_of(folder: str, quota: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        pytest.param("0::/\n", TWO, {"cpu.max": "200000 100000\n"}, 2, id="a container of version 2"),
        pytest.param("0::/\n", TWO, {"cpu.max": "150000 100000\n"}, 2, id="one and a half"),
        pytest.param("0::/\n", TWO, {"cpu.max": "10000 100000\n"}, 1, id="a tenth"),
        pytest.param("0::/\n", TWO, {"cpu.max": "max 100000\n"}, None, id="no quota"),
        pytest.param("0::/\n", [], {"cpu.max": "200000 100000\n"}, None, id="not mounted"),
        pytest.param(
            "0::/kube.slice/pod1/c\n",
            TWO,
            {"cpu.max": "max 100000", "kube.slice/pod1/cpu.max": "300000 100000", "kube.slice/pod1/c/cpu.max": "max 1"},
            3,
            id="that of a group above",
        ),
        pytest.param("0::/../..\n", TWO, {"cpu.max": "400000 100000"}, 4, id="a group outside of the namespace"),
        pytest.param(
            "5:memory:/docker/a\n4:cpuacct,cpu:/docker/a\n0::/\n",
            [("cgroup rw,cpu,cpuacct", "/docker/a", "cpu,cpuacct"), ("cgroup rw,memory", "/docker/a", "memory")],
            {**quota_of("cpu,cpuacct", 250_000), **quota_of("memory", 100_000)},
            3,
            id="a container of version 1",
        ),
        pytest.param(
            "4:cpu,cpuacct:/docker/a/sub\n",
            [("cgroup rw,cpu,cpuacct", "/docker/a", "cpu,cpuacct")],
            {**quota_of("cpu,cpuacct", 800_000), **quota_of("cpu,cpuacct/sub", 500_000)},
            5,
            id="a group in a container of version 1",
        ),
        pytest.param("4:cpu:/\n", [("cgroup rw,cpu", "/", "cpu")], quota_of("cpu", -1), None, id="version 1, no quota"),
        pytest.param(
            "4:cpu:/\n0::/a\n",
            [("cgroup rw,cpu", "/", "cpu"), ("cgroup2", "/", "unified")],
            {"unified/a/cpu.max": "100000 100000\n", **quota_of("cpu", 300_000)},
            1,
            id="both versions",
        ),
        pytest.param("nonsense\n\n1::\n0::/\n", TWO, {"cpu.max": "lots\n"}, None, id="nothing that can be read"),
    ],
)
def test_the_least_quota_of_the_groups_counts(
    tmp_path: Path, groups: str, mounts: list[tuple[str, str, str]], files: dict[str, str], quota: int | None
) -> None:
    assert quota_processors(system(tmp_path, groups, mounts, files)) == quota


def test_without_groups_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quota_processors(tmp_path) is None
    monkeypatch.setattr(processors, "quota_processors", lambda: None)
    assert available_processors() == AFFINITY and engine_threads(None) is None and engine_threads(3) == 3


def test_an_engine_is_told_of_a_quota_that_is_less_than_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_affinity", lambda: set(range(64)))
    monkeypatch.setattr(processors, "_cores", lambda: 32)
    for quota, processors_, threads in ((3, 3, 3), (32, 32, None), (48, 48, None), (100, 64, None)):
        monkeypatch.setattr(processors, "quota_processors", lambda quota=quota: quota)
        assert (available_processors(), engine_threads(None), engine_threads(8)) == (processors_, threads, 8)


def test_two_processors_of_one_core_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_affinity", lambda: {0, 1, 2, 5})
    assert processors._cores(tmp_path) == 4
    for number, siblings in enumerate(("0,4", "1,5", "2,6", "3,7", "0,4", "1,5")):
        path = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        path.parent.mkdir(parents=True)
        path.write_text(siblings)
    assert processors._cores(tmp_path) == 3


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_engines_are_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 64 cores and a quota of 3."""
    monkeypatch.setattr(processors, "_cores", lambda: 64)
    monkeypatch.setattr(processors, "quota_processors", lambda: 3)
    if name == "onnxruntime":
        ort = pytest.importorskip("onnxruntime")
        assert session_options(ort, None).intra_op_num_threads == 3
        assert session_options(ort, 5).intra_op_num_threads == 5
    else:
        config = BackendConfig(name=name)
        assert openvino._properties(config, "f32")["INFERENCE_NUM_THREADS"] == 3
        assert openvino._properties(replace(config, threads=5), "f32")["INFERENCE_NUM_THREADS"] == 5


@pytest.mark.parametrize(
    ("policy", "spins"), [(None, True), ("", True), ("ACTIVE", True), ("passive", False), ("PASSIVE", False)]
)
def test_threads_that_wait_spin_unless_they_are_told_not_to(
    policy: str | None, spins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    options, key = session_options(ort, None), "session.intra_op.allow_spinning"
    if spins:  # ONNX Runtime's own choice
        with pytest.raises(RuntimeError, match=key):
            options.get_session_config_entry(key)
    else:
        assert options.get_session_config_entry(key) == "0"


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
    script = "import sys; from pathlib import Path; Path(sys.argv[1]).write_text('0'); print('in it', flush=True); "
    script += "from ctxdeploy.core.cpu import quota_processors; print(quota_processors())"
    command = [sys.executable, "-c", script, str(group / "cgroup.procs")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if not found.stdout:
        pytest.skip(f"a process cannot be put in a group here: {found.stderr.splitlines()[-1]}")
    assert found.stdout == "in it\n1\n", found.stderr


@pytest.mark.parametrize("work", ["Extractor(None)", "import ctxdeploy.index.kernels"])
def test_too_little_address_space_is_said_before_libraries_wait_for_it(work: str) -> None:
    code = (
        "import resource\n"
        "from ctxdeploy.core.errors import OutOfMemoryError\n"
        "from ctxdeploy.runtime import Extractor\n"
        "resource.setrlimit(resource.RLIMIT_AS, (600_000_000, 600_000_000))\n"
        "try:\n"
        f"    {work}\n"
        "except OutOfMemoryError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("this process may map 572 MiB (ulimit -v), and its libraries need ")
    assert len(done.stdout.splitlines()) == 1
