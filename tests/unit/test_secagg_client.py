"""The client as an object: what the caller may do when, what it remembers, what it shows."""

import copy
import pickle

import numpy as np
import pytest
from protocol.secagg_loop import PHASE_NAMES, Loop

from fedsec.errors import InvalidArgumentError, InvalidTypeError, ProtocolError
from fedsec.secagg import Client, Config, Phase

CONFIG = Config(bytes(32), 0, (10, 20, 30, 40), 3)
VECTOR = np.array([1, -2, 3])


def secrets_of(client):
    """Every bytearray that a client's state holds."""
    found = []

    def collect(value):
        if isinstance(value, bytearray):
            found.append(value)
        elif isinstance(value, dict):
            collect(list(value.values()))
        elif isinstance(value, (list, tuple)):
            for item in value:
                collect(item)

    collect(list(vars(client._state).values()))
    return found


def test_phases_of_an_honest_run():
    loop, seen = Loop(3), []
    for phase in PHASE_NAMES:
        seen.append(loop.clients[10].phase)
        loop.play(phase)
    assert seen == ["advertise", "share", "upload", "unmask"]
    assert loop.clients[10].phase is Phase.DONE
    assert loop.clients[10].client_id == 10


@pytest.mark.parametrize("client_id", [11, 0])
def test_strangers_are_refused(client_id):
    with pytest.raises(InvalidArgumentError, match=f"must be one of the participants, got {client_id}"):
        Client(CONFIG, client_id)


@pytest.mark.parametrize("arguments", [(None, 10), (CONFIG.to_bytes(), 10), (CONFIG, "10"), (CONFIG, 10.0)])
def test_wrong_types_are_refused(arguments):
    with pytest.raises(InvalidTypeError):
        Client(*arguments)


def test_starting_twice_changes_nothing():
    loop = Loop(3)
    client = loop.clients[10]
    loop.server.receive(10, client.start())
    with pytest.raises(ProtocolError, match="start must be called once"):
        client.start()
    for i in (20, 30):
        loop.server.receive(i, loop.answer(i))
    loop.inbox = loop.server.close_phase()
    for phase in PHASE_NAMES[1:]:
        loop.play(phase)
    assert loop.server.result().tolist() == loop.expected_sum(loop.ids)


def test_a_message_before_start_or_before_submit_changes_nothing():
    loop = Loop(3)
    with pytest.raises(ProtocolError, match="before start"):
        loop.clients[10].receive(b"")
    assert loop.clients[10].phase is Phase.ADVERTISE
    loop.until("upload")
    with pytest.raises(ProtocolError, match="submit a vector before"):
        loop.clients[10].receive(loop.inbox[10])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


@pytest.mark.parametrize("message", [None, "text", 3])
def test_a_message_that_is_not_bytes_changes_nothing(message):
    loop = Loop(3).until("share")
    with pytest.raises(InvalidTypeError, match="message must be bytes"):
        loop.clients[10].receive(message)
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_bytearrays_are_taken():
    loop = Loop(3).until("share")
    loop.inbox = {i: bytearray(message) for i, message in loop.inbox.items()}
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


@pytest.mark.parametrize("phase", PHASE_NAMES[:3])
def test_a_vector_is_taken_in_any_phase_up_to_its_upload_but_once(phase):
    loop = Loop(3).until(phase)
    client = loop.clients[10]
    client.submit(VECTOR)
    with pytest.raises(ProtocolError, match="already"):
        client.submit(VECTOR)
    assert client.phase == phase


@pytest.mark.parametrize("played", ["unmask", "done", "aborted"])
def test_a_vector_is_not_taken_after_its_upload(played):
    loop = Loop(3).until("unmask")
    if played != "unmask":
        loop.play("unmask")
    if played == "aborted":
        loop.clients[10].abort()
    with pytest.raises(ProtocolError, match=f"no longer taken in phase {played}"):
        loop.clients[10].submit(VECTOR)


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (np.array([1.0, 2.0, 3.0]), InvalidTypeError),
        ([1, 2, 3], InvalidTypeError),
        (np.array([[1, 2, 3]]), InvalidTypeError),
        (np.array([1, 2]), InvalidArgumentError),
        (np.array([1, 2, 3, 4]), InvalidArgumentError),
        (np.array([1, 2, 2**31]), InvalidArgumentError),
        (np.array([True, False, True]), InvalidTypeError),
    ],
)
def test_a_refused_vector_leaves_room_for_the_right_one(vector, error):
    client = Client(CONFIG, 10)
    with pytest.raises(error):
        client.submit(vector)
    client.submit(VECTOR)


def test_the_submitted_vector_is_a_copy():
    loop = Loop(3)
    mine = loop.vectors[10].copy()
    loop.clients[10].submit(mine)
    mine[:] = 0
    loop.answer = lambda i, honest=loop.answer: (
        loop.clients[10].receive(loop.inbox[10])
        if i == 10 and loop.clients[10].phase == "upload"
        else honest(i)
    )
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


@pytest.mark.parametrize("phase", PHASE_NAMES[1:])
def test_secrets_are_wiped_when_a_phase_is_left(phase):
    loop = Loop(4).until(phase)
    held = secrets_of(loop.clients[10])
    assert held
    assert all(any(secret) for secret in held)
    loop.play(phase)
    assert not any(any(secret) for secret in held)


@pytest.mark.parametrize("phase", PHASE_NAMES[1:])
def test_secrets_are_wiped_by_an_abort(phase):
    loop = Loop(4).until(phase)
    client = loop.clients[10]
    if phase != "unmask":
        client.submit(VECTOR)
    held, vector = secrets_of(client), client._vector
    client.abort()
    assert held
    assert not any(any(secret) for secret in held)
    assert vector is None or not vector.any()
    assert client._vector is None
    assert client.phase is Phase.ABORTED
    with pytest.raises(ProtocolError, match="aborted"):
        client.receive(loop.inbox[10])
    with pytest.raises(ProtocolError, match="start"):
        client.start()


def test_nothing_secret_is_left_in_the_end():
    loop = Loop(4)
    loop.finish()
    client = loop.clients[10]
    assert secrets_of(client) == []
    assert client._vector is None


@pytest.mark.parametrize("phase", PHASE_NAMES)
def test_repr_shows_no_secret(phase):
    loop = Loop(4).until(phase)
    client = loop.clients[10]
    assert repr(client) == f"<secagg.Client 10, phase {phase}>"
    for secret in secrets_of(client):
        for shown in (repr(client), str(client._state)):
            assert secret.hex() not in shown
            assert repr(bytes(secret)) not in shown


@pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy])
def test_sessions_are_neither_pickled_nor_copied(copying):
    loop = Loop(3).until("upload")
    for session in (loop.clients[10], loop.server, loop.clients[10]._state):
        with pytest.raises(InvalidTypeError, match="cannot be pickled or copied"):
            copying(session)


def test_fresh_keys_in_every_session():
    assert Client(CONFIG, 10).start() != Client(CONFIG, 10).start()


def test_insecure_randomness_that_runs_short_is_refused():
    client = Client(CONFIG, 10, insecure_randomness=lambda _: b"short")
    with pytest.raises(InvalidArgumentError, match="must give 32 bytes, got 5"):
        client.start()
    assert client.phase is Phase.ADVERTISE
