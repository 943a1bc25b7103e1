"""A conversion: a row per tensor, the arrays by variable, and the configuration.

A rule for the axes is a pattern of einops: ``(o k) i -> k i o`` splits the source's first axis into
o and k, k the faster one, and moves the axes to k, i, o.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spleeter_2.weights.checkpoint import write_checkpoint

HEADER = ("tensor", "shape", "variable", "shape", "axes")


@dataclass(frozen=True)
class Row:
    """One tensor and its variable; either is None if it is missing."""

    source: str | None
    source_shape: tuple[int, ...] | None
    variable: str | None
    shape: tuple[int, ...] | None
    rule: str

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of ``HEADER``."""
        return (
            self.source or "-",
            shown(self.source_shape),
            self.variable or "-",
            shown(self.shape),
            self.rule,
        )


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Attributes:
        family: name of the network.
        configuration: JSON object that ``-p`` accepts, with the weights beside it.
        rows: every tensor that is used.
        ignored: names of the tensors that are left out on purpose.
        values: arrays by variable, and the STFT's window, if any, under ``WINDOW``.
        notes: sentences for the report.
    """

    family: str
    configuration: dict[str, Any]
    rows: list[Row]
    ignored: list[str]
    values: dict[str, np.ndarray]
    notes: list[str] = field(default_factory=list)

    @property
    def nb_parameters(self) -> int:
        """Count the numbers in all arrays."""
        return sum(value.size for value in self.values.values())

    @property
    def nb_arrays(self) -> int:
        """Number of arrays that are written."""
        return len(self.values)

    def write_weights(self, folder: Path) -> None:
        """Write the weights into the folder of the model."""
        write_checkpoint(self.values, folder)

    def table(self) -> str:
        """Return every tensor and its variable, one per line."""
        return as_table(self.rows)


def as_table(rows: list[Row]) -> str:
    """Lay rows out in columns under ``HEADER``."""
    cells = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def shown(shape: tuple[int, ...] | None) -> str:
    """Return a shape as text."""
    return "-" if shape is None else "[" + ", ".join(map(str, shape)) + "]"


def axis_sizes(rule: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Return the size of every axis of a rule whose result has a shape."""
    return dict(zip(rule.split(" -> ")[1].split(), shape, strict=True))


def source_shape(rule: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape from which a rule makes a variable of a shape."""
    sizes = axis_sizes(rule, shape)
    axes = re.findall(r"\(([^)]*)\)|(\w+)", rule.split(" -> ")[0])
    return tuple(math.prod(sizes[axis] for axis in (group or one).split()) for group, one in axes)
