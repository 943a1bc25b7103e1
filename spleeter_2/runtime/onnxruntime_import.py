"""An import of ONNX Runtime that reports nothing to anyone."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from types import ModuleType

from spleeter_2.errors import SeparationError


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


@contextlib.contextmanager
def onnxruntime_errors(fault: str, advice: str) -> Iterator[None]:
    """Turn an exception of ONNX Runtime in the block into one sentence.

    Args:
        fault: begin of the sentence, before the reason.

    Raises:
        SeparationError: the sentence.
        MemoryError: there is not enough memory, so the model is not at fault.
    """
    try:
        yield
    except Exception as error:  # classes of its own, all derived from Exception
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        if re.search("bad_alloc|failed to allocate", reason, re.I):
            raise MemoryError(reason) from error
        raise SeparationError(f"{fault} ({reason}): {advice}") from error
