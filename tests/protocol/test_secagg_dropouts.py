"""Every subset of clients lost in every phase: the exact sum over the survivors, or a named abort."""

import itertools

import pytest
from protocol.secagg_loop import PHASE_NAMES, Loop, shares_let_out

from fedsec.errors import AggregationAborted
from fedsec.secagg.messages import ShareOf


def arrived_in(schedule, phase):
    """Who is still there at the end of a phase, said from the schedule alone."""
    gone = PHASE_NAMES[: PHASE_NAMES.index(phase) + 1]
    return [client for client, lost_in in schedule.items() if lost_in not in gone]


def check(schedule, threshold):
    loop = Loop(len(schedule), 3, threshold=threshold, silent=schedule)
    must_abort = [phase for phase in PHASE_NAMES if len(arrived_in(schedule, phase)) < threshold]
    survivors = arrived_in(schedule, "upload")
    if must_abort:
        with pytest.raises(AggregationAborted, match=must_abort[0]):
            loop.finish()
        assert loop.server.phase == "aborted", schedule
    else:
        assert loop.finish().tolist() == loop.expected_sum(survivors), schedule
        assert loop.server.survivors == tuple(survivors), schedule
        assert loop.server.dropped == {c: p for c, p in schedule.items() if p}, schedule
    for (owner, _), kinds in shares_let_out(loop).items():
        assert kinds == [ShareOf.SELF_MASK if owner in survivors else ShareOf.MASK_KEY], schedule
    return bool(must_abort)


@pytest.mark.parametrize(("n", "threshold"), [(2, 2), (3, 2), (3, 3), (4, 3), (5, 3)])
def test_every_subset_of_dropouts_in_every_phase(n, threshold):
    aborted = [
        check(dict(zip([10 * (i + 1) for i in range(n)], lost_in, strict=True)), threshold)
        for lost_in in itertools.product((None, *PHASE_NAMES), repeat=n)
    ]
    assert len(aborted) == 5**n
    assert 0 < sum(aborted) < 5**n


@pytest.mark.parametrize("modulus_bits", [1, 8, 12, 16, 20, 24, 32, 40, 63, 64])
def test_every_ring(modulus_bits):
    loop = Loop(4, 50, threshold=3, modulus_bits=modulus_bits, silent={20: "upload"})
    assert loop.finish().tolist() == loop.expected_sum([10, 30, 40])


def test_a_larger_cohort_at_the_threshold():
    """40 clients, threshold 27: 13 are lost, over all phases."""
    lost = dict(zip([10 * (i + 1) for i in range(13)], itertools.cycle(PHASE_NAMES), strict=False))
    loop = Loop(40, 200, silent=lost)
    assert loop.config.threshold == 27
    survivors = [i for i in loop.ids if lost.get(i) in (None, "unmask")]
    assert loop.finish().tolist() == loop.expected_sum(survivors)


def test_with_the_operating_systems_randomness():
    loop = Loop(3, 10, threshold=2, silent={10: "upload"}, seeded=False)
    assert loop.finish().tolist() == loop.expected_sum([20, 30])
