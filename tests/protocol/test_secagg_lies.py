"""Lies in any one message: what a client or the server must see through, each on the bytes."""

import struct
from dataclasses import replace

import pytest
from protocol.secagg_attacker import Attacker
from protocol.secagg_loop import (
    COMPLETE_PHASES,
    HEADER,
    PHASE_NAMES,
    SPARSE,
    Loop,
    client_of,
    complete,
    config_of,
    identity_of,
    shares_let_out,
)

from fedsec.errors import AggregationAborted, ProtocolError
from fedsec.secagg import Phase, SessionStore, graph, messages, steps
from fedsec.secagg.keys import KeyPair
from fedsec.secagg.messages import Advertisement, Kind, Proven, Reveal, Roster, ShareOf, frame
from fedsec.secagg.primitives import merkle

VICTIM = 10


def table(rows):
    """A table as a liar would write it: any order, any repetition."""
    return struct.pack("<H", len(rows)) + b"".join(struct.pack("<I", i) + record for i, record in rows)


def assert_refused(loop, kind, body, error=ProtocolError, client=VICTIM):
    """The client refuses, is aborted for good, and lets nothing out, then or later [SPEC 4.2]."""
    victim, honest = loop.clients[client], loop.inbox[client]
    loop.inbox[client] = loop.forge(kind, client, body)
    sent_before = len(loop.sent[client])
    with pytest.raises(error):
        loop.answer(client)
    assert victim.phase is Phase.ABORTED
    with pytest.raises(ProtocolError):
        victim.receive(honest)
    assert len(loop.sent[client]) == sent_before
    assert not [kinds for (_, holder), kinds in shares_let_out(loop).items() if holder == client]
    corrupt = next(i for i in reversed(loop.ids) if i != client)
    assert Attacker(loop, [corrupt]).solve([client]) is None


# --- survivors and quorum ---


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ((20, 30, 40), ProtocolError),  # leaves out the client itself
        ((10, 20), AggregationAborted),  # below T = 3
        ((10,), AggregationAborted),
    ],
)
@pytest.mark.parametrize("profile", ["authenticated", "semi_honest"])
def test_sets_that_lie(ids, error, profile):
    """[SPEC 8.1]"""
    loop = Loop(4, profile=profile).until("agree" if profile == "authenticated" else "unmask")
    assert_refused(loop, Kind.SURVIVORS, messages.encode_set(loop.config, ids), error)


@pytest.mark.parametrize("body", [b"", bytes(1), bytes(2), b"\x0f\0", b"\x1f", b"\xff"])
def test_sets_of_nobody_of_strangers_or_of_another_length(body):
    """[SPEC 2]: four clients take one byte, and its upper half is zero."""
    assert_refused(Loop(4).until("agree"), Kind.SURVIVORS, body, (ProtocolError, AggregationAborted))


def test_a_peer_that_never_shared_is_no_survivor():
    """[SPEC 8.1]: its neighbours in the set are all accepted peers."""
    loop = Loop(4, silent={20: "share"}).until("agree")
    body = messages.encode_set(loop.config, loop.ids)
    assert_refused(loop, Kind.SURVIVORS, body)


def test_too_few_neighbours_survive():
    """[SPEC 8.1]: at least t of them; the set has its T members elsewhere on the ring."""
    loop = Loop(parameters=replace(SPARSE, min_survivors=8)).until("agree")
    gone = set(loop.clients[VICTIM]._state.neighbors[:2])
    body = messages.encode_set(loop.config, set(loop.ids) - gone)
    assert_refused(loop, Kind.SURVIVORS, body, AggregationAborted)


def quorum_of(loop, client=VICTIM):
    return messages.decode_quorum(loop.config, loop.inbox[client][HEADER:])


