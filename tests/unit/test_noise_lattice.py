"""Laws from tables: exact masses, tails, every decision in integers, bytes; and the faces over them."""

from hashlib import sha256
from itertools import repeat

import mpmath as mp
import numpy as np
import pytest
from reference import lattice_reference as reference

from fedsec import _kernels, _lattice, noise
from fedsec.errors import InvalidArgumentError, InvalidTypeError

NARROW = [
    ("discrete_gaussian", 0.1),
    ("discrete_gaussian", 0.5),
    ("discrete_gaussian", 3.7),
    ("discrete_gaussian", 40.0),
    ("poisson", 2.0**-10),
    ("poisson", 1.0),
    ("poisson", 100.3),
    ("skellam", 2.0**-10),
    ("skellam", 0.7),
    ("skellam", 200.0),
]
WIDE = [
    ("discrete_gaussian", 200.0),
    ("discrete_gaussian", 1e6 + 0.3),
    ("discrete_gaussian", 2.0**40),
    ("poisson", 25_000.7),
    ("poisson", 1e6),
    ("poisson", 2.0**40),
]
EVERYWHERE = [
    *((name, 1.7 * 4.0**k) for name in ("poisson", "skellam") for k in range(-5, 20)),
    *(("discrete_gaussian", 0.1 * 2.1**k) for k in range(40)),
]


def key_of(*words):
    return sha256(repr(words).encode()).digest()


def table(name, parameter):
    (only,) = _lattice.tables(name, parameter)
    return only


# ---- tables


@pytest.mark.parametrize(("name", "parameter"), NARROW)
def test_masses_of_a_table_are_within_the_stated_distance(name, parameter):
    arrays = table(name, parameter).arrays
    assert arrays.block_bits == 0
    found = _lattice.masses(arrays)
    assert sum(found) == 2**reference.THRESHOLD_BITS
    with mp.workdps(reference.DIGITS):
        exact = [reference.mass(name, parameter, arrays.first + i) for i in range(len(found))]
        total = mp.fsum(exact) if name == "discrete_gaussian" else mp.mpf(1)
        distance = mp.fsum(
            abs(mp.mpf(a) / 2**reference.THRESHOLD_BITS - b / total)
            for a, b in zip(found, exact, strict=True)
        )
        left_out = 0 if name == "discrete_gaussian" else abs(1 - mp.fsum(exact))
        assert (distance + left_out) / 2 < mp.mpf(2) ** -104


def test_a_table_of_doubles_would_be_found():
    """The negative control: thresholds cut to 60 bits are further off than that."""
    arrays = table("skellam", 200.0).arrays
    arrays = arrays._replace(rest=arrays.rest >> np.uint64(24) << np.uint64(24))
    found = _lattice.masses(arrays)
    with mp.workdps(reference.DIGITS):
        exact = [reference.mass("skellam", 200.0, arrays.first + i) for i in range(len(found))]
        distance = mp.fsum(abs(mp.mpf(a) / 2**160 - b) for a, b in zip(found, exact, strict=True))
        assert distance > mp.mpf(2) ** -100


@pytest.mark.parametrize(("name", "parameter"), EVERYWHERE)
def test_hardly_anything_is_beyond(name, parameter):
    law = _lattice._LAWS[name](parameter)
    limit = -105 * mp.log(2)
    assert reference.log_tail(name, parameter, law.last + 1) < limit
    if name == "poisson" and law.first > 0:
        assert reference.log_tail(name, parameter, law.first - 1) < limit


