"""Clients lost in every phase: the exact sum over the survivors, or an abort by name, never a wrong value."""

import itertools

import numpy as np
import pytest
from protocol.secagg_loop import COMPLETE_PHASES, PHASE_NAMES, SPARSE, Loop, complete, ids_of, shares_let_out

from fedsec.errors import AggregationAborted, CommitteeLostError, ProtocolError
from fedsec.secagg import graph, recommend
from fedsec.secagg.messages import ShareOf


def named(parameters):
    """For the name of a test."""
    return f"n={parameters.num_clients} T={parameters.min_survivors} t={parameters.threshold}"


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


def sums_of(schedules, parameters):
    """Whether there was a sum, of each; there were some, and some aborts."""
    ids = ids_of(parameters.num_clients)
    sums = [check(dict(zip(ids, lost_in, strict=True)), parameters) for lost_in in schedules]
    assert 0 < sum(sums) < len(sums)


def test_every_client_lost_in_every_phase():
    """All 6^3 schedules."""
    sums_of(itertools.product((None, *COMPLETE_PHASES), repeat=3), complete(3, lost=0))


def test_so_many_clients_lost_in_each_phase():
    """Of four: all 126 ways, whoever they are, and so who is who is drawn."""
    rng = np.random.default_rng(4)
    ways = itertools.combinations_with_replacement((None, *COMPLETE_PHASES), 4)
    sums_of(([way[at] for at in rng.permutation(4)] for way in ways), complete(4))


@pytest.mark.parametrize("parameters", [complete(5), complete(5, lost=2, corrupt=0)], ids=named)
def test_every_subset_lost_in_every_phase(parameters):
    """All pairs of a subset and a phase, 5 * 2^5 of them."""
    subsets = itertools.product(COMPLETE_PHASES, itertools.product((False, True), repeat=5))
    sums_of(([phase if lost else None for lost in subset] for phase, subset in subsets), parameters)


@pytest.mark.parametrize("parameters", [complete(5, lost=2, corrupt=0), complete(6, lost=2)], ids=named)
def test_mixed_losses(parameters):
    """80 schedules with a fixed seed, in which most clients stay."""
    rng = np.random.default_rng(parameters.num_clients)
    choices = (*[None] * 8, *COMPLETE_PHASES)
    drawn = rng.integers(len(choices), size=(80, parameters.num_clients))
    sums_of(([choices[at] for at in row] for row in drawn), parameters)


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


# --- sparse graphs ---


def schedule_for(parameters, lost, seed, committee=()):
    """So many clients lost in random phases; members of the committee not before it has revealed."""
    rng = np.random.default_rng(seed)
    ids = ids_of(parameters.num_clients)
    chosen = [int(i) for i in rng.choice(ids, lost, replace=False)]
    phases = {i: PHASE_NAMES[rng.integers(len(PHASE_NAMES))] for i in chosen}
    early = {i: "share" for i in committee if phases.get(i) in ("advertise", "reveal")}
    return phases | early


def assert_sum_or_named_abort(loop):
    """Whether there was a sum; it is the exact one over those who uploaded."""
    try:
        result = loop.finish()
    except AggregationAborted:
        assert loop.server.phase == "aborted"
        return False
    survivors = [i for i in loop.ids if loop.silent.get(i) in (None, "agree", "unmask")]
    assert loop.server.survivors == tuple(survivors)
    assert result.tolist() == loop.expected_sum(survivors)
    return True


@pytest.mark.parametrize("phase", PHASE_NAMES)
def test_each_client_of_a_ring_lost_in_each_phase(phase):
    """Ten clients, one lost: the sum, or the committee's loss by name."""
    committee = graph.committee(Loop(parameters=SPARSE).config)
    for client in ids_of(10):
        loop = Loop(parameters=SPARSE, silent={client: phase})
        if client in committee and phase in ("advertise", "reveal"):
            with pytest.raises(CommitteeLostError, match=rf"clients \[{client}\] of the committee"):
                loop.finish()
        else:
            assert assert_sum_or_named_abort(loop)


def test_random_losses_on_a_ring():
    """80 schedules of up to four of ten clients; with more than one lost, some abort by name."""
    committee, sums = graph.committee(Loop(parameters=SPARSE).config), []
    for seed in range(80):
        silent = schedule_for(SPARSE, 1 + seed % 4, seed, committee)
        sums.append(assert_sum_or_named_abort(Loop(parameters=SPARSE, silent=silent)))
    assert 0 < sum(sums) < len(sums)


