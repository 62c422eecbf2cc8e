"""Clients lost in every phase: the exact sum over the survivors, or an abort by name, never a wrong value."""

import itertools

import numpy as np
import pytest
from protocol.secagg_loop import COMPLETE_PHASES, Loop, complete, ids_of, shares_let_out

from fedsec.errors import AggregationAborted
from fedsec.secagg.messages import ShareOf


def arrived_in(schedule, phase):
    """Who is still there at the end of a phase, said from the schedule alone."""
    gone = COMPLETE_PHASES[: COMPLETE_PHASES.index(phase) + 1]
    return [client for client, lost_in in schedule.items() if lost_in not in gone]


def expected_abort(schedule, parameters):
    """What the abort says on the complete graph, None if there is a sum; from the schedule alone."""
    for phase in COMPLETE_PHASES[:-1]:
        if len(arrived_in(schedule, phase)) < parameters.min_survivors:
            return f"sent their {phase} message"
    holders = set(arrived_in(schedule, "unmask"))
    owners = arrived_in(schedule, "share")
    if any(len(holders - {owner}) < parameters.threshold for owner in owners):
        return "neighbors gave shares of client"
    return None


def check(schedule, parameters, **settings):
    """Runs one schedule; whether there was a sum."""
    loop = Loop(parameters=parameters, silent=schedule, **settings)
    survivors = arrived_in(schedule, "upload")
    abort = expected_abort(schedule, parameters)
    if abort:
        with pytest.raises(AggregationAborted, match=abort):
            loop.finish()
        assert loop.server.phase == "aborted", schedule
    else:
        assert loop.finish().tolist() == loop.expected_sum(survivors), schedule
        assert loop.server.survivors == tuple(survivors), schedule
        assert loop.server.dropped == {c: p for c, p in schedule.items() if p}, schedule
    for (owner, _), kinds in shares_let_out(loop).items():
        assert kinds == [ShareOf.SELF_MASK if owner in survivors else ShareOf.MASK_KEY], schedule
    return abort is None


@pytest.mark.parametrize("parameters", [complete(3, lost=0), complete(4), complete(4, lost=0)], ids=str)
def test_every_client_lost_in_every_phase(parameters):
    """All 6^n schedules."""
    ids = ids_of(parameters.num_clients)
    schedules = [
        dict(zip(ids, lost_in, strict=True))
        for lost_in in itertools.product((None, *COMPLETE_PHASES), repeat=len(ids))
    ]
    sums = [check(schedule, parameters) for schedule in schedules]
    assert 0 < sum(sums) < len(sums)


@pytest.mark.parametrize(
    "parameters", [complete(5), complete(5, lost=2, corrupt=0), complete(6, lost=2)], ids=str
)
def test_every_subset_lost_in_every_phase(parameters):
    """All pairs of a subset and a phase, 5 * 2^n of them."""
    ids = ids_of(parameters.num_clients)
    sums = [
        check({i: phase if lost else None for i, lost in zip(ids, subset, strict=True)}, parameters)
        for phase in COMPLETE_PHASES
        for subset in itertools.product((False, True), repeat=len(ids))
    ]
    assert 0 < sum(sums) < len(sums)


@pytest.mark.parametrize("parameters", [complete(5, lost=2, corrupt=0), complete(6, lost=2)], ids=str)
def test_mixed_losses(parameters):
    """300 schedules with a fixed seed, in which most clients stay."""
    rng = np.random.default_rng(parameters.num_clients)
    choices = (*[None] * 8, *COMPLETE_PHASES)
    ids = ids_of(parameters.num_clients)
    sums = [
        check({i: choices[at] for i, at in zip(ids, drawn, strict=True)}, parameters)
        for drawn in rng.integers(len(choices), size=(300, len(ids)))
    ]
    assert 0 < sum(sums) < len(sums)


@pytest.mark.parametrize("modulus_bits", [1, 8, 12, 16, 17, 20, 24, 32, 33, 40, 63, 64])
def test_every_ring(modulus_bits):
    loop = Loop(4, 50, modulus_bits=modulus_bits, silent={20: "upload"})
    assert loop.finish().tolist() == loop.expected_sum([10, 30, 40])


def test_a_larger_cohort_down_to_its_last_survivors():
    """40 clients, 13 of them lost, over all phases."""
    lost = dict(zip(ids_of(13), itertools.cycle(COMPLETE_PHASES), strict=False))
    loop = Loop(40, 200, parameters=complete(40, lost=13), silent=lost)
    survivors = [i for i in loop.ids if lost.get(i) in (None, "agree", "unmask")]
    assert loop.finish().tolist() == loop.expected_sum(survivors)


def test_with_the_operating_systems_randomness():
    loop = Loop(4, 10, silent={10: "upload"}, seeded=False)
    assert loop.finish().tolist() == loop.expected_sum([20, 30, 40])
