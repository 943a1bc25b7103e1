"""Names that a search of a folder passes over."""

from __future__ import annotations

# of file systems, storage devices and archives; names that begin with a dot are passed over too
SYSTEM_FOLDERS = frozenset(
    (
        "__macosx",
        "system volume information",
        "lost+found",
        "$recycle.bin",
        "recycler",
        "recycled",
        "@eadir",
        "@recycle",
        "#recycle",
        "#snapshot",
        "~snapshot",
        "@recently-snapshot",
        "@sharebin",
        "@tmp",
        "network trash folder",
        "temporary items",
        "thevolumesettingsfolder",
        "dfsrprivate",
        "config.msi",
    )
)


def is_hidden(name: str) -> bool:
    """Return True for the name of a hidden file or folder, or of a system's own folder."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS
