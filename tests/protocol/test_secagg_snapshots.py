"""Sessions at rest [SPEC 10]: saved at any time, opened by the right key alone, never answered twice."""

import base64

import numpy as np
import pytest
from protocol.secagg_loop import (
    PHASE_NAMES,
    SAVING_KEY,
    SPARSE,
    Loop,
    client_of,
    identity_of,
    policy_of,
    shares_let_out,
)

from fedsec.errors import InvalidArgumentError, InvalidTypeError, ProtocolError
from fedsec.secagg import Client, Phase, Server, SessionStore, graph
from fedsec.secagg.parameters import MAX_ATTEMPTS

VICTIM = 10
OTHER_KEY = b"l" * 32


def restart_everybody(loop):
    """Each party goes on in another object, as in another process."""
    loop.clients = {i: loop.copy_of(i) for i in loop.clients}
    loop.server = Server.from_bytes(loop.server.to_bytes(SAVING_KEY), SAVING_KEY)


@pytest.mark.parametrize("profile", ["authenticated", "semi_honest"])
def test_a_session_whose_parties_restart_before_every_message(profile):
    loop = Loop(parameters=SPARSE, profile=profile, silent={10: "unmask"})
    while loop.server.phase in PHASE_NAMES:
        phase = loop.server.phase.value
        for client in list(loop.inbox):
            restart_everybody(loop)
            if not loop.is_silent(client, phase):
                loop.server.receive(client, loop.answer(client))
        restart_everybody(loop)
        loop.close()
    restart_everybody(loop)
    assert loop.server.result().tolist() == loop.expected_sum(loop.ids)
    assert loop.server.dropped == {10: "unmask"}
    assert {loop.clients[i].phase for i in loop.ids[1:]} == {Phase.DONE}


def test_a_submitted_vector_is_saved_too():
    loop = Loop(4).until("upload")
    loop.clients[VICTIM].submit(loop.vectors[VICTIM])
    loop.clients[VICTIM] = loop.copy_of(VICTIM)
    loop.server.receive(VICTIM, loop.clients[VICTIM].receive(loop.inbox[VICTIM]))
    loop.play_others([VICTIM])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_a_client_that_awaits_its_vector_is_saved_too():
    """Between the delivery and the upload."""
    loop = Loop(4, 70_000).until("upload")
    loop.clients[VICTIM].receive(loop.inbox[VICTIM])
    loop.clients[VICTIM] = loop.copy_of(VICTIM)
    for chunk in loop.clients[VICTIM].upload(loop.vectors[VICTIM]):
        loop.server.receive(VICTIM, chunk)
    loop.play_others([VICTIM])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_a_model_that_was_bound_is_saved_too():
    loop = Loop(4, model_digest=None)
    for party in (loop.server, *loop.clients.values()):
        party.bind_model(b"d" * 32)
    restart_everybody(loop)
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_the_middle_of_an_upload_is_saved_by_the_server_alone():
    """The client's masks are gone with each chunk; the server's spool goes on in another process."""
    loop = Loop(4, 200_000).until("upload")
    client = loop.clients[VICTIM]
    client.receive(loop.inbox[VICTIM])
    chunks = client.upload(loop.vectors[VICTIM])
    loop.server.receive(VICTIM, next(chunks))
    with pytest.raises(ProtocolError, match="in the middle of an upload"):
        client.to_bytes(SAVING_KEY)
    for chunk in chunks:
        before = loop.server
        loop.server = Server.from_bytes(before.to_bytes(SAVING_KEY), SAVING_KEY)
        before.abort()
        loop.server.receive(VICTIM, chunk)
    loop.play_others([VICTIM])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


@pytest.mark.parametrize("phase", PHASE_NAMES)
def test_of_two_copies_the_first_to_answer_goes_on_and_the_other_aborts(phase):
    """[SPEC 3.5, 10]: whichever it is."""
    loop = Loop(parameters=SPARSE).until(phase)
    member = graph.committee(loop.config)[0]
    late = loop.clients[member]
    loop.clients[member] = loop.copy_of(member)
    loop.server.receive(member, loop.answer(member))
    first, loop.clients[member] = loop.clients[member], late
    with pytest.raises(ProtocolError, match=r"was let out before|was started before|is over"):
        loop.answer(member)
    if phase != "advertise":  # where nothing was begun yet
        assert late.phase is Phase.ABORTED
    loop.clients[member] = first
    loop.play_others([member])
    result = loop.finish() if loop.server.phase is not Phase.DONE else loop.server.result()
    assert result.tolist() == loop.expected_sum(loop.ids)
    assert all(len(kinds) == 1 for kinds in shares_let_out(loop).values())


