import subprocess
import sys

PROGRAM = """
import os
from spleeter_2.runtime.onnxruntime_import import import_onnxruntime
import_onnxruntime()
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def test_nothing_is_reported_and_no_identifier_written(tmp_path, monkeypatch):
    """By default ONNX Runtime 1.29 and newer write one into the user's cache and send events."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for name in ("XDG_CACHE_HOME", "CI"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "1\n" and done.stderr == ""
    assert not list(tmp_path.iterdir())
