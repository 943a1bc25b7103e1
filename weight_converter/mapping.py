"""What every conversion comes to: a row per tensor, arrays by variable, a configuration.

A rule such as ``(o k) i -> k i o`` says how a tensor's axes are laid out: the source's first axis
runs over o and, fastest, over k; the variable's axes are k, i, o.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEADER = ("tensor", "shape", "variable", "shape", "axes")


@dataclass(frozen=True)
class Row:
    """One tensor and its variable; where one of the two lacks, it is None."""

    source: str | None
    source_shape: tuple[int, ...] | None
    variable: str | None
    shape: tuple[int, ...] | None
    rule: str

    def cells(self) -> tuple[str, ...]:
        """The row as text, under ``HEADER``."""
        return (
            self.source or "-",
            shown(self.source_shape),
            self.variable or "-",
            shown(self.shape),
            self.rule,
        )


@dataclass(frozen=True)
class Conversion:
    """What becomes of a checkpoint.

    ``family``: name of the network. ``configuration``: JSON object that ``-p`` accepts, with the
    weights beside it. ``rows``: every tensor that is used; ``ignored``: those that are not, on
    purpose. ``values``: arrays by variable, and the STFT's window under ``WINDOW`` where the
    checkpoint has one. ``notes``: sentences for the report.
    """

    family: str
    configuration: dict[str, Any]
    rows: list[Row]
    ignored: list[str]
    values: dict[str, np.ndarray]
    notes: list[str] = field(default_factory=list)

    @property
    def nb_parameters(self) -> int:
        """Numbers in all arrays."""
        return sum(value.size for value in self.values.values())

    def table(self) -> str:
        """Every tensor and its variable, one a line."""
        return as_table(self.rows)


def as_table(rows: list[Row]) -> str:
    """Rows under a header, in columns."""
    cells = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def shown(shape: tuple[int, ...] | None) -> str:
    """A shape as text."""
    return "-" if shape is None else "[" + ", ".join(map(str, shape)) + "]"


def source_shape(rule: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that a tensor must have to become a variable of a shape."""
    left, right = rule.split(" -> ")
    sizes = dict(zip(right.split(), shape, strict=True))
    groups = re.findall(r"\(([^)]*)\)|(\w+)", left)
    return tuple(
        int(np.prod([sizes[axis] for axis in (group or single).split()]))
        for group, single in groups
    )


def rearrange(array: np.ndarray, rule: str, shape: tuple[int, ...]) -> np.ndarray:
    """Lay the axes of a tensor out as its variable has them."""
    left, right = rule.split(" -> ")
    sizes = dict(zip(right.split(), shape, strict=True))
    axes = re.findall(r"\w+", left)
    array = array.reshape([sizes[axis] for axis in axes])
    return array.transpose([axes.index(axis) for axis in right.split()])
