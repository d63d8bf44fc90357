"""A checkpoint's file, looked at before PyTorch reads it: what it is instead, what it lacks, what it would run.

PyTorch's messages for a file that is not its own name its internals, advise to load it with its code, and are the same
for a dozen causes. The causes are in the first bytes, and in the names that the pickle asks for.
"""

import codecs
import io
import pickletools
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.core.reading import open_regular
from ctxdeploy.core.text import printable
from ctxdeploy.export.checkpoint_records import PCA, ArrayKind, ArrayRecord, Ignored, PcaRecord

_HEAD = 4096
_TAR_MARK = 257
# The first object of a file that PyTorch before 1.6 wrote; the pickles of such a file follow one another.
_OLD_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
_OLD_PICKLES, _OLD_CONTENT = 5, 3
# The description of a network's tensors; HOW's own, with its optimiser, takes 0.1 MB.
_MAX_PICKLE = 256 << 20

_PAGE = re.compile(r"<(!doctype html|html|\?xml|!--|head|script)", re.IGNORECASE)
_UNPACK = "unpack it, and give the checkpoint that is in it"
_ITS_CHECKPOINT = "export takes the checkpoint that it was made from"
# Where bytes stand, which, and what a file is that has them there.
_KINDS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the checkpoint itself", "run  git lfs pull  beside it"),
    (0, b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (_TAR_MARK, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x89HDF\r\n", "an HDF5 file, as Keras writes them", "only networks of PyTorch are known here"),
    (4, b"TFL3", "a network of TensorFlow Lite", "only networks of PyTorch are known here"),
    (4, b"ONNX", "a network in ONNX Runtime's own format", _ITS_CHECKPOINT),
    (0, b"ftrt", "an engine of TensorRT", _ITS_CHECKPOINT),
    (0, b"GGUF", "a GGUF file", "only networks of PyTorch are known here"),
    (0, b"\x93NUMPY", "a numpy array", "give the checkpoint of a network"),
    (0, b"\xff\xd8\xff", "a JPEG photo", "give the checkpoint of a network"),
    (0, b"\x89PNG", "a PNG picture", "give the checkpoint of a network"),
    (0, b"%PDF", "a PDF document", "give the checkpoint of a network"),
)


def _plain_dict(*_factory: Any) -> dict[Any, Any]:
    return {}


# What stands for the names in checkpoints that PyTorch does not know.
_RECORDS: dict[str, type] = {
    "numpy.dtype": ArrayKind,
    "numpy.ndarray": Ignored,
    **{f"numpy.{core}.multiarray._reconstruct": ArrayRecord for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Ignored for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": Ignored for core in ("core", "_core")},
    "argparse.Namespace": Ignored,
    "types.SimpleNamespace": Ignored,
    **{
        f"pathlib.{place}{kind}": Ignored
        for place in ("", "_local.")
        for kind in ("Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    },
}
_DICTIONARIES = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
)
# Names of PyTorch that make a tensor of numbers that are in the file, and nothing else: others of those that it admits
# allocate what a file asks for.
_ADMITTED = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|sparse_tensor|qtensor|meta_tensor_no_storage)"
    r"|torch\.(storage\.)?\w*Storage|torch\.nn\.parameter\.(Parameter|Buffer)|torch\.(Tensor|Size|device|dtype)"
    r"|torch\.(u?int|float|bfloat|complex|bool|half|double|long|per_|q|sparse_|strided)\w*"
    r"|torch\.serialization\._get_layout|collections\.(OrderedDict|Counter|defaultdict)"
    r"|_codecs\.encode|(builtins|__builtin__)\.(set|complex|list|dict)"
)
# What PyTorch's reader of plain data takes.
_READ = re.compile(
    "NEWOBJ|REDUCE|BUILD|APPENDS?|SETITEMS?|MARK|TUPLE[123]?|NONE|NEW(FALSE|TRUE)|EMPTY_(TUPLE|LIST|DICT|SET)|BINPERSID"
    "|BININT[12]?|BINFLOAT|(LONG_)?BIN(GET|PUT)|BINUNICODE|SHORT_BINSTRING|LONG1|STOP"
)


def read(path: Path) -> dict[Any, Any]:
    """Return the dictionary that a checkpoint file holds; nothing in the file is executed.

    Raises:
        CheckpointError: it is something else, is incomplete, holds more than data, or is not a dictionary; the message
            says which.
    """
    head = _head(path)
    if _is_safetensors(head):
        return _safetensors(path)
    _refuse_others(path, head)
    content = _loaded(path, _look_through(path, head))
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__} instead of a dictionary: "
            "it is not a checkpoint of any network that export reads (docs/families.md)"
        )
    return content


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(_HEAD)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise CheckpointError(f"{path} is a link to {path.readlink()}, which does not exist") from error
        raise CheckpointError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is not a PyTorch checkpoint: it is a folder; give the file in it") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _refuse_others(path: Path, head: bytes) -> None:
    """Raise ``CheckpointError`` for a file that is none of PyTorch's, saying what it is."""
    if not head:
        raise _not_one(path, "it is empty", "copy or fetch it again")
    for at, magic, what, advice in _KINDS:
        if head.startswith(magic, at):
            raise _not_one(path, f"it is {what}", advice)
    if head.startswith((b"PK", b"\x80")):
        return
    if not any(head):
        raise _not_one(path, f"its first {len(head)} bytes are all 0, as after a copy that failed", "copy it again")
    if path.suffix.lower() == ".onnx" or (head[0] == 8 and 1 <= head[1] <= 32 and head[2:3] in (b"\x12", b"\x3a")):
        raise _not_one(path, "it is an ONNX graph", _ITS_CHECKPOINT)
    text = _text_of(head)
    if text is None:
        raise _not_one(path, f"it begins with the bytes {head[:8].hex(' ')}", "give a file that torch.save wrote")
    begins = printable(text[:60])
    if _PAGE.match(text):
        raise _not_one(path, f"it is a web page ({begins} …)", "the link leads to a page: fetch the file itself")
    if "/annex/objects/" in text or re.search(r"^outs:\s*$", text, re.MULTILINE):
        raise _not_one(path, "it is a pointer of git-annex or DVC", "fetch the file itself:  git annex get,  dvc pull")
    if text.startswith(("{", "[")):
        raise _not_one(path, f"it is JSON ({begins} …), a server's answer or a configuration", "give the weights' file")
    raise _not_one(path, f"it is text ({begins} …)", "give a file that torch.save wrote")