def other_signatures(loop, survivors=None, **settings):
    """Signatures of the same clients under another set, or in another session."""
    other = Loop(4, **settings).until("agree")
    body = messages.encode_set(other.config, survivors or other.ids)
    return {
        i: other.tell(i, Kind.SURVIVORS, body)[HEADER:]
        for i in quorum_of(loop)
        if i in (survivors or other.ids)
    }


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        ("fewer than T", AggregationAborted),
        ("nobody", AggregationAborted),
        ("one signature for all", ProtocolError),
        ("two swapped", ProtocolError),
        ("of another session", ProtocolError),
        ("of another model", ProtocolError),
        ("of another set", ProtocolError),
        ("of one more who is no survivor", ProtocolError),
        ("of one instead who is no survivor", ProtocolError),
        ("one bit", ProtocolError),
        ("zeros", ProtocolError),
    ],
)
def test_quorums_that_lie(lie, error):
    """[SPEC 9.1]: at least T survivors, each over the same message."""
    loop = Loop(4, silent={40: "upload"}).until("unmask")
    honest = quorum_of(loop)
    one = honest[20]
    assert list(honest) == [10, 20, 30]
    root, h1 = loop.server._graph.root, loop.server._h1()
    text = steps.keys.agree_text(h1, root, messages.encode_set(loop.config, honest))
    stranger = identity_of(40).sign(text)
    lies = {
        "fewer than T": lambda: {10: honest[10], 20: one},
        "nobody": dict,
        "one signature for all": lambda: dict.fromkeys(honest, one),
        "two swapped": lambda: honest | {10: one, 20: honest[10]},
        "of another session": lambda: other_signatures(loop, silent={40: "upload"}, session=b"t"),
        "of another model": lambda: other_signatures(loop, silent={40: "upload"}, model_digest=bytes(32)),
        "of another set": lambda: other_signatures(loop),
        "of one more who is no survivor": lambda: honest | {40: stranger},
        "of one instead who is no survivor": lambda: {10: honest[10], 20: one, 40: stranger},
        "one bit": lambda: honest | {20: one[:-1] + bytes([one[-1] ^ 1])},
        "zeros": lambda: dict.fromkeys(honest, bytes(64)),
    }
    assert_refused(loop, Kind.QUORUM, messages.encode_quorum(loop.config, lies[lie]()), error)


def test_the_same_request_twice_is_not_answered_twice():
    """[SPEC 4.2]"""
    loop = Loop(4).until("unmask")
    loop.answer(VICTIM)
    assert loop.clients[VICTIM].phase is Phase.DONE
    with pytest.raises(ProtocolError, match="nothing is answered twice"):
        loop.answer(VICTIM)
    assert loop.clients[VICTIM].phase is Phase.ABORTED


# --- rosters ---


def key_of(secret):
    return KeyPair(secret).public


def advertised(loop, client, **changes):
    """A client's advertisement with other contents, and its own signature over them."""
    honest = loop.server._collected.advertised[client]._replace(**changes)
    text = steps.keys.advertise_text(loop.config.h0, client, honest.signed)
    return honest._replace(signature=identity_of(client).sign(text))


def roster_of(loop, client=VICTIM):
    return messages.decode_roster(loop.config, loop.inbox[client][HEADER:])


def with_peers(loop, peers):
    """A complete roster of these, under the root that fits them."""
    proven = {i: Proven(row, b"") for i, row in peers.items()}
    return messages.encode_roster(loop.config, Roster(steps.root_of(loop.config, proven), {}, proven))


ROSTER_LIES = {
    "without the client": lambda loop, rows: {i: rows[i] for i in (20, 30, 40)},
    "a stranger": lambda loop, rows: rows | {50: rows[20]},
    "nobody": lambda loop, rows: {},
    "the client's keys replaced": lambda loop, rows: (
        rows | {10: advertised(loop, 10, masking=key_of(b"k" * 32))}
    ),
    "the client's signature replaced": lambda loop, rows: (
        rows | {10: rows[10]._replace(signature=rows[20].signature)}
    ),
    "a sealing key replaced": lambda loop, rows: rows | {20: rows[20]._replace(sealing=key_of(b"k" * 32))},
    "a mask key replaced": lambda loop, rows: rows | {20: rows[20]._replace(masking=key_of(b"k" * 32))},
    "a commitment replaced": lambda loop, rows: rows | {20: rows[20]._replace(commitment=b"c" * 32)},
    "keys swapped": lambda loop, rows: (
        rows | {20: rows[20]._replace(sealing=rows[20].masking, masking=rows[20].sealing)}
    ),
    "another's advertisement": lambda loop, rows: rows | {20: rows[30]},
    "the client's own, reflected": lambda loop, rows: rows | {20: rows[10]},
    "of another session": lambda loop, rows: rows | {20: advertisement_of_another_session(20)},
    "a sealing key of small order": lambda loop, rows: rows | {20: advertised(loop, 20, sealing=bytes(32))},
}


