"""Sessions that several threads share: one answer, one start, each upload in the sum once."""

import sys
import threading
from functools import partial

import numpy as np
import pytest
from protocol.secagg_loop import Loop, client_of

from fedsec.errors import FedsecError
from fedsec.secagg import Phase, SessionStore, messages
from fedsec.secagg.messages import Kind

VICTIM = 10


@pytest.fixture(autouse=True)
def restless_threads():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*calls):
    """What each call returned, or the error that it raised, all of them started together."""
    start, outcomes = threading.Barrier(len(calls)), [None] * len(calls)

    def run(index, call):
        start.wait()
        try:
            outcomes[index] = call()
        except FedsecError as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def refusals(outcomes):
    return [outcome for outcome in outcomes if isinstance(outcome, FedsecError)]


def test_two_sets_of_survivors_get_one_signature():
    """Two threads, two sets: whoever comes second finds the session over [SPEC 8.1]."""
    for _ in range(40):
        loop = Loop(4).until("agree")
        client = loop.clients[VICTIM]
        requests = [
            loop.forge(Kind.SURVIVORS, VICTIM, messages.encode_set(loop.config, ids))
            for ids in (loop.ids, (10, 30, 40))
        ]
        outcomes = at_once(*(partial(client.receive, request) for request in requests))
        assert len(refusals(outcomes)) == 1
        assert client.phase is Phase.ABORTED


def test_two_requests_for_shares_get_one_answer():
    for _ in range(40):
        loop = Loop(4).until("unmask")
        client = loop.clients[VICTIM]
        outcomes = at_once(*[partial(client.receive, loop.inbox[VICTIM])] * 4)
        assert len(refusals(outcomes)) == 3
        assert client.phase is Phase.ABORTED


def test_copies_of_a_client_give_one_answer():
    """Four that were saved before, one store: each is a client of its own [SPEC 10]."""
    for _ in range(10):
        loop = Loop(4).until("unmask")
        copies = [loop.copy_of(VICTIM) for _ in range(4)]
        outcomes = at_once(*(partial(copy.receive, loop.inbox[VICTIM]) for copy in copies))
        assert len(refusals(outcomes)) == 3


def test_a_client_starts_once():
    config = Loop(3).config
    for _ in range(40):
        client = client_of(config, VICTIM, SessionStore.in_memory())
        assert len(refusals(at_once(*[client.start] * 4))) == 3
        assert client.phase is Phase.SHARE


def test_a_vector_is_submitted_once():
    config = Loop(3, 10_000).config
    for _ in range(40):
        client = client_of(config, VICTIM, SessionStore.in_memory())
        vectors = [np.full(10_000, value) for value in range(4)]
        outcomes = at_once(*(partial(client.submit, vector) for vector in vectors))
        assert len(refusals(outcomes)) == 3
        assert client._vector[0] == client._vector[-1] == outcomes.index(None)


def test_two_uploads_at_once_give_one():
    """Whoever comes second is refused, and the first goes on as if nothing had been."""
    for _ in range(40):
        loop = Loop(4, 200_000).until("upload")
        client = loop.clients[VICTIM]
        client.receive(loop.inbox[VICTIM])
        uploads = [client.upload(loop.vectors[VICTIM]) for _ in range(2)]
        outcomes = at_once(*(partial(list, upload) for upload in uploads))
        (chunks,) = [outcome for outcome in outcomes if isinstance(outcome, list)]
        assert len(chunks) == 4
        assert client.phase is Phase.AGREE


def test_an_upload_delivered_twice_is_in_the_sum_once():
    """Adding releases the interpreter's lock: both deliveries find that nothing has arrived yet."""
    for _ in range(10):
        loop = Loop(4, 300_000).until("upload")
        for i in loop.inbox:
            message = loop.answer(i)
            outcomes = at_once(*[partial(loop.server.receive, i, message)] * 3)
            assert len(refusals(outcomes)) == 2
        loop.inbox = loop.server.close_phase()
        assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_uploads_that_come_at_once_are_all_in_the_sum():
    for _ in range(10):
        loop = Loop(4, 300_000).until("upload")
        uploads = [(i, loop.answer(i)) for i in loop.inbox]
        outcomes = at_once(*(partial(loop.server.receive, *upload) for upload in uploads))
        assert outcomes == [None] * 4
        loop.inbox = loop.server.close_phase()
        assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_an_upload_is_in_the_sum_or_too_late_when_the_phase_is_closed_meanwhile():
    """Three uploads are in; the fourth comes together with the close."""
    for _ in range(20):
        loop = Loop(4, 100_000).until("upload")
        late = loop.answer(40)
        for i in (10, 20, 30):
            loop.server.receive(i, loop.answer(i))
        loop.inbox, delivered = at_once(loop.server.close_phase, partial(loop.server.receive, 40, late))
        assert (delivered is None) == (40 in loop.inbox)
        assert loop.finish().tolist() == loop.expected_sum(loop.server.survivors)
