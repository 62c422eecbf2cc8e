"""Residues on the wire: bit for bit like the twin at every width, one encoding each, nothing wraps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import packing_reference

from fedsec import masks
from fedsec.errors import InvalidArgumentError, InvalidTypeError

LENGTHS = [*range(30), 63, 64, 65, 127, 200, 333]


def residues(length, bits, seed=0):
    words = np.random.default_rng(seed).integers(0, 2**64, length, dtype=np.uint64)
    return (words >> np.uint64(64 - bits)).astype(masks.lane_dtype(bits))


@pytest.mark.parametrize("bits", range(1, 65))
def test_every_width_equals_the_twin(bits):
    for length in LENGTHS:
        given = residues(length, bits, length)
        packed = masks.pack(given, bits)
        assert len(packed) == masks.packed_bytes(length, bits)
        assert packed == packing_reference.pack(given.tolist(), bits)
        assert masks.unpack(packed, length, bits).tolist() == given.tolist()
        assert masks.unpack(packed, length, bits).dtype == masks.lane_dtype(bits)


@pytest.mark.parametrize("bits", range(1, 65))
@pytest.mark.parametrize("lane", [16, 32, 64])
def test_add_packed_is_unpack_and_add_in_every_lane_that_holds_the_ring(bits, lane):
    if bits > lane:
        with pytest.raises(InvalidArgumentError):
            masks.add_packed(np.zeros(0, f"u{lane // 8}"), b"", bits)
        return
    for length in LENGTHS:
        given = residues(length, bits, length)
        out = residues(length, bits, length + 1).astype(f"u{lane // 8}")
        expected = [(a + b) % 2**bits for a, b in zip(out.tolist(), given.tolist(), strict=True)]
        masks.add_packed(out, packing_reference.pack(given.tolist(), bits), bits)
        assert out.tolist() == expected


@pytest.mark.parametrize("bits", [1, 7, 20, 32, 61])
@pytest.mark.parametrize("length", [2**15 - 1, 2**15, 2**15 + 1, 3 * 2**15 + 5])
def test_long_vectors_are_packed_in_pieces_without_a_seam(length, bits):
    given = residues(length, bits)
    packed = masks.pack(given, bits)
    assert len(packed) == masks.packed_bytes(length, bits)
    assert np.array_equal(masks.unpack(packed, length, bits), given)
    parts = [given[start : start + 1024].tolist() for start in range(0, length, 1024)]  # whole bytes each
    assert packed == b"".join(packing_reference.pack(part, bits) for part in parts)


@pytest.mark.parametrize("bits", range(1, 65))
def test_extremes_do_not_spill_into_neighbours(bits):
    for pattern in ([0, 2**bits - 1] * 9, [2**bits - 1, 0, 0] * 9, [2**bits - 1] * 17):
        given = np.array(pattern, masks.lane_dtype(bits))
        packed = masks.pack(given, bits)
        assert packed == packing_reference.pack(pattern, bits)
        assert masks.unpack(packed, len(pattern), bits).tolist() == pattern


@given(st.integers(1, 64), st.binary(max_size=300))
def test_a_string_has_one_reading_and_a_vector_one_string(bits, packed):
    length = 8 * len(packed) // bits
    used = packed[: masks.packed_bytes(length, bits)]
    padding = 8 * len(used) - length * bits
    if padding and used[-1] >> (8 - padding):
        with pytest.raises(InvalidArgumentError, match="zeros behind its last residue"):
            masks.unpack(used, length, bits)
    else:
        assert masks.unpack(used, length, bits).tolist() == packing_reference.unpack(used, length, bits)
        assert masks.pack(masks.unpack(used, length, bits), bits) == used


@pytest.mark.parametrize(("length", "bits"), [(1, 1), (3, 5), (7, 20), (1, 63), (9, 33)])
def test_each_bit_behind_the_last_residue_is_refused_and_out_left_alone(length, bits):
    packed = masks.pack(residues(length, bits), bits)
    for bit in range(length * bits, 8 * len(packed)):
        forged = bytearray(packed)
        forged[bit // 8] |= 1 << bit % 8
        out = np.ones(length, masks.lane_dtype(bits))
        with pytest.raises(InvalidArgumentError, match="zeros behind"):
            masks.add_packed(out, bytes(forged), bits)
        with pytest.raises(InvalidArgumentError, match="zeros behind"):
            masks.unpack(forged, length, bits)
        assert np.all(out == 1)


@pytest.mark.parametrize("bits", [b for b in range(1, 64) if b not in (16, 32)])
def test_a_residue_outside_the_ring_is_refused_without_printing_it(bits):
    given = np.zeros(20, masks.lane_dtype(bits))
    given[13] = 2**bits
    with pytest.raises(InvalidArgumentError, match=rf"below 2\*\*{bits}, got one that is not"):
        masks.pack(given, bits)


def test_any_contiguous_bytes_are_read():
    given = residues(50, 21)
    packed = masks.pack(given, 21)
    message = b"head" + packed
    for same in (bytearray(packed), memoryview(packed), memoryview(message)[4:]):
        assert np.array_equal(masks.unpack(same, 50, 21), given)
        out = np.zeros(50, np.uint32)
        masks.add_packed(out, same, 21)
        assert np.array_equal(out, given)


@pytest.mark.parametrize(
    ("packed", "error", "names"),
    [
        (bytes(7), InvalidArgumentError, "must be 8 bytes for 3 residues mod 2\\*\\*20, got 7"),
        (bytes(9), InvalidArgumentError, "got 9"),
        (b"", InvalidArgumentError, "got 0"),
        ("x" * 8, InvalidTypeError, "str"),
        (np.zeros(8, np.uint8), InvalidTypeError, "ndarray"),
        (memoryview(bytes(16))[::2], InvalidTypeError, "contiguous"),
    ],
)
def test_other_bytes_are_refused_before_out_is_touched(packed, error, names):
    out = np.ones(3, np.uint32)
    with pytest.raises(error, match=names):
        masks.add_packed(out, packed, 20)
    with pytest.raises(error, match=names):
        masks.unpack(packed, 3, 20)
    assert np.all(out == 1)


def test_other_arrays_and_numbers_are_refused():
    with pytest.raises(InvalidTypeError, match="uint32"):
        masks.pack(np.zeros(3, np.uint64), 20)
    with pytest.raises(InvalidTypeError):
        masks.pack([1, 2, 3], 20)
    with pytest.raises(InvalidArgumentError):
        masks.pack(np.zeros(3, np.uint64), 65)
    with pytest.raises(InvalidArgumentError):
        masks.packed_bytes(-1, 20)
    with pytest.raises(InvalidArgumentError):
        masks.packed_bytes(1, 0)
    with pytest.raises(InvalidArgumentError):
        masks.unpack(b"", -1, 20)


def test_add_packed_refuses_to_read_what_it_writes():
    out = np.ones(8, np.uint32)
    with pytest.raises(InvalidArgumentError, match="share memory"):
        masks.add_packed(out, memoryview(out), 32)
