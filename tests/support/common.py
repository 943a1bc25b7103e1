"""A sample rate, a user without privileges, the files below a folder, a model's weights by name."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

RATE = 44100
# root may write and read everything, unless this right is taken
AS_A_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] * (os.geteuid() == 0)


def files_below(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too, relative and sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def values_of(model) -> dict[str, np.ndarray]:
    """A model's weights by name, as ``write_checkpoint`` takes them."""
    from spleeter_2.models.variables import named_variables

    return {name: variable.numpy() for name, variable in named_variables(model).items()}


@contextlib.contextmanager
def locked_by_another(folder: Path) -> Iterator[None]:
    """Another process holds the lock of a folder."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from spleeter_2.files import lock\n"
        "held = lock(Path(sys.argv[1]), '')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script, folder], **pipes) as other:
        assert other.stdout.readline() == "locked\n"
        yield
        other.stdin.close()
