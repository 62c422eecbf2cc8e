"""Discrete Gaussian and wide Skellam noise: tables, filters, and every byte against a twin in mpmath."""

from fractions import Fraction
from functools import lru_cache
from hashlib import sha256
from itertools import chain, islice, repeat

import mpmath as mp
import numpy as np
import pytest
from reference import bell_reference as reference

from fedsec import _bell, _exact, _kernels, noise
from fedsec.errors import FedsecError

GAUSSIANS = [
    *map(_bell.DiscreteGaussian, (0.1, 0.5, 1.0, 3.7, 4.0, 4.01, 7.9, 8.0, 50.0, 1e3, 1e6, 2.0**20 + 0.3)),
    *map(_bell.DiscreteGaussian, (2.0**28, 2.0**40)),
]
SKELLAMS = [*map(_bell.WideSkellam, (22_000.0, 7.2e6, 1e9 + 0.25, 2.0**41))]
LAWS = [*GAUSSIANS, *SKELLAMS]
EVERYWHERE = [
    *LAWS,
    *(_bell.DiscreteGaussian(0.1 * 2.1**k) for k in range(40)),
    *(_bell.WideSkellam(22_111.0 * 3.1**k) for k in range(16)),
]
MARGIN = 8  # FS_BELL_MARGIN
BACKENDS = pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)


def named(law):
    kind = "skellam" if isinstance(law, _bell.WideSkellam) else "gaussian"
    return f"{kind}-{float(law.variance):.6g}"


def each(laws):
    return pytest.mark.parametrize("law", laws, ids=named)


table_of = lru_cache(_bell.table)


def key_of(*words):
    return sha256(repr(words).encode()).digest()


def drawn(law, size=3000, dtype=np.int64, **options):
    out = np.empty(size, dtype)
    noise.draw_bells(out, table_of(law), key_of(law), **options)
    return out


def deviation(law):
    return float(law.variance) ** 0.5


# ---- the table


@each(EVERYWHERE)
def test_candidates_have_the_probabilities_that_are_divided_out(law):
    """Thresholds and aliases give each cell its count, of 2^14; no weight in it exceeds count * unit."""
    table = table_of(law)
    found = [0] * 64
    for column, entry in enumerate(table.structure.cells):
        threshold, alias = divmod(entry, 256)
        found[column] += threshold
        found[alias] += 256 - threshold
    assert tuple(found) == table.counts
    assert sum(found) == 2**14
    assert table.counts[63] == 1
    for cell, count in enumerate(table.counts[:63]):
        nearest = cell - 31 if table.block_bits is None else cell << table.block_bits
        assert law.weight(nearest, 256)[1] <= count * table.unit
    wasted = table.unit * 2**14 / float(mp.mpf(2) ** 256)
    stddev = deviation(law)
    area = max(1.0, stddev * 2.506) if table.block_bits is None else stddev * 1.2533 / 2**table.block_bits
    assert wasted < 1.16 * area  # more than six candidates of seven stand


@each(EVERYWHERE)
def test_what_is_beyond_the_cells_is_below_its_probability(law):
    """First at the nearest integer; from there weights fall by more than a half a block: log-concave."""
    table = table_of(law)
    size, start, raised = (
        (1, 32, 2) if table.block_bits is None else (2**table.block_bits, 63 << table.block_bits, 1)
    )
    near, far = (law.weight(y, 600) for y in (start, start + size))
    chance = Fraction(near[1] << raised, table.unit << 600 - 256)
    assert chance < Fraction(MARGIN, 2**16)  # so that the filter leaves it open or refuses
    assert far[1] * 2 < near[0] or start > 25 * deviation(law)  # beyond that 600 bits say nothing


def log_weight(law, z):
    """Debye's expansion in double precision, which for a Gaussian ends with its first term."""
    if isinstance(law, _bell.DiscreteGaussian):
        return -0.5 * z * z
    v = float(law.variance)
    e2 = z * z / v
    return -z * z * (0.5 - e2 / 24 + e2**2 / 80) - np.log1p(e2) / 4 + 1 / (8 * v)


