"""The server as an object: refusals leave it as it was, aborts end it, memory is one vector."""

import numpy as np
import pytest
from protocol.secagg_loop import PHASE_NAMES, Loop

from fedsec.errors import AggregationAborted, InvalidArgumentError, InvalidTypeError, ProtocolError
from fedsec.secagg import Phase, Server


@pytest.mark.parametrize("phase", PHASE_NAMES)
def test_repeated_strange_and_malformed_messages_change_nothing(phase):
    loop = Loop(4).until(phase)
    messages = {i: loop.answer(i) for i in loop.inbox}
    refused = [
        (50, messages[10]),  # a stranger
        (20, messages[10]),  # another's message
        (10, messages[10][:-1]),
        (10, messages[10] + b"\0"),
        (10, b""),
        (10, b"\x02" + messages[10][1:]),
    ]
    for client, message in refused:
        with pytest.raises(ProtocolError):
            loop.server.receive(client, message)
    for client, message in messages.items():
        loop.server.receive(client, message)
        with pytest.raises(ProtocolError, match=f"client {client} sent its {phase} message already"):
            loop.server.receive(client, message)
    loop.inbox = loop.server.close_phase()
    for later in PHASE_NAMES[PHASE_NAMES.index(phase) + 1 :]:
        loop.play(later)
    assert loop.server.result().tolist() == loop.expected_sum(loop.ids)


@pytest.mark.parametrize("phase", PHASE_NAMES)
def test_a_late_message_is_refused_and_its_sender_is_out(phase):
    loop = Loop(4, threshold=3).until(phase)
    late = loop.answer(40)
    loop.silent[40] = phase
    for i in (10, 20, 30):
        loop.server.receive(i, loop.answer(i))
    loop.inbox = loop.server.close_phase()
    assert 40 not in loop.inbox
    with pytest.raises(ProtocolError):
        loop.server.receive(40, late)
    for later in PHASE_NAMES[PHASE_NAMES.index(phase) + 1 :]:
        loop.play(later)
    survivors = [10, 20, 30, 40] if phase == "unmask" else [10, 20, 30]
    assert loop.server.result().tolist() == loop.expected_sum(survivors)
    assert loop.server.survivors == tuple(survivors)
    assert loop.server.dropped == {40: phase}


@pytest.mark.parametrize("phase", PHASE_NAMES)
def test_below_the_threshold_the_session_is_over(phase):
    loop = Loop(4, threshold=3, silent={30: phase, 40: phase}).until(phase)
    with pytest.raises(AggregationAborted, match=f"2 clients sent their {phase} message, the threshold is 3"):
        loop.play(phase)
    assert loop.server.phase is Phase.ABORTED
    assert loop.server.dropped == {30: phase, 40: phase}
    assert not loop.server._sum.any()
    for call in (loop.server.close_phase, loop.server.result, lambda: loop.server.receive(10, b"")):
        with pytest.raises(ProtocolError, match="aborted"):
            call()


def test_the_result_comes_last_and_is_a_copy():
    loop = Loop(3)
    for phase in PHASE_NAMES:
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
    loop = Loop(5, threshold=3, silent={10: "advertise", 20: "share"})
    seen = []
    for phase in PHASE_NAMES:
        loop.play(phase)
        seen.append((loop.server.survivors, loop.server.dropped))
    assert seen == [
        ((), {10: "advertise"}),
        ((), {10: "advertise", 20: "share"}),
        ((30, 40, 50), {10: "advertise", 20: "share"}),
        ((30, 40, 50), {10: "advertise", 20: "share"}),
    ]


def test_uploads_are_added_as_they_come():
    """Memory: after 8 uploads of 4 MB the server holds one vector, not eight."""
    loop = Loop(8, 1_000_000).until("upload")
    for i in loop.inbox:
        loop.server.receive(i, loop.answer(i))
        loop.sent.clear()
    held = [value for value in vars(loop.server).values() if isinstance(value, np.ndarray)]
    assert [array.nbytes for array in held] == [4_000_000]
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
