"""As in a container: another user without a home, on a tree that is read-only, with machine code that root made ahead.

What numba compiles is counted by numba's own events; no test looks at a clock.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

import ctxdeploy
from ctxdeploy import IndexingConfig, PhotoIndex
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo

pytestmark = pytest.mark.slow
NOBODY = "65534"
# Where the sandbox shows the folder of a test: every Linux has these, and they are empty.
HERE, OUT = Path("/mnt"), Path("/media")
# Where the package keeps machine code, as long as it can be written.
KERNELS = Path(ctxdeploy.__file__).parent / "index" / "kernels"
# Runs a command, and says on a last line of stderr what was compiled meanwhile.
COUNTED = """
import json, sys
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    from ctxdeploy.cli.main import run
    try:
        code = run(sys.argv[1:])
    finally:
        names = [one.data["dispatcher"].py_func.__name__ for _, one in recorder.buffer if one.is_start]
        print(json.dumps({"compiled": names}), file=sys.stderr, flush=True)
sys.exit(code)
"""


class Tree:
    """A read-only tree in which commands run as nobody.

    Attributes:
        folder: shown as ``HERE``; holds photos, an archive and a cache.
        out: the one folder that nobody may write, shown as ``OUT``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder / "here", folder / "out"
        self.folder.mkdir()
        self.out.mkdir()
        self.out.chmod(0o777)
        self.folder.chmod(0o755)

    def command(
        self,
        *arguments: object,
        environment: dict[str, str] | None = None,
        memory: bool = False,
        hidden: Sequence[Path] = (),
    ) -> list[str]:
        """Return a command line that runs ``ctxdeploy`` in the sandbox.

        ``memory``: with ``/dev/shm`` as containers. ``hidden``: folders that are empty there.
        """
        sandbox = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        if memory:
            sandbox += ["--perms", "1777", "--tmpfs", "/dev/shm"]
        sandbox += shown(sys.base_prefix, sys.prefix, Path(ctxdeploy.__file__).parents[1], Path(__file__).parents[2])
        for folder in hidden:
            sandbox += ["--tmpfs", str(folder)]
        sandbox += ["--ro-bind", str(self.folder), str(HERE), "--bind", str(self.out), str(OUT)]
        sandbox += ["--clearenv", "--setenv", "PATH", os.defpath, "--chdir", "/"]
        given = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), **(environment or {})}
        for name, value in given.items():
            sandbox += ["--setenv", name, value]
        sandbox += ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs"]
        return [*sandbox, sys.executable, "-c", COUNTED, *map(str, arguments)]

    def run(
        self, *arguments: object, environment: dict[str, str] | None = None, hidden: Sequence[Path] = ()
    ) -> tuple[str, str, list[str]]:
        """Run a command; return its output, its remarks, and which loops it compiled."""
        command = self.command(*arguments, environment=environment, hidden=hidden)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
        assert done.returncode == 0, done.stderr
        *remarks, last = done.stderr.splitlines()
        return done.stdout, "\n".join(remarks), json.loads(last)["compiled"]


