"""Pickles read as data: what is plain comes back equal, everything else is refused and does nothing."""

import base64
import collections
import copyreg
import datetime
import functools
import json
import operator
import os
import pickle
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ctxdeploy.core import plain_pickle
from ctxdeploy.core.errors import BundleError, ConfigError
from ctxdeploy.core.plain_pickle import load_plain

PYTHON2 = Path(__file__).parents[1] / "reference" / "python2_pickles.json"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
Load = Callable[[bytes], Any]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that reads bytes as a file."""

    def read(data: bytes) -> Any:
        path = tmp_path / "list.pkl"
        path.write_bytes(data)
        return load_plain(path)

    return read


@pytest.fixture(scope="module")
def shared_load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """As ``load``, for hypothesis."""
    path = tmp_path_factory.mktemp("pickles") / "list.pkl"

    def read(data: bytes) -> Any:
        path.write_bytes(data)
        return load_plain(path)

    return read


def same(a: Any, b: Any) -> bool:
    """Return whether two plain values are equal, with their types, dtypes and NaN."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        native = a.dtype.newbyteorder("=")
        if native != b.dtype.newbyteorder("=") or a.shape != b.shape:
            return False
        if a.dtype == object:
            return all(same(x, y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
        return a.astype(native).tobytes() == b.astype(native).tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(x, y) and same(a[x], b[y]) for x, y in zip(sorted(a, key=repr), sorted(b, key=repr), strict=True)
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float | complex | np.inexact):
        return repr(a) == repr(b)
    return bool(a == b)


# ---- what is plain


ARRAYS = [
    np.arange(6, dtype=">i2").reshape(2, 3),
    np.arange(6).reshape(2, 3).T,
    np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    np.arange(10)[::2],
    np.array(5.5),
    np.zeros((0, 3), "f4"),
    np.array(["a", "bé"]),
    np.array([b"a", b""]),
    np.array(["", ""]),
    np.array([True, False]),
    np.array([1j], "c8"),
    np.array([[1, "a"], [None, (2, np.arange(3))]], object),
    np.asfortranarray(np.array([[1, "a"], [None, 2]], object)),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_every_kind_come_back(load: Load, protocol: int) -> None:
    for array in ARRAYS:
        found = load(pickle.dumps(array, protocol))
        assert same(found, array), array
    scalars = [
        np.float32(3),
        np.bool_(True),
        np.str_("ab"),
        np.str_(""),
        np.bytes_(b"ab"),
        np.int64(-1),
        np.complex64(1j),
    ]
    assert same(load(pickle.dumps(scalars, protocol)), scalars)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text()
    | st.binary()
    | npst.arrays(
        npst.boolean_dtypes() | npst.integer_dtypes() | npst.floating_dtypes(sizes=(16, 32, 64)), npst.array_shapes()
    )
    | npst.arrays(npst.unicode_string_dtypes(), npst.array_shapes(max_dims=2)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner, max_size=4)
        | st.sets(st.integers() | st.text(), max_size=4)
        | st.frozensets(st.binary(), max_size=4)
    ),
    max_leaves=12,
)