def advertisement_of_another_session(client):
    return Loop(4, session=b"another").until("share").server._collected.advertised[client]


@pytest.mark.parametrize("lie", ROSTER_LIES)
def test_rosters_that_lie(lie):
    """[SPEC 6.1]: signed by those whose keys they are, for this session, this client's as it sent it."""
    loop = Loop(4).until("share")
    peers = {i: proven.advertisement for i, proven in roster_of(loop).peers.items()}
    error = (ProtocolError, AggregationAborted)
    assert_refused(loop, Kind.ROSTER, with_peers(loop, ROSTER_LIES[lie](loop, peers)), error)


def test_a_roster_of_too_few():
    """[SPEC 6.1]: at least t neighbours must have advertised."""
    loop = Loop(4).until("share")
    peers = {i: proven.advertisement for i, proven in roster_of(loop).peers.items() if i in (10, 20)}
    assert_refused(loop, Kind.ROSTER, with_peers(loop, peers), AggregationAborted)


@pytest.mark.parametrize("order", [(0, 1, 1, 2, 3), (0, 2, 1, 3)])
def test_rosters_in_another_order_or_with_somebody_twice(order):
    """[SPEC 2]"""
    loop = Loop(4).until("share")
    roster = roster_of(loop)
    rows = [(i, proven.advertisement.to_bytes()) for i, proven in roster.peers.items()]
    assert_refused(loop, Kind.ROSTER, roster.root + table([rows[at] for at in order]))


def test_a_root_of_other_advertisements():
    """[SPEC 6.1]: on the complete graph the root is that of exactly these."""
    loop = Loop(4).until("share")
    roster = roster_of(loop)
    body = messages.encode_roster(loop.config, roster._replace(root=b"r" * 32))
    assert_refused(loop, Kind.ROSTER, body)


def test_rosters_that_differ_between_clients_open_no_shares():
    """[SPEC 6.2]: seals bind the root, so an equivocating server brings no two groups together."""
    loop = Loop(4).until("share")
    peers = {i: proven.advertisement for i, proven in roster_of(loop).peers.items()}
    lie = with_peers(loop, peers | {20: advertised(loop, 20, masking=key_of(b"m" * 32))})
    loop.inbox[VICTIM] = loop.forge(Kind.ROSTER, VICTIM, lie)
    loop.play("share")
    for i in loop.ids:
        with pytest.raises(ProtocolError, match="not authentic"):
            loop.answer(i)


def test_unsigned_keys_are_for_the_semi_honest_profile():
    """[SPEC 1.5]: there zeros stand for signatures, and nothing else does."""
    loop = Loop(4, profile="semi_honest").until("share")
    peers = {i: proven.advertisement for i, proven in roster_of(loop).peers.items()}
    lie = peers | {20: peers[20]._replace(signature=b"s" * 64)}
    assert_refused(loop, Kind.ROSTER, with_peers(loop, lie))


# --- the committee and its graph ---


def committee_lies(loop, members):
    one, other = list(members)[:2]
    (stranger,) = [i for i in loop.ids if i not in members][:1]
    own = loop.server._collected.advertised
    tree = merkle.Tree([own[i].to_bytes() for i in loop.ids])

    def proven(i):
        return Proven(own[i], tree.path(loop.config.position(i)))

    return {
        "one member less": {i: row for i, row in members.items() if i != other},
        "one more": members | {stranger: proven(stranger)},
        "another instead": {i: row for i, row in members.items() if i != other}
        | {stranger: proven(stranger)},
        "another path": members | {other: members[other]._replace(path=members[one].path)},
        "no path": members | {other: members[other]._replace(path=bytes(len(members[other].path)))},
        "another's advertisement": members | {other: members[one]},
        "unsigned": members | {other: Proven(own[other]._replace(masking=b"m" * 32), members[other].path)},
    }


COMMITTEE_LIES = (
    "one member less",
    "one more",
    "another instead",
    "another path",
    "no path",
    "another's advertisement",
    "unsigned",
    "another root",
)


