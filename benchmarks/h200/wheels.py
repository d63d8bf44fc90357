"""Wheels for a machine without a network: downloaded elsewhere, cut into loads, put together and installed there."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

# What a machine for PyTorch usually lacks. CUDA's own libraries come with PyTorch's wheel for CUDA 13, but for nvJPEG.
PACKAGES = ("simplejpeg", "onnxruntime-gpu", "numba-cuda", "cuda-bindings", "nvidia-nvimgcodec-cu13", "nvidia-nvjpeg")
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
    pieces = [(wheel, start) for wheel in wheels for start in range(0, wheel.stat().st_size, most)]
    sizes = {wheel: wheel.stat().st_size for wheel in wheels}
    packed: list[list[tuple[Path, int]]] = []
    left = 0
    for wheel, start in sorted(pieces, key=lambda piece: -min(most, sizes[piece[0]] - piece[1])):
        size = min(most, sizes[wheel] - start)
        if size > left:
            packed.append([])
            left = most
        packed[-1].append((wheel, start))
        left -= size
    hashes = {wheel: hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}
    whole = {wheel.name: {"sha256": hashes[wheel], "bytes": sizes[wheel], "piece": most} for wheel in wheels}
    for number, members in enumerate(packed, 1):
        folder = loads / str(number)
        folder.mkdir(parents=True)
        (folder / _MANIFEST).write_text(json.dumps({"loads": len(packed), "wheels": whole}), encoding="utf-8")
        total = 0
        for wheel, start in members:
            with wheel.open("rb") as file:
                file.seek(start)
                total += (folder / f"{wheel.name}.{start}").write_bytes(file.read(most))
        yield f"{folder}: {total / 2**20:.1f} MiB, {', '.join(sorted({wheel.name for wheel, _ in members}))}"


def take(load: Path, store: Path) -> str:
    """Keep the pieces of a load in ``store``; install in ``store/site`` when all are there. Return what to say."""
    store.mkdir(parents=True, exist_ok=True)
    wheels = json.loads((load / _MANIFEST).read_text(encoding="utf-8"))["wheels"]
    for piece in load.iterdir():
        if piece.name != _MANIFEST:
            shutil.copyfile(piece, store / f"{piece.name}.partial")
            (store / f"{piece.name}.partial").replace(store / piece.name)
    lacking = [
        name
        for name, facts in wheels.items()
        if any(not (store / f"{name}.{start}").exists() for start in range(0, facts["bytes"], facts["piece"]))
    ]
    if lacking:
        return f"kept; pieces of {', '.join(lacking)} are still to come"
    whole = [_joined(store, name, facts) for name, facts in wheels.items()]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
    done = subprocess.run([*command, "--target", str(store / "site"), *map(str, whole)], check=False)
    if done.returncode:
        raise SystemExit("h200.sh: pip could not install the wheels; what it said stands above")
    return f"installed in {store / 'site'}: {', '.join(sorted(wheels))}"


def _joined(store: Path, name: str, facts: dict[str, int | str]) -> Path:
    """Put a wheel together; its hash must be that of the one that was cut."""
    digest, path = hashlib.sha256(), store / name
    with path.open("wb") as file:
        for start in range(0, int(facts["bytes"]), int(facts["piece"])):
            data = (store / f"{name}.{start}").read_bytes()
            digest.update(data)
            file.write(data)
    if digest.hexdigest() != facts["sha256"]:
        path.unlink()
        raise SystemExit(f"h200.sh: the pieces of {name} are not those that were packed: bring them again")
    return path
