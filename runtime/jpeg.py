"""A test that libjpeg leaves out: does the coded picture end?

Where a disk or a transfer failed, the tail of a file is often zeros of the right length. libjpeg then reports a warning
that Pillow does not pass on, and fills the rest of the photo with grey.
"""

_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_END_OF_IMAGE = b"\xff\xd9"


def has_end(data: bytes) -> bool:
    """Say whether a JPEG file has an end-of-image marker after its first scan begins.

    The header is walked segment by segment, so that the end of an embedded thumbnail does not count. Inside a scan the
    marker's two bytes occur only as the marker.
    """
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at += 1  # junk between segments, which libjpeg skips as well
            continue
        marker = data[at + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _START_OF_SCAN:
            return data.find(_END_OF_IMAGE, at) >= 0
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