@pytest.mark.parametrize("lie", COMMITTEE_LIES)
def test_committees_that_lie(lie):
    """[SPEC 5.3]: the members by the hash, their signatures, and paths to the root."""
    loop = Loop(parameters=SPARSE).until("reveal")
    member = graph.committee(loop.config)[0]
    root, members = messages.decode_committee(loop.config, loop.inbox[member][HEADER:])
    if lie == "another root":
        root = b"r" * 32
    else:
        members = committee_lies(loop, members)[lie]
    body = messages.encode_committee(root, members)
    assert_refused(loop, Kind.COMMITTEE, body, client=member)


def test_a_member_without_its_own_advertisement():
    """[SPEC 5.3]: it finds its own among them as it sent it."""
    loop = Loop(parameters=SPARSE).until("reveal")
    member = graph.committee(loop.config)[0]
    lie = advertised(loop, member, masking=key_of(b"k" * 32))
    rows = {i: loop.server._collected.advertised[i] for i in loop.ids} | {member: lie}
    tree = merkle.Tree([rows[i].to_bytes() for i in loop.ids])
    members = {i: Proven(rows[i], tree.path(loop.config.position(i))) for i in graph.committee(loop.config)}
    assert_refused(loop, Kind.COMMITTEE, messages.encode_committee(tree.root, members), client=member)


def reveal_lies(loop, roster):
    one, other = list(roster.committee)[:2]
    proven, honest = roster.committee[one]
    nonce = b"n" * 32

    def signed(nonce, root=roster.root):
        text = steps.keys.reveal_text(loop.config.h0, root, one, nonce)
        return Reveal(nonce, identity_of(one).sign(text))

    revealed = {
        "another nonce than committed to": signed(nonce),
        "a nonce signed for another root": signed(honest.nonce, b"r" * 32),
        "not signed": honest._replace(signature=bytes(64)),
        "another's": roster.committee[other][1],
    }
    lies = {name: roster.committee | {one: (proven, reveal)} for name, reveal in revealed.items()}
    lies["a member less"] = {i: row for i, row in roster.committee.items() if i != one}
    lies["nobody"] = {}
    lies["two swapped"] = roster.committee | {
        one: (proven, roster.committee[other][1]),
        other: (roster.committee[other][0], honest),
    }
    return lies


@pytest.mark.parametrize(
    "lie",
    [
        "another nonce than committed to",
        "a nonce signed for another root",
        "not signed",
        "another's",
        "a member less",
        "nobody",
        "two swapped",
    ],
)
def test_reveals_that_lie(lie):
    """[SPEC 5.3, 6.1]: each nonce fits its commitment, and was signed for the root that was fixed before."""
    loop = Loop(parameters=SPARSE).until("share")
    roster = roster_of(loop)
    lies = reveal_lies(loop, roster)
    body = messages.encode_roster(loop.config, roster._replace(committee=lies[lie]))
    assert_refused(loop, Kind.ROSTER, body)


def test_a_member_takes_no_other_root_than_it_signed():
    """[SPEC 6.1], even if everybody else in the committee is corrupt and signs another one."""
    loop = Loop(parameters=SPARSE).until("share")
    member, *others = graph.committee(loop.config)
    roster = roster_of(loop, member)
    rows = {i: loop.server._collected.advertised[i] for i in loop.ids}
    rows[others[0]] = advertised(loop, others[0], masking=key_of(b"k" * 32))
    tree = merkle.Tree([rows[i].to_bytes() for i in loop.ids])

    def proven(i):
        return Proven(rows[i], tree.path(loop.config.position(i)))

    def revealed(i):
        nonce = roster.committee[i][1].nonce
        text = steps.keys.reveal_text(loop.config.h0, tree.root, i, nonce)
        return Reveal(nonce, identity_of(i).sign(text))

    committee = {i: (proven(i), revealed(i)) for i in roster.committee}
    nonces = b"".join(reveal.nonce for _, reveal in committee.values())
    near = graph.neighbors(loop.config, graph.seed(loop.config, tree.root, nonces), member)
    lie = Roster(tree.root, committee, {i: proven(i) for i in (*near, member)})
    loop.inbox[member] = loop.forge(Kind.ROSTER, member, messages.encode_roster(loop.config, lie))
    with pytest.raises(ProtocolError, match="is not the one that this client signed"):
        loop.answer(member)


