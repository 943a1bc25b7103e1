"""Tensors of a state dict at the places of our variables; imports einops.

Apart from ``mapping``, since a conversion of Spleeter's models works without einops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import einops
import numpy as np

from spleeter_2.errors import SeparationError

from .mapping import Row, as_table, axis_sizes, shown, source_shape


def placed(
    state: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    expected: Iterable[tuple[str, str, str, tuple[int, ...]]],
) -> tuple[list[Row], list[Row]]:
    """Rows of tensors that fit, and of those that do not, with the fault as rule.

    Args:
        state: the tensors, by the network's names.
        names: names in the file by the network's.
        expected: name, variable, rule, and shape of the variable.
    """
    rows, faults = [], []
    for name, variable, rule, shape in expected:
        wanted = source_shape(rule, shape)
        found = state[name].shape if name in state else None
        if found == wanted:
            rows.append(Row(names[name], found, variable, shape, rule))
        elif found is None:
            faults.append(Row(name, wanted, variable, shape, "missing"))
        else:
            text = f"wrong shape: {shown(wanted)} expected"
            faults.append(Row(names[name], found, variable, shape, text))
    return rows, faults


def value_of(array: np.ndarray, row: Row) -> np.ndarray:
    """The array of a row's variable, float32.

    Raises:
        SeparationError: it does not hold floating-point numbers, or they are not finite.
    """
    if not np.issubdtype(array.dtype, np.floating):
        raise SeparationError(f"{row.source} holds {array.dtype} instead of floating point")
    array = einops.rearrange(array, row.rule, **axis_sizes(row.rule, row.shape))
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise SeparationError(f"{row.source} holds NaN or infinity")
    return np.ascontiguousarray(array)


def unexpected(source: str, array: np.ndarray) -> Row:
    """The row of a tensor that has no variable."""
    return Row(source, array.shape, None, None, "unexpected")


def refuse_faults(faults: list[Row], network: str) -> None:
    """Raise SeparationError with a table if there are rows of tensors that do not fit."""
    if faults:
        count = "1 tensor does" if len(faults) == 1 else f"{len(faults)} tensors do"
        faults = sorted(faults, key=lambda row: row.source)
        raise SeparationError(f"{count} not fit {network}:\n{as_table(faults)}")
