"""The server as an object: refusals leave it as it was, aborts end it, memory is one vector."""

import tracemalloc

import numpy as np
import pytest
from protocol.secagg_loop import COMPLETE_PHASES, PHASE_NAMES, SPARSE, Loop, complete

from fedsec.errors import (
    AggregationAborted,
    CommitteeLostError,
    InvalidArgumentError,
    InvalidTypeError,
    ProtocolError,
)
from fedsec.secagg import Phase, Server, graph, recommend
from fedsec.secagg.messages import Kind, frame


@pytest.mark.parametrize("phase", PHASE_NAMES)
def test_repeated_strange_and_malformed_messages_change_nothing(phase):
    """[SPEC 4.3]"""
    loop = Loop(parameters=SPARSE).until(phase)
    messages = {i: loop.answer(i) for i in loop.inbox}
    one, other = list(messages)[:2]
    refused = [
        (55, messages[one]),  # a stranger
        (other, messages[one]),  # another's message
        (one, messages[one][:-1]),
        (one, messages[one] + b"\0"),
        (one, b""),
        (one, b"\x01" + messages[one][1:]),
    ]
    for client, message in refused:
        with pytest.raises(ProtocolError):
            loop.server.receive(client, message)
    for client, message in messages.items():
        loop.server.receive(client, message)
        with pytest.raises(ProtocolError, match=f"client {client} sent its {phase} message already"):
            loop.server.receive(client, message)
    loop.close()
    assert (loop.finish() if phase != "unmask" else loop.server.result()).tolist() == loop.expected_sum(
        loop.ids
    )


@pytest.mark.parametrize("phase", COMPLETE_PHASES)
def test_a_late_message_is_refused_and_its_sender_is_out(phase):
    """[SPEC 4.3]"""
    loop = Loop(4).until(phase)
    late = loop.answer(40)
    loop.silent[40] = phase
    loop.play(phase)
    assert 40 not in loop.inbox
    with pytest.raises(ProtocolError):
        loop.server.receive(40, late)
    result = loop.finish() if phase != "unmask" else loop.server.result()
    survivors = [10, 20, 30, 40] if phase in ("agree", "unmask") else [10, 20, 30]
    assert result.tolist() == loop.expected_sum(survivors)
    assert loop.server.survivors == tuple(survivors)
    assert loop.server.dropped == {40: phase}


@pytest.mark.parametrize("phase", COMPLETE_PHASES)
def test_with_too_few_the_session_is_over(phase):
    """T of 4 in all phases but the last, in which each client's secret takes t others [SPEC 4.3]."""
    lost = {30: phase, 40: phase} | ({20: phase} if phase == "unmask" else {})
    loop = Loop(4, silent=lost).until(phase)
    said = "neighbors gave shares of client" if phase == "unmask" else f"2 clients sent their {phase} message"
    with pytest.raises(AggregationAborted, match=said):
        loop.play(phase)
    assert loop.server.phase is Phase.ABORTED
    assert loop.server.dropped == dict(sorted(lost.items()))
    assert not loop.server._sum.any()
    for call in (loop.server.close_phase, loop.server.result, lambda: loop.server.receive(10, b"")):
        with pytest.raises(ProtocolError, match="aborted"):
            call()


@pytest.mark.parametrize("phase", ["advertise", "reveal"])
def test_a_lost_member_of_the_committee_ends_the_session_by_another_name(phase):
    """[SPEC 5.4]"""
    member = graph.committee(Loop(parameters=SPARSE).config)[0]
    loop = Loop(parameters=SPARSE, silent={member: phase}).until(phase)
    with pytest.raises(CommitteeLostError, match=rf"clients \[{member}\] of the committee were lost"):
        loop.play(phase)
    assert loop.server.phase is Phase.ABORTED


def test_others_than_the_committee_reveal_nothing():
    """[SPEC 5.3]"""
    loop = Loop(parameters=SPARSE).until("reveal")
    (other, *_) = set(loop.ids) - set(graph.committee(loop.config))
    with pytest.raises(ProtocolError, match=f"no reveal message is expected of client {other}"):
        loop.server.receive(other, frame(Kind.REVEAL, loop.config.h0, other, bytes(96)))


def test_the_result_comes_last_and_is_a_copy():
    loop = Loop(3)
    for phase in COMPLETE_PHASES:
        with pytest.raises(ProtocolError, match="there is no result"):
            loop.server.result()
        loop.play(phase)
    result = loop.server.result()
    result[:] = 0
    assert loop.server.result().tolist() == loop.expected_sum(loop.ids)
    with pytest.raises(ProtocolError, match="no phase is open"):
        loop.server.close_phase()
    with pytest.raises(ProtocolError, match="session is done"):
        loop.server.receive(10, b"")