def test_peers_that_are_no_neighbours():
    """[SPEC 6.1]: the ring decides whom a client shares with."""
    loop = Loop(parameters=SPARSE).until("share")
    roster = roster_of(loop)
    stranger = next(i for i in loop.ids if i not in roster.peers)
    elsewhere = next(
        messages.decode_roster(loop.config, m[HEADER:])
        for m in loop.inbox.values()
        if stranger in messages.decode_roster(loop.config, m[HEADER:]).peers
    )
    lie = roster.peers | {stranger: elsewhere.peers[stranger]}
    body = messages.encode_roster(loop.config, roster._replace(peers=lie))
    assert_refused(loop, Kind.ROSTER, body)


# --- deliveries ---


def delivery_of(loop, client=VICTIM):
    return messages.decode_delivery(loop.inbox[client][HEADER:])


def row(pair):
    return pair.commitments + pair.sealed


DELIVERY_LIES = {
    "one ciphertext for many senders": lambda loop, rows: [(i, row(rows[40])) for i in rows],
    "one sender many times": lambda loop, rows: [(40, row(rows[40]))] * 3,
    "two senders swapped": lambda loop, rows: [(20, row(rows[30])), (30, row(rows[20])), (40, row(rows[40]))],
    "sealed for another": lambda loop, rows: [
        (20, row(delivery_of(loop, 30)[20])),
        (30, row(rows[30])),
        (40, row(rows[40])),
    ],
    "the client's own, reflected": lambda loop, rows: [
        (20, row(delivery_of(loop, 20)[VICTIM])),
        (30, row(rows[30])),
        (40, row(rows[40])),
    ],
    "from itself": lambda loop, rows: [
        (VICTIM, row(rows[20])),
        *((i, row(pair)) for i, pair in rows.items()),
    ],
    "of another session": lambda loop, rows: [
        (20, row(delivery_of(Loop(4, session=b"another").until("upload"))[20])),
        (30, row(rows[30])),
        (40, row(rows[40])),
    ],
    "of a stranger": lambda loop, rows: [*((i, row(pair)) for i, pair in rows.items()), (50, row(rows[20]))],
    "commitments swapped": lambda loop, rows: [
        (20, rows[30].commitments + rows[20].sealed),
        (30, row(rows[30])),
        (40, row(rows[40])),
    ],
    "the two commitments exchanged": lambda loop, rows: [
        (20, rows[20].commitments[32:] + rows[20].commitments[:32] + rows[20].sealed),
        (30, row(rows[30])),
        (40, row(rows[40])),
    ],
}


@pytest.mark.parametrize("lie", DELIVERY_LIES)
def test_deliveries_that_lie(lie):
    """[SPEC 7.1]: sealed pairs of distinct neighbours, each for this client, in this session."""
    loop = Loop(4).until("upload")
    assert_refused(loop, Kind.DELIVERY, table(DELIVERY_LIES[lie](loop, delivery_of(loop))))


def test_a_delivery_of_too_few():
    """[SPEC 7.1]: at least t of them."""
    loop = Loop(4).until("upload")
    body = table([(20, row(delivery_of(loop)[20]))])
    assert_refused(loop, Kind.DELIVERY, body, AggregationAborted)


def test_shares_of_a_peer_that_did_not_advertise_are_refused():
    """[SPEC 7.1]"""
    loop = Loop(parameters=complete(5, corrupt=0, lost=2), silent={50: "advertise"}).until("upload")
    rows = [(i, row(pair)) for i, pair in delivery_of(loop).items()]
    assert_refused(loop, Kind.DELIVERY, table([*rows, (50, rows[0][1])]))


@pytest.mark.parametrize("begun", [False, True], ids=["before it", "in its middle"])
def test_a_message_while_an_upload_is_due_ends_the_session(begun):
    """[SPEC 4.2]: nothing is due then, whatever it says; no further chunk leaves."""
    loop = Loop(4, 200_000).until("upload")
    client = loop.clients[VICTIM]
    client.receive(loop.inbox[VICTIM])
    chunks = client.upload(loop.vectors[VICTIM])
    if begun:
        next(chunks)
    survivors = loop.forge(Kind.SURVIVORS, VICTIM, messages.encode_set(loop.config, loop.ids))
    with pytest.raises(ProtocolError, match="while this client's upload was due"):
        client.receive(survivors)
    assert client.phase is Phase.ABORTED
    with pytest.raises(ProtocolError):
        next(chunks)


