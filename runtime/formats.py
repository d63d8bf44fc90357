"""The photo formats, among all that Pillow knows."""

import threading

# Only these are tried, whatever a file is called: Pillow would start Ghostscript for PostScript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000", "HEIF")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".avif", ".jp2", ".heic", ".heif"),
)
_LOADING = threading.Lock()


def readable_formats() -> tuple[str, ...]:
    """Return those of ``FORMATS`` that this Pillow, with the plug-ins registered so far, can open."""
    from PIL import Image

    # Pillow loads its plug-ins when the first file needs them; a second thread that meets the loading half done is told
    # that there is nothing to load, and takes a valid photo for no image.
    with _LOADING:
        Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def readable_extensions() -> tuple[str, ...]:
    """Return those of ``EXTENSIONS`` that belong to a readable format."""
    from PIL import Image

    readable = readable_formats()
    formats = Image.registered_extensions()
    return tuple(extension for extension in EXTENSIONS if formats.get(extension) in readable)
