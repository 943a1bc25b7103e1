import subprocess
import sys

import pytest
from support.poor import NO_HOME, NO_TEMPORARY_FOLDER

PROGRAM = """
import io, sys
from pathlib import Path
from spleeter_2.runtime.matplotlib_import import import_matplotlib
import_matplotlib(Path(sys.argv[1]) / "a")
from matplotlib.figure import Figure
figure = Figure()
figure.subplots().set_title("x")
figure.savefig(sys.argv[1] + "/picture.png")
"""


@pytest.mark.parametrize("place", [NO_HOME, NO_TEMPORARY_FOLDER, NO_HOME + NO_TEMPORARY_FOLDER])
def test_a_picture_needs_no_home_and_no_folder_for_temporary_files(tmp_path, monkeypatch, place):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    command = [sys.executable, "-c", place + PROGRAM, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