# --- any phase ---


@pytest.mark.parametrize("phase", PHASE_NAMES[1:])
@pytest.mark.parametrize("change", ["truncated", "extended", "empty", "headless"])
def test_lengths_that_lie(phase, change):
    """[SPEC 2.1]"""
    loop = Loop(parameters=SPARSE).until(phase)
    member = graph.committee(loop.config)[0]
    honest = loop.inbox[member]
    loop.inbox[member] = {
        "truncated": honest[:-1],
        "extended": honest + b"\0",
        "empty": b"",
        "headless": honest[:HEADER],
    }[change]
    with pytest.raises(ProtocolError):
        loop.answer(member)
    assert loop.clients[member].phase is Phase.ABORTED


@pytest.fixture(scope="module")
def all_answers():
    """What the server of an honest session sent, by the phase that it belongs to."""
    loop, answers = Loop(4), {}
    while loop.server.phase in COMPLETE_PHASES:
        loop.play(loop.server.phase.value)
        answers[loop.server.phase.value] = dict(loop.inbox)
    return answers


@pytest.mark.parametrize("phase", COMPLETE_PHASES[1:])
def test_messages_out_of_order_or_for_another_are_refused(phase, all_answers):
    """[SPEC 4.2]: the very bytes of the same session, but of another phase or for another client."""
    for given, inbox in all_answers.items():
        for addressee in inbox:
            if addressee in (VICTIM, 20) and (given, addressee) != (phase, VICTIM):
                fresh = Loop(4).until(phase)
                fresh.inbox[VICTIM] = inbox[addressee]
                with pytest.raises(ProtocolError):
                    fresh.answer(VICTIM)
                assert fresh.clients[VICTIM].phase is Phase.ABORTED


@pytest.mark.parametrize("phase", PHASE_NAMES[1:])
@pytest.mark.parametrize("settings", [{"session": b"t"}, {"round_id": 8}], ids=["session", "round"])
def test_messages_of_another_session_or_round_are_refused(phase, settings):
    """[SPEC 4.1]: with their own header, and with this session's over their body.

    A set of survivors is nothing but a bitmap; whoever signs it signs it for this session.
    """
    other = Loop(parameters=SPARSE, **settings).until(phase)
    members = set(graph.committee(other.config)) & set(graph.committee(Loop(parameters=SPARSE).config))
    client = min(members)
    for rewritten in (False, True):
        loop = Loop(parameters=SPARSE).until(phase)
        message = other.inbox[client]
        if rewritten:
            message = loop.forge(Kind(message[1]), client, message[HEADER:])
        if rewritten and phase == "agree":
            assert message == loop.inbox[client]
            continue
        loop.inbox[client] = message
        with pytest.raises((ProtocolError, AggregationAborted)):
            loop.answer(client)
        assert loop.clients[client].phase is Phase.ABORTED


@pytest.mark.parametrize("phase", PHASE_NAMES)
@pytest.mark.parametrize("settings", [{"session": b"t"}, {"round_id": 8}], ids=["session", "round"])
def test_answers_of_another_session_or_round_are_refused(phase, settings):
    """[SPEC 4.1, 4.3]: with their own header, and what is signed or committed to with this session's, too."""
    other, loop = Loop(parameters=SPARSE, **settings).until(phase), Loop(parameters=SPARSE).until(phase)
    client = min(other.inbox.keys() & loop.inbox.keys())
    replayed = other.answer(client)
    honest = loop.answer(client)
    lies = [replayed, honest[:HEADER] + replayed[HEADER:]]
    for lie in lies[:1] if phase in ("share", "upload") else lies:
        with pytest.raises(ProtocolError):
            loop.server.receive(client, lie)
    loop.server.receive(client, honest)


@pytest.mark.parametrize("phase", COMPLETE_PHASES)
def test_no_answer_is_taken_back_by_its_sender(phase):
    """[SPEC 4.2]: reflected to the client that sent it."""
    loop = Loop(4).until(phase)
    sent = loop.answer(VICTIM)
    with pytest.raises(ProtocolError):
        loop.clients[VICTIM].receive(sent)
    assert loop.clients[VICTIM].phase is Phase.ABORTED


