"""Changed bytes, changed order, random cohorts: the exact sum or a named error; one kind of share a peer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol.secagg_loop import (
    COMPLETE_PHASES,
    PHASE_NAMES,
    SPARSE,
    Loop,
    complete,
    ids_of,
    shares_let_out,
)

from fedsec.errors import AggregationAborted, FedsecError, ProtocolError
from fedsec.secagg import Phase, graph

FEW = settings(max_examples=60, deadline=None)


def assert_at_most_one_kind(loop):
    assert all(len(kinds) == 1 for kinds in shares_let_out(loop).values())


def assert_exact_or_aborted(loop, finish):
    try:
        result = finish()
    except FedsecError:
        pass
    else:
        assert result.tolist() == loop.expected_sum(loop.server.survivors)
    assert_at_most_one_kind(loop)


def finish_without(loop, lost):
    """The rest of a session in which one client has fallen out."""
    del loop.inbox[lost]
    loop.play_others(())
    return loop.finish() if loop.server.phase is not Phase.DONE else loop.server.result()


@FEW
@given(st.sampled_from(PHASE_NAMES[1:]), st.integers(0, 10**6), st.integers(0, 7))
def test_any_bit_flipped_on_the_way_to_a_client_ends_its_session(phase, position, bit):
    """[SPEC 4.2]: nothing in a message to a client goes unnoticed."""
    loop = Loop(parameters=SPARSE).until(phase)
    victim = graph.committee(loop.config)[0]
    message = bytearray(loop.inbox[victim])
    message[position % len(message)] ^= 1 << bit
    loop.inbox[victim] = bytes(message)
    try:
        answer = loop.answer(victim)
    except FedsecError:
        assert loop.clients[victim].phase is Phase.ABORTED
    else:
        # Another set of survivors, just as large as it must be: its signature is for nobody.
        assert phase == "agree"
        with pytest.raises(ProtocolError, match="did not sign the survivors"):
            loop.server.receive(victim, answer)
    assert_exact_or_aborted(loop, lambda: finish_without(loop, victim))


@FEW
@given(st.sampled_from(PHASE_NAMES), st.integers(0, 10**6), st.integers(0, 7))
def test_any_bit_flipped_on_the_way_to_the_server(phase, position, bit):
    """Refused by the server, or by the clients, or the session aborts; or it made no difference.

    The elements of uploads are left out: the transport vouches for them, not this protocol [SPEC 1.4].
    """
    loop = Loop(parameters=SPARSE).until(phase)
    sender = next(iter(loop.inbox))
    message = bytearray(loop.answer(sender))
    reach = 46 if phase == "upload" else len(message)
    message[position % reach] ^= 1 << bit
    try:
        loop.server.receive(sender, bytes(message))
    except FedsecError:
        loop.silent[sender] = phase

    def finish():
        loop.play_others([sender])
        return loop.server.result() if phase == "unmask" else loop.finish()

    assert_exact_or_aborted(loop, finish)


@FEW
@given(st.sampled_from(PHASE_NAMES[1:]), st.binary(max_size=400))
def test_any_bytes_at_all_abort_a_client(phase, message):
    loop = Loop(parameters=SPARSE).until(phase)
    victim = graph.committee(loop.config)[0]
    loop.inbox[victim] = message
    try:
        loop.answer(victim)
    except FedsecError:
        assert loop.clients[victim].phase is Phase.ABORTED
    else:
        raise AssertionError("a message was taken that the server did not send")


@FEW
@given(st.data())
def test_random_cohorts_rings_and_dropouts(data):
    n = data.draw(st.integers(3, 9))
    most_lost = data.draw(st.integers(0, (n - 2) // 2))
    lost = data.draw(st.lists(st.sampled_from((None, None, None, *COMPLETE_PHASES)), min_size=n, max_size=n))
    schedule = dict(zip(ids_of(n), lost, strict=True))
    loop = Loop(
        d=data.draw(st.integers(1, 40)),
        parameters=complete(n, corrupt=int(n > 2 * most_lost + 1), lost=most_lost),
        modulus_bits=data.draw(st.integers(1, 64)),
        silent=schedule,
        seeded=False,
    )
    try:
        result = loop.finish()
    except AggregationAborted:
        assert sum(phase is not None for phase in lost) > most_lost
    else:
        survivors = [i for i, phase in schedule.items() if phase in (None, "agree", "unmask")]
        assert result.tolist() == loop.expected_sum(survivors)
    assert_at_most_one_kind(loop)


@FEW
@given(st.randoms(use_true_random=False))
def test_messages_in_any_order_give_the_same_sum(random):
    loop = Loop(5, 10)
    for _ in COMPLETE_PHASES:
        order = list(loop.inbox)
        random.shuffle(order)
        for i in order:
            loop.server.receive(i, loop.answer(i))
        loop.close()
    assert np.array_equal(loop.server.result(), Loop(5, 10).finish())
