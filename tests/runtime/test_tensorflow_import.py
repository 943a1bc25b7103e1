import os
import subprocess
import sys
from pathlib import Path

from support.poor import NO_HOME, NO_TEMPORARY_FOLDER

PROGRAM = """
import gc
from spleeter_2.runtime.tensorflow_import import import_tensorflow
tensorflow = import_tensorflow()
assert tensorflow.__version__ and gc.isenabled()
assert tensorflow.keras.backend.floatx() == "float32"
"""


def test_the_import_needs_no_home_and_no_folder_for_temporary_files(tmp_path):
    program = NO_HOME + NO_TEMPORARY_FOLDER + PROGRAM
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0 and done.stderr == ""
    assert list(tmp_path.iterdir()) == []
