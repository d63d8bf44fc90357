"""What hostile files and servers cost: peak memory and seconds of one command for each, as a table.

    python benchmarks/hostile.py --ctxdeploy .venv/bin/ctxdeploy [--against OTHER/bin/ctxdeploy]

A command that passes the limit of memory or of time is ended, and the table says so. Linux only: the memory of all
processes of a command together is read from /proc, 50 times a second.
"""

import argparse
import json
import os
import signal
import struct
import subprocess
import tarfile
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

from ctxdeploy.core.bundle import MANIFEST, Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.files import file_sha256
from ctxdeploy.core.types import Preprocessing

MB, GB = 1 << 20, 1 << 30
MAX_MEMORY, MAX_SECONDS = 3 * GB, 45.0


class Handler(BaseHTTPRequestHandler):
    """Sends without end, or a bomb: 8 GiB of zeros in 8 MB."""

    bomb = b""

    def do_GET(self) -> None:
        self.send_response(200)
        if "bomb" in self.path:
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(self.bomb)))
        self.end_headers()
        with suppress(OSError):
            if "bomb" in self.path:
                self.wfile.write(self.bomb)
                return
            while True:
                self.wfile.write(b"\xff\xd8\xff" + b"x/" * (MB // 2))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no log."""


def gzip_bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(bytes(16 * MB)) for _ in range(512)), packer.flush()])


@dataclass(frozen=True)
class Cost:
    """What a command took: bytes of memory, seconds, and its exit code, None if it was ended."""

    memory: int
    seconds: float
    code: int | None

    def __str__(self) -> str:
        end = "**ended**" if self.code is None else f"code {self.code}"
        return f"{self.memory / 1e6:,.0f} MB, {self.seconds:.1f} s, {end}"


def cost(command: list[str], folder: Path) -> Cost:
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        if peak > MAX_MEMORY or time.monotonic() - start > MAX_SECONDS:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Cost(peak, time.monotonic() - start, None)
        time.sleep(0.02)
    return Cost(peak, time.monotonic() - start, process.returncode)


def resident(session: int) -> int:
    total = 0
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
            if fields and int(fields[3]) == session:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total


Make = Callable[[Path, str], list[str]]


def listed(line: str, *options: str) -> Make:
    def make(folder: Path, host: str) -> list[str]:
        (folder / "l.txt").write_text(line.replace("HOST", host) + "\n")
        return ["index", "l.txt", "-o", "a.ctxindex", *options]

    return make


def pipe(name: str, *arguments: str) -> Make:
    def make(folder: Path, host: str) -> list[str]:
        (folder / name).parent.mkdir(exist_ok=True)
        os.mkfifo(folder / name)
        return list(arguments)

    return make


def zeros(name: str, *arguments: str) -> Make:
    def make(folder: Path, host: str) -> list[str]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to("/dev/zero")
        return list(arguments)

    return make


def sparse(folder: Path, host: str) -> list[str]:
    (folder / "p").mkdir()
    with (folder / "p" / "a.jpg").open("wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(100 * GB)
    return ["index", "p", "-o", "a.ctxindex"]


def long_header(folder: Path, host: str) -> list[str]:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 6 * GB
    with (folder / "x.tar").open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(7 * GB)
    return ["index", "x.tar", "-o", "a.ctxindex"]


def long_directory(folder: Path, host: str) -> list[str]:
    with (folder / "x.zip").open("wb") as file:
        file.truncate(4 * GB - 22)
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 3 * GB, 0, 0))
    return ["index", "x.zip", "-o", "a.ctxindex"]


def large_members(folder: Path, host: str) -> list[str]:
    with zipfile.ZipFile(folder / "x.zip", "w") as packed:
        for number in range(8):
            packed.writestr(f"{number}.jpg", b"\xff\xd8\xff" + bytes(400 * MB))
    return ["index", "x.zip", "-o", "a.ctxindex", "--memory-limit", "1GB"]


def equal_entries(folder: Path, host: str) -> list[str]:
    bundle = folder / "b"
    bundle.mkdir()
    (bundle / "model.engine").write_bytes(bytes(45 * MB))
    artefact = Artefact(
        file="model.engine",
        sha256=file_sha256(bundle / "model.engine"),
        bytes=45 * MB,
        format="engine",
        precision="fp32",
        target="onnxruntime",
    )
    Bundle(
        path=bundle,
        network={},
        source={"weights_sha256": "0"},
        preprocessing=Preprocessing(image_size=512),
        extraction=Extraction(),
        shapes=ShapeRange(),
        artefacts=(artefact,),
    ).write_manifest()
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(manifest | {"artefacts": manifest["artefacts"] * 20_000}))
    return ["verify", "b"]


CASES: dict[str, Make] = {
    "a photo of a server without end, `--memory-limit 1GB`": listed("HOST/endless.jpg", "--memory-limit", "1GB"),
    "the same without a limit": listed("HOST/endless.jpg"),
    "a photo of 8 MB that unpacks to 8 GiB (gzip)": listed("HOST/bomb.jpg", "--memory-limit", "1GB"),
    "a list on a server without end": lambda folder, host: ["index", f"{host}/endless.txt", "-o", "a.ctxindex"],
    "an index page without end": lambda folder, host: ["index", f"{host}/endless/", "-o", "a.ctxindex"],
    "`file:///dev/zero` in a list": listed("file:///dev/zero"),
    "`/dev/zero` as `bundle.json`": zeros("b/bundle.json", "info", "b"),
    "`/dev/zero` as `gnd.json`": zeros("d/gnd.json", "eval", "d"),
    "a pipe as a photo": pipe("p/a.jpg", "index", "p", "-o", "a.ctxindex"),
    "a pipe as a list": pipe("l.txt", "index", "l.txt", "-o", "a.ctxindex"),
    "a pipe as `bundle.json`": pipe("b/bundle.json", "info", "b"),
    "a pipe as an archive's manifest": pipe("a.ctxindex/CURRENT", "info", "a.ctxindex"),
    "a photo of 100 GB (sparse)": sparse,
    "eight members of 400 MB in a zip file, `--memory-limit 1GB`": large_members,
    "a name of 6 GB in a tar file": long_header,
    "a directory of 3 GB in a zip file": long_directory,
    "20,000 equal entries of one artefact of 47 MB": equal_entries,
    "a checkpoint without end (`models pull`)": lambda folder, host: (
        ["models", "pull", "how-r18", "--url", f"{host}/endless.pth", "--to", "m", "--timeout", "5"]
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ctxdeploy", required=True, type=Path, help="the command")
    parser.add_argument("--against", type=Path, help="another, measured first")
    parser.add_argument("--only", default="", help="cases that have this in their names")
    options = parser.parse_args()
    commands = [str(path.absolute()) for path in (options.against, options.ctxdeploy) if path is not None]
    cases = {name: make for name, make in CASES.items() if options.only in name}
    if any("gzip" in name for name in cases):
        Handler.bomb = gzip_bomb()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_address[1]}"
        for name, make in cases.items():
            found = []
            for command in commands:
                with tempfile.TemporaryDirectory() as work:
                    folder = Path(work)
                    Image.effect_noise((64, 64), 50).save(folder / "noise.jpg")
                    found.append(cost([command, *make(folder, host)], folder))
            print(f"| {name} | {' | '.join(map(str, found))} |", flush=True)
        server.shutdown()


if __name__ == "__main__":
    main()
