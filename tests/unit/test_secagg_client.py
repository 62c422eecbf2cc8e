"""The client as an object: what the caller may do when, what it remembers, what it shows."""

import copy
import pickle

import numpy as np
import pytest
from protocol.secagg_loop import (
    COMPLETE_PHASES,
    PHASE_NAMES,
    SPARSE,
    Loop,
    client_of,
    complete,
    config_of,
    identity_of,
    policy_of,
)

from fedsec.errors import InvalidArgumentError, InvalidTypeError, ProtocolError
from fedsec.secagg import Client, Phase, Policy, SessionStore, graph

CONFIG = config_of(complete(4))
POLICY = policy_of(CONFIG)
VECTOR = np.array([1, -2, 3])


def fresh(config=CONFIG, **options):
    return client_of(config, 10, SessionStore.in_memory(), **options)


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
    for phase in COMPLETE_PHASES:
        seen.append(loop.clients[10].phase)
        loop.play(phase)
    assert seen == ["advertise", "share", "upload", "agree", "unmask"]
    assert loop.clients[10].phase is Phase.DONE
    assert loop.clients[10].client_id == 10


def test_only_the_committee_reveals():
    loop = Loop(parameters=SPARSE).until("reveal")
    committee = graph.committee(loop.config)
    assert len(committee) == 8
    for i, client in loop.clients.items():
        assert client.phase == ("reveal" if i in committee else "share")


def test_the_semi_honest_profile_neither_reveals_nor_agrees():
    loop, seen = Loop(parameters=SPARSE, profile="semi_honest"), []
    while loop.server.phase in PHASE_NAMES:
        seen.append(loop.clients[10].phase)
        loop.play(loop.server.phase.value)
    assert seen == ["advertise", "share", "upload", "unmask"]


@pytest.mark.parametrize("client_id", [11, 0])
def test_strangers_are_refused(client_id):
    with pytest.raises(InvalidArgumentError, match=f"must be one of the participants, got {client_id}"):
        Client(CONFIG, client_id, identity_of(10), policy=POLICY, store=SessionStore.in_memory())


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": CONFIG.to_bytes()},
        {"client_id": "10"},
        {"client_id": 10.0},
        {"identity": None},
        {"identity": bytes(32)},
        {"policy": None},
        {"policy": 40},
        {"store": None},
        {"store": "path"},
    ],
)
def test_wrong_types_are_refused(changes):
    good = {
        "config": CONFIG,
        "client_id": 10,
        "identity": identity_of(10),
        "policy": POLICY,
        "store": SessionStore.in_memory(),
    }
    with pytest.raises(InvalidTypeError):
        Client(**good | changes)


def test_the_identity_is_the_one_that_the_configuration_names():
    with pytest.raises(InvalidArgumentError, match="must be the one that the configuration names"):
        Client(CONFIG, 10, identity_of(20), policy=POLICY, store=SessionStore.in_memory())


def test_an_identity_may_be_a_key_of_the_cryptography_package():
    private = identity_of(10)._private
    Client(CONFIG, 10, private, policy=POLICY, store=SessionStore.in_memory()).start()


def test_the_semi_honest_profile_takes_no_identity():
    config = config_of(complete(4), profile="semi_honest")
    Client(config, 10)
    with pytest.raises(InvalidTypeError, match="nothing is signed"):
        Client(config, 10, identity_of(10))


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        (Policy(2, 3), "max_corrupt of at least 2, got 1"),
        (Policy(1, 4), "min_survivors of at least 4, got 3"),
        (Policy(1, 3, 41), "privacy_bits of at least 41, got 40"),
    ],
)
def test_a_configuration_below_the_policy_is_refused(policy, named):
    """[SPEC 3.4]"""
    with pytest.raises(ProtocolError, match=named):
        Client(CONFIG, 10, identity_of(10), policy=policy, store=SessionStore.in_memory())


