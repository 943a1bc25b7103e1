"""The mark in a stem's tags by which a later search recognises the stem, wherever it lies."""

from __future__ import annotations

import os

MARK = "separated by spleeter-2"
_SPAN = 1 << 16  # bytes at either end of a file that are searched: M4A has its tags at the end


def mark_tags(codec: str) -> dict[str, str]:
    """Tags that mark a stem, for ``AudioWriter``."""
    # M4A has no tag encoded_by
    return {"encoding_tool" if codec == "m4a" else "encoded_by": MARK}


def is_marked(path: str | os.PathLike) -> bool:
    """Return True if a file carries the mark; nothing is decoded, an unreadable file has none."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(_SPAN)
            file.seek(max(size - _SPAN, len(content)))
            content += file.read(_SPAN)
    except OSError:
        return False
    return any(MARK.encode(encoding) in content for encoding in ("ascii", "utf-16-le"))  # WMA: 16
