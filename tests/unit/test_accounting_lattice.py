"""Laws on lattices: what moving and composing them may do, against sums written out."""

import numpy as np
import pytest

from fedsec.accounting import lattice
from fedsec.accounting.grid import Grid
from fedsec.accounting.rounding import Atoms

EPSILONS = np.linspace(-1.0, 3.0, 41)


def law(seed, h=0.01, size=300, theta=2.0):
    """A bumpy law with an atom, tilted."""
    rng = np.random.default_rng(seed)
    mass = rng.random(size) * np.exp(-(((np.arange(size) - 0.4 * size) / (0.1 * size)) ** 2))
    mass[rng.integers(size)] += mass.sum()
    return lattice.tilted(Grid(-1.0, np.arange(size), h), Atoms(mass / mass.sum(), 0.0), theta)


def hockey(law, theta, epsilon):
    """E[(1 - e^(epsilon - l))_+] under the law before it was tilted."""
    untilted = law.mass * np.exp(law.scale - theta * law.x)
    return float(untilted @ -np.expm1(np.minimum(epsilon - law.x, 0.0)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ratio", [2.0, 3.7, 8.0, 40.0, 1000.0])
@pytest.mark.parametrize("theta", [0.0, 2.0, 30.0])
def test_moving_keeps_to_its_side(seed, ratio, theta):
    before = law(seed, theta=theta)
    above = lattice.moved(before, ratio * before.h, theta, 1)
    below = lattice.moved(before, ratio * before.h, theta, -1)
    for epsilon in EPSILONS:
        truth = hockey(before, theta, epsilon)
        assert hockey(below, theta, epsilon) <= truth * (1 + 1e-11) + 1e-15
        assert hockey(above, theta, epsilon) >= truth * (1 - 1e-11) - 1e-15


@pytest.mark.parametrize("theta", [0.0, 2.0])
def test_a_coarse_lattice_loses_little(theta):
    before = law(3, h=0.001, size=3000, theta=theta)
    for side in (1, -1):
        after = lattice.moved(before, 0.02, theta, side)
        assert hockey(after, theta, 0.0) == pytest.approx(hockey(before, theta, 0.0), rel=2e-3)


@pytest.mark.parametrize("counts", [(1, 1), (2, 0), (5, 3), (40, 7)])
def test_composition_is_convolution(counts):
    one, other = law(1), law(2)
    direct = np.array([1.0])
    for part, count in zip((one, other), counts, strict=True):
        for _ in range(count):
            direct = np.convolve(direct, part.mass)
    runs = [(part, count) for part, count in zip((one, other), counts, strict=True) if count]
    first = sum(count * int(part.index[0]) for part, count in runs)
    found = lattice._convolved(runs, *lattice._window(runs, 1e-10), 1e-10)
    inside = np.isin(np.arange(first, first + direct.size), found.index)
    assert direct[~inside].sum() <= 2e-10
    held = direct[np.clip(found.index - first, 0, direct.size - 1)]
    held[(found.index < first) | (found.index >= first + direct.size)] = 0.0
    difference = np.abs(found.mass - held)
    assert difference.sum() <= found.error + found.noise * np.sqrt(found.points)
    assert np.linalg.norm(difference) <= found.noise + 2e-10


def test_stages_agree_with_one_transform(monkeypatch):
    """A composition in many small stages stays on its side of the one that needs none."""
    one = law(4, h=0.002, size=1200)
    exact = lattice._held([(one, 5000)], 1e-10, 2.0, 1)
    monkeypatch.setattr(lattice, "_MOST_POINTS", 2**12)
    above, below = (lattice.composed([(one, 5000)], one.h, 2.0, side, 1 / 28) for side in (1, -1))
    assert above.h > 8 * one.h
    middle = float(exact.mass @ exact.x)
    for epsilon in (middle - 5.0, middle, middle + 5.0):
        truth = log_hockey(exact, 2.0, epsilon)
        assert log_hockey(below, 2.0, epsilon) <= truth <= log_hockey(above, 2.0, epsilon)


def log_hockey(law, theta, epsilon):
    """Logarithm of the hockey stick, but for what epsilon alone decides."""
    y = np.maximum(law.x - epsilon, 0.0)
    return np.log(float(law.mass @ (np.exp(-theta * y) * -np.expm1(-y)))) + law.scale


def test_windows_hold_what_they_promise():
    part = law(5)
    for count in (1, 10, 100):
        direct = np.array([1.0])
        for _ in range(count):
            direct = np.convolve(direct, part.mass)
        first, last = lattice._window([(part, count)], 1e-8)
        index = np.arange(direct.size) + count * int(part.index[0])
        assert direct[index < first].sum() <= 1e-8
        assert direct[index > last].sum() <= 1e-8
