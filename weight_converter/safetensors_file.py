"""Read safetensors files: tensors by name, without pickles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spleeter_2.errors import SeparationError
from spleeter_2.extras import require_extra
from spleeter_2.files import sha256_of

from .torch_checkpoint import Checkpoint

_HEADER = slice(8, 9)  # a length in 8 bytes, then a JSON object


def is_safetensors(path: Path) -> bool:
    """True for a file with the header of a safetensors file; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
            file.seek(0, 2)
            return head[_HEADER] == b"{" and int.from_bytes(head[:8], "little") < file.tell()
    except OSError:
        return False


def read_safetensors(path: Path) -> Checkpoint:
    """Read a safetensors file; bfloat16 becomes float32.

    Raises:
        SeparationError: a damaged file, or tensors of another type than floats and integers.
    """
    require_extra("train", "reading a safetensors file")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            if "BF16" in kinds.values():  # which NumPy lacks
                arrays = _with_bfloat16(path)
            else:
                arrays = {name: file.get_tensor(name) for name in kinds}
        with open(path, "rb") as file:
            digest = sha256_of(file)
    except (SafetensorError, OSError, TypeError, ValueError, KeyError) as error:
        raise SeparationError(
            f"{path} cannot be read as a safetensors file ({error}): download or copy it again"
        ) from error
    return Checkpoint(arrays, {}, digest)


def _with_bfloat16(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file of which some are bfloat16, the upper half of a float32."""
    from safetensors import deserialize

    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
    arrays = {}
    for name, tensor in deserialize(path.read_bytes()):
        array = np.frombuffer(tensor["data"], types[tensor["dtype"]]).reshape(tensor["shape"])
        if tensor["dtype"] == "BF16":
            array = np.left_shift(array, 16, dtype=np.uint32).view(np.float32)
        arrays[name] = array
    return arrays