def shown(*paths: str | Path) -> list[str]:
    """Return options that show folders to everybody, though folders on the way to them are their owner's alone."""
    made: set[Path] = set()
    options: list[str] = []
    for path in (Path(path).resolve() for path in paths):
        above = list(reversed(path.parents))
        first = next((n for n, folder in enumerate(above) if folder.stat().st_mode & 0o005 != 0o005), len(above))
        for number in range(first, len(above)):
            if above[number] not in made:
                made.add(above[number])
                options += ["--perms", "0755", "--tmpfs" if number == first else "--dir", str(above[number])]
        options += ["--ro-bind", str(path), str(path)]
    return options


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, artefacts: Callable[..., Path]) -> Tree:
    """A tree with an archive, and machine code that root made ahead."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if not (shutil.which("bwrap") and shutil.which("setpriv")):
        pytest.skip("there is no bubblewrap (bwrap) or no setpriv")
    tried = subprocess.run(["bwrap", "--ro-bind", "/", "/", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"bubblewrap is not allowed here: {tried.stderr.strip()}")
    made = Tree(tmp_path_factory.mktemp("tree"))
    random = np.random.default_rng(5)
    (made.folder / "photos").mkdir()
    for name in ("astronaut", "coffee", "chelsea"):
        make_view(sample_photo(name), random, ViewConfig(longest=256)).save(made.folder / "photos" / f"{name}.jpg")
    with PhotoIndex.create(made.folder / "a.ctxindex", config=IndexingConfig(geometry="codes")) as index:
        index.add(made.folder / "photos")
    # What other tests have compiled need not be compiled here once more: a minute.
    for loops in {folder for beside in beside_the_package() for folder in beside.glob("loops-*")}:
        shutil.copytree(loops, made.folder / "cache" / loops.name, dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "ctxdeploy", "warm-up", "--json"],
        env={**os.environ, "CTXDEPLOY_CACHE": str(made.folder / "cache")},
        capture_output=True,
        text=True,
        check=True,
        timeout=3000,
    )
    report = json.loads(done.stdout)
    assert report["kept"] and report["folder"] == str(made.folder / "cache")
    assert report["compiled"] + report["read"] > 40
    return made


def beside_the_package() -> list[Path]:
    """Return the folders beside the loops in which other tests may have left machine code."""
    found = {folder / "__pycache__" for folder in (KERNELS, KERNELS.resolve())}
    return [folder for folder in found if folder.is_dir()]


QUERY = ("query", HERE / "photos" / "coffee.jpg", "--index", HERE / "a.ctxindex", "--verify", "3", "--json")
# Ways to ask with a photo that differ in what they compute.
HOW = ("box=10,10,150,150&verify=2", "turn=all&expand=0", "name=coffee.jpg", "verify=3&matches=true&rerank_by=asmk")
CACHE = {"CTXDEPLOY_CACHE": str(HERE / "cache")}


def test_a_query_compiles_nothing(tree: Tree) -> None:
    output, remarks, compiled = tree.run(*QUERY, environment=CACHE)
    assert json.loads(output)["results"][0]["name"] == "coffee.jpg"
    assert compiled == []
    assert "compiling" not in remarks and "machine code" not in remarks


def test_a_first_index_run_compiles_nothing(tree: Tree) -> None:
    arguments = ("index", HERE / "photos", "-o", OUT / "b.ctxindex", "--geometry", "descriptors", "--global", "fp32")
    _, remarks, compiled = tree.run(*arguments, environment=CACHE)
    assert compiled == []
    assert "compiling" not in remarks
    _, _, compiled = tree.run("query", "--indexed", "coffee.jpg", "--index", OUT / "b.ctxindex", environment=CACHE)
    assert compiled == []


# Without geometry, whose loops take three times as long.
PLAIN = ("query", HERE / "photos" / "coffee.jpg", "--index", HERE / "a.ctxindex", "--expand", "0", "--json")


def test_without_a_cache_the_wait_is_said_and_how_to_avoid_it(tree: Tree) -> None:
    command = tree.command(*PLAIN, hidden=beside_the_package())
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        # Long before it has compiled all.
        said = next((line for line in process.stderr if "in every process anew" in line), "")
        os.killpg(process.pid, signal.SIGKILL)
    assert "CTXDEPLOY_CACHE=FOLDER ctxdeploy warm-up" in said


@pytest.mark.long  # the test above without its end: half a minute of compiling
def test_without_a_cache_it_answers_all_the_same_and_says_so_once(tree: Tree) -> None:
    output, remarks, compiled = tree.run(*PLAIN, hidden=beside_the_package())
    assert json.loads(output)["results"][0]["name"] == "coffee.jpg"
    assert "score_pairs" in compiled
    assert remarks.count("in every process anew") == 1 and "CTXDEPLOY_CACHE=FOLDER ctxdeploy warm-up" in remarks


def test_the_first_answers_of_a_service_compile_nothing(tree: Tree) -> None:
    """Whatever is asked first: by photo, by name, a part, several, with geometry, for descriptors."""
    pytest.importorskip("fastapi")
    command = tree.command("serve", HERE / "a.ctxindex", "--port", "0", environment=CACHE, memory=True)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().removeprefix("listening on ").strip()
        try:
            while (ready := httpx.get(f"{url}/readyz", timeout=600)).status_code != 200:
                assert process.poll() is None and ready.status_code == 503
                threading.Event().wait(0.1)
            photo = (tree.folder / "photos" / "coffee.jpg").read_bytes()
            with httpx.Client(base_url=url, timeout=600) as client:
                first = client.post("/v1/search", content=photo)
                others = [client.post(f"/v1/search?{how}", content=photo) for how in HOW]
                others += [client.get(f"/v1/search?indexed=coffee.jpg&{how}") for how in ("verify=2", "expand=2")]
                form = [("photo", ("a.jpg", photo)), ("photo", ("b.jpg", photo))]
                others += [client.post("/v1/search/batch?verify=2", files=form)]
                others += [client.post("/v1/descriptors", content=photo), client.get("/v1/folders")]
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the sandbox hands no signal on
        errors = process.stderr.read()
    assert first.json()["results"][0]["name"] == "coffee.jpg"
    assert [answer.status_code for answer in others] == [200] * len(others)
    assert json.loads(errors.splitlines()[-1])["compiled"] == []
    assert "compil" not in errors.rpartition("\n{")[0]  # and none was said to be compiled


def test_a_service_without_machine_code_says_that_it_compiles(tree: Tree) -> None:
    pytest.importorskip("fastapi")
    arguments = ("serve", HERE / "a.ctxindex", "--port", "0", "--log-format", "json")
    command = tree.command(*arguments, memory=True, hidden=beside_the_package())
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        said = json.loads(process.stderr.readline())  # long before it has compiled all
        os.killpg(process.pid, signal.SIGKILL)
    assert said["level"] == "warning" and said["event"].startswith("compiling the loops of the index")
    assert "ctxdeploy warm-up" in said["event"]