@pytest.mark.parametrize(("n", "seed"), [(40, 0), (40, 1), (100, 0), (100, 1), (100, 2), (300, 0)])
def test_as_many_lost_as_reckoned_with(n, seed):
    """A twentieth corrupt, a twentieth lost: parameters as recommended, and always a sum."""
    parameters = recommend(num_clients=n, corrupt_fraction=0.05, dropout_fraction=0.05)
    assert not parameters.is_complete
    settings = {"parameters": parameters, "session": b"%d" % seed}
    committee = graph.committee(Loop(**settings).config)
    silent = schedule_for(parameters, parameters.max_dropped, seed, committee)
    assert assert_sum_or_named_abort(Loop(**settings, silent=silent))


@pytest.mark.parametrize("lost", [8, 20, 40])
def test_more_lost_than_reckoned_with(lost):
    """An abort by name, whatever the phase in which it shows."""
    parameters = recommend(num_clients=100, corrupt_fraction=0.05, dropout_fraction=0.05)
    committee = graph.committee(Loop(parameters=parameters).config)
    silent = dict.fromkeys(schedule_for(parameters, lost, lost, committee), "upload")
    assert not assert_sum_or_named_abort(Loop(parameters=parameters, silent=silent))


def test_the_semi_honest_profile_on_a_ring():
    parameters = recommend(num_clients=100, corrupt_fraction=0.05, dropout_fraction=0.05)
    silent = {i: phase for i, phase in schedule_for(parameters, 5, 0).items() if phase != "reveal"}
    silent = {i: "share" if phase == "agree" else phase for i, phase in silent.items()}
    assert assert_sum_or_named_abort(Loop(parameters=parameters, silent=silent, profile="semi_honest"))


# --- uploads in chunks ---


def upload_in_chunks(loop, client, stop_after=None):
    """Delivers a client's upload chunk by chunk, up to one that is lost; how many there were."""
    loop.clients[client].receive(loop.inbox[client])
    chunks = loop.clients[client].upload(loop.vectors[client])
    sent = 0
    for chunk in itertools.islice(chunks, stop_after):
        loop.server.receive_chunk(client, chunk)
        sent += 1
    chunks.close()
    return sent


@pytest.mark.parametrize("modulus_bits", [1, 8, 17, 32, 33, 64])
@pytest.mark.parametrize("stop_after", [0, 1, 2, None])
def test_an_upload_that_ends_in_the_middle_is_not_in_the_sum(modulus_bits, stop_after):
    """[SPEC 7.4]: all of it or nothing."""
    loop = Loop(4, 2 * 2**16 + 5, modulus_bits=modulus_bits).until("upload")
    sent = upload_in_chunks(loop, 40, stop_after)
    assert sent == (3 if stop_after is None else stop_after)
    for client in (10, 20, 30):
        loop.server.receive(client, loop.answer(client))
    loop.close()
    survivors = [10, 20, 30, 40] if stop_after is None else [10, 20, 30]
    assert loop.finish().tolist() == loop.expected_sum(survivors)


def test_chunks_of_many_clients_come_mixed():
    loop = Loop(4, 200_000, modulus_bits=17).until("upload")
    for client in loop.ids:
        loop.clients[client].receive(loop.inbox[client])
    uploads = {i: loop.clients[i].upload(loop.vectors[i]) for i in loop.ids}
    for chunks in itertools.zip_longest(*uploads.values()):
        for client, chunk in zip(uploads, chunks, strict=True):
            loop.server.receive_chunk(client, chunk)
    loop.close()
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


@pytest.mark.parametrize("lie", ["repeated", "left out", "the last first", "of another"])
def test_chunks_out_of_order_are_refused(lie):
    """[SPEC 7.4]: in order and without gaps; the right one is still taken."""
    loop = Loop(4, 200_000).until("upload")
    for client in (10, 20):
        loop.clients[client].receive(loop.inbox[client])
    chunks, other = (list(loop.clients[client].upload(loop.vectors[client])) for client in (10, 20))
    loop.server.receive_chunk(10, chunks[0])
    wrong = {
        "repeated": chunks[0],
        "left out": chunks[2],
        "the last first": chunks[-1],
        "of another": other[1],
    }
    with pytest.raises(ProtocolError):
        loop.server.receive_chunk(10, wrong[lie])
    for chunk in chunks[1:]:
        loop.server.receive_chunk(10, chunk)
    with pytest.raises(ProtocolError, match="sent its upload message already"):
        loop.server.receive_chunk(10, chunks[-1])
    for chunk in other:
        loop.server.receive_chunk(20, chunk)
    loop.play_others([10, 20])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)
