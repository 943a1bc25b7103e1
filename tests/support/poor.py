"""A user without a home and a system without a folder for temporary files."""

# statements at the start of a program
NO_HOME = """
import os
os.getuid = lambda: 4711
for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
    os.environ.pop(name, None)
"""
NO_TEMPORARY_FOLDER = """
import tempfile
tempfile._candidate_tempdir_list = lambda: ["/proc/nowhere"]
"""
# a base installation: what the extras bring, and upstream's package, is not there
BASE_ONLY = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    names = (
        "tensorflow", "tf_keras", "keras", "tensorboard", "tf2onnx", "onnx", "einops", "matplotlib",
        "spleeter", "musdb", "museval", "stempeg", "pandas", "jinja2", "starlette", "uvicorn",
        "python_multipart", "PIL", "distributed", "dask",
    )

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""