@each(
    [*LAWS, *map(_bell.DiscreteGaussian, (4.4, 15.99, 31.0, 91.0, 200.0, 3e5)), _bell.WideSkellam(150.0**2)]
)
def test_the_filters_error(law):
    """For every cell and sign, and every offset of 16 bits: less than the margin, in units of 2^-16."""
    table, bell, stddev = table_of(law), table_of(law).structure, deviation(law)
    block_bits = table.block_bits or 0
    offsets = (
        np.arange(0, 2**16, max(2 ** (16 - min(block_bits, 16)), 5)) if block_bits else np.zeros(1, np.int64)
    )
    ratio = 2.0**block_bits / stddev

    def product(a, b):
        return a * b >> 16

    worst = 0.0
    for cell in range(64):
        beyond = cell == 63
        height = table.unit * table.counts[cell] / 2**256
        for sign in (0, 1) if bell.mirrored else (0,):
            t = np.minimum((offsets & bell.offset_mask) + sign * bell.step, 2**16 - 1)
            v = product(t, bell.slopes[cell] + product(t, bell.curvature))
            assert v.max() < 2**16
            e = 10073 - product(v, 1671)
            e = 65535 - product(v, 65502 - product(v, 32479 - product(v, e)))
            acceptance = product(bell.heights[cell], product(e, e))
            assert acceptance.min() >= 0
            assert e.max() < 2**16
            for hidden in (0.0, 1.0) if block_bits > 16 else (0.0,):  # bits that the filter does not see
                place = (offsets + hidden) / 2**16 + sign * 2.0**-block_bits
                z = (cell + place) * ratio if bell.mirrored else (cell - 31) / stddev
                exact = np.exp(log_weight(law, z)) / height if not beyond else 0.0
                worst = max(worst, np.abs(acceptance - 65536 * exact).max())
    assert worst < MARGIN - 0.1


@each(LAWS)
def test_double_precision_decides_as_integers_do(law):
    """With a margin that is well above its error: for Skellam laws, of 1 / v^2, and 1 / (14 v^2) is seen."""
    table, out = table_of(law), np.empty(30_000, np.int64)
    rounding = 2.0**-42
    asymptotic = 0.08 / float(law.variance) ** 2 if law in SKELLAMS else 0.0
    undecided = _kernels.discrete_gaussian(out, table.structure, key_of(law), 0, [], exact_only=True)
    assert len(undecided) > 1 or deviation(law) == 0.1
    for one in undecided:
        assert abs(one.gap) > table.structure.margin > 10 * asymptotic + 2.0**-37
        assert (table.settled(one, iter(())) is not None) == (one.gap > 0)
        exact = reference.probability(table, one.cell, one.value) - mp.mpf(one.uniform) / 2**80
        assert abs(exact - one.gap) < rounding + asymptotic
        assert abs(exact) < (MARGIN + 9) / 65536


@each([*map(_bell.DiscreteGaussian, (0.5, 3.7, 50.0, 2.0**40)), *SKELLAMS[::2]])
def test_digits_are_drawn_until_they_decide(law):
    """A uniform number that agrees with the acceptance in its first 80 bits, then in 128 more."""
    table = table_of(law)
    cell = 34
    value = 3 if table.block_bits is None else (cell << table.block_bits) + 1
    with mp.workdps(150):
        digits = int(reference.probability(table, cell, value) * 2**208)
    one = _kernels.BellUndecided(0, 0, cell, value, digits >> 128, 0.0)
    further = [digits >> 64 & 2**64 - 1, digits & 2**64 - 1]
    for last, expected in ((0, value), (2**64 - 1, None)):
        more = iter([*further, last, last])
        assert table.settled(one, more) == expected
        assert len(list(more)) < 2
    assert table.settled(one, iter([further[0] - 1])) == value
    assert table.settled(one, iter([further[0] + 1])) is None


# ---- beyond


@each([*map(_bell.DiscreteGaussian, (0.1, 4.0, 4.01, 1000.0, 2.0**40)), SKELLAMS[0]])
def test_values_beyond_the_cells(law):
    """Blocks by the ones at the end of the first word, places by the second, signs by its first bit."""
    table = table_of(law)
    size = 1 if table.block_bits is None else 2**table.block_bits
    start = 32 if table.block_bits is None else 63 * size
    for words, block in (([0b0], 0), ([0b1], 1), ([0b0111], 3), ([2**64 - 1, 0b1011], 66)):
        for positive in (0, 1):
            value, halved = table._beyond(iter([*words, positive << 63 | (size - 1)]))
            distance = start + block * size + size - 1
            negative = -distance if table.block_bits is None else -distance - 1
            assert value == (distance if positive else negative)
            assert halved == block + (2 if table.block_bits is None else 1)