OTHERS = [
    config_of(complete(4), session=b"t"),
    config_of(complete(4), round_id=8),
    config_of(complete(5)),
    config_of(complete(4), d=4),
    config_of(complete(4), modulus_bits=31),
    config_of(complete(4, lost=0)),
    config_of(complete(4), profile="semi_honest"),
]


@pytest.mark.parametrize("other", OTHERS, ids=range(len(OTHERS)))
def test_parties_of_different_configurations_never_talk(other):
    """[SPEC 3.2, 4.1]"""
    loop = Loop(4)
    stranger = client_of(other, 20, SessionStore.in_memory())
    with pytest.raises(ProtocolError, match="another session, configuration"):
        loop.server.receive(20, stranger.start())
    loop.until("share")
    with pytest.raises(ProtocolError, match="another session, configuration"):
        stranger.receive(loop.inbox[20])
    assert stranger.phase is Phase.ABORTED


@pytest.mark.parametrize("other", OTHERS, ids=range(len(OTHERS)))
def test_a_rewritten_header_does_not_bring_configurations_together(other):
    """[SPEC 5.1]: a server that lies about the digest reaches the signatures, which bind it as well."""
    loop = Loop(4)
    stranger = client_of(other, VICTIM, SessionStore.in_memory())
    body = stranger.start()[HEADER:]
    with pytest.raises(ProtocolError, match="not signed by it"):
        loop.server.receive(VICTIM, frame(Kind.ADVERTISE, loop.config.h0, VICTIM, body))
    loop.until("share")
    with pytest.raises(ProtocolError):
        stranger.receive(frame(Kind.ROSTER, other.h0, VICTIM, loop.inbox[VICTIM][HEADER:]))
    assert stranger.phase is Phase.ABORTED


# --- clients that lie to the server ---


def test_unusable_keys_are_refused_and_the_round_goes_on():
    """[SPEC 2, 4.3]: refused by name; a client that sends no others is dropped."""
    loop = Loop(4)
    loop.server.receive(10, loop.answer(10))
    good = Advertisement(key_of(b"k" * 32), key_of(b"l" * 32), bytes(32), bytes(64))
    for lie in (good._replace(sealing=bytes(32)), good._replace(masking=bytes(32))):
        text = steps.keys.advertise_text(loop.config.h0, 40, lie.signed)
        body = lie._replace(signature=identity_of(40).sign(text)).to_bytes()
        with pytest.raises(ProtocolError, match="client 40 advertised a public key of small order"):
            loop.server.receive(40, frame(Kind.ADVERTISE, loop.config.h0, 40, body))
    loop.silent[40] = "advertise"
    loop.play_others([10])
    assert loop.finish().tolist() == loop.expected_sum([10, 20, 30])
    assert loop.server.dropped == {40: "advertise"}


def test_a_commitment_from_outside_the_committee_is_refused():
    """[SPEC 4.1]: zero but for members."""
    loop = Loop(4)
    lie = Advertisement(key_of(b"k" * 32), key_of(b"l" * 32), b"c" * 32, bytes(64))
    body = lie._replace(
        signature=identity_of(40).sign(steps.keys.advertise_text(loop.config.h0, 40, lie.signed))
    ).to_bytes()
    with pytest.raises(ProtocolError, match="not of the committee"):
        loop.server.receive(40, frame(Kind.ADVERTISE, loop.config.h0, 40, body))


def test_reveals_that_lie_to_the_server():
    """[SPEC 5.3]"""
    loop = Loop(parameters=SPARSE).until("reveal")
    one, other = graph.committee(loop.config)[:2]
    honest = {i: loop.answer(i) for i in (one, other)}
    for body in (
        honest[other][HEADER:],
        bytes(32) + honest[one][HEADER + 32 :],
        honest[one][HEADER:-64] + bytes(64),
    ):
        with pytest.raises(ProtocolError, match=f"client {one}"):
            loop.server.receive(one, frame(Kind.REVEAL, loop.config.h0, one, body))
    for i, message in honest.items():
        loop.server.receive(i, message)
    loop.play_others(honest)
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def with_share(message, owner, **changes):
    """An unmask message with another share of one owner's secret, or of another kind."""
    given = messages.decode_unmask(message[HEADER:])
    of, share = given[owner].of, bytearray(given[owner].share)
    share[5] ^= 1
    given[owner] = messages.Unmasking(
        changes.get("of", of), bytes(share) if not changes else given[owner].share
    )
    return message[:HEADER] + messages.encode_unmask(given)