@pytest.mark.parametrize("ends", ["done", "aborted by its caller", "aborted by a lie"])
def test_no_copy_goes_on_after_the_end(ends):
    """[SPEC 3.5]: any message of a session that has ended is refused."""
    loop = Loop(4).until("unmask")
    copy = loop.copy_of(VICTIM)
    if ends == "done":
        loop.answer(VICTIM)
    elif ends == "aborted by its caller":
        loop.clients[VICTIM].abort()
    else:
        with pytest.raises(ProtocolError):
            loop.clients[VICTIM].receive(loop.inbox[VICTIM] + b"\0")
    with pytest.raises(ProtocolError, match=r"is over|was let out before"):
        copy.receive(loop.inbox[VICTIM])
    assert copy.phase is Phase.ABORTED


def test_a_copy_that_was_refused_does_not_end_the_session_of_the_other():
    """Otherwise an old process that wakes up late would."""
    loop = Loop(4).until("agree")
    late = loop.copy_of(VICTIM)
    loop.server.receive(VICTIM, loop.answer(VICTIM))
    survivors = loop.inbox[VICTIM]
    loop.play_others([VICTIM])
    with pytest.raises(ProtocolError, match="was let out before"):
        late.receive(survivors)
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)
    assert loop.server.dropped == {}


@pytest.mark.parametrize("party", ["done client", "aborted client", "done server", "aborted server"])
def test_what_is_over_stays_over(party):
    loop = Loop(4)
    loop.finish()
    one = loop.clients[VICTIM] if "client" in party else loop.server
    if "aborted" in party:
        one.abort()
    identity = {"identity": identity_of(VICTIM), "policy": policy_of(loop.config), "store": loop.store}
    again = type(one).from_bytes(
        one.to_bytes(SAVING_KEY), SAVING_KEY, **identity if "client" in party else {}
    )
    assert again.phase == party.split()[0]
    with pytest.raises(ProtocolError):
        again.receive(*[b""] if "client" in party else [VICTIM, b""])


# --- keys and bytes ---


def opened(loop, role, data, key=SAVING_KEY):
    if role == "server":
        return Server.from_bytes(data, key)
    return Client.from_bytes(data, key, identity_of(VICTIM), policy=policy_of(loop.config), store=loop.store)


@pytest.fixture(scope="module")
def saved():
    """A session in its second phase, and what both sides saved of it."""
    loop = Loop(3).until("share")
    parties = {"client": loop.clients[VICTIM], "server": loop.server}
    return loop, {role: party.to_bytes(SAVING_KEY) for role, party in parties.items()}


@pytest.mark.parametrize("role", ["client", "server"])
def test_only_the_key_that_sealed_it_opens_it(saved, role):
    loop, data = saved
    assert opened(loop, role, data[role]).phase == "share"
    with pytest.raises(InvalidArgumentError, match="must be opened with the key that sealed it"):
        opened(loop, role, data[role], OTHER_KEY)


@pytest.mark.parametrize(("role", "other"), [("client", "server"), ("server", "client")])
def test_one_sides_session_is_not_opened_by_the_other(saved, role, other):
    loop, data = saved
    with pytest.raises(InvalidArgumentError, match=f"the saved session of a {other}"):
        opened(loop, other, data[role])


@pytest.mark.parametrize("role", ["client", "server"])
def test_no_byte_of_a_saved_session_may_change(saved, role):
    loop, data = saved
    whole = data[role]
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for lie in (*changed, *(whole[:length] for length in range(100)), whole[:-1], whole + b"\0"):
        with pytest.raises(InvalidArgumentError):
            opened(loop, role, lie)


@pytest.mark.parametrize(("key", "error"), [(b"k" * 31, InvalidArgumentError), ("k" * 32, InvalidTypeError)])
@pytest.mark.parametrize("role", ["client", "server"])
def test_keys_are_32_bytes(saved, role, key, error):
    loop, data = saved
    party = loop.clients[VICTIM] if role == "client" else loop.server
    with pytest.raises(error, match="key of a saved session must be"):
        party.to_bytes(key)
    with pytest.raises(error, match="key of a saved session must be"):
        opened(loop, role, data[role], key)


