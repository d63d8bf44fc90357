"""Ways in which the files of an archive can be wrong: bytes at random, and well-formed files with wrong content."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2, 63, 64, 255, 256, 65535, 65536, 65537, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, 1 << 63,
    1 << 64, -(1 << 63), 10**30, 0.5, 1e308, "", "x", "../../x", "/etc/passwd", "\ud800", "0" * 64, "f" * 64, "é" * 99,
    [], [0], [1 << 40], [-1, 2], {}, {"file": "x"}, "1", "2", "3", "9" * 5000, "U8", "F64", "I64", "binary", "float",
]  # fmt: skip

Files = dict[str, bytes]


def flip(data: bytes, chance: random.Random) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def header_flip(data: bytes, chance: random.Random) -> bytes:
    """Set a byte of the first 600, where lengths and headers are."""
    changed = bytearray(data)
    changed[chance.randrange(min(600, len(data)))] = chance.choice(b'0123456789-{}[],:" eE.\x00\xff')
    return bytes(changed)


def truncate(data: bytes, chance: random.Random) -> bytes:
    """Cut the end off."""
    return data[: chance.choice((0, 1, 7, 8, 9, len(data) // 2, len(data) - 1, chance.randrange(len(data))))]


def extend(data: bytes, chance: random.Random) -> bytes:
    """Append bytes."""
    return data + chance.choice((b"\x00", b"\n", b" ", bytes(8), data, chance.randbytes(100)))


def overwrite(data: bytes, chance: random.Random) -> bytes:
    """Write 1 to 64 extreme or random bytes over others."""
    size = min(chance.choice((1, 4, 8, 64)), len(data))
    begin = chance.randrange(len(data) - size + 1)
    filler = chance.choice((b"\x00" * size, b"\xff" * size, chance.randbytes(size)))
    return data[:begin] + filler + data[begin + size :]


def long_header(data: bytes, chance: random.Random) -> bytes:
    """Give a safetensors file another length of its header."""
    length = chance.choice((0, 1, len(data) - 8, len(data), 1 << 20, (1 << 20) + 1, 1 << 40, (1 << 64) - 1))
    return length.to_bytes(8, "little") + data[8:]


def move(data: bytes, chance: random.Random) -> bytes:
    """Copy one part over another."""
    size = chance.randrange(1, max(2, len(data) // 4))
    begin, target = chance.randrange(len(data) - size + 1), chance.randrange(len(data) - size + 1)
    return data[:target] + data[begin : begin + size] + data[target + size :]


RANDOM: list[Callable[[bytes, random.Random], bytes]] = [
    flip, flip, header_flip, truncate, extend, overwrite, long_header, move,
]  # fmt: skip


def parse(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def build(header: Any, body: bytes) -> bytes:
    """Return a safetensors file."""
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text + body


def any_place(value: Any, chance: random.Random) -> tuple[Any, Any]:
    """Return a container in a JSON value, and a key of it, at random."""
    places = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
        for key in keys:
            places.append((node, key))
            walk(node[key])

    walk(value)
    return chance.choice(places)


def wrong_json(data: Any, chance: random.Random) -> Any:
    """Change one place of a JSON value: another value, gone, doubled, or exchanged with another place."""
    node, key = any_place(data, chance)
    kind = chance.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.append(node[key])
    elif kind == 2:
        other, there = any_place(data, chance)
        node[key], other[there] = json.loads(json.dumps(other[there])), json.loads(json.dumps(node[key]))
    elif kind == 3 and type(node[key]) is int:
        node[key] += chance.choice((-2, -1, 1, 2, 64, 1 << 32))
    else:
        node[key] = chance.choice(HOSTILE)
    return data


def wrong_header(data: bytes, chance: random.Random) -> bytes:
    """Change one place in the header of a safetensors file."""
    header, body = parse(data)
    return build(wrong_json(header, chance), body)


def wrong_layout(data: bytes, chance: random.Random) -> bytes:
    """Let two tensors of a file overlap, swap, leave a gap or leave the file."""
    header, body = parse(data)
    names = [name for name in header if name != "__metadata__"]
    a, b = header[chance.choice(names)], header[chance.choice(names)]
    kind = chance.randrange(5)
    if kind == 0:
        a["data_offsets"] = list(b["data_offsets"])
    elif kind == 1:
        a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]
    elif kind == 2:
        step = chance.choice((-8, -1, 1, 8, 1 << 40))
        a["data_offsets"] = [offset + step for offset in a["data_offsets"]]
    elif kind == 3:
        a["shape"], b["shape"] = b["shape"], a["shape"]
    else:
        a["dtype"] = chance.choice(("U8", "I8", "U16", "U32", "U64", "I32", "I64", "F16", "F32", "F64", "BF16", "BOOL"))
    return build(header, body)


def arrays_of(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return header and writable arrays of a sound file."""
    header, body = parse(data)
    types = {"U8": "u1", "I8": "i1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I32": "<i4", "I64": "<i8", "F16": "<f2"}
    types |= {"F32": "<f4", "F64": "<f8"}
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            arrays[name] = np.frombuffer(body[begin:end], types[entry["dtype"]]).reshape(entry["shape"]).copy()
    return header, arrays


