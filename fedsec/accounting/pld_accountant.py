"""The PLD accountant: certified intervals for epsilon and delta, refined until they are narrow.

It stands on top of `interval`, which knows what the privacy loss distribution says, and lets the Rényi
bound take part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedsec import _checks
from fedsec.accounting.accountant import Accountant, RDPAccountant
from fedsec.accounting.events import Event, NeighboringRelation
from fedsec.accounting.interval import Curve, Interval
from fedsec.accounting.numbers import Array
from fedsec.accounting.pairs.table import dominance
from fedsec.errors import UnsupportedError


class PLDAccountant(Accountant):
    """Certified lower and upper bounds on epsilon and delta, through privacy loss distributions.

    Parameters
    ----------
    neighboring_relation : NeighboringRelation
        Which data sets must not be told apart; add or remove one by default.
    tolerance : float
        Relative width of an interval for epsilon at which refinement stops, in [1e-6, 1]; a grid that would
        take much more than a second stops it as well, and the interval says how wide it is.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        An argument is not what it should be.

    Notes
    -----
    For schedules fixed beforehand: parameters that depend on earlier outputs are not covered. The truth lies
    in every interval that is returned, given the accuracy that is assumed of scipy's transforms and
    distribution functions (docs/accounting.md); an upper bound is never above that of `RDPAccountant`.
    Compositions of Gaussian noise alone have a closed form, with intervals as narrow as doubles allow.
    """

    def __init__(
        self,
        *,
        neighboring_relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
        tolerance: float = 1e-3,
    ) -> None:
        super().__init__(neighboring_relation=neighboring_relation)
        self._tolerance = _checks.within("tolerance", tolerance, 1e-6, 1.0)
        self._answers = _Answers({}, self._relation, self._tolerance)

    def compose(self, event: Event, count: int = 1) -> PLDAccountant:
        """Add `count` runs of an event, with fresh randomness each; as `RDPAccountant.compose`."""
        before = self._counts
        try:
            super().compose(event, count)
            self._answers = _Answers(self._counts, self._relation, self._tolerance)
        except BaseException:  # an interruption must not leave answers that lack an event
            self._counts = before
            raise
        return self

    def epsilon(self, delta: float) -> float:
        """Return the upper end of `epsilon_interval(delta)`."""
        return self.epsilon_interval(delta)[1]

    def delta(self, epsilon: float) -> float:
        """Return the upper end of `delta_interval(epsilon)`."""
        return self.delta_interval(epsilon)[1]

    def epsilon_interval(self, delta: float) -> tuple[float, float]:
        """Return (lower, upper) around the least epsilon that belongs to delta.

        Parameters
        ----------
        delta : float
            In (0, 1).

        Returns
        -------
        tuple of float
            Zero or above; infinite only for `NonPrivate` or beyond the range of doubles.
        """
        return self._answers.epsilon_interval(_checks.open_unit("delta", delta))

    def delta_interval(self, epsilon: float) -> tuple[float, float]:
        """Return (lower, upper) around the least delta that belongs to epsilon.

        Parameters
        ----------
        epsilon : float
            Zero or above, finite.

        Returns
        -------
        tuple of float
            In [0, 1].
        """
        return self._answers.delta_interval(_checks.non_negative("epsilon", epsilon))

    def _curve_at(self, epsilons: Array) -> tuple[Array, Array]:
        return self._answers.curve(epsilons)

    def _options(self) -> dict[str, Any]:
        return {"tolerance": self._tolerance}

    def _check(self, mechanism: Event) -> None:
        dominance(mechanism, self._relation)


class _Answers:
    """The bounds of one composition, the Rényi bound included, each asked for once."""

    def __init__(self, counts: Mapping[Event, int], relation: NeighboringRelation, tolerance: float) -> None:
        self._curve = Curve(counts, relation, tolerance)
        self._renyi = _renyi(counts, relation)
        self._epsilons: dict[float, Interval] = {}  # by delta
        self._deltas: dict[float, Interval] = {}  # by epsilon

    def epsilon_interval(self, delta: float) -> Interval:
        if delta not in self._epsilons:
            renyi = self._renyi
            self._epsilons[delta] = self._curve.epsilon_interval(
                delta, lambda: renyi.epsilon(delta) if renyi else math.inf
            )
        return self._epsilons[delta]

    def delta_interval(self, epsilon: float) -> Interval:
        """What was promised for some delta holds here as well."""
        if epsilon not in self._deltas:
            promised = (delta for delta, (_, high) in self._epsilons.items() if high <= epsilon)
            most = min(self._renyi.delta(epsilon) if self._renyi else 1.0, *promised, 1.0)
            low, high = self._curve.delta_interval(epsilon, most)
            self._deltas[epsilon] = min(low, most), min(high, most)
        return self._deltas[epsilon]

    def curve(self, epsilons: Array) -> tuple[Array, Array]:
        low, high = self._curve.deltas(epsilons)
        if self._renyi:
            high = np.minimum(high, self._renyi.curve(epsilons)[1])
        return low, np.maximum(low, high)


def _renyi(counts: Mapping[Event, int], relation: NeighboringRelation) -> RDPAccountant | None:
    accountant = RDPAccountant(neighboring_relation=relation)
    try:
        for event, count in counts.items():
            accountant.compose(event, count)
    except UnsupportedError:
        return None
    return accountant