@given(value=PLAIN, protocol=st.sampled_from(PROTOCOLS))
def test_plain_content_comes_back(shared_load: Load, value: Any, protocol: int) -> None:
    assert same(shared_load(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_arrays_of_old_and_new_numpy(load: Load, core: str) -> None:
    for protocol in (2, 5):
        data = pickle.dumps([np.arange(3), np.float64(2)], protocol)
        # Another name of a module is of another length.
        for name in (b"multiarray", b"numeric"):
            new = f"numpy.{core}.".encode() + name
            for old in (b"numpy.core." + name, b"numpy._core." + name):
                data = data.replace(bytes([len(old)]) + old, bytes([len(new)]) + new).replace(b"c" + old, b"c" + new)
        data = re.sub(rb"\x95........", b"", data, count=1, flags=re.DOTALL)  # the frame's length has changed
        assert f"numpy.{core}.".encode() in data
        assert same(load(data), [np.arange(3), np.float64(2)])


@pytest.mark.parametrize("kind", [key for key in json.loads(PYTHON2.read_text()) if key != "made_by"])
def test_files_of_python_2(load: Load, kind: str) -> None:
    found = load(zlib.decompress(base64.b64decode(json.loads(PYTHON2.read_text())[kind])))
    # Its str comes as text if it is UTF-8, and any byte that is not can be had back.
    assert found["imlist"] == ["all_souls_000013", "café", "caf\udce9"]
    assert os.fsencode(found["imlist"][2]) == b"caf\xe9"
    assert (found["unicode"], found["n"], found["set"], type(found["count"])) == ("café", 10**20, {3}, np.int64)
    truth = found["gnd"][0]
    assert same(truth["bbx"], np.array([136.5, -34.25])) and same(truth["easy"], np.array([129, 255], "u1"))
    assert same(truth["hard"], np.array([[1, 2], [300, 4]])) and truth["junk"] == []
    assert same(found["names"], np.array([b"a", b"\xe9b"])) and same(found["ok"], np.bool_(True))
    assert found["objects"].tolist() == [1, "x", None]


def test_a_value_used_twice_stays_one(load: Load) -> None:
    row = [1, np.arange(3)]
    found = load(pickle.dumps({"a": row, "b": row}))
    assert found["a"] is found["b"]


# ---- what is not


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


class Plain:
    """A class of one's own."""


PAYLOADS: dict[str, Callable[[Path], tuple[Any, str]]] = {
    "os.system": lambda p: (Call(os.system, f"touch {p}"), r"posix.system|os.system"),
    "os.mkdir": lambda p: (Call(os.mkdir, str(p)), "posix.mkdir"),
    "eval": lambda p: (Call(eval, f"open({str(p)!r}, 'w')"), "eval"),
    "exec": lambda p: (Call(exec, f"open({str(p)!r}, 'w')"), "exec"),
    "open": lambda p: (Call(open, str(p), "w"), "open"),
    "getattr": lambda p: ([Call(getattr, Call(__import__, "os"), "mkdir"), str(p)], "getattr"),
    "partial": lambda p: (Call(functools.partial(os.mkdir, str(p))), "functools.partial"),
    "methodcaller": lambda p: (Call(operator.methodcaller("touch"), p), "operator.methodcaller"),
    "path": lambda p: (Call(Path.touch, p), r"getattr|pathlib\S*\.Path\.touch"),
    "numpy.save": lambda p: (Call(np.save, str(p), 1), "numpy.save"),
    "tofile": lambda p: (Call(np.ndarray.tofile, np.arange(3), str(p)), "getattr|tofile"),
    "hidden": lambda p: ({"cids": ["a"], "gnd": [np.array([Call(os.mkdir, str(p))], object)]}, "posix.mkdir"),
    "as a key": lambda p: ([{(1, Call(os.mkdir, str(p))): 2}], "posix.mkdir"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("kind", PAYLOADS)
def test_payloads_are_refused_and_do_nothing(load: Load, tmp_path: Path, kind: str, protocol: int) -> None:
    canary = tmp_path / "canary"
    value, names = PAYLOADS[kind](canary)
    data = pickle.dumps(value, protocol)
    with pytest.raises(ConfigError, match=rf"list\.pkl asks for \S*({names})\b.*nothing in it was run") as caught:
        load(data)
    assert "\n" not in str(caught.value)
    assert not canary.exists()
    if kind in ("os.mkdir", "open", "partial", "hidden", "as a key"):  # the payload is a real one
        pickle.loads(data)  # noqa: S301
        assert canary.exists()


def raw(module: str, name: str, arguments: bytes = b"(", call: bytes = b"tR.") -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n" + arguments + call


OTHERS: dict[str, bytes] = {
    "collections.OrderedDict": pickle.dumps(collections.OrderedDict(a=1)),
    "collections.Counter": pickle.dumps(collections.Counter("a")),
    "datetime.date": pickle.dumps(datetime.date(2020, 1, 1)),
    "copy_reg._reconstructor": pickle.dumps(Plain(), 0),
    "numpy.matrixlib.defmatrix.matrix": raw("numpy.matrixlib.defmatrix", "matrix"),
    "numpy.ma.core._mareconstruct": pickle.dumps(np.ma.masked_array([1], [False])),
    "numpy.rec.recarray": raw("numpy.rec", "recarray"),
    "numpy.core.multiarray.fromfile": raw("numpy.core.multiarray", "fromfile"),
    "numpy.dtype.newbyteorder": b"\x80\x04\x8c\x05numpy\x8c\x12dtype.newbyteorder\x93.",
    "torch._utils._rebuild_tensor_v2": raw("torch._utils", "_rebuild_tensor_v2"),
    "builtins.bytearray": pickle.dumps(bytearray(b"a"), 4),
    "builtins.range": pickle.dumps(range(3)),
    "__builtin__.file": raw("__builtin__", "file"),
    # Each opcode that calls or makes an instance.
    "os.execve": b"(ios\nexecve\n.",
    "os.execv": b"(cos\nexecv\nS'x'\no.",
    "os.execl": b"\x80\x02cos\nexecl\n)\x81.",
    "os.execle": b"\x80\x04\x8c\x02os\x8c\x06execle\x93)}\x92.",
    # A name alone, never called.
    "os.remove": b"cos\nremove\n.",
    "os.\\x1b[31mred": b"cos\n\x1b[31mred\n.",
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_name_is_refused(load: Load, name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"asks for {name}, which is not plain data")):
        load(OTHERS[name])


def dtype(state: bytes, name: bytes = b"S'i8'\n") -> bytes:
    """Return a dtype with a state, a tuple's opcodes."""
    return b"cnumpy\ndtype\n(" + name + b"I0\nI1\ntR(" + state + b"tb"


PLAIN_STATE = b"I3\nS'<'\nNNNI-1\nI-1\nI0\n"
I8 = dtype(PLAIN_STATE)
OBJECT = dtype(b"I3\nS'|'\nNNNI-1\nI-1\nI63\n", b"S'O'\n")
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


def array(shape: bytes, of: bytes, data: bytes) -> bytes:
    """Return an array of a shape, a tuple's opcodes, of a dtype, over data."""
    return EMPTY + b"(I1\n(" + shape + b"t" + of + b"I0\n" + data + b"tb"


EIGHT = b"C\x08" + bytes(8)
CRAFTED: dict[str, tuple[bytes, str]] = {
    "unknown dtype": (dtype(PLAIN_STATE, b"S'M8'\n") + b".", "holds an array of the dtype M8"),
    "dtype of fields": (dtype(PLAIN_STATE, b"((S'a'\nS'i8'\ntl") + b".", "holds an array of the dtype .*list"),
    "fields in the state": (dtype(b"I3\nS'<'\nN(S'a'\nt}I8\nI8\nI0\n"), "a dtype with fields"),
    "subarray in the state": (dtype(b"I3\nS'<'\n(S'i8'\n(I9\ntt" + b"NNI8\nI8\nI0\n"), "a dtype with fields"),
    "metadata": (dtype(b"I4\nS'<'\nNNNI-1\nI-1\nI0\n}"), "a dtype with fields"),
    "byte order": (dtype(b"I3\nS'?'\nNNNI-1\nI-1\nI0\n"), "not a pickle of plain data"),
    "huge text": (array(b"I1\n", dtype(PLAIN_STATE, b"S'U99999999'\n"), EIGHT), "holds 8 bytes for an array of"),
    "too large a shape": (array(b"I2\n", I8, EIGHT), "holds 8 bytes for an array of int64 of another size"),
    "huge shape": (array(b"I4611686018427387904\nI4\n", I8, EIGHT), "holds 8 bytes"),
    "empty and huge": (array(b"I0\nI4611686018427387904\nI16\n", I8, b"C\x00"), "not a pickle of plain data"),
    "many of no bytes": (array(b"I99999999\n", dtype(PLAIN_STATE, b"S'U0'\n"), b"C\x00"), "of another size"),
    "negative shape": (array(b"I-1\nI-1\n", I8, EIGHT), "without a shape"),
    "shape of text": (array(b"S'1'\n", I8, EIGHT), "without a shape"),
    "many axes": (array(b"I1\n" * 65, I8, EIGHT), "not a pickle of plain data"),
    "objects over bytes": (array(b"I1\n", OBJECT, EIGHT), "neither numbers nor text"),
    "numbers over a list": (array(b"I1\n", I8, b"(I1\nl"), "holds 1 objects for an array of another kind or size"),
    "too few objects": (array(b"I3\n", OBJECT, b"(I1\nl") + b".", "holds 1 objects for an array of another kind"),
    "array set twice": (
        array(b"I1\n", I8, EIGHT) + b"(I1\n(I1\nt" + OBJECT + b"I0\n(I1\nltb.",
        "not a pickle of plain data, or is damaged",
    ),
    "array over an array": (array(b"I1\n", I8, EMPTY), "neither numbers nor text"),
    "no dtype": (array(b"I1\n", b"N", EIGHT), "neither numbers nor text"),
    "numpy's own array": (raw("numpy", "ndarray", b"((I9\nt"), "uses numpy in a way that plain data does not"),
    "text that is none": (array(b"I1\n", dtype(PLAIN_STATE, b"S'U1'\n"), b"C\x04\xff\xff\xff\xff"), "text that is not"),
    "object scalar": (raw("numpy.core.multiarray", "scalar", b"(" + OBJECT + EIGHT), "neither numbers nor text"),
    "axes": (
        raw("numpy._core.numeric", "_frombuffer", b"(" + EIGHT + I8 + b"(I1\ntS'K'\n(I9\nt"),
        "not a pickle of plain data",
    ),
    "zlib": (raw("_codecs", "encode", b"(Va\nS'zlib'\n"), "encodes text in a way that plain data does not"),
    "rot13": (raw("_codecs", "encode", b"(Va\nS'rot13'\n"), "encodes text in a way that plain data does not"),
    "bytes of a size": (raw("__builtin__", "bytes", b"(I1000000000\n"), "not a pickle of plain data"),
    "function changed": (b"c_codecs\nencode\n}S'_function'\nNsb.", "uses numpy in a way"),
    "function's slots changed": (b"c_codecs\nencode\n(N}S'_function'\nNstb.", "uses numpy in a way"),
    "class changed": (b"cnumpy\nndarray\n}S'x'\nI1\nsb.", "uses numpy in a way"),
    "instance of a function": (b"\x80\x02cnumpy\ndtype\n)\x81.", "not a pickle of plain data"),
    "persistent id": (b"Pabc\n.", "takes a value from elsewhere, at byte 0"),
    "binary persistent id": (b"Vabc\nQ.", "takes a value from elsewhere"),
    "out of band": (b"\x80\x05\x97.", "takes a value from elsewhere"),
    "memo": (b"\x80\x02]r\x00\xe1\xf5\x05.", "uses place 100000000 of the memo, in 9 bytes"),
    "memo of text": (b"]p99999999999\n.", "of the memo"),
    "no memo": (b"h\x07.", "not a pickle of plain data"),
    "huge bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"ab.", "expected .* bytes"),
    "huge bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"ab.", "expected .* bytes"),
    "huge text length": (b"X\xff\xff\xff\x7fab.", "expected .* bytes"),
    "huge frame": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.", "damaged"),
    "key that hashes for ages": (b"})" + b"2\x86" * 60 + b"Ns.", "a tuple of more values than"),
    "fetched key that does": (
        b"})\x85q\x000" + b"h\x00h\x00\x86q\x000" * 60 + b"h\x00Ns.",
        "a tuple of more values than",
    ),
    "set of memoised": (
        b"\x80\x04\x8f()\x85\x940" + b"h\x00h\x00\x86q\x000" * 60 + b"\x90.",
        "a tuple of more values than",
    ),
    "stack": (b"(.", "not a pickle of plain data"),
    "below a mark": (b"I1\n(s.", "not a pickle of plain data"),
    "empty": (b"", "not a pickle of plain data, or is damaged"),
    "text": (b"this is no pickle", "not a pickle of plain data, or is damaged"),
    "zip": (b"PK\x03\x04 a PyTorch checkpoint", "not a pickle of plain data, or is damaged"),
    "unknown opcode": (b"\x80\x04\xff.", "not a pickle of plain data, or is damaged"),
    "one number": (b"Iabc\n.", "not a pickle of plain data, or is damaged"),
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_crafted_files_are_refused(load: Load, kind: str) -> None:
    data, message = CRAFTED[kind]
    with pytest.raises(ConfigError, match=message) as caught:
        load(data if data.endswith(b".") or not data else data + b".")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_one_value_used_often_does_not_grow(load: Load) -> None:
    text = b"(X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"p0\n"
    once = b"c_codecs\nencode\n(g0\nVlatin1\ntR"
    assert len(load(b"(" + text[1:] + once + b"l.")) == 2
    with pytest.raises(ConfigError, match="unpacks to more than its size"):
        load(text + once * 1000 + b"l.")
    numbers = b"((" + b"I1\n" * 1000 + b"lp0\n"
    objects = array(b"I1000\n", OBJECT, b"g0\n")
    assert len(load(numbers + objects + b"l.")) == 2
    with pytest.raises(ConfigError, match="unpacks to more than its size"):
        load(numbers + objects * 100 + b"l.")


def test_what_an_extension_stands_for_is_not_taken_from_the_registry(load: Load, tmp_path: Path) -> None:
    """Python keeps what a code stood for, and does not ask an unpickler again."""
    canary = tmp_path / "canary"
    copyreg.add_extension("os", "mkdir", 0xF1)
    try:
        data = b"\x80\x02\x82\xf1X" + struct.pack("<I", len(str(canary))) + str(canary).encode() + b"\x85R."
        pickle.loads(data)  # noqa: S301
        canary.rmdir()
        with pytest.raises(ConfigError, match="takes a value from elsewhere, at byte 2"):
            load(data)
    finally:
        copyreg.remove_extension("os", "mkdir", 0xF1)
    assert not canary.exists()


def test_admitted_names_are_ours_alone(load: Load) -> None:
    """A file that fails half-way leaves nothing changed for the next one."""
    for data, _ in CRAFTED.values():
        with pytest.raises(ConfigError):
            load(data if data.endswith(b".") else data + b".")
    assert same(load(pickle.dumps(ARRAYS, 2)), ARRAYS)


def test_every_truncation_is_refused(load: Load) -> None:
    for protocol in PROTOCOLS:
        data = pickle.dumps({"cids": ["a", "b"], "gnd": [np.arange(3), {1}, 2.5]}, protocol)
        for length in range(0, len(data) - 1, 3):
            with pytest.raises(ConfigError, match="damaged"):
                load(data[:length])


VALID = pickle.dumps({"cids": ["a", "b"], "n": 10**30, "gnd": [np.arange(3), np.array(["a"]), (1.5, {2}), b"x"]}, 2)
OPCODES = b"".join(
    value.encode("latin-1") for name, value in vars(pickle).items() if name.isupper() and isinstance(value, str)
)


@given(
    places=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4
    ),
    insert=st.booleans(),
)
def test_mutations_give_plain_data_or_an_error(
    shared_load: Load, places: list[tuple[int, bytes]], insert: bool
) -> None:
    data = VALID
    for place, new in places:
        data = data[:place] + new + data[place + (0 if insert else len(new)) :]
    _only_plain(shared_load, data)


@given(
    data=st.lists(
        st.sampled_from([bytes([code]) for code in OPCODES] + [I8, EMPTY, EIGHT, b"I1\n", b"Va\n"]), max_size=30
    )
)
def test_any_opcodes_give_plain_data_or_an_error(shared_load: Load, data: list[bytes]) -> None:
    _only_plain(shared_load, b"".join(data) + b".")


def _only_plain(load: Load, data: bytes) -> None:
    try:
        value = load(data)
    except ConfigError:
        return
    assert all(
        kind in KINDS or issubclass(kind, np.generic | np.ndarray) or kind.__module__ == plain_pickle.__name__
        for kind in _kinds(value)
    )


KINDS = {dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, bool, type(None), np.ndarray}


def _kinds(value: Any) -> Iterator[type]:
    yield type(value)
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset) or (isinstance(value, np.ndarray) and value.dtype == object):
        for part in value.ravel() if isinstance(value, np.ndarray) else value:
            yield from _kinds(part)


# ---- the file


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"gone\.pkl cannot be read: No such file"):
        load_plain(tmp_path / "gone.pkl")
    with pytest.raises(BundleError, match=r"cannot be read: Is a directory"):
        load_plain(tmp_path, BundleError)
    path = tmp_path / "large.pkl"
    path.write_bytes(pickle.dumps(b"a" * (1 << 20)))
    monkeypatch.setattr(plain_pickle, "MAX_BYTES", 1 << 20)
    with pytest.raises(ConfigError, match=r"large\.pkl is larger than 1 MiB"):
        load_plain(path)


def test_a_lack_of_memory_is_not_taken_for_damage(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(plain_pickle, "_check_opcodes", exhausted)
    with pytest.raises(MemoryError):
        load(pickle.dumps([1]))
