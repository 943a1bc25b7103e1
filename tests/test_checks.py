import pathlib
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from spleeter_2 import checks
from spleeter_2.errors import SeparationError


class BrokenPath:
    """An object that claims to stand for a path."""

    def __fspath__(self):
        return 3


ANYTHING = [
    *(None, "", "x", b"x", True, np.True_, 0, -1, 1.5, 10**400, float("nan"), float("inf"), 1j),
    *(Decimal(1), Fraction(1, 2), [], ["x"], (1,), {"x": 1}, {"x"}, np.zeros(3), np.float32(2)),
    *(np.timedelta64(3), np.array(3), np.str_("x"), BrokenPath()),
    *(object(), len, int, pathlib.Path("x"), "a\0b", "a\nb", "x" * 1000),
]
CHECKS = {
    checks.check_text: str,
    checks.check_flag: bool,
    checks.check_number: float,
    checks.check_positive: float,
    checks.check_whole: int,
    checks.check_path: str,
    checks.check_names: tuple,
    checks.check_function: type(None),
}


@pytest.mark.parametrize("check", CHECKS)
def test_whatever_the_value_it_is_returned_or_refused(check):
    accepted = 0
    for value in ANYTHING:
        try:
            assert type(check("it", value)) is CHECKS[check]
            accepted += 1
        except SeparationError as error:
            assert str(error).startswith("it must be ")
            assert str(error).isprintable() and len(str(error)) < 200
    assert 0 < accepted < len(ANYTHING)


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (checks.check_number, np.float32(0.5), 0.5),
        (checks.check_number, Fraction(1, 2), 0.5),
        (checks.check_number, -3, -3.0),
        (checks.check_whole, 44100.0, 44100),
        (checks.check_whole, np.int16(7), 7),
        (checks.check_whole, 10**400, 10**400),
        (checks.check_flag, np.False_, False),
        (checks.check_path, pathlib.Path("a/b"), "a/b"),
        (checks.check_path, np.str_("a/b"), "a/b"),
        (checks.check_names, np.array(["a", "b"]), ("a", "b")),
        (checks.check_names, iter("ab"), ("a", "b")),
    ],
)
def test_values_get_their_usual_type(check, value, expected):
    found = check("it", value)
    assert found == expected and isinstance(found, type(expected))


def test_bounds_and_choices():
    assert checks.check_number("it", 0.5, 0, 0.5) == 0.5
    for value, words in ((0.6, "between 0 and 0.5, not 0.6"), (-1, "between 0 and 0.5, not -1")):
        with pytest.raises(SeparationError, match=words):
            checks.check_number("it", value, 0, 0.5)
    with pytest.raises(SeparationError, match="a whole number of at least 1, not 0"):
        checks.check_whole("it", 0, 1)
    assert checks.check_choice("it", "b", ("a", "b")) == "b"
    with pytest.raises(SeparationError, match="one of a, b, not 'c'"):
        checks.check_choice("it", "c", ("a", "b"))
    checks.check_type("it", {}, dict)
    with pytest.raises(SeparationError, match="it must be of type dict, not 3"):
        checks.check_type("it", 3, dict)