def test_survivors_and_dropped_as_the_phases_close():
    silent = {10: "advertise", 20: "share", 60: "agree"}
    loop = Loop(parameters=complete(7, lost=3, corrupt=0), silent=silent)
    seen = []
    for phase in COMPLETE_PHASES:
        loop.play(phase)
        seen.append((loop.server.survivors, loop.server.dropped))
    assert seen == [
        ((), {10: "advertise"}),
        ((), {10: "advertise", 20: "share"}),
        ((30, 40, 50, 60, 70), {10: "advertise", 20: "share"}),
        ((30, 40, 50, 60, 70), silent),
        ((30, 40, 50, 60, 70), silent),
    ]


def test_uploads_are_added_as_they_come():
    """Memory: after 8 uploads of 4 MB the server holds one vector, not eight."""
    loop = Loop(8, 1_000_000).until("upload")
    for i in loop.inbox:
        loop.server.receive(i, loop.answer(i))
        loop.sent.clear()
    held = [value for value in vars(loop.server).values() if isinstance(value, np.ndarray)]
    assert [array.nbytes for array in held] == [4_000_000]
    assert not loop.server._collected.uploads
    assert sum(len(message) for message in loop.server.close_phase().values()) < 1000


@pytest.mark.parametrize("client_id", [-1, 2**32])
def test_ids_out_of_range_are_refused(client_id):
    with pytest.raises(InvalidArgumentError, match="client_id"):
        Loop(3).server.receive(client_id, b"")


def test_wrong_types_are_refused():
    server = Loop(3).server
    for arguments in (("10", b""), (10.0, b""), (10, None), (10, "text")):
        with pytest.raises(InvalidTypeError):
            server.receive(*arguments)
    with pytest.raises(InvalidTypeError, match="config must be a Config"):
        Server(b"")


def test_repr():
    assert repr(Loop(3).server) == "<secagg.Server, phase advertise, 0 clients dropped>"


def test_a_sum_of_uploads_made_on_the_way():
    loop = Loop(4, d=5).until("upload")
    messages = {i: loop.answer(i) for i in loop.ids}
    heads = {i: message[: -5 * 4] for i, message in messages.items()}
    vectors = [np.frombuffer(message[-5 * 4 :], np.uint32) for message in messages.values()]
    total = np.sum(vectors, axis=0, dtype=np.uint32)
    other = Loop(4, d=5, session=b"t").until("upload")
    strange = other.answer(40)[: -5 * 4]
    for wrong in ({50: heads[10]}, {10: heads[20]}, {40: strange}, {10: messages[10]}, {10: b""}):
        with pytest.raises(ProtocolError):
            loop.server.receive_sum(heads | wrong, total)
    for shape in (total[:4], total.astype(np.uint64), total.astype(np.float32)):
        with pytest.raises((InvalidArgumentError, InvalidTypeError)):
            loop.server.receive_sum(heads, shape)
    loop.server.receive_sum(heads, total)
    with pytest.raises(ProtocolError, match="already"):
        loop.server.receive_sum(heads, total)
    loop.close()
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


@pytest.mark.parametrize("phase", [name for name in PHASE_NAMES if name != "unmask"])
def test_answers_stay_the_same_however_often_and_late_they_are_read(phase):
    """They are made when they are read, and hold for a transport that reads them after all is over."""
    loop = Loop(parameters=SPARSE).until(phase)
    loop.play(phase)
    outbox, first = loop.inbox, dict(loop.inbox)
    assert outbox == first
    assert list(outbox) == list(first)
    loop.finish()
    assert dict(outbox) == first
    loop.server.abort()
    assert dict(outbox) == first
    lost, other = list(first)[:2]
    del outbox[lost]
    outbox[other] = b"something else"
    del first[lost]
    assert outbox == first | {other: b"something else"}
    assert repr(outbox) == f"<secagg.Outbox for {len(first)} clients>"


def test_the_answers_of_a_large_cohort_are_never_there_at_once():
    """A quorum of 300 signatures for each of 300 clients: 5.8 MB in all, 20 KB at a time."""
    loop = Loop(parameters=recommend(num_clients=300, corrupt_fraction=0.05, dropout_fraction=0.05))
    loop.server._phase = Phase.AGREE
    loop.server._arrived = {phase: set(loop.ids) for phase in loop.server._arrived}
    loop.server._closed = [Phase(name) for name in PHASE_NAMES[:4]]
    loop.server._collected.signatures = {i: i.to_bytes(64, "little") for i in loop.ids}
    tracemalloc.start()
    try:
        total = sum(len(message) for message in loop.server.close_phase().values())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total > 5_000_000
    assert peak < 500_000
