"""The ring: residues of what fits, refusals of what does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.secagg import centre, to_residues
from fedsec.secagg.encoding import ring


@given(st.integers(1, 64), st.data())
def test_residues_and_centre_against_python_integers(bits, data):
    values = data.draw(st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), max_size=20))
    residues = to_residues(np.array(values, np.int64), bits)
    assert residues.tolist() == [value % 2**bits for value in values]
    assert centre(residues, bits).tolist() == values


@pytest.mark.parametrize(
    ("value", "dtype", "bits"),
    [
        (2**31, np.int64, 32),
        (-(2**31) - 1, np.int64, 32),
        (2**32, np.uint64, 32),
        (128, np.int16, 8),
        (-129, np.int16, 8),
        (256, np.uint16, 8),
        (1, np.int8, 1),
        (2, np.uint8, 1),
    ],
)
def test_what_does_not_fit_is_refused_and_never_wraps(value, dtype, bits):
    for refusing in (to_residues, ring.require_fits):
        with pytest.raises(InvalidArgumentError, match=rf"must hold values in \[.*, got {value}"):
            refusing(np.array([0, value, 0], dtype), bits)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32])
def test_every_integer_dtype_is_taken_and_copied(dtype):
    vector = np.array([0, 1, 127], dtype)
    residues = to_residues(vector, 32)
    assert residues.dtype == np.uint32
    residues[0] = 9
    assert vector[0] == 0


def test_views_and_foreign_byte_orders_are_taken():
    assert to_residues(np.arange(10)[::-3], 16).tolist() == [9, 6, 3, 0]
    assert to_residues(np.array([1, -2], ">i4"), 16).tolist() == [1, 65534]


@pytest.mark.parametrize(
    "vector",
    [
        [1, 2, 3],
        None,
        np.array([1.0]),
        np.array([True]),
        np.array([[1, 2]]),
        np.array(3),
        np.array([1j]),
        np.array(["1"]),
        np.array([1], object),
    ],
)
def test_other_types_and_shapes_are_refused(vector):
    with pytest.raises(InvalidTypeError):
        to_residues(vector, 32)


def test_centre_takes_the_lane_dtype_only():
    with pytest.raises(InvalidTypeError, match="uint32"):
        centre(np.zeros(3, np.uint64), 20)
    assert centre(np.array([2**19, 2**19 - 1], np.uint32), 20).tolist() == [-(2**19), 2**19 - 1]
