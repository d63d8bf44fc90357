"""Install the oldest versions that pyproject.toml allows, and run the main job with them.

python tools/check_lowest.py [--install] ENVIRONMENT

ENVIRONMENT is made, or used again where pyproject.toml is what it was made from; the code in it is always the
repository's. ``--install`` makes it and runs nothing: that needs packaging alone here. PyTorch is that of the
environment that this runs in: the oldest release for Linux comes with gigabytes of CUDA. Returns 1 if something does
not work, 0 if all does or, with a line that says so, if the package index cannot be reached: that is not the fault of a
bound. Another Python than the oldest has no wheels of them: nothing is tried then.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import venv
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from check_dist import PHOTOS
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# The first six need a GPU of NVIDIA, and gigabytes; the others are for this repository alone.
LEFT_OUT = ("cuda", "cuda12", "tensorrt", "rtx", "kernels", "nvimgcodec", "test", "docs", "deploy")
FILES, ROOMS = ("pyproject.toml", "README.md", "LICENSE"), ("export", "runtime", "index")
TORCH = "torch"
ATTEMPTS, PAUSE = 3, 30
UNREACHABLE = re.compile(
    r"Retrying \(|Connection(Error| broken| reset| aborted)|timed out|name resolution|ProtocolError|IncompleteRead"
    r"|HTTP error 5\d\d|Could not fetch URL|Network is unreachable",
    re.IGNORECASE,
)
HELP = """
import sys
from ctxdeploy.cli.main import COMMANDS, run
sys.exit(max(run([*command.split(), "--help"]) for command in ("", *COMMANDS)))
"""
# Photos named as in INRIA Holidays: three scenes in two views each.
HOLIDAYS = """
from pathlib import Path
from PIL import Image
from ctxdeploy.core.samples import sample_photo
Path("holidays/jpg").mkdir(parents=True)
for number, name in enumerate(("coffee", "rocket", "chelsea")):
    photo = Image.fromarray(sample_photo(name))
    photo.save(f"holidays/jpg/{100000 + 100 * number}.jpg", quality=92)
    photo.crop((20, 20, photo.width - 20, photo.height - 20)).save(f"holidays/jpg/{100001 + 100 * number}.jpg")
"""
DOOR = """
import gcsfs, s3fs
from ctxdeploy import PhotoIndex
with PhotoIndex.open("photos.ctxindex") as index:
    assert index.search("query.jpg", top=1)[0].name == "coffee.jpg"
"""


def lowest(project: dict[str, Any]) -> list[str]:
    """Return a requirement on the oldest version that the extras allow together, for each package of theirs."""
    lines = [*project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        lines += [] if extra in LEFT_OUT else requirements
    found: dict[str, Version] = {}
    for requirement in map(Requirement, lines):
        bounds = [Version(bound.version) for bound in requirement.specifier if bound.operator in (">=", "==")]
        if len(bounds) != 1:
            raise SystemExit(f"pyproject.toml: {requirement} has no lower bound: give it one that works")
        name = requirement.name + (f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else "")
        found[name] = max(bounds[0], found.get(name, bounds[0]))
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name != TORCH]


def site_packages(environment: Path) -> Path:
    """Return where an environment's packages are."""
    return next((environment / "lib").glob("python*/site-packages"))


def copy_code(installed: Path) -> None:
    """Put the repository's code in the place of what was installed."""
    shutil.rmtree(installed)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ctxdeploy", installed, ignore=ignore)
    for room in ROOMS:
        shutil.copytree(ROOT / room, installed / room, ignore=ignore)


def install(environment: Path, requirements: list[str]) -> str:
    """Make the environment; return why the package index cannot be reached, or nothing."""
    shutil.rmtree(environment, ignore_errors=True)
    venv.create(environment, with_pip=True)
    with tempfile.TemporaryDirectory(prefix="ctxdeploy-lowest-") as work:
        for name in FILES:  # a copy: building would leave its files here
            shutil.copy(ROOT / name, work)
        for name in ("ctxdeploy", *ROOMS):
            shutil.copytree(ROOT / name, Path(work, name), ignore=shutil.ignore_patterns("__pycache__"))
        return pip(environment, *requirements) or pip(environment, "--no-deps", work)


