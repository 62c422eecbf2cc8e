"""Random allocation: a unit takes part in k of t steps, drawn uniformly.

It turns the pair of one step into the pair of a whole run of `RandomAllocation`; `table` calls it.

Write R_i = (P/Q)(o_i) for the ratio at step i. Without the unit all steps have law Q. With it, for k = 1, one
of them has law P, and the ratio of a run is R = (R_1 + ... + R_t) / t [FS26]: its one law under Q^t serves
both directions of the relation. For k > 1 the drawn steps are one of each of k random blocks, which bounds a
run from above by k runs with one step drawn in each [FS25]. What an adversary learns between steps does not
help: R is affine in each R_i, and each law of R_i, given what came before, is below the pair's in convex
order.

References
----------
[FS25] Feldman, Shenfeld, Privacy amplification by random allocation, 2025 (arXiv 2502.08202).
[FS26] Feldman, Shenfeld, Efficient privacy loss accounting for subsampling and random allocation, ICML 2026
       (arXiv 2602.17284).
[KOV15] Kairouz, Oh, Viswanath, The Composition Theorem for Differential Privacy, ICML 2015
       (arXiv 1311.0776).
"""

from __future__ import annotations

from functools import lru_cache

from fedsec.accounting.events import NeighboringRelation, RandomAllocation
from fedsec.accounting.numbers import UNIT
from fedsec.accounting.pairs.atoms import approximate_dp
from fedsec.accounting.pairs.base import Dominance, Pair
from fedsec.accounting.pairs.ratios import LARGEST, Law, divided, law_of, pair_of, plus, power, times, total
from fedsec.errors import UnsupportedError

_SLIGHT = 1e-30  # probability of a loss beyond `LARGEST` that may be given up
_MOST_STEPS = 2**30  # more are priced as so many: the ratio's law only narrows, roundings add up


@lru_cache(maxsize=64)
def allocation(event: RandomAllocation, relation: NeighboringRelation) -> Dominance | None:
    """Return the dominating pairs of a whole run.

    Parameters
    ----------
    event : RandomAllocation
        With 1 <= num_selected <= num_steps.
    relation : NeighboringRelation
        ADD_OR_REMOVE_ONE or REPLACE_SPECIAL, which cost the same: the other units' steps do not change.

    Returns
    -------
    Dominance or None
        None where nothing is protected. There is no `below` for num_selected > 1, for more than 2**30 steps,
        where a step has none, or where losses are too large for ratios in doubles (beyond 600 with a
        probability above 1e-30): what is above then tells the steps, and keeps just a bound of their losses.

    Raises
    ------
    UnsupportedError
        REPLACE_ONE, or a step that is not one plain mechanism.
    """
    from fedsec.accounting.pairs.table import dominance

    if relation is NeighboringRelation.REPLACE_ONE:
        raise UnsupportedError(
            f"there is no analysis of {event!r} under REPLACE_ONE; use ADD_OR_REMOVE_ONE or REPLACE_SPECIAL"
        )
    step = dominance(event.event, relation)
    if step is None:
        return None
    if not step.symmetric:
        raise UnsupportedError(f"there is no analysis of {event!r}: a step must be one plain mechanism")
    return _run(step, event.num_steps, event.num_selected)


def _run(step: Dominance, steps: int, selected: int) -> Dominance:
    if steps == selected == 1:
        return step
    if step.above.range(_SLIGHT)[1] > LARGEST or selected > _MOST_STEPS:
        return Dominance(_told(step.above, selected), None, symmetric=True)
    above = pair_of(_blocks(step.above, min(steps, max(selected, _MOST_STEPS)), selected))
    if above.infinite[0] >= 1.0 or not above.loss.size:
        return Dominance(_told(step.above, selected), None, symmetric=True)
    if step.below is None or selected > 1 or steps > _MOST_STEPS:
        return Dominance(above, None, symmetric=False)
    below = pair_of(divided(total(law_of(step.below, -1), steps, -1), steps))
    return Dominance(above, below, symmetric=False)


def _told(step: Pair, selected: int) -> Pair:
    """What so many steps cost at most when they are told: guarantees add up, and dominate [KOV15]."""
    epsilon, delta = step.range(_SLIGHT)[1], _SLIGHT + max(step.infinite)
    return approximate_dp(selected * epsilon, min(selected * delta, 1.0 - UNIT))


def _blocks(step: Pair, steps: int, selected: int) -> Law:
    """The law, from above, of blocks with one step drawn in each; some have one step more than others."""
    one = law_of(step, 1)
    size, longer = divmod(steps, selected)
    block = total(one, size, 1)
    law = power(divided(block, size), selected - longer)
    if longer == 0:
        return law
    return times(law, power(divided(plus(block, one, 1), size + 1), longer))