def wrong_values(data: bytes, chance: random.Random) -> bytes:
    """Put extreme, unsorted or random values into one tensor; shapes stay."""
    header, arrays = arrays_of(data)
    name = chance.choice([name for name in arrays if arrays[name].size] or [""])
    if not name:
        return data
    flat = arrays[name].reshape(-1)
    if flat.dtype.kind == "f":
        extremes: list[Any] = [np.nan, np.inf, -np.inf, 0.0, -1.0, float(np.finfo(flat.dtype).max)]
    else:
        limits = np.iinfo(flat.dtype)
        extremes = [limits.min, limits.max, 0, 1, limits.max // 2 + 1, min(limits.max, len(flat) + 1)]
    kind = chance.randrange(6)
    where = chance.randrange(len(flat))
    if kind == 0:
        flat[:] = chance.choice(extremes)
    elif kind == 1:
        flat[:] = flat[::-1].copy()
    elif kind == 2:
        flat[:] = np.frombuffer(chance.randbytes(flat.nbytes), flat.dtype)
    elif kind == 3:
        flat[where:] = flat[where]
    else:
        flat[where] = chance.choice(extremes)
    return build(header, b"".join(arrays[key].tobytes() for key in by_offset(header)))


def wrong_length(data: bytes, chance: random.Random) -> bytes:
    """Make one tensor longer or shorter, with a header that fits."""
    header, arrays = arrays_of(data)
    name = chance.choice(list(arrays))
    arrays[name] = np.repeat(arrays[name], 2, 0) if chance.random() < 0.5 else arrays[name][: len(arrays[name]) // 2]
    position = 0
    for key in by_offset(header):
        end = position + arrays[key].nbytes
        header[key].update(shape=list(arrays[key].shape), data_offsets=[position, end])
        position = end
    return build(header, b"".join(arrays[key].tobytes() for key in by_offset(header)))


def by_offset(header: dict[str, Any]) -> list[str]:
    """Return the tensors' names in the order of their bytes."""
    return sorted((n for n in header if n != "__metadata__"), key=lambda n: (header[n]["data_offsets"], n))


STRUCTURED: list[Callable[[bytes, random.Random], bytes]] = [
    wrong_header, wrong_layout, wrong_values, wrong_values, wrong_values, wrong_length,
]  # fmt: skip


def wrong_lines(data: bytes, chance: random.Random) -> bytes:
    """Change a list of failures, line by line JSON."""
    lines = [json.loads(line) for line in data.splitlines()]
    lines = wrong_json(lines, chance)
    return "".join(json.dumps(line) + "\n" for line in (lines if isinstance(lines, list) else [lines])).encode()


def hash_of(data: bytes) -> str:
    """Return the hex sha256."""
    return hashlib.sha256(data).hexdigest()


def seal(manifest: Any) -> bytes:
    """Return the text of a manifest with a right checksum."""
    if isinstance(manifest, dict):
        manifest.pop("checksum", None)
        manifest["checksum"] = hash_of(json.dumps(manifest, sort_keys=True).encode())
    return json.dumps(manifest).encode()


def entries(node: Any) -> list[dict[str, Any]]:
    """Return every entry of a file in a manifest."""
    found = []
    if isinstance(node, dict):
        found += [node] if "file" in node and "sha256" in node else []
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            found += entries(value)
    return found


def consistent(files: Files, name: str, data: bytes) -> Files:
    """Return the files that change when a file does, and everything that holds its hash is made right."""
    pointer = files["CURRENT"].decode().split()[0]
    manifest = json.loads(files[pointer])
    changed = {name: data}
    for entry in entries(manifest):
        if entry["file"] == name:
            if name.startswith("shards/") and "shards" not in changed:
                for tombstones in (entry.get("tombstones"),):
                    if tombstones:
                        header, body = parse(files[tombstones["file"]])
                        header["__metadata__"]["shard"] = hash_of(data)
                        changed[tombstones["file"]] = build(header, body)
            entry.update(sha256=hash_of(data), bytes=len(data))
    for entry in entries(manifest):
        if entry["file"] in changed and entry["file"] != name:
            entry.update(sha256=hash_of(changed[entry["file"]]), bytes=len(changed[entry["file"]]))
    text = seal(manifest)
    return {**changed, pointer: text, "CURRENT": f"{pointer} {hash_of(text)}\n".encode()}


def wrong_manifest(files: Files, chance: random.Random) -> Files:
    """Change the manifest in force in one or two places, with right checksum and hash."""
    pointer = files["CURRENT"].decode().split()[0]
    manifest = json.loads(files[pointer])
    for _ in range(chance.choice((1, 1, 2))):
        try:
            manifest = wrong_json(manifest, chance)
        except IndexError:  # nothing is left in it
            break
    text = seal(manifest)
    return {pointer: text, "CURRENT": f"{pointer} {hash_of(text)}\n".encode()}


def read_all(folder: Path) -> Files:
    """Return every file of an archive but those of its writer."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    paths = [path for path in files if not {"LOCK", "lease"}.intersection(path.parts)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
