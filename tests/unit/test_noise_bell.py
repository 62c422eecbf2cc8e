"""The discrete Gaussian: its table, its filters, what is beyond, and every byte against a twin in mpmath."""

from fractions import Fraction
from hashlib import sha256
from itertools import chain, islice, repeat

import mpmath as mp
import numpy as np
import pytest
from reference import bell_reference as reference

from fedsec import _bell, _kernels, noise
from fedsec.errors import FedsecError

STDDEVS = [0.1, 0.5, 1.0, 3.7, 4.0, 4.01, 7.9, 8.0, 50.0, 1e3, 1e6, 2.0**20 + 0.3, 2.0**28, 2.0**40]
EVERYWHERE = [*STDDEVS, *(0.1 * 2.1**k for k in range(40))]
MARGIN = 8  # FS_BELL_MARGIN
BACKENDS = pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)


def key_of(*words):
    return sha256(repr(words).encode()).digest()


def drawn(stddev, size=3000, **options):
    out = np.empty(size, options.pop("dtype", np.int64))
    noise.draw_discrete_gaussian(out, stddev, key_of(stddev), **options)
    return out


# ---- the table


@pytest.mark.parametrize("stddev", EVERYWHERE)
def test_candidates_have_the_probabilities_that_are_divided_out(stddev):
    """Thresholds and aliases give each cell its count, of 2^14; no weight in it exceeds count * unit."""
    table = _bell.table(stddev)
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
        assert _bell.weight(stddev, nearest, 256)[1] <= count * table.unit
    wasted = table.unit * 2**14 / float(mp.mpf(2) ** 256)
    area = (
        max(1.0, float(stddev) * 2.506) if table.block_bits is None else stddev * 1.2533 / 2**table.block_bits
    )
    assert wasted < 1.16 * area  # more than six candidates of seven stand


@pytest.mark.parametrize("stddev", EVERYWHERE)
def test_what_is_beyond_the_cells_is_below_its_probability(stddev):
    """First at the nearest integer; from there weights fall by more than a half a block: log-concave."""
    table = _bell.table(stddev)
    size, start, raised = (
        (1, 32, 2) if table.block_bits is None else (2**table.block_bits, 63 << table.block_bits, 1)
    )
    with mp.workdps(40):
        z, step = mp.mpf(start) / stddev, mp.mpf(size) / stddev
        chance = mp.exp(-z * z / 2) * 2**256 / table.unit * 2**raised
        assert chance < mp.mpf(MARGIN) / 2**16  # so that the filter leaves it open or refuses
        assert mp.exp(-(z * step + step * step / 2)) < 0.5


@pytest.mark.parametrize("stddev", [*STDDEVS, 4.4, 15.99, 31.0, 91.0, 200.0, 3e5])
def test_the_filters_error(stddev):
    """For every cell and sign, and every offset of 16 bits: less than the margin, in units of 2^-16."""
    table, bell = _bell.table(stddev), _bell.table(stddev).structure
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
                exact = np.exp(-0.5 * z * z) / height if not beyond else 0.0
                worst = max(worst, np.abs(acceptance - 65536 * exact).max())
    assert worst < MARGIN - 0.1


@pytest.mark.parametrize("stddev", STDDEVS)
def test_double_precision_decides_as_integers_do(stddev):
    table, out = _bell.table(stddev), np.empty(30_000, np.int64)
    undecided = _kernels.discrete_gaussian(out, table.structure, key_of(stddev), 0, [], exact_only=True)
    assert len(undecided) > 1 or stddev == 0.1
    for one in undecided:
        assert abs(one.gap) > 2.0**-36
        assert (table.settled(one, iter(())) is not None) == (one.gap > 0)
        exact = reference.probability(table, stddev, one.cell, one.value) - mp.mpf(one.uniform) / 2**80
        assert abs(exact - one.gap) < 2.0**-42
        assert abs(exact) < (MARGIN + 9) / 65536


@pytest.mark.parametrize("stddev", [0.5, 3.7, 50.0, 2.0**40])
def test_digits_are_drawn_until_they_decide(stddev):
    """A uniform number that agrees with the acceptance in its first 80 bits, then in 128 more."""
    table = _bell.table(stddev)
    cell = 34
    value = 3 if table.block_bits is None else (cell << table.block_bits) + 1
    with mp.workdps(150):
        digits = int(reference.probability(table, stddev, cell, value) * 2**208)
    one = _kernels.BellUndecided(0, 0, cell, value, digits >> 128, 0.0)
    further = [digits >> 64 & 2**64 - 1, digits & 2**64 - 1]
    for last, expected in ((0, value), (2**64 - 1, None)):
        more = iter([*further, last, last])
        assert table.settled(one, more) == expected
        assert len(list(more)) < 2
    assert table.settled(one, iter([further[0] - 1])) == value
    assert table.settled(one, iter([further[0] + 1])) is None


# ---- beyond


@pytest.mark.parametrize("stddev", [0.1, 4.0, 4.01, 1000.0, 2.0**40])
def test_values_beyond_the_cells(stddev):
    """Blocks by the ones at the end of the first word, places by the second, signs by its first bit."""
    table = _bell.table(stddev)
    size = 1 if table.block_bits is None else 2**table.block_bits
    start = 32 if table.block_bits is None else 63 * size
    for words, block in (([0b0], 0), ([0b1], 1), ([0b0111], 3), ([2**64 - 1, 0b1011], 66)):
        for positive in (0, 1):
            value, halved = table._beyond(iter([*words, positive << 63 | (size - 1)]))
            distance = start + block * size + size - 1
            negative = -distance if table.block_bits is None else -distance - 1
            assert value == (distance if positive else negative)
            assert halved == block + (2 if table.block_bits is None else 1)