def pip(environment: Path, *arguments: str) -> str:
    """Install something; return why the package index cannot be reached, or nothing."""
    # What is imported is compiled then, which is a small part of all.
    options = ("--retries", "3", "--timeout", "60", "--progress-bar", "off", "--no-compile")
    for attempt in range(1, ATTEMPTS + 1):
        command = [environment / "bin" / "pip", "install", *options, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = "".join(line for line in (done.stdout + done.stderr).splitlines(True) if " is ignored: " not in line)
        if done.returncode == 0:
            return ""
        if "ResolutionImpossible" in said or not UNREACHABLE.search(said):
            raise SystemExit(f"{said[-4000:]}\nthe oldest versions that pyproject.toml allows cannot be installed")
        if attempt < ATTEMPTS:
            time.sleep(PAUSE * attempt)
    return said.strip().splitlines()[-1]


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no log."""


def main_job(programs: Path, work: Path) -> None:
    """Index, query, evaluate, export and read from a server; raise where something does not work."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CTXDEPLOY_"))}

    def run(*command: str) -> str:
        line = [str(programs / command[0]), *command[1:]]
        done = subprocess.run(line, cwd=work, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(
                f"{done.stderr[-4000:]}\n{' '.join(command)[:200]}: exit code {done.returncode} with the oldest "
                "versions that pyproject.toml allows: raise the bound of the library at fault"
            )
        return done.stdout

    def first(archive: str) -> str:
        answer = json.loads(run("ctxdeploy", "query", "query.jpg", "--index", archive, "--html", "q.html", "--json"))
        return str(answer["results"][0]["name"])

    run("python", "-c", HELP)
    run("python", "-c", PHOTOS)
    run("python", "-c", HOLIDAYS)
    run("ctxdeploy", "index", "photos", "-q", "--geometry")
    run("ctxdeploy", "index", "photos", "-q", "-o", "openvino.ctxindex", "--backend", "openvino")
    handler = partial(SilentHandler, directory=str(work / "photos"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run("ctxdeploy", "index", f"http://127.0.0.1:{server.server_address[1]}/", "-q", "-o", "server.ctxindex")
        server.shutdown()
    for archive in ("photos.ctxindex", "openvino.ctxindex", "server.ctxindex"):
        if first(archive) != "coffee.jpg":
            raise SystemExit(f"{archive}: the first hit is {first(archive)}, not coffee.jpg")
    run("python", "-c", DOOR)
    run("ctxdeploy", "inspect", "query.jpg", "-o", "seen")
    run("ctxdeploy", "eval", "holidays", "-q", "--global", "--html", "worst.html")
    export = ["ctxdeploy", "export", "ctx-small", "-q", "-o", "small.ctxbundle", "--scales", "1", "--image-size", "256"]
    export += ["--photos", "holidays/jpg"]
    run(*export, "--target", "onnxruntime", "--target", "openvino", "--triton", "triton", "--report", "report.html")
    run("ctxdeploy", "verify", "small.ctxbundle")


def main() -> int:
    """Return 0 if the main job works, or if the package index cannot be reached."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--install", action="store_true")
    parser.add_argument("environment", type=Path)
    asked = parser.parse_args()
    environment = asked.environment.resolve()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = lowest(project)
    python = project["requires-python"].removeprefix(">=")
    if python != f"{sys.version_info.major}.{sys.version_info.minor}":
        sys.stdout.write(f"skipped: the oldest versions are there for Python {python}, the oldest one, alone\n")
        return 0
    mark = environment / "made-from"
    made_from = (ROOT / "pyproject.toml").read_text()
    if not mark.exists() or mark.read_text() != made_from:
        reason = install(environment, requirements)
        if reason:
            sys.stdout.write(f"skipped: the package index cannot be reached, tried {ATTEMPTS} times: {reason}\n")
            return 0
    mark.write_text(made_from)
    if asked.install:
        return 0
    copy_code(site_packages(environment) / "ctxdeploy")
    # Behind this environment's own packages: what it lacks, which is PyTorch with its CUDA, comes from that of pytest.
    (site_packages(environment) / "torch.pth").write_text(f"{importlib.metadata.distribution(TORCH).locate_file('')}\n")
    with tempfile.TemporaryDirectory(prefix="ctxdeploy-lowest-") as work:
        main_job(environment / "bin", Path(work))
    sys.stdout.write(f"the main job works with the oldest versions that are allowed: {', '.join(requirements)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
