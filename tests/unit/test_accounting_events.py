import dataclasses
import math

import numpy as np
import pytest

from fedsec.accounting import Composed, Gaussian, Laplace, NonPrivate, PoissonSampled, Repeated
from fedsec.accounting.events import leaves
from fedsec.errors import InvalidArgumentError, InvalidTypeError

G = Gaussian(1.0)


@pytest.mark.parametrize("kind", [Gaussian, Laplace])
@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf])
def test_noise_must_be_positive_and_finite(kind, value):
    with pytest.raises(InvalidArgumentError, match=r"noise_multiplier must be .*, got"):
        kind(value)


@pytest.mark.parametrize("value", ["1.0", None, True, 1j, [1.0]])
def test_noise_must_be_a_number(value):
    with pytest.raises(InvalidTypeError, match="noise_multiplier must be a real number"):
        Gaussian(value)


@pytest.mark.parametrize("value", [-1e-9, 1.0000001, math.nan, math.inf])
def test_probability_must_be_one(value):
    with pytest.raises(InvalidArgumentError, match=r"sampling_probability must be .*, got"):
        PoissonSampled(G, value)


@pytest.mark.parametrize("count", [0, -3, 2**53 + 1])
def test_count_has_a_range(count):
    with pytest.raises(InvalidArgumentError, match=r"count must be in \[1, 9007199254740992\]"):
        Repeated(G, count)


@pytest.mark.parametrize("count", [1.0, 2.5, True, "3", None, math.nan])
def test_count_must_be_whole(count):
    with pytest.raises(InvalidTypeError, match="count must be a whole number"):
        Repeated(G, count)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PoissonSampled(1.1, 0.5),
        lambda: Repeated(Gaussian, 3),
        lambda: Composed([G, "Gaussian"]),
        lambda: Composed(G),
        lambda: Composed("G"),
    ],
)
def test_parts_must_be_events(make):
    with pytest.raises(InvalidTypeError, match="event"):
        make()


def test_events_are_immutable_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        G.noise_multiplier = 2.0
    parts = [G]
    composed = Composed(parts)
    parts.append(NonPrivate())
    assert composed == Composed((Gaussian(1),))
    assert hash(PoissonSampled(Gaussian(np.float32(0.5)), 1)) == hash(PoissonSampled(Gaussian(0.5), 1.0))
    assert Gaussian(1.0) != Laplace(1.0)
    assert repr(Repeated(G, 3)) == "Repeated(event=Gaussian(noise_multiplier=1.0), count=3)"


def test_leaves_open_every_bracket():
    inner = Composed([G, Repeated(Laplace(2.0), 5), Composed([])])
    assert list(leaves(Repeated(inner, 3), 2)) == [(G, 6), (Laplace(2.0), 30)]


def test_sampling_nothing_is_nothing_and_sampling_all_is_no_sampling():
    assert list(leaves(PoissonSampled(NonPrivate(), 0.0))) == []
    assert list(leaves(PoissonSampled(Repeated(Laplace(2.0), 4), 1.0), 2)) == [(Laplace(2.0), 8)]
    assert list(leaves(PoissonSampled(G, 0.5))) == [(PoissonSampled(G, 0.5), 1)]
