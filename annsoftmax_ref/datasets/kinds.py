"""What a file is that is not what its ending says: the page or pointer that came in place of the data, or an archive.

Told by its first bytes. No file that the loaders read begins so, raw numbers by a chance of less than 2^-28.
"""

from __future__ import annotations

import re

LOOKED_AT = 512  # bytes
KINDS = (
    (rb"version https://git-lfs", "a Git LFS pointer, whose data `git lfs pull` brings"),
    (
        rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b",
        "an HTML page, as a failed download leaves",
    ),
    (rb"(\xef\xbb\xbf)?\s*<\?xml\b", "an XML document"),
    (rb'\s*\{\s*"[^"]*"\s*:', "a JSON text"),
    (rb"%PDF-", "a PDF document"),
    (rb"PK\x03\x04", "a zip archive, still to be unpacked"),
    (rb"\x1f\x8b\x08[\x00-\x1f]", "packed by gzip, still to be unpacked"),
    (rb"BZh[1-9]1AY&SY", "packed by bzip2, still to be unpacked"),
    (rb"\xfd7zXZ\x00", "packed by xz, still to be unpacked"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive, still to be unpacked"),
    (rb"Rar!\x1a\x07", "a RAR archive, still to be unpacked"),
    (rb".{257}ustar", "a tar archive, still to be unpacked"),
)


def mistaken_kind(start: bytes) -> str | None:
    """What a file is whose first ``LOOKED_AT`` bytes are ``start``, in words; None if it may be data."""
    if not start:
        return "empty"
    found = (kind for pattern, kind in KINDS if re.match(pattern, start, re.IGNORECASE | re.DOTALL))
    return next(found, None)
