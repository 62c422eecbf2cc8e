"""Exact integer noise: tables, filters, what is left to integers, and every byte against a twin in mpmath."""

from fractions import Fraction
from functools import lru_cache
from hashlib import sha256
from itertools import chain, islice, repeat

import mpmath as mp
import numpy as np
import pytest
from reference import bell_reference as reference

from fedsec import _bell, _kernels, _laws, noise
from fedsec.errors import FedsecError

GAUSSIANS = [
    *map(_laws.DiscreteGaussian, (0.1, 0.5, 1.0, 3.7, 4.0, 4.01, 7.9, 8.0, 50.0, 1e3, 1e6, 2.0**20 + 0.3)),
    *map(_laws.DiscreteGaussian, (2.0**28, 2.0**40)),
]
WIDE_SKELLAMS = [*map(_laws.WideSkellam, (2.0**14, 22_000.0, 7.2e6, 1e9 + 0.25, 2.0**41))]
NARROW_SKELLAMS = [*map(_laws.NarrowSkellam, (2.0**-10, 0.7, 16.0, 16.1, 63.9, 200.0, 1100.5))]
SKELLAMS = [*WIDE_SKELLAMS, *NARROW_SKELLAMS]
POISSONS = [
    *map(_laws.NarrowPoisson, (2.0**-10, 0.7, 16.0, 16.6, 63.9, 100.3, 2000.5)),
    *map(_laws.WidePoisson, (2.0**14, 25_000.7, 1e6, 2.0**40)),
]
LAWS = [*GAUSSIANS, *SKELLAMS, *POISSONS]
EVERYWHERE = [
    *LAWS,
    *(_laws.DiscreteGaussian(0.1 * 2.1**k) for k in range(40)),
    *(_laws.WideSkellam(22_111.0 * 7.1**k) for k in range(9)),
    *(_laws.NarrowSkellam(0.003 * 3.9**k) for k in range(12)),
    *(_laws.NarrowPoisson(0.003 * 3.9**k) for k in range(12)),
    *(_laws.WidePoisson(22_111.0 * 7.1**k) for k in range(9)),
    *(_laws.NarrowPoisson(mean) for mean in (17.5, 17.99, 64.99, 255.99, 1023.5, 16_383.99)),
]
MARGIN = 8  # FS_BELL_MARGIN
BACKENDS = pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)


def named(law):
    return f"{type(law).__name__}-{float(law.variance):.6g}"


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
    size = 2 ** (table.block_bits or 0)
    weights = tabulated(law, table.first - 64 * size, table.first + 64 * size)
    for cell, count in enumerate(table.counts[:63]):
        for nearest in (cell * size, ~(cell * size)) if table.structure.mirrored else (cell,):
            assert weights(table.first + nearest)[1] <= count * table.unit
    candidates = mp.mpf(table.unit * 2**14) / 2**256 * (size if table.block_bits is None else 2 * size)
    assert candidates < 1.16 * total(law)  # more than six candidates of seven stand


def tabulated(law, first, last):
    """Weights to 256 bits; one by one they would take a narrow law long."""
    if isinstance(law, _laws.NarrowLaw):
        table = law.weights(min(first, law.middle), last)
        return lambda y: table[y - min(first, law.middle)]
    return lambda y: law.weight(y, 256)


def total(law):
    """Of all weights."""
    if isinstance(law, _laws.NarrowLaw):
        return 1 / reference.mass("skellam" if law.even else "poisson", law.parameter, law.middle)
    if deviation(law) < 4:
        return sum(reference.weight(law, y) for y in range(-40, 41))
    return 2.5066 * deviation(law)


@each(EVERYWHERE)
def test_what_is_beyond_the_cells_is_below_its_probability(law):
    """So that it stands with a probability: blocks are half as likely each, and weights fall by more soon."""
    table = table_of(law)
    size, start, raised = (
        (1, 63, 2) if table.block_bits is None else (2**table.block_bits, 63 << table.block_bits, 1)
    )
    begins = [table.first + start + size * block for block in range(4)]
    ends = [table.first - 1 - (0 if table.block_bits is None else start) - size * block for block in range(4)]
    for side in begins, ends:
        weights = [law.weight(y, 500) for y in side]
        for block, (_, high) in enumerate(weights):
            chance = Fraction(high << raised + block, table.unit << 500 - 256)
            assert chance < Fraction(MARGIN, 2**16)  # so that the filter leaves it open or refuses
        # From there on they are log-concave. Beyond 25 deviations 500 bits say nothing.
        assert (
            weights[3][1] * 2 <= weights[2][0]
            or max(map(abs, side)) - law.middle > 25 * deviation(law)
            or not weights[2][1]
        )


