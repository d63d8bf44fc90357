"""docs/many-machines.md: its manifest against Kubernetes' schema, its commands of two machines with two folders."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "many-machines.md"


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_job_is_one_that_kubernetes_takes() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    (text,) = blocks("yaml")
    job = yaml.safe_load(text)
    validate.validate(job, "1.31", strict=True)
    assert job["spec"]["completionMode"] == "Indexed"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert f"/{job['spec']['completions']} " in container["args"][0], "as many parts as completions"


def test_the_parts_of_the_batch_scripts_are_all_parts() -> None:
    (slurm,) = [block for block in blocks("sh") if "SBATCH --array" in block]
    first, last = re.search(r"--array=(\d+)-(\d+)", slurm).groups()  # type: ignore[union-attr]
    assert (first, f'/{last}"' in slurm) == ("1", True)
    assert subprocess.run(["bash", "-n"], input=slurm, text=True, check=False).returncode == 0


@pytest.mark.slow
def test_two_machines_by_hand(call: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    """Each has folders of its own; the photos of the second one are at another path."""
    (text,) = [block for block in blocks("sh") if block.startswith("a$")]
    machines = {"a": tmp_path / "a", "b": tmp_path / "b"}
    for machine in machines.values():
        shutil.copytree(photos, machine / "photos")
    assert len(text.splitlines()) == 4
    for line in text.splitlines():
        machine, command = line[0], line[3:].replace("/mnt/photos", "photos").split()
        if command[0] == "rsync":
            given = [str(machines["b"] / "parts") + "/." if "b:" in part else part for part in command[2:]]
            command = ["cp", "-a", *given]
        else:
            extra = ["--model", "ctx-small"] if command[1] == "extract" else ["--moved"]
            command = [sys.executable, "-m", *command, *extra, "-q"]
        done = subprocess.run(command, cwd=machines[machine], check=False)
        assert done.returncode == (19 if "publish" in command else 0)
    info = call("info", machines["a"] / "photos.ctxindex", "--json").json
    assert info["images"] == 12 and info["failures"] == 2
    refused = call("publish", tmp_path / "new.ctxindex", *(machine / "parts" for machine in machines.values()), "-q")
    assert refused.code == 2 and "--moved" in refused.err
