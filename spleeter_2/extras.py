"""Packages that the base installation lacks: the extras of setup.py."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version

from .errors import SeparationError

# what commands import of each extra
PACKAGES = {
    "train": (
        *("tensorflow", "tf2onnx", "onnx", "einops", "safetensors", "yaml"),
        *("matplotlib", "tensorboard"),
    ),
    "web": ("starlette", "uvicorn", "python_multipart", "PIL"),
    "evaluation": (
        *("musdb", "museval", "stempeg", "pandas", "jinja2", "matplotlib"),
        "distributed",
    ),
    "cluster": ("distributed",),
}


def is_installed(package: str) -> bool:
    """True if a package can be found; it is not imported."""
    with contextlib.suppress(ImportError):
        return importlib.util.find_spec(package) is not None
    return False


def require_extra(extra: str, purpose: str) -> None:
    """Check that the packages of an extra are installed.

    Args:
        extra: key of ``PACKAGES``.
        purpose: subject of the message's sentence.

    Raises:
        SeparationError: one is missing.
    """
    for package in PACKAGES[extra]:
        if not is_installed(package):
            raise SeparationError(f"{purpose} needs {package}: {install_command(extra)}")


def install_command(extra: str) -> str:
    """The line to type that installs an extra."""
    return f'pip install "spleeter-2[{extra}]"'


def gpu_command() -> str:
    """The line to type that installs ONNX Runtime for NVIDIA's GPUs."""
    with contextlib.suppress(PackageNotFoundError):
        # installed at one go, the base's files may replace those of the same names
        version("onnxruntime-gpu")
        return "pip install --force-reinstall --no-deps onnxruntime-gpu"
    return install_command("gpu")


def use_keras_2() -> None:
    """Let TensorFlow, before it is imported, take Keras 2 from the package tf-keras.

    No-op where that is not installed: TensorFlow's own Keras is version 3 from 2.16 on.
    """
    if is_installed("tf_keras"):
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
