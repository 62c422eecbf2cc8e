"""Laws from tables: exact masses, tails, every decision in integers, bytes; and the faces over them."""

from hashlib import sha256
from itertools import repeat

import mpmath as mp
import numpy as np
import pytest
from reference import lattice_reference as reference

from fedsec import _exact, _kernels, _lattice, noise
from fedsec.errors import InvalidArgumentError, InvalidTypeError

NARROW = [
    ("poisson", 2.0**-10),
    ("poisson", 1.0),
    ("poisson", 100.3),
    ("skellam", 2.0**-10),
    ("skellam", 0.7),
    ("skellam", 200.0),
]
WIDE = [("poisson", 25_000.7), ("poisson", 1e6), ("poisson", 2.0**40)]
EVERYWHERE = [
    *(("poisson", 1.7 * 4.0**k) for k in range(-5, 20)),
    *(("skellam", 1.7 * 4.0**k) for k in range(-5, 7)),
]


def key_of(*words):
    return sha256(repr(words).encode()).digest()


def probabilities(arrays):
    """Of all cells, in units of 2^-32, read back from the alias table."""
    k, found = arrays.index_bits, [0] * len(arrays.cells)
    for column, entry in enumerate(map(int, arrays.cells)):
        threshold, alias = divmod(entry, 2**k)
        found[column] += threshold
        found[alias] += 2 ** (32 - k) - threshold
    return found


# ---- tables


@pytest.mark.parametrize(("name", "parameter"), NARROW)
def test_a_count_is_what_a_weight_has_of_whole_units(name, parameter):
    """So that what is missing of each is a part of a unit, for which the last cell has one."""
    found = _lattice.table(name, parameter)
    arrays = found.arrays
    assert arrays.block_bits == 0
    assert tuple(probabilities(arrays)) == found.counts
    assert sum(found.counts) == 2**32
    size = found.law.last - found.law.first + 1
    assert found.counts[-1] >= size + 2
    with mp.workdps(reference.DIGITS):
        unit = mp.mpf(found.unit) / 2**256
        mode = reference.mass(name, parameter, found.law.mode)
        for cell, count in enumerate(found.counts[:size]):
            part = reference.mass(name, parameter, arrays.first + cell) / mode / unit - count
            assert -1e-40 < part < 1 + 1e-40
        assert mode / unit > 2**19 or size > 60


@pytest.mark.parametrize(("name", "parameter"), EVERYWHERE)
def test_what_is_beyond_is_below_its_probability(name, parameter):
    """At the nearest integer; from there weights fall by more than half a block, as they are log-concave."""
    found = _lattice.table(name, parameter)
    law, size = found.law, 1 << found.beyond_bits
    doublings = 1 + found.beyond_bits - found.arrays.block_bits
    sides = [(found.end, found.end + size)]
    if law.first - 1 - size >= 0 or name == "skellam":
        sides.append((law.first - 1, law.first - 1 - size))
    for near, far in sides:
        assert law.weight(near, 600)[1] << doublings <= found.unit << 344
        if parameter < 1e5:
            assert 2 * reference.mass(name, parameter, far) < reference.mass(name, parameter, near)
        else:  # the wide law at once, by its exponent: 13 deviations away, blocks of more than one
            assert size > np.sqrt(parameter)


