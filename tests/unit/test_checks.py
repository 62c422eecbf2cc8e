"""The shared checks: what they let through, and that a refusal names the value and what is allowed."""

import math

import numpy as np
import pytest

from fedsec import _checks
from fedsec.errors import InvalidArgumentError, InvalidTypeError


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int64(1), np.array(1.0)])
def test_numbers_of_any_real_type_pass(value):
    assert _checks.positive("x", value) == 1.0
    assert _checks.probability("x", value) == 1.0


@pytest.mark.parametrize(
    "value", [True, np.True_, np.False_, "1", b"1", bytearray(b"1"), 1j, None, [1.0], np.array([1.0])]
)
def test_what_is_not_a_number_is_refused(value):
    with pytest.raises(InvalidTypeError, match="x must be a real number, positive and finite, got"):
        _checks.positive("x", value)


@pytest.mark.parametrize(
    ("check", "allowed", "bad"),
    [
        (_checks.positive, "positive and finite", [0.0, -1.0, math.inf, math.nan]),
        (_checks.non_negative, "zero or positive", [-1e-300, math.inf, math.nan]),
        (_checks.probability, r"in \[0, 1\]", [-0.1, 1.1, math.inf, math.nan]),
        (_checks.open_unit, r"in \(0, 1\)", [0.0, 1.0, math.nan]),
    ],
)
def test_refusals_name_the_value_and_the_range(check, allowed, bad):
    for value in bad:
        with pytest.raises(InvalidArgumentError, match=f"noise must be .*{allowed}.*got {value!r}"):
            check("noise", value)


@pytest.mark.parametrize("value", [1.5, 2.0, "2", True, None, math.nan])
def test_whole_numbers_only(value):
    with pytest.raises(InvalidTypeError, match=r"steps must be a whole number at least 1, got"):
        _checks.whole("steps", value, minimum=1)


def test_whole_numbers_within_their_range():
    assert _checks.whole("steps", np.int32(3), minimum=1) == 3
    with pytest.raises(InvalidArgumentError, match=r"in \[1, 5\], got 6"):
        _checks.whole("steps", 6, minimum=1, maximum=5)
