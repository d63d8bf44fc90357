"""Formats of photos: which files are listed, what reads them, and what to do about those that nothing reads."""

import threading
from functools import cache
from importlib import import_module
from importlib.util import find_spec

# Only these are tried, whatever a file is called: Pillow would start Ghostscript for PostScript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000", "HEIF")
# Of files that are listed as photos. Those of HEIF are among them even where no plug-in reads it: such a photo fails,
# and says what to install.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".heic", ".heif", ".hif"),
)
# Of cameras' raw files, which are listed where rawpy is installed: beside most of them lies a JPEG of the same photo.
RAW_EXTENSIONS = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
HEIF_PLUGINS = ("pi_heif", "pillow_heif")
_LOADING = threading.Lock()
RAW_HINT = "raw files of cameras are read once rawpy is installed: pip install rawpy"
_JXL_HINT = "JPEG XL is not read: convert it, with  djxl photo.jxl photo.png"
# By extension, what to do with files that are not photos but were meant for this.
_HINTS = {
    ".jxl": _JXL_HINT,
    **dict.fromkeys(
        (".delf", ".delg_local", ".delg_global"),
        "descriptor files are indexed with  ctxdeploy index --descriptors FOLDER",
    ),
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_JPEG_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")


def photo_extensions() -> tuple[str, ...]:
    """Return the extensions, in small letters, of files that are listed as photos here."""
    return EXTENSIONS + RAW_EXTENSIONS if reads_raw() else EXTENSIONS


@cache
def reads_raw() -> bool:
    """Return whether raw files of cameras can be read here."""
    return find_spec("rawpy") is not None


def is_unread_raw(name: str) -> bool:
    """Return whether a name is that of a camera's raw file, where nothing reads them."""
    return name.lower().endswith(RAW_EXTENSIONS) and not reads_raw()


def extension_hint(extension: str) -> str | None:
    """Return what to do so that files of an extension can be indexed; None if nothing is known that would help."""
    if extension.lower() in RAW_EXTENSIONS and not reads_raw():
        return RAW_HINT
    return _HINTS.get(extension.lower())


def readable_formats() -> tuple[str, ...]:
    """Return those of ``FORMATS`` that this Pillow, with the plug-ins registered so far, can open."""
    from PIL import Image

    # Pillow loads its plug-ins when the first file needs them; a second thread that meets the loading half done is told
    # that there is nothing to load, and does not recognise a valid photo.
    with _LOADING:
        Image.init()
        _register_heif()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def _register_heif() -> None:
    """Let Pillow read HEIF, the format of iPhones, where one of the plug-ins for it is installed."""
    for name in HEIF_PLUGINS:
        try:
            import_module(name).register_heif_opener()
        except ImportError:
            continue
        return


def why_not_opened(data: bytes, failures: list[str]) -> str:
    """Return why no format takes the bytes of a file, and what would read it.

    Args:
        data: the file.
        failures: what the formats said that recognised it.
    """
    if failures:
        return f"it is damaged or not supported ({'; '.join(failures)})"
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in _HEIF_BRANDS:
        return "it is HEIF, which needs a plug-in for Pillow: pip install pi-heif"
    if brand in _AVIF_BRANDS:
        return "it is AVIF, which this Pillow does not read: pip install -U 'pillow>=11.3'"
    if data.startswith(_JXL):
        return f"it is JPEG XL: {_JXL_HINT}"
    if data.startswith(_JPEG_2000):
        return "it is JPEG 2000, which this Pillow was built without: pip install -U pillow"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "it is WebP, which this Pillow was built without: pip install -U pillow"
    return "it is not a photo of a format that can be read"
