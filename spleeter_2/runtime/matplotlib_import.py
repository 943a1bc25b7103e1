"""An import of matplotlib that needs no home folder."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from spleeter_2.files import Draft, writing


def import_matplotlib(folder: Path) -> None:
    """Import matplotlib where neither a home nor a folder for temporary files can be written.

    It writes its list of fonts when it is imported, and raises an exception if it cannot.

    Args:
        folder: where it may write then; what it has written is removed.

    Raises:
        SeparationError: this folder cannot be written either.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # advice on folders for its files
    try:
        import matplotlib.font_manager  # noqa: F401

        return
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]
    with writing(folder), Draft(folder / "matplotlib", is_folder=True) as draft:
        before = os.environ.get("MPLCONFIGDIR")
        os.environ["MPLCONFIGDIR"] = str(draft.path)
        try:
            import matplotlib.font_manager  # noqa: F401
        finally:
            del os.environ["MPLCONFIGDIR"]
            if before is not None:
                os.environ["MPLCONFIGDIR"] = before