def log_weights(law, y):
    """In double precision, of integers, and of what is between them where a law is wide."""
    v = float(law.variance)
    if isinstance(law, _laws.NarrowLaw):
        first, last = int(min(y.min(), law.middle)), int(max(y.max(), law.middle))
        table = np.array([low for low, _ in law.weights(first, last)], np.float64) / 2.0**256
        with np.errstate(divide="ignore"):
            return np.log(table[np.int64(y) - first])
    if isinstance(law, _laws.WidePoisson):
        e = (y - v) / v
        phi = sum((-1) ** j / (j * (j - 1)) * e ** (j - 2) for j in range(2, 7 if v > 1e9 else 23))
        return -(2.0**-10) - v * e * e * phi - np.log1p(e) / 2 - 1 / (12 * y)
    z2 = y * y / v
    if isinstance(law, _laws.DiscreteGaussian):
        return -0.5 * z2
    e2 = z2 / v
    return -z2 * (0.5 - e2 / 24 + e2**2 / 80) - np.log1p(e2) / 4 + 1 / (8 * v)


@each(
    [
        *LAWS,
        *map(_laws.DiscreteGaussian, (4.4, 15.99, 31.0, 91.0, 200.0, 3e5)),
        *map(_laws.NarrowSkellam, (40.0, 64.1, 255.9, 1025.0, 16_383.0)),
        *map(_laws.NarrowPoisson, (16.5, 40.0, 64.0, 64.5, 255.9, 257.0, 1024.5, 4097.9, 16_383.99)),
    ]
)
def test_the_filters_error(law):
    """For every cell and side, and every offset of 16 bits: less than the margin, in units of 2^-16."""
    table, bell = table_of(law), table_of(law).structure
    block_bits = table.block_bits or 0
    offsets = (
        np.arange(0, 2**16, max(2 ** (16 - min(block_bits, 16)), 5)) if block_bits else np.zeros(1, np.int64)
    )

    def product(a, b):
        return a * b >> 16

    cells, worst = np.arange(63)[:, np.newaxis], 0.0
    for left in (0, 1) if bell.mirrored else (0,):
        slopes, heights, curvatures = (
            np.array(list(numbers[left if bell.skewed else 0]))[:, np.newaxis]
            for numbers in (bell.slopes, bell.heights, bell.curvatures)
        )
        t = np.minimum((offsets & bell.offset_mask) + left * bell.step, 2**16 - 1)
        v = product(t, slopes + product(t, curvatures if bell.curved else curvatures[:1]))
        assert v.max() < 2**16
        e = 10073 - product(v, 1671)
        e = 65535 - product(v, 65502 - product(v, 32479 - product(v, e)))
        acceptance = product(heights, product(e, e))
        assert acceptance.min() >= 0
        assert e.max() < 2**16
        worst = max(worst, acceptance[63].max())
        height = np.array([table.unit * count / 2**256 for count in table.counts[:63]])[:, np.newaxis]
        for hidden in (0.0, 1.0) if block_bits > 16 else (0.0,):  # bits that the filter does not see
            distance = (cells + (offsets + hidden) / 2**16) * 2.0**block_bits
            exact = np.exp(log_weights(law, table.first + (-1 - distance if left else distance))) / height
            worst = max(worst, np.abs(acceptance[:63] - 65536 * exact).max())
    assert worst < MARGIN - 0.1


@each(LAWS)
def test_double_precision_decides_as_integers_do(law):
    """With a margin that is well above its error: for Skellam laws, of 1 / v^2, and 1 / (14 v^2) is seen."""
    table, out = table_of(law), np.empty(30_000, np.int64)
    rounding = 2.0**-42
    asymptotic = 0.08 / float(law.variance) ** 2 if law in WIDE_SKELLAMS else 0.0
    undecided = _kernels.bells(out, table.structure, key_of(law), 0, [], exact_only=True)
    assert len(undecided) > 1 or deviation(law) <= 0.1
    for one in undecided:
        assert abs(one.gap) > table.structure.margin > 10 * asymptotic + 2.0**-37
        assert (table.settled(one, iter(())) is not None) == (one.gap > 0)
        exact = reference.probability(table, one.cell, one.value) - mp.mpf(one.uniform) / 2**80
        assert abs(exact - one.gap) < rounding + asymptotic
        assert abs(exact) < (MARGIN + 9) / 65536


@each([*map(_laws.DiscreteGaussian, (0.5, 3.7, 50.0, 2.0**40)), *SKELLAMS[1::2], *POISSONS[1::3]])
def test_digits_are_drawn_until_they_decide(law):
    """A uniform number that agrees with the acceptance in its first 80 bits, then in 128 more."""
    table = table_of(law)
    cell = 34 if table.block_bits is None and law.even else 5
    value = table.first + (cell if table.block_bits is None else (cell << table.block_bits) + 1)
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


