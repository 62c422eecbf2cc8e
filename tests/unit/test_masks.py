"""The public face of the mask kernel: what it computes, and what it refuses before it touches `out`."""

import threading

import numpy as np
import pytest
from reference import masks_reference

from fedsec import _kernels, masks
from fedsec.errors import FedsecError, InvalidArgumentError, InvalidTypeError

SEEDS = np.arange(96, dtype=np.uint8).reshape(3, 32)
SIGNS = np.array([1, -1, 1], np.int8)


@pytest.mark.parametrize(
    ("bits", "dtype"), [(1, "u2"), (16, "u2"), (17, "u4"), (32, "u4"), (33, "u8"), (64, "u8")]
)
def test_lane_is_the_smallest_that_holds_the_ring(bits, dtype):
    assert masks.lane_dtype(bits) == np.dtype(dtype)
    assert masks.expand(bytes(32), 5, modulus_bits=bits).dtype == np.dtype(dtype)


@pytest.mark.parametrize("prg", masks.PRGS)
def test_expand_is_the_keystream(prg):
    assert masks.expand(SEEDS[0], 100, 20, prg, offset=11).tolist() == masks_reference.mask(
        SEEDS[0].tobytes(), 11, 100, 32, 20, prg
    )
    for same in (SEEDS[0].tobytes(), bytearray(SEEDS[0].tobytes())):
        assert np.array_equal(masks.expand(same, 100), masks.expand(SEEDS[0], 100))


@pytest.mark.parametrize("prg", masks.PRGS)
def test_opposite_signs_cancel(prg):
    out = np.arange(1000, dtype=np.uint32)
    masks.accumulate(out, SEEDS, SIGNS, prg=prg)
    assert not np.array_equal(out, np.arange(1000))
    masks.accumulate(out, SEEDS, -SIGNS, prg=prg)
    assert np.array_equal(out, np.arange(1000))


def test_generators_stand_in_the_order_of_the_wire():
    assert masks.PRGS == ("chacha20", "aes128ctr", "aes256ctr")


@pytest.mark.parametrize("num_threads", [None, 1, 2, 5])
def test_large_sums_are_the_same_with_any_number_of_threads(num_threads):
    seeds = np.random.default_rng(1).integers(0, 256, (80, 32), dtype=np.uint8)
    signs = np.where(np.arange(80) % 3, 1, -1).astype(np.int8)
    out, expected = np.zeros(250_001, np.uint32), np.zeros(250_001, np.uint32)
    masks.accumulate(out, seeds, signs, 30, "aes128ctr", 7, num_threads)
    for start in range(0, out.size, 50_000):
        part = expected[start : start + 50_000]
        masks.accumulate(part, seeds, signs, 30, "aes128ctr", 7 + start)
    assert np.array_equal(out, expected)


def test_pieces_are_taken_once_each_by_whoever_is_free():
    taken = []
    _kernels._share_out([(i, i + 1) for i in range(500)], lambda *piece: taken.append(piece), 3)
    assert sorted(taken) == [(i, i + 1) for i in range(500)]


def test_nobody_waits_for_a_helper_that_never_runs(monkeypatch):
    taken = []
    monkeypatch.setattr(_kernels._thread, "start_new_thread", lambda *_: None)
    _kernels._share_out([(0, 1), (1, 2)], lambda *piece: taken.append(piece), 1)
    assert sorted(taken) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("failing", ["here", "helper"])
def test_a_piece_that_fails_in_any_thread_fails_the_sum(failing):
    here, met = threading.get_ident(), threading.Barrier(2)

    def add(*_):
        met.wait()  # both are at work
        if (threading.get_ident() == here) == (failing == "here"):
            raise MemoryError

    with pytest.raises(MemoryError):
        _kernels._share_out([(0, 1), (1, 2)], add, 1)