@pytest.mark.parametrize(("name", "parameter"), WIDE)
def test_no_weight_is_above_its_blocks_height_or_below_its_least(name, parameter):
    found = table(name, parameter)
    arrays, size, law = found.arrays, 1 << found.arrays.block_bits, found.law
    assert found.heights
    rng = np.random.default_rng(1)
    for cell in {0, 1, len(found.heights) - 1, (law.mode - law.first) // size, *rng.integers(0, 400, 40)}:
        start, height = law.first + int(cell) * size, found.heights[cell]
        inside = start <= law.mode < start + size
        values = {start, start + size - 1, start + int(rng.integers(size)), law.mode if inside else start}
        for y in values:
            low, high = law.weight(y, 256)
            assert high <= height
            assert int(arrays.least[cell]) * height <= low << 16
    masses, total = _lattice.masses(arrays), sum(found.heights)
    for cell, height in enumerate(found.heights):
        assert abs(masses[cell] - (height << 160) // total) <= 2**10
    assert np.abs(arrays.log_heights[: len(found.heights)]).max() < 2**7


@pytest.mark.parametrize(("name", "parameter"), WIDE)
@pytest.mark.parametrize("bits", [64, 256, 400])
def test_weights_are_enclosed(name, parameter, bits):
    law = _lattice._LAWS[name](parameter)
    for y in (law.mode, law.mode + 1, law.last, law.first, (law.mode + law.last) // 2):
        low, high = law.weight(y, bits)
        with mp.workdps(180):
            x = mp.mpf(parameter)
            exact = (
                mp.exp(-(mp.mpf(y) ** 2) / (2 * x * x))
                if name == "discrete_gaussian"
                else mp.exp(
                    y * mp.log(x) - x - mp.loggamma(y + 1) + mp.log(2 * mp.pi * x) / 2 - mp.mpf(2) ** -10
                )
            )
            assert low <= exact * 2**bits <= high
        assert high - low <= 8


# ---- decisions


@pytest.mark.parametrize(("name", "parameter"), WIDE)
def test_the_filter_decides_as_integers_do(name, parameter):
    found, out = table(name, parameter), np.empty(3000, np.int64)
    undecided = _kernels.lattice_blocks(out, found.arrays, key_of(name), 0, 0, exact_only=True)
    assert len(undecided) > 5
    for one in undecided:
        assert abs(one.gap) > 2.0**-36
        assert found.accepts(one.cell, one.value, one.uniform, iter(())) == (one.gap > 0)
        low, _ = found.law.weight(one.value, 256)
        ratio = low / found.heights[one.cell]
        assert abs(ratio - one.uniform / 2 ** (128 - found.arrays.block_bits) - one.gap) < 2.0**-40


@pytest.mark.parametrize(("name", "parameter"), WIDE)
def test_digits_are_drawn_until_they_decide(name, parameter):
    """A uniform number that agrees with the acceptance in its first 128 - b bits, then in 128 more."""
    found = table(name, parameter)
    bits, cell = 128 - found.arrays.block_bits, len(found.heights) // 3
    value = found.law.first + (cell << found.arrays.block_bits) + 1
    low, _ = found.law.weight(value, 256 + 320)
    digits = (low << bits + 128) // (found.heights[cell] << 320)  # 128 bits more than the first look
    further = [digits >> 64 & 2**64 - 1, digits & 2**64 - 1]
    for last, expected in ((0, True), (2**64 - 1, False)):
        more = iter([*further, last, last])
        assert found.accepts(cell, value, digits >> 128, more) is expected
        assert len(list(more)) < 2
    assert found.accepts(cell, value, digits >> 128, iter([further[0] - 1]))
    assert not found.accepts(cell, value, digits >> 128, iter([further[0] + 1]))


def test_integers_alone_follow_the_same_law():
    """All comparisons in integers: mean and variance within 5 standard errors; false alarm below 2e-6."""
    for name, parameter, mean, variance in (("poisson", 1e6, 1e6, 1e6), ("skellam", 2.0**30, 0.0, 2.0**30)):
        out = np.empty(20_000, np.int64)
        noise.draw_lattice(out, name, parameter, key_of(name, "integers"), exact_only=True)
        z = (out - mean) / np.sqrt(variance)
        assert abs(z.mean()) < 5 / np.sqrt(z.size)
        assert abs((z * z).mean() - 1) < 5 * np.sqrt(2 / z.size)


def test_what_integers_refuse_is_drawn_anew(monkeypatch):
    """An oracle that refuses everything once changes exactly the undecided ones, and only those."""
    before, after = np.empty(3000, np.int64), np.empty(3000, np.int64)
    key, refused = key_of("anew"), set()
    undecided = _kernels.lattice_blocks(before, table("poisson", 1e6).arrays, key, 0, 0, exact_only=True)

    def accepts(self, cell, value, uniform, more):
        seen = uniform in refused
        refused.add(uniform)
        return seen or len(refused) > len(undecided) + 50

    monkeypatch.setattr(_lattice.Table, "accepts", accepts)
    noise.draw_lattice(after, "poisson", 1e6, key, exact_only=True)
    places = {one.position for one in undecided}
    assert set(np.flatnonzero(before != after)) <= places
    assert np.count_nonzero(before != after) > 0.9 * len(places)


# ---- bytes


@pytest.mark.parametrize(("name", "parameter"), NARROW)
def test_points_equal_the_twin(name, parameter):
    out = np.empty(1500, np.int64)
    noise.draw_lattice(out, name, parameter, key_of(name))
    assert out.tolist() == reference.points(table(name, parameter).arrays, key_of(name), out.size)


@pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)
def test_words_that_agree_with_a_threshold_draw_more(backend):
    """Every cell's threshold begins as the first word that falls into it."""
    arrays, key = table("skellam", 200.0).arrays, key_of("ties")
    k, cells = arrays.index_bits, arrays.cells.copy()
    for word, _ in zip(reference.stream(key, 0, 0, 0, 4), range(1500), strict=False):
        cells[word >> (32 - k)] = (word % 2 ** (32 - k)) << k | (word >> 3) % 2**k
    rest = np.random.default_rng(0).integers(0, 2**64, arrays.rest.size, np.uint64)
    arrays = arrays._replace(cells=cells, rest=rest)
    out = np.empty(1500, np.int64)
    _kernels.lattice_points(out, arrays, key, 0, backend=backend)
    assert out.tolist() == reference.points(arrays, key, out.size)


@pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)
@pytest.mark.parametrize(("name", "parameter"), [("skellam", 200.0), ("poisson", 1e6), ("skellam", 2.0**41)])
def test_all_backends_and_dtypes_give_the_same(backend, name, parameter):
    for length in (0, 1, 511, 512, 513, 2 * _kernels.LATTICE_CHUNK // 3, _kernels.LATTICE_CHUNK + 7):
        expected, found = np.empty(length, np.int64), np.empty(length, np.int32)
        noise.draw_lattice(expected, name, parameter, key_of(name), backend=_kernels.backends()[-1])
        noise.draw_lattice(found, name, parameter, key_of(name), backend=backend)
        assert np.array_equal(found, expected)


def test_chunks_do_not_repeat():
    chunk = _kernels.LATTICE_CHUNK
    for sampler, parameter in ((noise.skellam, 200.0), (noise.poisson, 1e6), (noise.skellam, 1e9)):
        first, second = sampler(2 * chunk, parameter).reshape(2, chunk)
        assert np.mean(first == second) < 0.05


def test_the_two_summands_of_wide_noise_are_independent():
    """Otherwise the difference were zero, or its variance off."""
    out = noise.skellam(100_000, 2.0**38, insecure_key=key_of("summands"))
    assert abs((out / 2.0**19).var() - 1) < 5 * np.sqrt(2 / out.size)


# ---- faces


@pytest.mark.parametrize("size", [0, 1, 7, (0, 3), (2, 3), (), np.int64(4)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_shapes(size, dtype):
    shape = size if isinstance(size, tuple) else (int(size),)
    for array in (noise.skellam(size, 100.0, dtype), noise.poisson(size, 1e6, dtype)):
        assert array.shape == shape
        assert array.dtype == dtype


def test_calls_do_not_repeat_and_seeds_have_no_influence():
    draws = []
    for _ in range(4):
        np.random.seed(7)
        draws.append(noise.skellam(64, 2.0**40).tobytes())
    assert len(set(draws)) == 4


@pytest.mark.parametrize(
    ("sampler", "dtype", "value"),
    [
        *((noise.skellam, np.int64, value) for value in (0.0, -1.0, 2.0**-11, 2.0**42, np.nan, np.inf)),
        (noise.poisson, np.int64, 2.0**41),
        (noise.poisson, np.int32, 2.0**31),
    ],
)
def test_parameters_out_of_range(sampler, dtype, value):
    with pytest.raises(InvalidArgumentError, match=r"mean|variance"):
        sampler(1, value, dtype)


@pytest.mark.parametrize("sampler", [noise.skellam, noise.poisson])
def test_wrong_types(sampler):
    for value in ("1", None, True, 1j):
        with pytest.raises(InvalidTypeError, match=r"mean|variance"):
            sampler(1, value)
    for dtype in (np.int16, np.uint32, np.float64, ">i8", None):
        with pytest.raises(InvalidTypeError, match="int64 or int32"):
            sampler(1, 1.0, dtype)
    with pytest.raises(InvalidTypeError, match="32 bytes"):
        sampler(1, 1.0, insecure_key=bytes(31))


def test_mean_and_variance_may_be_as_large_as_they_can():
    assert abs(noise.poisson(3, 2.0**40) - 2.0**40).max() < 14 * 2.0**20
    assert noise.poisson(3, 2.0**30, np.int32).min() > 2**29
    assert np.abs(noise.skellam(3, 2.0**41, np.int32)).max() < 2**26
    assert not noise.poisson(50, 2.0**-10, insecure_key=bytes(32)).any()
    assert list(repeat(0, 3)) == noise.skellam(3, 2.0**-10, insecure_key=bytes(32)).tolist()