def _text_of(head: bytes) -> str | None:
    """Return what a file begins with, if that is text."""
    codec = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder(codec)().decode(head)  # a character may be cut
    except UnicodeDecodeError:
        text = head.decode("latin-1")
        if not _PAGE.match(text.lstrip()):
            return None
    return None if "\0" in text else text.strip()


def _not_one(path: Path, what: str, advice: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a PyTorch checkpoint: {what}: {advice}")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged: {what}; copy or fetch it again")


def _look_through(path: Path, head: bytes) -> set[str]:
    """Check the pickles of a file before they are run: the names that they ask for, their protocol, their sizes.

    Returns:
        The names.
    """
    names: set[str] = set()
    if head.startswith(b"PK"):
        with _opened_zip(path) as archive:
            _check_pickle(path, io.BytesIO(archive.read(_pickle_of(path, archive))), names)
            _check_sums(path, archive)
        return names
    with path.open("rb") as file:
        # The magic number, PyTorch's version, the machine, the content, and the keys of what follows.
        for number in range(_OLD_PICKLES if _OLD_MAGIC in head[:32] else 1):
            _check_pickle(path, file, names, is_content=number in (0, _OLD_CONTENT))
    if _OLD_MAGIC not in head[:32]:
        raise _not_one(path, "it is a pickle that torch.save did not write", "save it with  torch.save(content, path)")
    return names


def _opened_zip(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        size = path.stat().st_size
        raise _damaged(path, f"its end, with the table of its parts, is missing after {size:,} bytes") from error
    if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
        archive.close()
        raise _not_one(
            path,
            "its parts are larger than the file: it was compressed after torch.save wrote it",
            "unpack it if it is an archive of files, else load it where it was made and save it again",
        )
    return archive


def _pickle_of(path: Path, archive: zipfile.ZipFile) -> str:
    """Return the name of the part that describes the content."""
    names = archive.namelist()
    if any(
        name.endswith(("/constants.pkl", "/serialized_exported_program.json")) or "/code/" in name for name in names
    ):
        raise _not_one(
            path, "it is a program of TorchScript or torch.export", "give the checkpoint that it was made from"
        )
    found = [name for name in names if (name.endswith("/data.pkl") and name.count("/") == 1) or name == "data.pkl"]
    if len(found) == 1 and archive.getinfo(found[0]).file_size <= _MAX_PICKLE:
        return found[0]
    inside = ", ".join(printable(name) for name in names[:3]) or "nothing"
    raise _not_one(path, f"it is a zip archive of other things ({inside})", _UNPACK)


def _check_sums(path: Path, archive: zipfile.ZipFile) -> None:
    """Compare the parts with their checksums: PyTorch does not, and computes with what there is."""
    try:
        broken = archive.testzip()
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, "its parts cannot be read") from error
    if broken is not None:
        raise _damaged(path, f"its part {printable(broken)} is not what was written")


def _check_pickle(path: Path, file: IO[bytes], names: set[str], *, is_content: bool = True) -> None:
    protocol, unread = 0, ""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "PROTO":
                protocol = int(argument or 0)
            elif opcode.name in ("GLOBAL", "INST"):
                names.add(str(argument).replace(" ", ".", 1))
                _check_name(path, str(argument).replace(" ", ".", 1))
            elif not (unread or _READ.fullmatch(opcode.name)):
                unread = opcode.name
    except (ValueError, EOFError, IndexError, OverflowError, KeyError) as error:
        raise _damaged(path, "the description of its content breaks off, or is none") from error
    if unread and is_content:
        raise CheckpointError(
            f"{path} was saved with pickle protocol {protocol}, of which {unread} is not read: "
            "load it where it was made, and save it again with  torch.save(content, path)  as it is"
        )


def _check_name(path: Path, name: str) -> None:
    if not (_ADMITTED.fullmatch(name) or name in _RECORDS or name in _DICTIONARIES or PCA.fullmatch(name)):
        raise CheckpointError(
            f"{path} holds more than tensors and numbers ({printable(name)[:120]}); it is not loaded, as that could "
            "run code: save the tensors alone, with  torch.save(network.state_dict(), path)"
        )


def _loaded(path: Path, names: set[str]) -> Any:
    import torch

    known: list[Any] = [(_plain_dict, "collections.defaultdict"), list, dict]
    known += [(record, name) for name, record in _RECORDS.items()] + [(dict, name) for name in _DICTIONARIES]
    known += [(PcaRecord, name) for name in names if PCA.fullmatch(name)]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(known):
            warnings.simplefilter("ignore")  # PyTorch's, of protocols and of classes that it means to take out
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen classes for a file that is not a checkpoint
        raise _damaged(path, "its content does not fit together") from error


def _is_safetensors(head: bytes) -> bool:
    """Say whether a file begins with the length of a JSON header, and the header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_PICKLE


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # its class has no base but Exception
        raise CheckpointError(f"{path} is a safetensors file that is cut short or damaged: copy it again") from error
