"""Metrics: what they are clipped to, and back."""

import math

import numpy as np
import pytest

from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError
from fedsec.integrations.metrics import Metrics

TWO = Metrics.of("metrics", {"accuracy": (0, 1), "loss": (-1.0, 9.0)})


def test_values_become_numbers_within_one_and_come_back():
    assert list(TWO) == ["accuracy", "loss"]
    assert len(TWO) == 2
    np.testing.assert_array_equal(TWO.scaled([0.5, 9.0]), [0.0, 1.0])
    np.testing.assert_array_equal(TWO.scaled([-3, 4.0]), [-1.0, 0.0])
    means = TWO.unscaled((TWO.scaled([0.25, 2.0]) + TWO.scaled([0.75, 3.0])) / 2)
    assert means == {"accuracy": pytest.approx(0.5), "loss": pytest.approx(2.5)}
    assert TWO.unscaled(np.array([-7.0, 7.0])) == {"accuracy": 0.0, "loss": 9.0}, "noise leaves the bounds"


def test_none():
    none = Metrics.of("metrics", {})
    assert not none
    assert none.scaled([]).size == 0
    assert none.unscaled(np.empty(0)) == {}


def test_extreme_bounds():
    wide = Metrics.of("metrics", {"wide": (-1.7e308, 1.7e308), "narrow": (1.0, 1.0 + 2**-52)})
    np.testing.assert_array_equal(wide.scaled([1.7e308, 0.0]), [1.0, -1.0])
    assert wide.unscaled(np.array([1.0, 1.0])) == {"wide": 1.7e308, "narrow": pytest.approx(1.0)}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused_by_the_metrics_name(value):
    with pytest.raises(NonFiniteError, match="'loss'"):
        TWO.scaled([0.5, value])


@pytest.mark.parametrize(
    "bounds", [{"a": (1.0, 0.0)}, {"a": (0.0, 0.0)}, {"a": (0.0, math.inf)}, {"a": (math.nan, 1.0)},
               {"a": 1.0}, {"a": (1.0,)}, {"a": ("x", 1.0)}, ["a"], {"a": None}],
)  # fmt: skip
def test_bounds_that_are_none(bounds):
    with pytest.raises(InvalidArgumentError):
        Metrics.of("train_metrics", bounds)


def test_names():
    with pytest.raises(InvalidTypeError, match="name"):
        Metrics(((7, 0.0, 1.0),))
    with pytest.raises(InvalidArgumentError, match="once"):
        Metrics((("a", 0.0, 1.0), ("a", 0.0, 2.0)))
