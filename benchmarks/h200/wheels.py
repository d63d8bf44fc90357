"""Wheels for a machine without a network: downloaded elsewhere, cut into loads, put together and installed there."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# What a machine for PyTorch lacks. CUDA's own libraries come with PyTorch's wheel for CUDA 13, but for nvJPEG. Where
# numba-cuda is missing too, name it: one that is there fits its driver better than the newest.
PACKAGES = ("simplejpeg", "onnxruntime-gpu", "nvidia-nvimgcodec-cu13", "nvidia-nvjpeg")
# Of the oldest glibc that wheels are made for.
_OLDEST_GLIBC = 5
_MANIFEST = "load.json"


def pack(
    loads: Path, packages: Sequence[str], python: str, glibc: str, mib: int, with_needs: bool = False
) -> Iterator[str]:
    """Download wheels and cut them into folders 1, 2, … of at most ``mib`` MiB; yield what to say.

    Args:
        loads: a new or empty folder.
        packages: as pip takes them.
        python: version of that machine's, such as 3.12.
        glibc: version of that machine's, such as 2.39.
        mib: of a load.
        with_needs: what the packages need is downloaded too.
    """
    if loads.exists() and any(loads.iterdir()):
        raise SystemExit(f"h200.sh: {loads} is not empty")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        major, minor = (int(part) for part in glibc.split("."))
        tags = [f"manylinux_{major}_{i}_x86_64" for i in range(minor, _OLDEST_GLIBC - 1, -1)]
        tags += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
        command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--implementation", "cp"]
        command += ["--python-version", python, *(part for tag in tags for part in ("--platform", tag)), "-d", name]
        done = subprocess.run([*command, *([] if with_needs else ["--no-deps"]), *packages], check=False)
        if done.returncode:
            raise SystemExit("h200.sh: pip could not download the wheels; what it said stands above")
        yield from cut(sorted(folder.glob("*.whl")), loads, mib << 20)


def cut(wheels: Sequence[Path], loads: Path, most: int) -> Iterator[str]:
    """Write wheels into folders 1, 2, … of at most ``most`` bytes, larger ones in pieces; yield what to say."""
    packed: list[list[tuple[Path, int, int]]] = [[]]
    facts: dict[str, dict[str, Any]] = {}
    left = most
    # Small wheels come first: without them hardly anything runs.
    for wheel in sorted(wheels, key=lambda wheel: (wheel.stat().st_size, wheel.name)):
        start, size = 0, wheel.stat().st_size
        facts[wheel.name] = {"sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(), "starts": []}
        while start < size:
            if not left:
                packed.append([])
                left = most
            length = min(left, size - start)
            packed[-1].append((wheel, start, length))
            facts[wheel.name]["starts"].append(start)
            start, left = start + length, left - length
    for number, members in enumerate(packed, 1):
        folder = loads / str(number)
        folder.mkdir(parents=True)
        (folder / _MANIFEST).write_text(json.dumps({"loads": len(packed), "wheels": facts}), encoding="utf-8")
        total = 0
        for wheel, start, length in members:
            with wheel.open("rb") as file:
                file.seek(start)
                total += (folder / f"{wheel.name}.{start}").write_bytes(file.read(length))
        yield f"{folder}: {total / 2**20:.1f} MiB, {', '.join(dict.fromkeys(wheel.name for wheel, _, _ in members))}"


def take(load: Path, store: Path) -> str:
    """Keep the pieces of a load in ``store``; install what is whole in ``store/site``. Return what to say."""
    store.mkdir(parents=True, exist_ok=True)
    wheels = json.loads((load / _MANIFEST).read_text(encoding="utf-8"))["wheels"]
    for piece in load.iterdir():
        if piece.name != _MANIFEST:
            shutil.copyfile(piece, store / f"{piece.name}.partial")
            (store / f"{piece.name}.partial").replace(store / piece.name)
    lacking = [
        name
        for name, facts in wheels.items()
        if any(not (store / f"{name}.{start}").exists() for start in facts["starts"])
    ]
    new = {name: facts for name, facts in wheels.items() if name not in lacking and not (store / name).exists()}
    rest = f"pieces of {', '.join(lacking)} are still to come" if lacking else "all is there"
    if not new:
        return f"kept; {rest}"
    whole = [_joined(store, name, facts) for name, facts in new.items()]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
    done = subprocess.run([*command, "--target", str(store / "site"), *map(str, whole)], check=False)
    if done.returncode:
        raise SystemExit("h200.sh: pip could not install the wheels; what it said stands above")
    return f"installed in {store / 'site'}: {', '.join(sorted(new))}; {rest}"


def _joined(store: Path, name: str, facts: dict[str, Any]) -> Path:
    """Put a wheel together; its hash must be that of the one that was cut."""
    digest, path = hashlib.sha256(), store / name
    with path.open("wb") as file:
        for start in facts["starts"]:
            data = (store / f"{name}.{start}").read_bytes()
            digest.update(data)
            file.write(data)
    if digest.hexdigest() != facts["sha256"]:
        path.unlink()
        raise SystemExit(f"h200.sh: the pieces of {name} are not those that were packed: bring them again")
    return path