@each([*map(_laws.DiscreteGaussian, (0.1, 4.0, 4.01, 1000.0, 2.0**40)), *SKELLAMS[::3], *POISSONS[::3]])
def test_values_beyond_the_cells(law):
    """Blocks by the ones at the end of the first word, places by the second, signs by its first bit."""
    table = table_of(law)
    size = 1 if table.block_bits is None else 2**table.block_bits
    to_left = 0 if table.block_bits is None else 63 * size
    for words, block in (([0b0], 0), ([0b1], 1), ([0b0111], 3), ([2**64 - 1, 0b1011], 66)):
        for positive in (0, 1):
            value, halved = table._beyond(iter([*words, positive << 63 | (size - 1)]))
            distance = (63 * size if positive else to_left) + block * size + size - 1
            assert value - table.first == (distance if positive else -distance - 1)
            assert halved == block + (2 if table.block_bits is None else 1)


@each([*map(_laws.DiscreteGaussian, (3.9, 4.01, 1000.0)), *SKELLAMS[1:9:2], *POISSONS[2::2]])
def test_a_candidate_beyond_stands_as_often_as_it_must(law):
    """Its probability, from the digits that decide: those just below it stand, those just above do not."""
    table = table_of(law)
    last = [0b1, 1 << 63]  # the second block, its first place, to the right
    value, halved = table._beyond(iter(last))
    rough = law.weight(value, 400)[1]
    length = 400 - rough.bit_length() + 200
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
        (_laws.DiscreteGaussian(3.0), np.int64),
        (_laws.DiscreteGaussian(1000.0), np.int32),
        (_laws.DiscreteGaussian(2.0**30), np.int64),
        (_laws.WideSkellam(7.2e6), np.int32),
        (_laws.NarrowSkellam(200.0), np.int64),
        (_laws.NarrowPoisson(100.3), np.int32),
    ],
)
def test_what_integers_refuse_leaves_no_trace_and_what_they_give_stands(monkeypatch, law, dtype, answer):
    """All that 16 bits leave open goes to an oracle: the others are what they were, in their order."""
    table, key = table_of(law), key_of("oracle", law)
    before = np.empty(60_000, np.int64)
    undecided = _kernels.bells(before, table.structure, key, 0, [], exact_only=True)
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
    table, out = table_of(_laws.DiscreteGaussian(100.0)), np.empty(900_000, np.int32)
    undecided = _kernels.bells(out, table.structure, bytes(32), 0, [], exact_only=True)
    assert len(undecided) > 150
    some = [one.candidate for one in undecided[3::5]]
    fewer = _kernels.bells(out, table.structure, bytes(32), 0, some, exact_only=True)
    assert {one.candidate for one in undecided} - set(some) <= {one.candidate for one in fewer}
    assert not set(some) & {one.candidate for one in fewer}


# ---- bytes


@each(LAWS)
def test_equals_the_twin(law):
    size = 1500 if law in GAUSSIANS else 400  # Bessel functions in mpmath take time
    assert drawn(law, size).tolist() == reference.variates(table_of(law), key_of(law), size)


def test_equals_the_twin_on_random_deviations():
    rng = np.random.default_rng(1)
    for stddev in map(float, np.exp(rng.uniform(np.log(0.1), np.log(2.0**40), 40))):
        law = _laws.DiscreteGaussian(stddev)
        assert drawn(law, 40).tolist() == reference.variates(table_of(law), key_of(law), 40)


@BACKENDS
@each(LAWS)
def test_every_backend_gives_the_same(backend, law):
    for size in (0, 1, 31, 1023, 1056, 5000):
        expected = drawn(law, size, backend=_kernels.backends()[-1])
        assert np.array_equal(drawn(law, size, backend=backend), expected)
        if law.middle + 64 * deviation(law) < 2.0**31:
            narrow = drawn(law, size, backend=backend, dtype=np.int32)
            assert narrow.dtype == np.int32
            assert np.array_equal(narrow, expected)


@each(LAWS)
def test_integers_instead_of_double_precision_give_the_same(law):
    assert np.array_equal(drawn(law, 40_000), drawn(law, 40_000, exact_only=True))


def test_a_longer_call_begins_with_a_shorter_one():
    chunk = _kernels.BELL_CHUNK
    long = drawn(_laws.DiscreteGaussian(20.0), chunk + 5000, dtype=np.int32)
    assert np.array_equal(long[:70_000], drawn(_laws.DiscreteGaussian(20.0), 70_000))
    assert np.mean(long[chunk:] == long[:5000]) < 0.05  # another chunk, other words


def test_neighbouring_doubles_are_different_laws():
    one, other = (table_of(_laws.DiscreteGaussian(x)) for x in (2.0**40, np.nextafter(2.0**40, 0)))
    assert one.unit != other.unit


def test_candidates_of_the_twin_are_in_canonical_order():
    numbers = [
        number
        for number, *_ in islice(reference.candidates(table_of(_laws.DiscreteGaussian(2.0)), bytes(32)), 2100)
    ]
    assert numbers == list(range(2100))
