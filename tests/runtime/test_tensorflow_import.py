import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.poor import NO_HOME, NO_TEMPORARY_FOLDER

PROGRAM = """
import gc, sys
from spleeter_2.runtime.tensorflow_import import import_tensorflow
sole_user = sys.argv[1] == "True"
tensorflow = import_tensorflow(sole_user)
assert tensorflow.__version__ and gc.isenabled()
assert sys.modules.get("pandas", tensorflow) is not None, "the name stays usable"
tensorflow.get_logger().warning("for those who build networks")
assert tensorflow.keras.backend.floatx() == "float32"
print(gc.get_freeze_count())
"""


def test_the_import_needs_no_home_and_no_folder_for_temporary_files(tmp_path):
    program = NO_HOME + NO_TEMPORARY_FOLDER + PROGRAM
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program, "False"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sole_user", [True, False])
def test_only_a_sole_user_exempts_what_is_there_from_collection(sole_user):
    """In a process of somebody else, garbage of theirs must not be kept for good, and
    their warnings must show."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(sole_user)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ("build networks" in done.stderr) != sole_user
    count = int(done.stdout)
    assert count > 10_000 if sole_user else count == 0
