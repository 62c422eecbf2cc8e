"""The RDP accountant: adds up what events cost and turns the sum into epsilon or delta.

It stands between `events` (what was done), `rdp` (the price of one mechanism at each order) and whoever
asks for a budget. What it stores is the events themselves, so any real order can be asked at any time:
there is no fixed grid of orders at whose edge an optimum could hide.

References
----------
[Mir17] Mironov, Rényi Differential Privacy, CSF 2017 (arXiv 1702.07476).
[CKS20] Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, 2020 (arXiv 2004.00010).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as short
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedsec import _checks
from fedsec.accounting import summary
from fedsec.accounting.codec import canonical, check_keys, decode, encode
from fedsec.accounting.events import (
    MAX_COUNT,
    Composed,
    Event,
    NeighboringRelation,
    Repeated,
    check_count,
    check_event,
    check_relation,
    leaves,
)
from fedsec.accounting.numbers import ROUNDING, Array
from fedsec.accounting.rdp import SLACK, cumulant
from fedsec.accounting.summary import PrivacySpent
from fedsec.errors import InvalidArgumentError, InvalidTypeError

if TYPE_CHECKING:
    from typing_extensions import Self

_START = np.exp2(np.arange(-6.0, 13.0))  # orders minus one, where the search begins
_TINY = 1e-300  # no cumulant counts for less: underflow must not make anything free
_STRIDES = 4.0 ** np.arange(1.0, 17.0)  # how it goes on beyond an end,
_EXTENSIONS = 4  # so often at most: down to 1e-40, up to 1e42
_ZOOMS = 20  # how often at most the bracket around the best order shrinks, to a third or far less,
_LEFT = 1e-10  # until no more than this is left to gain, relative,
_NARROW = 1e-9  # or until its logarithmic width is this
_CLOSER = np.array([1.0, 0.8, 0.6, 0.4, 0.2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-10])  # to a parabola's minimum
_ORDERS = np.exp2(np.arange(-30.0, 44.0, 1.0 / 16.0))  # minus one, for a whole curve
_LARGEST_EPSILON = 1e290  # of a curve; beyond it exponents overflow, and delta is no larger
_INFINITE_IS_MEANT = np.errstate(over="ignore", divide="ignore")


class Accountant(abc.ABC):
    """What all accountants share: a relation, and the events composed so far."""

    def __init__(self, *, neighboring_relation: NeighboringRelation) -> None:
        self._relation = check_relation(neighboring_relation)
        self._counts: dict[Event, int] = {}

    @property
    def neighboring_relation(self) -> NeighboringRelation:
        """The relation that every answer refers to."""
        return self._relation

    @property
    def counts(self) -> Mapping[Event, int]:
        """How often each mechanism runs, in all that was composed so far; a view."""
        return MappingProxyType(self._counts)

    def compose(self, event: Event, count: int = 1) -> Self:
        """Add `count` runs of an event, with fresh randomness each, and return this accountant.

        Parameters
        ----------
        event : Event
            What was, or will be, done.
        count : int
            A whole number in [1, 2**53].

        Raises
        ------
        InvalidTypeError, InvalidArgumentError
            Not an event, or not such a count; more than 2**53 runs of one mechanism in all.
        UnsupportedError
            The event has no valid analysis under this relation.

        Notes
        -----
        After an error the accountant is as it was.
        """
        added = tally(check_event("event", event), check_count(count), {})
        for mechanism in added:
            self._check(mechanism)
        total = tally(event, count, self._counts)
        self._counts = dict(sorted(total.items(), key=repr))  # whatever the order, the same bits
        return self

    @abc.abstractmethod
    def epsilon(self, delta: float) -> float:
        """Return an epsilon, rounded up, for which everything composed so far is (epsilon, delta)-private."""

    @abc.abstractmethod
    def delta(self, epsilon: float) -> float:
        """Return a delta, rounded up, for which everything composed so far is (epsilon, delta)-private."""

    @abc.abstractmethod
    def epsilon_interval(self, delta: float) -> tuple[float, float]:
        """Return (lower, upper) around the least epsilon that belongs to delta; lower is 0.0 if unknown."""

    @abc.abstractmethod
    def delta_interval(self, epsilon: float) -> tuple[float, float]:
        """Return (lower, upper) around the least delta that belongs to epsilon; lower is 0.0 if unknown."""

    def curve(self, epsilons: Sequence[float] | npt.NDArray[np.float64]) -> tuple[Array, Array]:
        """Return bounds on delta at many epsilons.

        Parameters
        ----------
        epsilons : sequence of float or array (m,)
            Each zero or above, and finite.

        Returns
        -------
        tuple of float64 array (m,)
            Lower and upper bounds, as from `delta_interval`.

        Raises
        ------
        InvalidTypeError, InvalidArgumentError
            Not such a sequence.
        """
        return self._curve_at(check_epsilons(epsilons))

    def _curve_at(self, epsilons: Array) -> tuple[Array, Array]:
        bounds = np.array([self.delta_interval(float(epsilon)) for epsilon in epsilons])
        return bounds[:, 0], bounds[:, 1]

    def tradeoff(self, alpha: float) -> float:
        """Return a bound on the errors of every test that tells neighbouring data sets apart.

        Parameters
        ----------
        alpha : float
            Type I error (false alarms) of the test, in [0, 1].

        Returns
        -------
        float
            In [0, 1], rounded down: no test has a smaller type II error (misses). For Gaussian noise alone
            it is exact to 1e-9; otherwise as tight as the curve.
        """
        return summary.tradeoff(self, alpha)

    def advantage(self) -> float:
        """Return an upper bound on the membership advantage of every attack: true minus false positive rate.

        Returns
        -------
        float
            In [0, 1]: delta at epsilon 0.
        """
        return self.delta(0.0)

    def mu(self, delta_floor: float = 1e-12) -> float:
        """Return the mu of a Gaussian whose curve is nowhere below this one by more than `delta_floor`.

        Parameters
        ----------
        delta_floor : float
            In (0, 1).

        Returns
        -------
        float
            Zero or above, rounded up: delta(epsilon) <= delta_mu(epsilon) + delta_floor for every
            epsilon >= 0, so no test beats the trade-off curve of mu-Gaussian-DP by more than `delta_floor`.
            For Gaussian noise alone sqrt(sum count / z^2), which needs no floor.

        Notes
        -----
        The floor is needed: the far tail of a sampled Gaussian is that of the unsampled one, so without it mu
        would say little. It is a summary, and not to be composed; compose the events instead.
        """
        return summary.mu(self, delta_floor)

    def privacy_spent(self, delta: float, group_size: int = 1) -> PrivacySpent:
        """Return a record of what was spent and of what it means.

        Parameters
        ----------
        delta : float
            In (0, 1).
        group_size : int
            In [1, 10000]: how many units the data sets differ in, such as the records of one person.

        Returns
        -------
        PrivacySpent
            For a group, epsilon is exact for Gaussian noise alone, and otherwise the best that follows from
            the curve for one unit.
        """
        return summary.privacy_spent(self, delta, group_size)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that answers depend on, as plain values that JSON can hold.

        Returns
        -------
        dict
            For `load_state_dict` of an accountant of the same class, relation and options.
        """
        runs = [Repeated(event, count) for event, count in self._counts.items()]
        return {**self._identity(), "composed": encode(Composed(runs))}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Replace what was composed by a saved state, and return this accountant.

        Parameters
        ----------
        state : mapping
            As `state_dict` returns it, possibly by way of JSON. It holds plain values; nothing in it is run.

        Raises
        ------
        InvalidTypeError, InvalidArgumentError
            Not such a state, or one of another class, relation or option.
        UnsupportedError
            An event in it has no valid analysis under this relation.

        Notes
        -----
        Answers are then the saved accountant's, bit for bit. After an error the accountant is as it was.
        """
        identity = self._identity()
        check_keys("state", state, [*identity, "composed"])
        for key, mine in identity.items():
            if canonical(state[key]) != canonical(mine):
                raise InvalidArgumentError(f"{key} of state must be {mine!r}, got {short(state[key])}")
        composed = decode(state["composed"])
        before, self._counts = self._counts, {}
        try:
            return self.compose(composed)
        except BaseException:
            self._counts = before
            raise

    def _identity(self) -> dict[str, Any]:
        """What a state must have in common with the accountant that loads it."""
        return {
            "format": 1,
            "accountant": type(self).__name__,
            "neighboring_relation": self._relation.name,
            "options": self._options(),
        }

    def _options(self) -> dict[str, Any]:
        """Constructor's options that answers depend on, as plain values."""
        return {}

    @abc.abstractmethod
    def _check(self, mechanism: Event) -> None:
        """Raise `UnsupportedError` if this mechanism has no valid analysis under the relation."""


