"""An import of ONNX Runtime that reports nothing to anyone."""

from __future__ import annotations

import os
from types import ModuleType


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime with its telemetry off.

    From version 1.29 on it sends events about the machine and the models to its maker and writes an
    identifier into the user's cache, unless this variable is set before the import
    (https://github.com/microsoft/onnxruntime/pull/27379).
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # Windows, which does not read the variable
    return onnxruntime
