"""Adaptive composition: budgets for plans whose next step depends on what earlier steps released.

An accountant adds up a schedule that was fixed beforehand. As soon as noise or sampling depend on earlier
outputs, or the sum is read where one happens to stop, it is a random number, and no guarantee: choosing the
best order afterwards, or accounting exactly for what was run, can miss delta by a factor of two in three
steps, and no such "natural" filter is valid in general [TKRH26]. What holds then:

- a filter, for a budget fixed beforehand: every event is judged before it runs, and what is released up to
  any stopping time is (target_epsilon, target_delta)-private;
- an odometer, for no budget at all: its reading holds whenever one stops, at a price.

Both lean on one fact. With L the privacy loss so far and C the sum of the cumulants at an order 1 + beta that
was fixed beforehand, M = exp(beta L - C) has E[M] <= 1 at every stopping time, since each step's cumulant is
known before the step runs [FZ21, Lec21]. And (1 - e^(epsilon - L))+ <= delta M for every L as soon as

    C <= beta epsilon + log(delta) + log(1 + beta) + beta log(1 + 1/beta),                               (*)

the conversion of `accountant`; the expectation of the left side bounds P(S) - e^epsilon Q(S) for every set
of outputs S. For a choice among K orders afterwards, the mean of K such M takes the place of M, and (*) has
delta / K for delta. (Other odometers: [Lec21, WRRW23].)

Gaussian-DP needs neither: each mu-Gaussian-DP step is made from the increment of a Brownian motion with
drift 0 or 1 over a stretch of length mu^2 (Blackwell's theorem, in [DRS22]), so whatever is made from
stretches of total length at most mu^2, wherever one stops, is made from the motion at mu^2, and
mu-Gaussian-DP [ST22, KTH23].

References
----------
[FZ21]  Feldman, Zrnic, Individual Privacy Accounting via a Rényi Filter, NeurIPS 2021 (arXiv 2008.11193).
[Lec21] Lécuyer, Practical Privacy Filters and Odometers with Rényi Differential Privacy and Applications to
        Differentially Private Deep Learning, 2021 (arXiv 2103.01379).
[WRRW23] Whitehouse, Ramdas, Rogers, Wu, Fully-Adaptive Composition in Differential Privacy, ICML 2023
        (arXiv 2203.05481).
[DRS22] Dong, Roth, Su, Gaussian Differential Privacy, JRSS B 84(1), 2022 (arXiv 1905.02383).
[ST22]  Smith, Thakurta, Fully Adaptive Composition for Gaussian Differential Privacy, 2022
        (arXiv 2210.17520).
[KTH23] Koskela, Tobaben, Honkela, Individual Privacy Accounting with Gaussian Differential Privacy,
        ICLR 2023 (arXiv 2209.15596).
[TKRH26] Tran, Koskela, Räisä, Honkela, f-Differential Privacy Filters: Validity and Approximate Solutions,
        2026 (arXiv 2602.06756).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from fedsec import _checks
from fedsec.accounting import gaussian, integer_noise
from fedsec.accounting.accountant import (
    Accountant,
    check_orders,
    conversion,
    epsilon_at,
    tally,
    total_cumulant,
)
from fedsec.accounting.events import (
    DiscreteGaussian,
    DiscreteGaussianSum,
    Event,
    Gaussian,
    NeighboringRelation,
    Skellam,
    check_count,
    check_event,
    check_relation,
)
from fedsec.accounting.numbers import ROUNDING, Array
from fedsec.accounting.summary import PrivacySpent, samplers_in_words, unit_in_words
from fedsec.errors import BudgetExceededError, InvalidArgumentError, InvalidTypeError, UnsupportedError

if TYPE_CHECKING:
    from typing_extensions import Self

_ADD_OR_REMOVE = NeighboringRelation.ADD_OR_REMOVE_ONE
_TINY = 1e-300  # no square counts for less: underflow must not make anything free
_MU_RANGE = 1e-100, 1e100  # whose squares are doubles
_SLACK = 1e-12  # of a target mu, so that rounding does not keep from it what meets it exactly
_OCTAVES = np.arange(-10.0, 20.0, 1.0 / 16.0)  # from log(1/delta) / epsilon: where a filter seeks its order
_ODOMETER_ORDERS = 1.0 + np.exp2(np.arange(-1.0, 9.0, 0.5))


class _Spending(abc.ABC):
    """What was spent so far, never rounded down; what it means is for the classes below to say."""

    def __init__(self, neighboring_relation: NeighboringRelation, size: int) -> None:
        self._relation = check_relation(neighboring_relation)
        self._counts: dict[Event, int] = {}
        self._spent: Array = np.zeros(size)

    @property
    def neighboring_relation(self) -> NeighboringRelation:
        """The relation that every guarantee refers to."""
        return self._relation

    def spend(self, event: Event, count: int = 1) -> Self:
        """Record `count` runs of an event, with fresh randomness each, before they happen.

        Parameters
        ----------
        event : Event
            What is about to be done; its parameters may depend on everything released so far.
        count : int
            A whole number in [1, 2**53]; runs whose parameters are fixed by now.

        Raises
        ------
        BudgetExceededError
            A filter's budget does not allow it.
        InvalidTypeError, InvalidArgumentError
            Not an event (an accountant is none, whatever it has added up), or not such a count.
        UnsupportedError
            The event has no valid analysis here.

        Notes
        -----
        After an error nothing is recorded.
        """
        spent = self._after(event, count)
        self._refuse(event, count, spent)
        self._counts, self._spent = tally(event, count, self._counts), spent
        return self

    def _record(self, epsilon: float, delta: float) -> PrivacySpent:
        return PrivacySpent(
            epsilon=epsilon,
            epsilon_lower=0.0,
            delta=delta,
            neighboring_relation=self._relation,
            accountant=type(self).__name__,
            unit=unit_in_words(self._relation),
            samplers=samplers_in_words(self._counts),
        )

    def _after(self, event: Event, count: int) -> Array:
        added = tally(_event("event", event), check_count(count), {})
        return self._sum(self._spent, self._cost(added)) if added else self._spent

    @staticmethod
    def _sum(spent: Array, cost: Array) -> Array:
        return np.asarray(np.nextafter(spent + cost, math.inf))

    @abc.abstractmethod
    def _cost(self, added: Mapping[Event, int]) -> Array:
        """What these mechanisms cost, an upper bound."""

    @abc.abstractmethod
    def _refuse(self, event: Event, count: int, spent: Array) -> None:
        """Raise `BudgetExceededError` if this must not be spent."""


class _Filter(_Spending):
    """Spending against a budget."""

    _budget: float

    def would_exceed(self, event: Event, count: int = 1) -> bool:
        """Whether `spend(event, count)` would raise `BudgetExceededError`; nothing is recorded."""
        return not self._fits(self._after(event, count))

    @property
    def fraction_spent(self) -> float:
        """How much of the budget is used up, in [0, 1]; a gauge, not a guarantee of its own."""
        return min(1.0, float(self._spent[0]) / self._budget)

    def _fits(self, spent: Array) -> bool:
        return bool(spent[0] <= self._budget)  # false for NaN

    def _refuse(self, event: Event, count: int, spent: Array) -> None:
        if not self._fits(spent):
            raise BudgetExceededError(
                f"{count} x {event!r} would bring what is spent to {spent[0] / self._budget:.6g} times the "
                f"budget of {self!r}, of which {self.fraction_spent:.6g} is used; nothing was recorded"
            )


class RDPFilter(_Filter):
    """A budget (target_epsilon, target_delta) for events chosen as one goes, through one Rényi order.

    Parameters
    ----------
    target_epsilon : float
        Positive and finite.
    target_delta : float
        In (0, 1).
    neighboring_relation : NeighboringRelation
        Which data sets must not be told apart; add or remove one by default.
    order : float, optional
        The Rényi order to spend at, finite and above 1.
    planned : Event, optional
        The event that is expected most: the order is the one at which it fits most often. Without `order`
        and `planned`, the order is right for unsampled Gaussian noise, whatever its scale. Give it for
        sampled noise: beyond the order that suits that, it may cost hundreds of times as much.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        An argument is not what it should be; both `order` and `planned`; an order at which the targets leave
        nothing to spend; a planned event that is free, or cannot be had at any price.
    UnsupportedError
        `planned` has no valid analysis under this relation.

    Notes
    -----
    Guarantee: everything that was released up to any stopping time, which may depend on what was released,
    is (target_epsilon, target_delta)-private if each event was spent before it ran. The order stays as it
    was chosen: the best order afterwards, or a numeric accountant afterwards, is no such guarantee.
    """

    def __init__(
        self,
        *,
        target_epsilon: float,
        target_delta: float,
        neighboring_relation: NeighboringRelation = _ADD_OR_REMOVE,
        order: float | None = None,
        planned: Event | None = None,
    ) -> None:
        super().__init__(neighboring_relation, 1)
        self._epsilon = _checks.positive("target_epsilon", target_epsilon)
        self._delta = _checks.open_unit("target_delta", target_delta)
        if order is not None and planned is not None:
            raise InvalidArgumentError(f"give order or planned, not both: got {order!r} and {planned!r}")
        if order is None:
            self._beta = self._best(Gaussian(1.0) if planned is None else _event("planned", planned))
        else:
            self._beta = check_orders([order]) - 1.0
        self._budget = float(self._budgets(self._beta)[0])
        if not self._budget > 0.0:
            raise InvalidArgumentError(
                f"order must be large enough for target_epsilon = {self._epsilon!r} and target_delta = "
                f"{self._delta!r} to leave something to spend, got {order!r}"
            )

    def __repr__(self) -> str:
        targets = f"target_epsilon={self._epsilon!r}, target_delta={self._delta!r}"
        return f"RDPFilter({targets}, order={self.order!r})"

    @property
    def target_epsilon(self) -> float:
        """The epsilon that is never exceeded."""
        return self._epsilon

    @property
    def target_delta(self) -> float:
        """The delta that belongs to it."""
        return self._delta

    @property
    def order(self) -> float:
        """The Rényi order at which events are priced."""
        return 1.0 + float(self._beta[0])

    def spent(self) -> PrivacySpent:
        """Return a record of the guarantee: the targets, whatever part of the budget is used."""
        return self._record(self._epsilon, self._delta)

    def _budgets(self, beta: Array) -> Array:
        """The right side of (*) at each order, rounded down."""
        gain, exponent, log_delta = conversion(beta), beta * self._epsilon, math.log(self._delta)
        return np.asarray(gain + exponent + log_delta - ROUNDING * (gain + exponent - log_delta))

    def _best(self, planned: Event) -> Array:
        """The order at which the budget pays for the most runs of an event."""
        beta = -math.log(self._delta) / self._epsilon * np.exp2(_OCTAVES)
        price = total_cumulant(tally(planned, 1, {}), beta, self._relation)
        runs = self._budgets(beta) / price if price.all() else np.zeros_like(beta)
        best = int(np.argmax(runs))
        if not runs[best] > 0.0:
            raise InvalidArgumentError(f"planned must have a positive and finite price, got {planned!r}")
        return np.asarray(beta[best : best + 1])

    def _cost(self, added: Mapping[Event, int]) -> Array:
        return total_cumulant(added, self._beta, self._relation)


class GDPFilter(_Filter):
    """A budget of Gaussian-DP for events chosen as one goes: the sum of their mu^2 is at most target_mu^2.

    Exact for Gaussian noise, and better than `RDPFilter` for integer noise too; nothing else may be spent.

    Parameters
    ----------
    target_mu : float, optional
        In [1e-100, 1e100].
    target_epsilon, target_delta : float, optional
        In place of `target_mu`: positive and finite, and in (0, 1). They stand for the largest mu they allow.
    neighboring_relation : NeighboringRelation
        Which data sets must not be told apart; add or remove one by default.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        An argument is not what it should be; neither or both kinds of target.

    Notes
    -----
    Guarantee: everything that was released up to any stopping time, which may depend on what was released,
    is mu-Gaussian-DP for mu = target_mu (1 + 1e-12), if each event was spent before it ran. `spend` takes
    `Gaussian`, `DiscreteGaussian`, `Skellam` and `DiscreteGaussianSum`, and refuses other events with
    `UnsupportedError`.
    """

    def __init__(
        self,
        *,
        target_mu: float | None = None,
        target_epsilon: float | None = None,
        target_delta: float | None = None,
        neighboring_relation: NeighboringRelation = _ADD_OR_REMOVE,
    ) -> None:
        super().__init__(neighboring_relation, 1)
        if (target_mu is None) is (target_epsilon is None) or (target_epsilon is None) is not (
            target_delta is None
        ):
            raise InvalidArgumentError(
                "give target_mu, or target_epsilon and target_delta, got "
                f"target_mu={target_mu!r}, target_epsilon={target_epsilon!r}, target_delta={target_delta!r}"
            )
        if target_mu is None:
            epsilon = _checks.positive("target_epsilon", target_epsilon)
            target_mu = _largest_mu(epsilon, _checks.open_unit("target_delta", target_delta))
        self._mu = _checks.within("target_mu", target_mu, *_MU_RANGE)
        self._delta = target_delta
        self._budget = self._mu * self._mu * (1.0 + _SLACK)

    def __repr__(self) -> str:
        return f"GDPFilter(target_mu={self._mu!r})"

    @property
    def target_mu(self) -> float:
        """The mu that is never exceeded."""
        return self._mu

    def epsilon(self, delta: float) -> float:
        """Return the epsilon, rounded up, that the whole budget amounts to at a delta in (0, 1)."""
        return gaussian.epsilon(self._mu * (1.0 + _SLACK), _checks.open_unit("delta", delta), 1)

    def spent(self, delta: float | None = None) -> PrivacySpent:
        """Return a record of the guarantee at delta, or at `target_delta`, whatever part of it is used."""
        at = self._delta if delta is None else delta
        return self._record(self.epsilon(cast(float, at)), cast(float, at))

    def _cost(self, added: Mapping[Event, int]) -> Array:
        mus = ((_gdp_mu(event, self._relation), count) for event, count in added.items())
        total = sum(count * max(mu * mu, _TINY) for mu, count in mus)
        return np.array([total * (1.0 + ROUNDING * len(added))])


def _largest_mu(epsilon: float, delta: float) -> float:
    """The largest mu, rounded down, whose delta at epsilon is at most delta."""
    low, high = 0.0, 1.0
    while gaussian.log_delta(high, epsilon, 1) <= math.log(delta):
        low, high = high, 2.0 * high
    while low < (middle := 0.5 * (low + high)) < high:
        fits = gaussian.log_delta(middle, epsilon, 1) <= math.log(delta) * (1.0 + ROUNDING)
        low, high = (middle, high) if fits else (low, middle)
    return low * (1.0 - _SLACK)


def _gdp_mu(event: Event, relation: NeighboringRelation) -> float:
    """An upper bound on mu for one mechanism."""
    if isinstance(event, Gaussian):
        return (2.0 if relation is NeighboringRelation.REPLACE_ONE else 1.0) / event.noise_multiplier
    if isinstance(event, (DiscreteGaussian, Skellam, DiscreteGaussianSum)):
        return integer_noise.gdp_mu(event, relation)
    raise UnsupportedError(
        f"GDPFilter takes unsampled Gaussian and integer noise only, got {event!r}; RDPFilter takes others"
    )


class RDPOdometer(_Spending):
    """An epsilon to read off at any time, for events chosen as one goes and no budget in mind.

    Parameters
    ----------
    target_delta : float
        In (0, 1).
    neighboring_relation : NeighboringRelation
        Which data sets must not be told apart; add or remove one by default.
    orders : sequence of float, optional
        Rényi orders, each finite and above 1, fixed beforehand: the fewer, the cheaper, as long as one of
        them suits what will be spent. By default 20, two in each octave of alpha - 1, from 0.5 to 362.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        An argument is not what it should be.

    Notes
    -----
    Guarantee: for every level e, and wherever one stops, the releases for which the odometer reads at most e
    are (e, target_delta)-private: P(S) <= e^e Q(S) + target_delta for each set S of them. Against a filter
    that knew the best of the K orders beforehand, the reading at order alpha is larger by
    log(K) / (alpha - 1).
    """

    def __init__(
        self,
        *,
        target_delta: float,
        neighboring_relation: NeighboringRelation = _ADD_OR_REMOVE,
        orders: Sequence[float] | npt.NDArray[np.float64] | None = None,
    ) -> None:
        self._beta = np.unique(check_orders(_ODOMETER_ORDERS if orders is None else orders)) - 1.0
        super().__init__(neighboring_relation, self._beta.size)
        self._delta = _checks.open_unit("target_delta", target_delta)

    @property
    def target_delta(self) -> float:
        """The delta that every reading belongs to."""
        return self._delta

    def epsilon(self) -> float:
        """Return the epsilon of everything spent so far: zero or above, rounded up."""
        if not self._counts:
            return 0.0
        log_inverse = (math.log(self._beta.size) - math.log(self._delta)) * (1.0 + ROUNDING)
        return max(0.0, math.nextafter(epsilon_at(self._spent, self._beta, log_inverse).min(), math.inf))

    def spent(self) -> PrivacySpent:
        """Return a record of what the odometer reads."""
        return self._record(self.epsilon(), self._delta)

    def _cost(self, added: Mapping[Event, int]) -> Array:
        return total_cumulant(added, self._beta, self._relation)

    def _refuse(self, event: Event, count: int, spent: Array) -> None:
        """An odometer refuses nothing that can be priced."""


def _event(name: str, value: object) -> Event:
    """Return an event; name the accountant that someone takes for one."""
    if isinstance(value, (Accountant, _Spending)):
        raise InvalidTypeError(
            f"{name} must be an event, got a {type(value).__name__}: what was added up for a fixed schedule "
            "cannot become part of an adaptive one; spend the events themselves"
        )
    return check_event(name, value)