@pytest.mark.parametrize(("name", "parameter"), WIDE)
def test_no_weight_is_above_its_blocks_height_or_below_its_least(name, parameter):
    found = _lattice.table(name, parameter)
    arrays, size, law = found.arrays, 1 << found.arrays.block_bits, found.law
    assert tuple(probabilities(arrays)) == found.counts
    assert sum(found.counts) == 2**32
    assert found.counts[-1] >= 2
    blocks = (law.last - law.first) // size + 1
    assert blocks < len(found.counts)
    rng = np.random.default_rng(1)
    for cell in {0, 1, blocks - 1, (law.mode - law.first) // size, *rng.integers(0, 400, 40)}:
        start, height = law.first + int(cell) * size, found.counts[cell] * found.unit
        inside = start <= law.mode < start + size
        values = {start, start + size - 1, start + int(rng.integers(size)), law.mode if inside else start}
        for y in values:
            low, high = law.weight(y, 256)
            assert high <= height
            assert int(arrays.least[cell]) * height <= low << 16
    assert np.abs(arrays.log_heights[:blocks]).max() < 2**7
    total = sum(law.weight(law.first + cell * size, 256)[0] for cell in range(blocks))
    assert found.unit * 2**32 < 1.05 * total  # hardly any candidate is refused


@pytest.mark.parametrize(("name", "parameter"), WIDE)
@pytest.mark.parametrize("bits", [64, 256, 400, 2000])
def test_weights_are_enclosed(name, parameter, bits):
    law = _lattice.table(name, parameter).law
    for y in (law.mode, law.mode + 1, law.last, law.first, (law.mode + law.last) // 2):
        low, high = law.weight(y, bits)
        with mp.workdps(700):
            x = mp.mpf(parameter)
            exponent = y * mp.log(x) - x - mp.loggamma(y + 1) + mp.log(2 * mp.pi * x) / 2
            assert low <= mp.exp(exponent - mp.mpf(2) ** -10) * 2**bits <= high
        assert high - low <= 8


@pytest.mark.parametrize(("name", "parameter"), NARROW)
@pytest.mark.parametrize("bits", [64, 256, 700])
def test_weights_of_narrow_laws_are_enclosed(name, parameter, bits):
    law = _lattice.table(name, parameter).law
    with mp.workdps(400):
        for y in (law.mode, law.mode + 1, law.mode + 5, law.last, law.first, law.last + 40):
            low, high = law.weight(y, bits)
            x = mp.mpf(parameter)

            def mass(n, x=x):
                if name == "skellam":
                    return mp.besseli(abs(n), x)
                return mp.exp(n * mp.log(x) - mp.loggamma(n + 1)) if n >= 0 else mp.mpf(0)

            assert low <= mass(y) / mass(law.mode) * 2**bits * (1 + mp.mpf(10) ** -390)
            assert mass(y) / mass(law.mode) * 2**bits * (1 - mp.mpf(10) ** -390) <= high
            assert high - low <= 8


def test_stirlings_series_says_where_it_ends():
    with pytest.raises(ArithmeticError, match="Stirling"):
        _exact.stirling(10, 400)


# ---- what C leaves to integers


def words_of(number, bits):
    """The leading words of a uniform real, `number` in units of 2^-bits."""
    count = -(-bits // 64)
    number <<= 64 * count - bits
    return [number >> 64 * i & 2**64 - 1 for i in reversed(range(count))]


@pytest.mark.parametrize(("name", "parameter"), NARROW)
def test_the_last_cell_draws_what_is_missing(name, parameter):
    """Each integer for a part of a unit: digits just below that part give it, and just above give nothing."""
    found = _lattice.table(name, parameter)
    bits = found.counts[-1].bit_length() if found.counts[-1] & (found.counts[-1] - 1) else 0
    shift = 64 - (found.counts[-1] - 1).bit_length()
    assert bits
    last = _kernels.Undecided(0, len(found.counts) - 1, 0, 0, 0.0)
    for cell in (found.law.mode - found.law.first, found.law.mode - found.law.first + 3):
        choice = cell + 2 << shift
        with mp.workdps(reference.DIGITS):
            mode = reference.mass(name, parameter, found.law.mode)
            y = found.law.first + cell
            part = reference.mass(name, parameter, y) / mode * 2**256 / found.unit - found.counts[cell]
            if not 1e-9 < part < 1 - 1e-9:
                continue
            digits = int(part * 2**128)
        for moved, expected in ((digits - 2, y), (digits + 2, None)):
            assert found.settled(last, iter([choice, *words_of(moved, 128)])) == expected
    nothing = (found.counts[-1] - 1) << shift  # a count for nobody, or an integer without weight
    assert found.settled(last, iter([nothing, 2**64 - 1, 2**64 - 1])) is None
    too_large = 2**64 - 1
    assert found.settled(last, iter([too_large, nothing, 2**64 - 1, 2**64 - 1])) is None


@pytest.mark.parametrize(("name", "parameter"), [("poisson", 100.3), ("skellam", 200.0), ("poisson", 1e6)])
@pytest.mark.parametrize("right", [0, 1])
def test_values_beyond_stand_as_often_as_they_must(name, parameter, right):
    found = _lattice.table(name, parameter)
    law, shift = found.law, 64 - (found.counts[-1] - 1).bit_length()
    last = _kernels.Undecided(0, len(found.counts) - 1, 0, 0, 0.0)
    first_words = [right << shift, 0b0, 5]  # the side, the first block, the sixth place
    y = found.end + 5 if right else law.first - 6
    doublings = 1 + found.beyond_bits - found.arrays.block_bits
    low, _ = law.weight(y, 256 + 640)
    digits = (low << doublings) // found.unit  # of the probability, in units of 2^-640
    assert (digits > 0) == (y >= 0 or name == "skellam")
    if digits:
        for moved, expected in ((digits - 2, y), (digits + 16, None)):
            assert found.settled(last, iter([*first_words, *words_of(moved, 640)])) == expected
    else:
        assert found.settled(last, iter([*first_words, 0])) is None


def test_the_last_cell_is_drawn_where_it_must(monkeypatch):
    """A table with half of its counts in the last cell: they go to the oracle, and all else stays."""
    found = _lattice.table("skellam", 200.0)
    half = list(found.counts)
    half[found.law.mode - found.law.first] -= 2**24
    half[-1] += 2**24
    arrays = found.arrays._replace(
        cells=np.array([t << found.arrays.index_bits | a for t, a in _exact.alias_columns(half)], np.uint32)
    )
    odd = _lattice.Table(found.law, arrays, tuple(half), found.unit)
    monkeypatch.setattr(_lattice, "table", lambda *_: odd)
    monkeypatch.setattr(_lattice.Table, "settled", lambda *_: 10**6)
    out = np.empty(50_000, np.int32)
    noise.draw_lattice("skellam", out, 200.0, key_of("last"))
    share = np.mean(out == 10**6)
    assert abs(share - half[-1] / 2**32) < 5 * np.sqrt(share / out.size)
    answers = iter([None, 7] * out.size)
    monkeypatch.setattr(_lattice.Table, "settled", lambda *_: next(answers))
    again = np.empty(50_000, np.int32)
    noise.draw_lattice("skellam", again, 200.0, key_of("last"))
    kept = out != 10**6
    assert np.array_equal(again[kept], out[kept])
    assert np.abs(again[~kept]).max() < 300


# ---- decisions


@pytest.mark.parametrize(("name", "parameter"), WIDE)
def test_the_filter_decides_as_integers_do(name, parameter):
    found, out = _lattice.table(name, parameter), np.empty(3000, np.int64)
    undecided = _kernels.lattice(out, found.arrays, key_of(name), 0, 0, exact_only=True)
    assert len(undecided) > 5
    for one in undecided:
        assert abs(one.gap) > 2.0**-36
        assert (found.settled(one, iter(())) is not None) == (one.gap > 0)
        low, _ = found.law.weight(one.value, 256)
        ratio = low / (found.counts[one.cell] * found.unit)
        assert abs(ratio - one.uniform / 2 ** (128 - found.arrays.block_bits) - one.gap) < 2.0**-40


@pytest.mark.parametrize(("name", "parameter"), WIDE)
def test_digits_are_drawn_until_they_decide(name, parameter):
    """A uniform number that agrees with the acceptance in its first 128 - b bits, then in 128 more."""
    found = _lattice.table(name, parameter)
    bits, cell = 128 - found.arrays.block_bits, len(found.counts) // 3
    value = found.law.first + (cell << found.arrays.block_bits) + 1
    low, _ = found.law.weight(value, 256 + 320)
    digits = (low << bits + 128) // (
        found.counts[cell] * found.unit << 320
    )  # 128 bits more than the first look
    further = [digits >> 64 & 2**64 - 1, digits & 2**64 - 1]
    one = _kernels.Undecided(0, cell, value, digits >> 128, 0.0)
    for last, expected in ((0, value), (2**64 - 1, None)):
        more = iter([*further, last, last])
        assert found.settled(one, more) == expected
        assert len(list(more)) < 2
    assert found.settled(one, iter([further[0] - 1])) == value
    assert found.settled(one, iter([further[0] + 1])) is None


def test_integers_alone_follow_the_same_law():
    """All comparisons in integers: mean and variance within 5 standard errors; false alarm below 2e-6."""
    out = np.empty(20_000, np.int64)
    noise.draw_lattice("poisson", out, 1e6, key_of("integers"), exact_only=True)
    z = (out - 1e6) / 1e3
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs((z * z).mean() - 1) < 5 * np.sqrt(2 / z.size)


def test_what_integers_refuse_is_drawn_anew(monkeypatch):
    """An oracle that refuses everything once changes exactly the undecided ones, and only those."""
    before, after = np.empty(3000, np.int64), np.empty(3000, np.int64)
    key, refused = key_of("anew"), set()
    undecided = _kernels.lattice(before, _lattice.table("poisson", 1e6).arrays, key, 0, 0, exact_only=True)

    def settled(self, found, more):
        seen = found.uniform in refused
        refused.add(found.uniform)
        return found.value if seen or len(refused) > len(undecided) + 50 else None

    monkeypatch.setattr(_lattice.Table, "settled", settled)
    noise.draw_lattice("poisson", after, 1e6, key, exact_only=True)
    places = {one.position for one in undecided}
    assert set(np.flatnonzero(before != after)) <= places
    assert np.count_nonzero(before != after) > 0.9 * len(places)


# ---- bytes


@pytest.mark.parametrize(("name", "parameter"), NARROW)
def test_points_equal_the_twin(name, parameter):
    out = np.empty(1500, np.int64)
    noise.draw_lattice(name, out, parameter, key_of(name))
    assert out.tolist() == reference.points(_lattice.table(name, parameter).arrays, key_of(name), out.size)


@pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)
@pytest.mark.parametrize(("name", "parameter"), [("skellam", 200.0), ("poisson", 1e6)])
def test_all_backends_and_dtypes_give_the_same(backend, name, parameter):
    for length in (0, 1, 511, 512, 513, 2 * _kernels.LATTICE_CHUNK // 3, _kernels.LATTICE_CHUNK + 7):
        expected, found = np.empty(length, np.int64), np.empty(length, np.int32)
        noise.draw_lattice(name, expected, parameter, key_of(name), backend=_kernels.backends()[-1])
        noise.draw_lattice(name, found, parameter, key_of(name), backend=backend)
        assert np.array_equal(found, expected)


def test_chunks_do_not_repeat():
    chunk = _kernels.LATTICE_CHUNK
    for sampler, parameter in ((noise.skellam, 200.0), (noise.poisson, 1e6), (noise.skellam, 1e9)):
        first, second = sampler(2 * chunk, parameter).reshape(2, chunk)
        assert np.mean(first == second) < 0.05


def test_narrow_and_wide_skellam_noise_meet():
    """On both sides of the last law that a table holds: variances within 5 standard errors."""
    least, most = 22_000, 25_000
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if _lattice.is_narrow("skellam", middle) else (least, middle)
    for variance in (least, most):
        out = noise.skellam(100_000, variance, insecure_key=key_of("meet", variance))
        assert abs((out / np.sqrt(variance)).var() - 1) < 5 * np.sqrt(2 / out.size)


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