@each([*map(_bell.DiscreteGaussian, (3.9, 4.01, 1000.0)), *SKELLAMS[:2]])
def test_a_candidate_beyond_stands_as_often_as_it_must(law):
    """Its probability, from the digits that decide: those just below it stand, those just above do not."""
    table = table_of(law)
    last = [0b1, 1 << 63]  # the second block, its first place, to the right
    value, halved = table._beyond(iter(last))
    length = int(-mp.log(reference.weight(_bell.DiscreteGaussian(deviation(law)), value), 2)) + 200
    low, _ = law.weight(value, 80 + 64 * (length // 64) + 64)
    digits = (low << 256 + halved) // (table.unit << 64)
    for shift, expected in ((-1, value), (2, None)):
        moved = digits + shift
        words = [moved >> 64 * i & 2**64 - 1 for i in reversed(range(length // 64))]
        one = _kernels.BellUndecided(0, 0, 63, 0, moved >> 64 * (length // 64), 0.0)
        assert table.settled(one, chain(last, words, repeat(0))) == expected


@pytest.mark.parametrize("answer", ["refuses", "accepts"])
@pytest.mark.parametrize(
    ("law", "dtype"),
    [
        (_bell.DiscreteGaussian(3.0), np.int64),
        (_bell.DiscreteGaussian(1000.0), np.int32),
        (_bell.DiscreteGaussian(2.0**30), np.int64),
        (SKELLAMS[1], np.int32),
    ],
)
def test_what_integers_refuse_leaves_no_trace_and_what_they_give_stands(monkeypatch, law, dtype, answer):
    """All that 16 bits leave open goes to an oracle: the others are what they were, in their order."""
    table, key = table_of(law), key_of("oracle", law)
    before = np.empty(60_000, np.int64)
    undecided = _kernels.discrete_gaussian(before, table.structure, key, 0, [], exact_only=True)
    places = [one.position for one in undecided]
    assert len(places) > 5

    monkeypatch.setattr(_bell.Bell, "settled", lambda *_: None if answer == "refuses" else 77)
    after = np.empty(60_000, dtype)
    noise.draw_bells(after, table, key, exact_only=True)
    if answer == "accepts":
        before[places] = 77
        assert np.array_equal(after, before)
    else:
        kept = np.delete(before, places)
        assert np.array_equal(after[: len(kept)], kept)


def test_a_variate_that_does_not_fit_is_reported_and_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(_bell.Bell, "settled", lambda *_: 2**31)
    out = np.full(60_000, 7, np.int32)
    with pytest.raises(FedsecError, match="does not fit int32"):
        noise.draw_bells(out, _bell.discrete_gaussian(1000.0), bytes(32), exact_only=True)
    assert not out.any()


def test_more_undecided_than_there_is_room_for():
    """They are counted first, and then told: here all that 16 bits leave open."""
    table, out = table_of(_bell.DiscreteGaussian(100.0)), np.empty(900_000, np.int32)
    undecided = _kernels.discrete_gaussian(out, table.structure, bytes(32), 0, [], exact_only=True)
    assert len(undecided) > 150
    some = [one.candidate for one in undecided[3::5]]
    fewer = _kernels.discrete_gaussian(out, table.structure, bytes(32), 0, some, exact_only=True)
    assert {one.candidate for one in undecided} - set(some) <= {one.candidate for one in fewer}
    assert not set(some) & {one.candidate for one in fewer}


# ---- bytes


@each(LAWS)
def test_equals_the_twin(law):
    size = 400 if law in SKELLAMS else 1500  # Bessel functions in mpmath take time
    assert drawn(law, size).tolist() == reference.variates(table_of(law), key_of(law), size)


def test_equals_the_twin_on_random_deviations():
    rng = np.random.default_rng(1)
    for stddev in map(float, np.exp(rng.uniform(np.log(0.1), np.log(2.0**40), 40))):
        law = _bell.DiscreteGaussian(stddev)
        assert drawn(law, 40).tolist() == reference.variates(table_of(law), key_of(law), 40)


@BACKENDS
@each(LAWS)
def test_every_backend_gives_the_same(backend, law):
    for size in (0, 1, 31, 1023, 1056, 5000):
        expected = drawn(law, size, backend=_kernels.backends()[-1])
        assert np.array_equal(drawn(law, size, backend=backend), expected)
        if deviation(law) <= 2.0**25:
            narrow = drawn(law, size, backend=backend, dtype=np.int32)
            assert narrow.dtype == np.int32
            assert np.array_equal(narrow, expected)


@each(LAWS)
def test_integers_instead_of_double_precision_give_the_same(law):
    assert np.array_equal(drawn(law, 40_000), drawn(law, 40_000, exact_only=True))


def test_a_longer_call_begins_with_a_shorter_one():
    chunk = _kernels.BELL_CHUNK
    long = drawn(_bell.DiscreteGaussian(20.0), chunk + 5000, dtype=np.int32)
    assert np.array_equal(long[:70_000], drawn(_bell.DiscreteGaussian(20.0), 70_000))
    assert np.mean(long[chunk:] == long[:5000]) < 0.05  # another chunk, other words


def test_neighbouring_doubles_are_different_laws():
    one, other = (table_of(_bell.DiscreteGaussian(x)) for x in (2.0**40, np.nextafter(2.0**40, 0)))
    assert one.unit != other.unit


def test_candidates_of_the_twin_are_in_canonical_order():
    numbers = [
        number
        for number, *_ in islice(reference.candidates(table_of(_bell.DiscreteGaussian(2.0)), bytes(32)), 2100)
    ]
    assert numbers == list(range(2100))


# ---- Skellam weights


@pytest.mark.parametrize("bits", [64, 256, 400, 510])
@pytest.mark.parametrize("variance", [2.0**14, 22_500.7, 1e6 + 0.3, 2.0**41])
def test_bessel_functions_are_enclosed(variance, bits):
    """Where mpmath can say, and by I_(n-1) - I_(n+1) = 2 n I_n / x where it cannot."""
    p, q = variance.as_integer_ratio()
    for z in (0.0, 0.02, 1.0, 5.0, 8.0):
        n = round(z * variance**0.5)
        low, high = _exact.scaled_bessel(n, p, q, bits)
        with mp.workdps(400):
            x = mp.mpf(variance)
            exact = mp.sqrt(2 * mp.pi * x) * mp.exp(-x) * mp.besseli(n, x) * 2**bits
            assert low <= exact <= high
        assert high - low <= 8
    for z in (12.0, 16.0, 20.0):
        n = round(z * variance**0.5)
        before, this, after = (_exact.scaled_bessel(m, p, q, bits) for m in (n - 1, n, n + 1))
        assert before[0] - after[1] <= Fraction(2 * n * this[1] * q, p)
        assert before[1] - after[0] >= Fraction(2 * n * this[0] * q, p)
        assert this[1] - this[0] <= 8


def test_bessel_functions_say_where_they_end():
    with pytest.raises(ArithmeticError, match="variance"):
        _exact.scaled_bessel(0, 2**14, 1, 513)
    assert _exact.scaled_bessel(2**12 + 1, 2**14, 1, 500) == (0, 1)
    with mp.workdps(200):
        assert mp.sqrt(2 * mp.pi * 2**14) * mp.exp(-(2**14)) * mp.besseli(2**12, 2**14) < mp.mpf(2) ** -512


@pytest.mark.parametrize("variance", [2.0**14, 22_500.0, 1e5])
def test_the_error_of_debyes_expansion(variance):
    """Of the weight over its leading factor: below 1 / s^2, as docs/noise.md proves, s = sqrt(v^2 + y^2)."""
    with mp.workdps(60):
        v = mp.mpf(variance)
        for y in (0, 1, round(variance**0.5), round(5 * variance**0.5), round(8 * variance**0.5)):
            s = mp.sqrt(v * v + y * y)
            exact = mp.sqrt(2 * mp.pi * s) * mp.besseli(y, v) * mp.exp(y * mp.asinh(y / v) - s)
            assert abs(exact - 1 - (3 - 5 * (y / s) ** 2) / (24 * s)) < 1 / s**2