class RDPAccountant(Accountant):
    """Upper bounds on epsilon and delta of a composition, through Rényi differential privacy.

    Parameters
    ----------
    neighboring_relation : NeighboringRelation
        Which data sets must not be told apart; add or remove one by default.
    orders : sequence of float, optional
        Rényi orders, each above 1, at which the search for the best order begins. It goes on between
        them and beyond their ends, so they decide its speed rather than its result.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        An argument is not what it should be.

    Notes
    -----
    Every real order gives a valid bound [Mir17], and over the orders the bound has a single minimum (the
    numerator is convex: docs/accounting.md), so the search finds the best one. What is returned is
    enlarged by more than quadrature and rounding can have taken away.
    """

    def __init__(
        self,
        *,
        neighboring_relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
        orders: Sequence[float] | npt.NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(neighboring_relation=neighboring_relation)
        self._start = _START if orders is None else np.unique(check_orders(orders)) - 1.0

    def _options(self) -> dict[str, Any]:
        return {"search_start": self._start.tolist()}

    @_INFINITE_IS_MEANT
    def _check(self, mechanism: Event) -> None:
        cumulant(mechanism, np.ones(1), self._relation)

    @_INFINITE_IS_MEANT
    def rdp(self, orders: Sequence[float] | npt.NDArray[np.float64]) -> Array:
        """Rényi divergence of the whole composition, an upper bound at each order.

        Parameters
        ----------
        orders : sequence of float or array (m,)
            Rényi orders, each finite and above 1.

        Returns
        -------
        float64 array (m,)
            In nats; at most 1e-8 relative above the exact value for orders up to 1024, sampling
            probabilities above 1e-6 and noise multipliers in [0.3, 100], and never below it.
        """
        beta = check_orders(orders) - 1.0
        return self._cumulant(beta) / beta

    def epsilon(self, delta: float) -> float:
        """Return an epsilon for which everything composed so far is (epsilon, delta)-private.

        Parameters
        ----------
        delta : float
            In (0, 1).

        Returns
        -------
        float
            Zero or above, rounded up; infinite only for `NonPrivate` or beyond the range of doubles.
        """
        log_inverse = -math.log(_checks.open_unit("delta", delta))
        if not self._counts:
            return 0.0

        def bound(beta: Array) -> Array:
            return epsilon_at(self._cumulant(beta), beta, log_inverse)

        return max(0.0, math.nextafter(_minimum(bound, self._start), math.inf))

    def delta(self, epsilon: float) -> float:
        """Return a delta for which everything composed so far is (epsilon, delta)-private.

        Parameters
        ----------
        epsilon : float
            Zero or above, finite.

        Returns
        -------
        float
            In [0, 1], rounded up.
        """
        target = _checks.non_negative("epsilon", epsilon)
        if not self._counts:
            return 0.0

        def bound(beta: Array) -> Array:
            terms = (self._cumulant(beta), conversion(beta), beta * target)
            return terms[0] - terms[1] - terms[2] + ROUNDING * sum(terms)

        return min(1.0, math.nextafter(math.exp(min(0.0, _minimum(bound, self._start))), math.inf))

    def epsilon_interval(self, delta: float) -> tuple[float, float]:
        """Return (0.0, epsilon(delta)): Rényi divergences say nothing about how small epsilon may be."""
        return 0.0, self.epsilon(delta)

    def delta_interval(self, epsilon: float) -> tuple[float, float]:
        """Return (0.0, delta(epsilon)), for the same reason."""
        return 0.0, self.delta(epsilon)

    def _curve_at(self, epsilons: Array) -> tuple[Array, Array]:
        """One table of orders serves all epsilons; any order gives a bound, and these are dense."""
        nothing, within = np.zeros_like(epsilons), np.minimum(epsilons, _LARGEST_EPSILON)
        if not self._counts:
            return nothing, nothing.copy()
        price, exponent = self._cumulant(_ORDERS) - conversion(_ORDERS), np.multiply.outer(within, _ORDERS)
        margin = ROUNDING * (price + 2.0 * conversion(_ORDERS) + exponent)
        log_delta = np.minimum(0.0, (price - exponent + margin).min(axis=1))
        return nothing, np.minimum(1.0, np.nextafter(np.exp(log_delta), math.inf))

    def _cumulant(self, beta: Array) -> Array:
        return total_cumulant(self._counts, beta, self._relation)


def tally(event: Event, count: int, before: Mapping[Event, int]) -> dict[Event, int]:
    """How often each mechanism runs, all in all; more than 2**53 times is refused."""
    counts = dict(before)
    for leaf, times in leaves(event, count):
        counts[leaf] = counts.get(leaf, 0) + times
        if counts[leaf] > MAX_COUNT:
            raise InvalidArgumentError(f"count of {leaf!r} must be at most 2**53 in all, got {counts[leaf]}")
    return counts


@_INFINITE_IS_MEANT
def total_cumulant(counts: Mapping[Event, int], beta: Array, relation: NeighboringRelation) -> Array:
    """Return beta times the divergence of a composition; the one place that multiplies by counts."""
    total = np.zeros_like(beta)
    for event, count in counts.items():
        price = cumulant(event, beta, relation)
        total += count * np.where(np.isnan(price), np.inf, np.maximum(price, _TINY))  # unknown is not free
    return np.asarray(total * (1.0 + SLACK))


def check_orders(orders: object) -> Array:
    """Orders as a float64 array (m,), each finite and above 1."""
    return _vector("orders", orders, "finite and above 1", lambda v: (v > 1.0) & np.isfinite(v))


def check_epsilons(epsilons: object) -> Array:
    """Epsilons as a float64 array (m,), each finite and zero or above."""
    return _vector("epsilons", epsilons, "finite and zero or above", lambda v: (v >= 0.0) & np.isfinite(v))


def _vector(name: str, given: object, allowed: str, holds: Callable[[Array], npt.NDArray[np.bool_]]) -> Array:
    try:
        values = np.array(given)
    except ValueError:
        values = np.array(None)  # rows of different lengths
    if values.dtype.kind not in "iuf":  # no booleans, no texts, nothing beyond doubles
        raise InvalidTypeError(f"{name} must be a sequence of numbers, got {given!r}")
    values = values.astype(np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InvalidTypeError(f"{name} must be a non-empty one-dimensional sequence, got {given!r}")
    refused = values[~holds(values)]
    if refused.size:
        raise InvalidArgumentError(f"{name} must be {allowed}, got {refused[0]}")
    return values


def conversion(beta: Array) -> Array:
    """What the conversion gains: log(alpha) + beta log(alpha / beta), with alpha = 1 + beta.

    delta <= e^(beta (D_alpha - epsilon)) / beta (1 - 1/alpha)^alpha [CKS20, Prop. 12], so that
    log(delta) <= cumulant - beta epsilon - (log(alpha) + beta log(alpha / beta)).
    """
    return np.asarray(np.log1p(beta) + beta * np.log1p(1.0 / beta))


def epsilon_at(cumulant: Array, beta: Array, log_inverse: float) -> Array:
    """Epsilon from each order's cumulant, log_inverse = log(1 / delta), rounded up."""
    gain = conversion(beta)
    return np.asarray((cumulant - gain + log_inverse + ROUNDING * (cumulant + gain + log_inverse)) / beta)


@_INFINITE_IS_MEANT
def _minimum(bound: Callable[[Array], Array], beta: Array) -> float:
    """Return the least value of a bound that has a single valley over the orders, to 1e-9 relative.

    A parabola through the lowest three values, in log(beta), tells where to look next: the new orders crowd
    around its minimum, which is soon the bound's if that is smooth, and reach to the ends of the bracket.
    """
    beta, value = _bracketed(bound, beta)
    x, least = np.log(beta), value.min()
    for _ in range(_ZOOMS):
        i = min(max(int(np.argmin(value)), 1), x.size - 2)
        a, b, c = x[i - 1 : i + 2].tolist()
        vertex, left = _parabola(a, b, c, *value[i - 1 : i + 2].tolist())
        if not (left > _LEFT * abs(least) and c - a > _NARROW):
            break
        x = np.concatenate((vertex + (a - vertex) * _CLOSER, [vertex], vertex + (c - vertex) * _CLOSER[::-1]))
        value = bound(np.exp(x))
        least = min(least, value.min())
    return float(least)


def _parabola(a: float, b: float, c: float, at_a: float, at_b: float, at_c: float) -> tuple[float, float]:
    """Where the parabola through three points is least, and how far below at_b any convex curve may fall.

    The former lies where it does if at_b is the least value. A convex curve through two of the points is
    above their line beyond the second one.
    """
    fall, rise = (at_b - at_a) / (b - a), (at_c - at_b) / (c - b)
    bend = (rise - fall) / (c - a)
    vertex = b - 0.5 * (fall + bend * (b - a)) / bend if 0.0 < bend < math.inf else b
    return min(max(vertex, 0.5 * (a + b)), 0.5 * (b + c)), max(-fall * (c - b), rise * (b - a))


def _bracketed(bound: Callable[[Array], Array], beta: Array) -> tuple[Array, Array]:
    """Extend the orders beyond the end where the bound is least, until it is least between the ends."""
    value = bound(beta)
    for _ in range(_EXTENSIONS):
        i = int(np.argmin(value))
        if i == 0:
            beta = np.append(beta[0] / _STRIDES[::-1], beta[:2])
        elif i == beta.size - 1:
            beta = np.append(beta[-2:], beta[-1] * _STRIDES)
        else:
            break
        value = bound(beta)
    return beta, value
