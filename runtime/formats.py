"""The photo formats, among all that Pillow knows."""

import threading
from functools import cache
from importlib import import_module

# Only these are tried, whatever a file is called: Pillow would start Ghostscript for PostScript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000", "HEIF")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".heic", ".heif", ".hif"),
)
HEIF_PLUGINS = ("pi_heif", "pillow_heif")
_LOADING = threading.Lock()


def readable_formats() -> tuple[str, ...]:
    """Return those of ``FORMATS`` that this Pillow, with the plug-ins registered so far, can open."""
    from PIL import Image

    # Pillow loads its plug-ins when the first file needs them; a second thread that meets the loading half done is told
    # that there is nothing to load, and takes a valid photo for no image.
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


def readable_extensions() -> tuple[str, ...]:
    """Return the extensions of files that are listed as photos.

    Those of HEIF are among them even where no plug-in reads it: such a photo fails and says what to install.
    """
    return EXTENSIONS