def test_plain_sum_wraps_at_the_modulus():
    out = np.array([1, 1023, 5], np.uint16)
    masks.add(out, np.array([[1, 1, 1020], [2, 0, 1020]], np.uint16), modulus_bits=10)
    assert out.tolist() == [4, 0, (5 + 2040) % 1024]
    masks.add(out, np.array([1, 1, 1], np.uint16), modulus_bits=10)
    assert out.tolist() == [5, 1, (6 + 2040) % 1024]


def test_threads_do_not_disturb_each_other():
    expected = masks.expand(SEEDS[0], 50_000)
    results = [None] * 8

    def work(i):
        results[i] = masks.expand(SEEDS[0], 50_000)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, expected) for result in results)


READ_ONLY = np.zeros(4, np.uint32)
READ_ONLY.flags.writeable = False

REFUSED = [
    ({"out": [0, 0, 0, 0]}, InvalidTypeError, "list"),
    ({"out": np.zeros(4, np.int32)}, InvalidTypeError, "int32"),
    ({"out": np.zeros(4, np.float32)}, InvalidTypeError, "float32"),
    ({"out": np.zeros((2, 2), np.uint32)}, InvalidTypeError, r"\(2, 2\)"),
    ({"out": np.zeros(8, np.uint32)[::2]}, InvalidTypeError, "contiguous"),
    ({"out": np.zeros(4, ">u4")}, InvalidTypeError, ">u4"),
    ({"out": READ_ONLY}, InvalidTypeError, "read-only"),
    ({"out": np.zeros(4, np.uint16)}, InvalidArgumentError, "32"),
    ({"seeds": SEEDS[:, :31].copy()}, InvalidTypeError, r"\(3, 31\)"),
    ({"seeds": SEEDS.astype(np.uint32)}, InvalidTypeError, "uint32"),
    ({"seeds": SEEDS[:2]}, InvalidTypeError, r"\(2, 32\)"),
    ({"signs": np.array([1, 0, 1], np.int8)}, InvalidArgumentError, "got 0"),
    ({"signs": np.array([1, -128, 1], np.int8)}, InvalidArgumentError, "-128"),
    ({"signs": np.array([1, 1, 1])}, InvalidTypeError, "int64"),
    ({"modulus_bits": 0}, InvalidArgumentError, "got 0"),
    ({"modulus_bits": 33}, InvalidArgumentError, "33"),
    ({"modulus_bits": 16.0}, InvalidTypeError, r"16\.0"),
    ({"prg": "mt19937"}, InvalidArgumentError, "mt19937"),
    ({"num_threads": 0}, InvalidArgumentError, "got 0"),
    ({"modulus_bits": True}, InvalidTypeError, "True"),
    ({"prg": "aes128ctr", "offset": 2**34 - 3}, InvalidArgumentError, str(2**34 - 3)),
    ({"offset": -1}, InvalidArgumentError, "-1"),
    ({"offset": 2**36 - 3}, InvalidArgumentError, str(2**36 - 3)),
]


@pytest.mark.parametrize(("change", "error", "names"), REFUSED)
def test_bad_input_is_named_and_leaves_out_alone(change, error, names):
    arguments = {"out": np.zeros(4, np.uint32), "seeds": SEEDS, "signs": SIGNS} | change
    with pytest.raises(error, match=names) as caught:
        masks.accumulate(**arguments)
    assert isinstance(caught.value, FedsecError)
    assert not np.any(arguments["out"])


@pytest.mark.parametrize(
    "vectors", [np.zeros(3, np.uint32), np.zeros((2, 2, 4), np.uint32), np.zeros(4, np.uint64)]
)
def test_add_refuses_other_shapes_and_dtypes(vectors):
    with pytest.raises(InvalidTypeError):
        masks.add(np.zeros(4, np.uint32), vectors)


def test_add_refuses_to_read_what_it_writes():
    out = np.ones(8, np.uint32)
    with pytest.raises(InvalidArgumentError):
        masks.add(out[:4], out[2:6])
    with pytest.raises(InvalidTypeError):
        masks.expand("x" * 32, 5)
    with pytest.raises(InvalidTypeError):
        masks.expand(bytes(31), 5)
    with pytest.raises(InvalidArgumentError):
        masks.expand(bytes(32), -1)