@pytest.mark.parametrize("data", [None, "text", [1]])
def test_only_bytes_are_opened(saved, data):
    for role in ("client", "server"):
        with pytest.raises(InvalidTypeError, match="must be bytes"):
            opened(saved[0], role, data)


@pytest.mark.parametrize("phase", PHASE_NAMES)
def test_no_secret_shows_in_a_saved_session(phase):
    """And no two saved sessions look alike."""
    loop = Loop(parameters=SPARSE).until(phase)
    client = loop.clients[VICTIM]
    data = client.to_bytes(SAVING_KEY)
    assert data[:17] == client.to_bytes(SAVING_KEY)[:17] == b"fedsec session 2\0"
    assert data[17:49] != client.to_bytes(SAVING_KEY)[17:49]
    for secret in (
        value for value in vars(client._state).values() if isinstance(value, bytearray) and any(value)
    ):
        for shown in (bytes(secret), secret.hex().encode(), base64.b64encode(secret)):
            assert shown not in data


def test_a_client_goes_on_with_its_own_identity_policy_and_store():
    loop = Loop(4).until("share")
    data = loop.clients[VICTIM].to_bytes(SAVING_KEY)
    options = {"policy": policy_of(loop.config), "store": loop.store}
    with pytest.raises(InvalidArgumentError, match="must be the one that the configuration names"):
        Client.from_bytes(data, SAVING_KEY, identity_of(20), **options)
    with pytest.raises(InvalidTypeError):
        Client.from_bytes(data, SAVING_KEY, identity_of(VICTIM))
    elsewhere = Client.from_bytes(
        data, SAVING_KEY, identity_of(VICTIM), **options | {"store": SessionStore.in_memory()}
    )
    with pytest.raises(ProtocolError, match="was never started"):
        elsewhere.receive(loop.inbox[VICTIM])


# --- the store ---


def test_a_session_id_starts_once():
    """[SPEC 3.5]: in another session object, in another round, for the same identity."""
    loop = Loop(4).until("share")
    for config in (loop.config, Loop(4, round_id=8).config):
        with pytest.raises(ProtocolError, match="was started before"):
            client_of(config, VICTIM, loop.store).start()
    client_of(Loop(4, round_id=8, session=b"t").config, VICTIM, loop.store).start()
    with pytest.raises(ProtocolError, match="round 7 is over"):
        client_of(Loop(4, session=b"u").config, VICTIM, loop.store).start()


def test_a_round_has_64_sessions():
    """[SPEC 3.5, 5.4]"""
    store = SessionStore.in_memory()

    def start(attempt):
        config = Loop(3, session=attempt.to_bytes(32, "little")).config
        return client_of(config, VICTIM, store).start()

    for attempt in range(MAX_ATTEMPTS):
        start(attempt)
    with pytest.raises(ProtocolError, match="has had 64 sessions of at most 64"):
        start(MAX_ATTEMPTS)


def test_what_was_claimed_and_lost_stays_claimed(monkeypatch):
    """A crash between the store's record and the message: the client has dropped out, nothing more."""
    loop = Loop(4).until("agree")
    copy = loop.copy_of(VICTIM)
    monkeypatch.setattr(Client, "_frame", lambda *_: (_ for _ in ()).throw(MemoryError))
    monkeypatch.setattr(SessionStore, "end_session", lambda *_: None)
    with pytest.raises(MemoryError):
        loop.clients[VICTIM].receive(loop.inbox[VICTIM])
    monkeypatch.undo()
    loop.clients[VICTIM] = copy
    with pytest.raises(ProtocolError, match="was let out before"):
        loop.answer(VICTIM)
    loop.play_others([VICTIM])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)
    assert loop.server.dropped == {VICTIM: "agree"}


def test_a_saved_server_holds_its_sum():
    loop = Loop(4, 50, modulus_bits=17).until("upload")
    loop.play("upload")
    again = Server.from_bytes(loop.server.to_bytes(SAVING_KEY), SAVING_KEY)
    assert np.array_equal(again._sum, loop.server._sum)
    assert again.survivors == loop.server.survivors == loop.ids