def test_a_policy_takes_no_semi_honest_configuration():
    """[SPEC 1.5]: by name and never by default."""
    with pytest.raises(ProtocolError, match="semi_honest"):
        Client(config_of(complete(4), profile="semi_honest"), 10, policy=POLICY)


def test_starting_twice_changes_nothing():
    loop = Loop(3)
    client = loop.clients[10]
    loop.server.receive(10, client.start())
    with pytest.raises(ProtocolError, match="start must be called once"):
        client.start()
    loop.play_others([10])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_a_message_before_start_changes_nothing():
    loop = Loop(3)
    with pytest.raises(ProtocolError, match="before start"):
        loop.clients[10].receive(b"")
    assert loop.clients[10].phase is Phase.ADVERTISE
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_without_a_vector_the_delivery_has_no_answer_yet():
    """The upload follows when the vector is there."""
    loop = Loop(3, 100).until("upload")
    client = loop.clients[10]
    assert client.receive(loop.inbox[10]) is None
    assert client.phase is Phase.UPLOAD
    with pytest.raises(ProtocolError, match="see upload"):
        client.submit(loop.vectors[10])
    for chunk in client.upload(loop.vectors[10]):
        loop.server.receive_chunk(10, chunk)
    assert client.phase is Phase.AGREE
    loop.play_others([10])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def bind_models(*parties):
    for party in parties:
        party.bind_model(b"d" * 32)
        with pytest.raises(ProtocolError, match="bound already"):
            party.bind_model(b"d" * 32)


def test_keys_and_shares_do_not_wait_for_the_model():
    """[SPEC 3.2]"""
    loop = Loop(3, model_digest=None).until("upload")
    bind_models(loop.server, *loop.clients.values())
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_an_upload_waits_for_the_model_and_nothing_changes():
    """[SPEC 7.2]"""
    loop = Loop(3, model_digest=None).until("upload")
    client = loop.clients[10]
    client.submit(loop.vectors[10])
    with pytest.raises(ProtocolError, match="bind_model must be called before the upload"):
        client.receive(loop.inbox[10])
    bind_models(loop.server, *loop.clients.values())
    loop.server.receive(10, client.receive(loop.inbox[10]))
    loop.play_others([10])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_an_upload_in_chunks_waits_for_the_model_too():
    loop = Loop(3, model_digest=None).until("upload")
    client = loop.clients[10]
    client.receive(loop.inbox[10])
    with pytest.raises(ProtocolError, match="bind_model must be called before the upload"):
        client.upload(loop.vectors[10])
    bind_models(loop.server, *loop.clients.values())
    for chunk in client.upload(loop.vectors[10]):
        loop.server.receive_chunk(10, chunk)
    loop.play_others([10])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (np.array([1.0, 2.0, 3.0]), InvalidTypeError),
        (np.array([1, 2]), InvalidArgumentError),
        ([1, 2, 3], InvalidTypeError),
    ],
)
def test_a_vector_refused_for_an_upload_leaves_room_for_the_right_one(vector, error):
    loop = Loop(3).until("upload")
    client = loop.clients[10]
    client.receive(loop.inbox[10])
    with pytest.raises(error):
        client.upload(vector)
    for chunk in client.upload(loop.vectors[10]):
        loop.server.receive_chunk(10, chunk)
    loop.play_others([10])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


@pytest.mark.parametrize("phase", COMPLETE_PHASES)
def test_an_upload_before_or_after_its_time_is_refused_and_changes_nothing(phase):
    loop = Loop(3).until(phase)
    with pytest.raises(ProtocolError, match=f"no upload is due in phase {phase}"):
        loop.clients[10].upload(loop.vectors[10])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_a_vector_is_either_submitted_or_uploaded():
    loop = Loop(3).until("upload")
    loop.clients[10].submit(loop.vectors[10])
    with pytest.raises(ProtocolError, match="a vector has been submitted already"):
        loop.clients[10].upload(loop.vectors[10])
    loop.server.receive(10, loop.clients[10].receive(loop.inbox[10]))
    loop.play_others([10])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_the_vector_of_an_upload_is_not_changed():
    loop = Loop(3, 100).until("upload")
    loop.clients[10].receive(loop.inbox[10])
    before = loop.vectors[10].copy()
    list(loop.clients[10].upload(loop.vectors[10]))
    assert np.array_equal(loop.vectors[10], before)


