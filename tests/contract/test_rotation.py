"""The random rotation: the matrix of its definition, an isometry, undone by its inverse, alike everywhere."""

import numpy as np
import pytest

from fedsec import _kernels, masks
from fedsec.errors import InvalidArgumentError, InvalidTypeError

KEY = bytes(range(32))


def hadamard(n):
    """Sylvester's construction."""
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def signs(length):
    octets = masks.expand(KEY, -(-length // 64), 64).astype("<u8").view(np.uint8)
    return 1.0 - 2.0 * np.unpackbits(octets, bitorder="little")[:length]


@pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)
@pytest.mark.parametrize("block", [1, 2, 4, 8, 32, 64, 512])
def test_the_definition(backend, block):
    given = np.random.default_rng(block).normal(size=3 * block).astype(np.float32)
    values = given.copy()
    _kernels.rotate(values, block, KEY, backend=backend)
    expected = (signs(3 * block) * given).reshape(3, block) @ hadamard(block) / np.sqrt(block)
    assert values == pytest.approx(expected.ravel(), abs=1e-5)


@pytest.mark.parametrize("block", [2**12, 2**13, 2**14, 2**17])
def test_long_blocks_keep_lengths_and_are_undone(block):
    given = np.random.default_rng(block).normal(size=2 * block).astype(np.float32)
    values = given.copy()
    _kernels.rotate(values, block, KEY)
    assert np.linalg.norm(values) == pytest.approx(np.linalg.norm(given), rel=1e-5)
    one = np.zeros(2 * block, np.float32)
    one[5] = 1.0
    _kernels.rotate(one, block, KEY)
    assert np.abs(one[:block]) == pytest.approx(block**-0.5)
    assert not one[block:].any()
    _kernels.rotate(values, block, KEY, back=True)
    assert values == pytest.approx(given, abs=1e-5)


def test_an_outlier_is_spread():
    values = np.zeros(4096, np.float32)
    values[17] = 64.0
    _kernels.rotate(values, 4096, KEY)
    assert np.abs(values).tolist() == [1.0] * 4096


@pytest.mark.parametrize(
    ("values", "block", "key", "error"),
    [
        (np.zeros(12, np.float32), 8, KEY, InvalidArgumentError),
        (np.zeros(12, np.float32), 3, KEY, InvalidArgumentError),
        (np.zeros(12, np.float32), 0, KEY, InvalidArgumentError),
        (np.zeros(12, np.float32), 4, KEY[1:], InvalidArgumentError),
        (np.zeros(12), 4, KEY, InvalidTypeError),
        (np.zeros((3, 4), np.float32), 4, KEY, InvalidTypeError),
    ],
)
def test_refused(values, block, key, error):
    with pytest.raises(error):
        _kernels.rotate(values, block, key)
