"""Checks of arguments: each returns the value in its usual type, or raises SeparationError.

JSON is checked by ``config.validation``, options of the command line by typer; these are for
callers from Python, who can pass anything.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Collection
from typing import Any

from .errors import SeparationError


def check_text(name: str, value: Any) -> str:
    """Check a string.

    Args:
        name: of the argument, for the message; the same for all functions here.

    Raises:
        SeparationError: another type.
    """
    if not isinstance(value, str):
        raise _wrong(name, "be a string", value)
    return str(value)


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """Check a string that is one of ``choices``.

    Raises:
        SeparationError: another type or value.
    """
    if not isinstance(value, str) or value not in choices:
        raise _wrong(name, f"be one of {', '.join(choices)}", value)
    return str(value)


def check_flag(name: str, value: Any) -> bool:
    """Check a bool.

    Raises:
        SeparationError: another type; numbers are no bools.
    """
    if not isinstance(value, bool) and not _is_numpy(value, "bool_", "bool"):
        raise _wrong(name, "be True or False", value)
    return bool(value)


def check_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """Check a finite number.

    Raises:
        SeparationError: another type, NaN, infinity, or beyond the bounds.
    """
    try:
        number = float(value) if _is_number(value) else math.nan
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if not (math.isfinite(number) and least <= number <= most):
        raise _wrong(name, _bounds("be a number", least, most), value)
    return number


def check_positive(name: str, value: Any) -> float:
    """Check a finite number above zero.

    Raises:
        SeparationError: another type or value.
    """
    number = check_number(name, value)
    if number <= 0:
        raise _wrong(name, "be positive", value)
    return number


def check_whole(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> int:
    """Check a whole number, which may be a float such as 44100.0.

    Raises:
        SeparationError: another type or value, or beyond the bounds.
    """
    if not _is_number(value) or not least <= value <= most or value % 1 != 0:
        raise _wrong(name, _bounds("be a whole number", least, most), value)
    return int(value)


def check_path(name: str, value: Any) -> str:
    """Check a path: a string, or an object such as ``pathlib.Path`` that stands for one.

    Raises:
        SeparationError: another type, or a null character.
    """
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str) or "\0" in path:
        raise _wrong(name, "be a path", value)
    return str(path)  # os.scandir takes numpy.str_ for bytes


def check_names(name: str, value: Any) -> tuple[str, ...]:
    """Check a list, tuple or other series of strings.

    Raises:
        SeparationError: another type; a single string is no list of its characters.
    """
    try:
        names = None if isinstance(value, str | bytes) else tuple(value)
    except TypeError:
        names = None
    if names is None or not all(isinstance(item, str) for item in names):
        raise _wrong(name, "be a list of names", value)
    return names


def check_function(name: str, value: Any) -> None:
    """Check a function.

    Raises:
        SeparationError: the value cannot be called.
    """
    if not callable(value):
        raise _wrong(name, "be a function", value)


def check_type(name: str, value: Any, kind: type) -> None:
    """Check an instance of a class.

    Raises:
        SeparationError: an instance of another one.
    """
    if not isinstance(value, kind):
        raise _wrong(name, f"be of type {kind.__name__}", value)


def _is_number(value: Any) -> bool:
    # NumPy registers its durations as integers
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and not _is_numpy(value, "timedelta64")


def _is_numpy(value: Any, *types: str) -> bool:
    """Return True for a scalar of one of NumPy's types; NumPy is not imported for it."""
    return type(value).__module__ == "numpy" and type(value).__name__ in types


def _bounds(what: str, least: float, most: float) -> str:
    if math.isfinite(most):
        return f"{what} between {least:g} and {most:.12g}"
    return f"{what} of at least {least:g}" if math.isfinite(least) else what


def _wrong(name: str, must: str, value: Any) -> SeparationError:
    shown = f"{value!r}" if isinstance(value, str | bytes | numbers.Number | None) else ""
    if not shown or len(shown) > 100:
        shown = f"a value of type {type(value).__name__}"
    return SeparationError(f"{name} must {must}, not {shown}")