@pytest.mark.parametrize("stddev", [3.9, 4.01, 1000.0])
def test_a_candidate_beyond_stands_as_often_as_it_must(stddev):
    """Its probability, from the digits that decide: those just below it stand, those just above do not."""
    table = _bell.table(stddev)
    last = [0b1, 1 << 63]  # the second block, its first place, to the right
    value, halved = table._beyond(iter(last))
    with mp.workdps(900):
        acceptance = (
            mp.exp(-(mp.mpf(value) ** 2) / (2 * mp.mpf(stddev) ** 2)) * 2 ** (256 + halved) / table.unit
        )
        length = int(-mp.log(acceptance, 2)) + 200
        digits = int(acceptance * 2 ** (80 + 64 * (length // 64)))
    for shift, expected in ((-1, value), (2, None)):
        moved = digits + shift
        words = [moved >> 64 * i & 2**64 - 1 for i in reversed(range(length // 64))]
        one = _kernels.BellUndecided(0, 0, 63, 0, moved >> 64 * (length // 64), 0.0)
        assert table.settled(one, chain(last, words, repeat(0))) == expected


@pytest.mark.parametrize("answer", ["refuses", "accepts"])
@pytest.mark.parametrize(("stddev", "dtype"), [(3.0, np.int64), (1000.0, np.int32), (2.0**30, np.int64)])
def test_what_integers_refuse_leaves_no_trace_and_what_they_give_stands(monkeypatch, stddev, dtype, answer):
    """All that 16 bits leave open goes to an oracle: the others are what they were, in their order."""
    table, key = _bell.table(stddev), key_of("oracle", stddev)
    before = np.empty(60_000, np.int64)
    undecided = _kernels.discrete_gaussian(before, table.structure, key, 0, [], exact_only=True)
    places = [one.position for one in undecided]
    assert len(places) > 5

    monkeypatch.setattr(_bell.Bell, "settled", lambda *_: None if answer == "refuses" else 77)
    after = np.empty(60_000, dtype)
    noise.draw_discrete_gaussian(after, stddev, key, exact_only=True)
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
        noise.draw_discrete_gaussian(out, 1000.0, bytes(32), exact_only=True)
    assert not out.any()


def test_more_undecided_than_there_is_room_for():
    """The room of an ordinary call is for 64; here all that 16 bits leave open is told."""
    table, out = _bell.table(100.0), np.empty(900_000, np.int32)
    undecided = _kernels.discrete_gaussian(out, table.structure, bytes(32), 0, [], exact_only=True)
    assert len(undecided) > 150
    some = [one.candidate for one in undecided[3::5]]
    fewer = _kernels.discrete_gaussian(out, table.structure, bytes(32), 0, some, exact_only=True)
    assert {one.candidate for one in undecided} - set(some) <= {one.candidate for one in fewer}
    assert not set(some) & {one.candidate for one in fewer}


# ---- bytes


@pytest.mark.parametrize("stddev", STDDEVS)
def test_equals_the_twin(stddev):
    table, key = _bell.table(stddev), key_of(stddev)
    assert drawn(stddev, 1500).tolist() == reference.variates(table, stddev, key, 1500)


def test_equals_the_twin_on_random_deviations():
    rng = np.random.default_rng(1)
    for stddev in map(float, np.exp(rng.uniform(np.log(0.1), np.log(2.0**40), 40))):
        assert drawn(stddev, 40).tolist() == reference.variates(
            _bell.table(stddev), stddev, key_of(stddev), 40
        )


@BACKENDS
@pytest.mark.parametrize("stddev", STDDEVS)
def test_every_backend_gives_the_same(backend, stddev):
    for size in (0, 1, 31, 1023, 1024, 5000):
        expected = drawn(stddev, size, backend=_kernels.backends()[-1])
        assert np.array_equal(drawn(stddev, size, backend=backend), expected)
        if stddev <= 2.0**25:
            narrow = drawn(stddev, size, backend=backend, dtype=np.int32)
            assert narrow.dtype == np.int32
            assert np.array_equal(narrow, expected)


@pytest.mark.parametrize("stddev", STDDEVS)
def test_integers_instead_of_double_precision_give_the_same(stddev):
    assert np.array_equal(drawn(stddev, 40_000), drawn(stddev, 40_000, exact_only=True))


def test_a_longer_call_begins_with_a_shorter_one():
    chunk = _kernels.BELL_CHUNK
    long = drawn(20.0, chunk + 5000, dtype=np.int32)
    assert np.array_equal(long[:70_000], drawn(20.0, 70_000))
    assert np.mean(long[chunk:] == long[:5000]) < 0.05  # another chunk, other words


def test_neighbouring_doubles_are_different_laws():
    table, other = _bell.table(2.0**40), _bell.table(float(np.nextafter(2.0**40, 0)))
    assert table.unit != other.unit
    assert Fraction(table.stddev) != Fraction(other.stddev)


def test_candidates_of_the_twin_are_in_canonical_order():
    numbers = [number for number, *_ in islice(reference.candidates(_bell.table(2.0), bytes(32)), 2100)]
    assert numbers == list(range(2100))