@pytest.mark.parametrize("bits", [8, 17, 32, 64])
def test_a_large_upload_takes_hardly_more_than_its_bits(bits):
    d = 200_001
    loop = Loop(3, d, modulus_bits=bits).until("upload")
    loop.clients[10].receive(loop.inbox[10])
    sizes = [len(chunk) for chunk in loop.clients[10].upload(loop.vectors[10])]
    assert len(sizes) == 4
    assert d * bits / 8 <= sum(sizes) <= 1.001 * d * bits / 8 + 1024


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


@pytest.mark.parametrize("phase", COMPLETE_PHASES[:3])
def test_a_vector_is_taken_in_any_phase_up_to_its_upload_but_once(phase):
    loop = Loop(3).until(phase)
    client = loop.clients[10]
    client.submit(VECTOR)
    with pytest.raises(ProtocolError, match="already"):
        client.submit(VECTOR)
    assert client.phase == phase


@pytest.mark.parametrize("played", ["agree", "unmask", "done", "aborted"])
def test_a_vector_is_not_taken_after_its_upload(played):
    loop = Loop(3).until("agree")
    while loop.clients[10].phase not in (played, Phase.DONE):
        loop.play(loop.server.phase.value)
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
    client = fresh()
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
    loop = Loop(parameters=SPARSE).until(phase)
    member = graph.committee(loop.config)[0]
    held = secrets_of(loop.clients[member])
    assert held
    assert all(any(secret) for secret in held)
    loop.play(phase)
    assert not any(any(secret) for secret in held)


def test_secrets_are_wiped_when_the_delivery_is_taken_and_when_chunks_begin():
    loop = Loop(4).until("upload")
    client = loop.clients[10]
    for step in (lambda: client.receive(loop.inbox[10]), lambda: next(client.upload(loop.vectors[10]))):
        held = secrets_of(client)
        assert all(any(secret) for secret in held)
        step()
        assert not any(any(secret) for secret in held)


@pytest.mark.parametrize("phase", PHASE_NAMES[1:])
def test_secrets_are_wiped_by_an_abort(phase):
    loop = Loop(parameters=SPARSE).until(phase)
    number = graph.committee(loop.config)[0]
    client = loop.clients[number]
    if phase not in ("agree", "unmask"):
        client.submit(VECTOR)
    held, vector = secrets_of(client), client._vector
    client.abort()
    assert held
    assert not any(any(secret) for secret in held)
    assert vector is None or not vector.any()
    assert client._vector is None
    assert client.phase is Phase.ABORTED
    with pytest.raises(ProtocolError, match="aborted"):
        client.receive(loop.inbox[number])
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
    loop = Loop(parameters=SPARSE).until(phase)
    number = graph.committee(loop.config)[0]
    client = loop.clients[number]
    assert repr(client) == f"<secagg.Client {number}, phase {phase}>"
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
    assert fresh().start() != fresh().start()


def test_insecure_randomness_that_runs_short_is_refused():
    client = fresh(randomness=lambda _: b"short")
    with pytest.raises(InvalidArgumentError, match="must give 32 bytes, got 5"):
        client.start()
    assert client.phase is Phase.ADVERTISE


def test_a_start_that_failed_may_be_tried_again():
    """The store records it last, so nothing was used up."""
    answers = iter([b"short"])
    client = fresh(randomness=lambda length: next(answers, bytes(range(length))))
    with pytest.raises(InvalidArgumentError):
        client.start()
    assert client.start()
    assert client.phase is Phase.SHARE
