"""Changed bytes, changed order, random cohorts: the exact sum or a named error; one kind of share a peer."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol.secagg_loop import PHASE_NAMES, Loop, shares_let_out

from fedsec.errors import AggregationAborted, FedsecError
from fedsec.secagg import Phase

FEW = settings(max_examples=60, deadline=None)


def assert_at_most_one_kind(loop):
    assert all(len(kinds) == 1 for kinds in shares_let_out(loop).values())


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(PHASE_NAMES[1:]), st.integers(0, 10**6), st.integers(0, 7))
def test_any_bit_flipped_on_the_way_to_a_client(phase, position, bit):
    """The client notices at once, except in the keys of others: there it takes one phase more."""
    loop = Loop(4, threshold=3).until(phase)
    message = bytearray(loop.inbox[10])
    message[position % len(message)] ^= 1 << bit
    loop.inbox[10] = bytes(message)
    try:
        loop.server.receive(10, loop.answer(10))
    except FedsecError:
        assert loop.clients[10].phase is Phase.ABORTED
    else:
        assert phase == "share"
        assert loop.server._collected.sealed.keys() == {10}
    del loop.inbox[10]
    try:
        for i in loop.inbox:
            loop.server.receive(i, loop.answer(i))
        loop.inbox = loop.server.close_phase()
        result = loop.finish()
    except FedsecError:
        pass
    else:
        assert result.tolist() == loop.expected_sum(loop.server.survivors)
    assert_at_most_one_kind(loop)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(("advertise", "share", "unmask")), st.integers(0, 10**6), st.integers(0, 7))
def test_any_bit_flipped_on_the_way_to_the_server(phase, position, bit):
    """Refused by the server, or by the clients, or the session aborts; or it made no difference.

    Uploads are left out: the bits of a vector are not protected by this protocol but by the transport.
    """
    loop = Loop(4, threshold=3).until(phase)
    message = bytearray(loop.answer(10))
    message[position % len(message)] ^= 1 << bit
    try:
        loop.server.receive(10, bytes(message))
    except FedsecError:
        loop.silent[10] = phase
    try:
        for i in (20, 30, 40):
            loop.server.receive(i, loop.answer(i))
        loop.inbox = loop.server.close_phase()
        result = loop.server.result() if phase == "unmask" else loop.finish()
    except FedsecError:
        pass
    else:
        assert result.tolist() == loop.expected_sum(loop.server.survivors)
    assert_at_most_one_kind(loop)


@FEW
@given(st.sampled_from(PHASE_NAMES[1:]), st.binary(max_size=400))
def test_any_bytes_at_all_abort_a_client(phase, message):
    loop = Loop(3).until(phase)
    loop.inbox[10] = message
    try:
        loop.answer(10)
    except FedsecError:
        assert loop.clients[10].phase is Phase.ABORTED
    else:
        raise AssertionError("a message was taken that the server did not send")


@FEW
@given(st.data())
def test_random_cohorts_rings_and_dropouts(data):
    n = data.draw(st.integers(2, 9))
    lost = data.draw(st.lists(st.sampled_from((None, None, None, *PHASE_NAMES)), min_size=n, max_size=n))
    schedule = dict(zip([10 * (i + 1) for i in range(n)], lost, strict=True))
    loop = Loop(
        n,
        data.draw(st.integers(1, 40)),
        threshold=data.draw(st.integers(n // 2 + 1, n)),
        modulus_bits=data.draw(st.integers(1, 64)),
        silent=schedule,
        seeded=False,
    )
    try:
        result = loop.finish()
    except AggregationAborted:
        present = [sum(p is None or PHASE_NAMES.index(p) > k for p in lost) for k in range(4)]
        assert min(present) < loop.config.threshold
    else:
        survivors = [i for i, phase in schedule.items() if phase in (None, "unmask")]
        assert result.tolist() == loop.expected_sum(survivors)
    assert_at_most_one_kind(loop)


@FEW
@given(st.randoms(use_true_random=False))
def test_messages_in_any_order_give_the_same_sum(random):
    loop = Loop(5, 10)
    for _ in PHASE_NAMES:
        order = list(loop.inbox)
        random.shuffle(order)
        for i in order:
            loop.server.receive(i, loop.answer(i))
        loop.inbox = loop.server.close_phase()
    assert np.array_equal(loop.server.result(), Loop(5, 10).finish())