@pytest.mark.parametrize("silent", [{}, {20: "upload"}])
def test_a_wrong_share_is_refused_by_the_name_of_its_holder_and_the_session_goes_on(silent):
    """[SPEC 9.2]: of a survivor's self mask, or of a lost client's mask key."""
    loop = Loop(4, silent=silent).until("unmask")
    honest = loop.answer(10)
    with pytest.raises(ProtocolError, match="client 10 gave another share than client 20 dealt to it"):
        loop.server.receive(10, with_share(honest, 20))
    loop.server.receive(10, honest)
    loop.play_others([10])
    assert loop.server.result().tolist() == loop.expected_sum(loop.server.survivors)


def test_giving_another_share_than_asked_is_refused():
    """[SPEC 9.1]"""
    loop = Loop(4).until("unmask")
    honest = loop.answer(VICTIM)
    for lie in (with_share(honest, 20, of=ShareOf.MASK_KEY), honest[:HEADER] + table([])):
        with pytest.raises(ProtocolError, match="must give the one share that was asked of each peer"):
            loop.server.receive(VICTIM, lie)
    loop.server.receive(VICTIM, honest)


@pytest.mark.parametrize("named", ["self mask", "mask key"])
def test_a_dealer_of_shares_that_do_not_fit_together_is_named(named, monkeypatch):
    """[SPEC 9.2]: they fit their commitments, so that no holder is at fault; the session ends."""
    silent = {20: "upload"} if named == "mask key" else {}
    loop = Loop(4, silent=silent).until("share")
    split = steps._split

    def lying_split(me, value):
        shares = split(me, value)
        for one in shares.values():
            one[3] ^= 1
        return shares

    monkeypatch.setattr(
        steps, "_split", lambda me, value: (lying_split if me.client_id == 20 else split)(me, value)
    )
    loop.until("unmask")
    with pytest.raises(AggregationAborted, match=f"client 20 dealt shares of its {named} that do not fit"):
        loop.play("unmask")
    assert loop.server.phase is Phase.ABORTED
    with pytest.raises(ProtocolError):
        loop.server.result()


def test_a_dealer_that_commits_to_other_shares_is_named_by_its_peers(monkeypatch):
    """[SPEC 7.1]"""
    loop = Loop(4).until("share")
    commitments = steps._commitments
    monkeypatch.setattr(
        steps,
        "_commitments",
        lambda b, dealer, *rest: bytes(64) if dealer == 20 else commitments(b, dealer, *rest),
    )
    loop.play("share")
    monkeypatch.undo()
    with pytest.raises(ProtocolError, match="client 20 dealt this client shares that it did not commit to"):
        loop.answer(VICTIM)


def test_shares_for_a_part_of_the_neighbours_are_refused():
    """[SPEC 6.4]"""
    loop = Loop(4).until("share")
    honest = loop.answer(VICTIM)
    commitment, sealed = messages.decode_share(honest[HEADER:])
    some = {i: pair for i, pair in sealed.items() if i != 40}
    for lie in (some, {}, sealed | {VICTIM: sealed[40]}, sealed | {50: sealed[40]}):
        body = messages.encode_share(commitment, lie)
        with pytest.raises(ProtocolError, match="each neighbor that advertised"):
            loop.server.receive(VICTIM, frame(Kind.SHARE, loop.config.h0, VICTIM, body))
    loop.server.receive(VICTIM, honest)
    loop.play_others([VICTIM])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


def test_a_signature_of_another_set_is_refused():
    """[SPEC 8.1, 4.3]"""
    loop = Loop(4).until("agree")
    lie = loop.tell(VICTIM, Kind.SURVIVORS, messages.encode_set(loop.config, (10, 20, 30)))
    with pytest.raises(ProtocolError, match="client 10 did not sign the survivors"):
        loop.server.receive(VICTIM, lie)
    loop.play_others([VICTIM])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)
