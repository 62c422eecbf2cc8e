"""Lies that a client must see through, each on the bytes; and what a lying client cannot do to others."""

import struct

import numpy as np
import pytest
from protocol.secagg_loop import HEADER, PHASE_NAMES, Loop, shares_let_out

from fedsec.errors import AggregationAborted, FedsecError, ProtocolError
from fedsec.secagg import Client, Config, Phase, keys, masking, messages, ring, shamir
from fedsec.secagg.keys import Party
from fedsec.secagg.messages import Kind, ShareOf, frame

VICTIM, COLLUDER = 10, 40


def table(rows):
    """A table as a liar would write it: any order, any repetition."""
    return struct.pack("<H", len(rows)) + b"".join(struct.pack("<I", i) + record for i, record in rows)


def roster_rows(loop, client=VICTIM):
    return list(messages.decode_roster(loop.inbox[client][HEADER:]).items())


def delivery_rows(loop, client=VICTIM):
    return list(messages.decode_delivery(loop.inbox[client][HEADER:]).items())


def assert_refused(loop, kind, body, error=ProtocolError, client=VICTIM):
    """The client refuses, is aborted for good, and lets nothing out, then or later."""
    victim, honest = loop.clients[client], loop.inbox[client]
    loop.inbox[client] = frame(kind, loop.config, client, body)
    sent_before = len(loop.sent[client])
    with pytest.raises(error):
        loop.answer(client)
    assert victim.phase is Phase.ABORTED
    with pytest.raises(ProtocolError):
        victim.receive(honest)
    assert len(loop.sent[client]) == sent_before


def survivors_body(*ids):
    return table([(i, b"") for i in ids])


# --- unmask: what is asked, and how often ---


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ((20, 30, 40), ProtocolError),  # leaves out the client itself
        ((10, 10, 20, 30), ProtocolError),  # the same client twice
        ((10, 20, 20, 30, 30), ProtocolError),
        ((40, 30, 20, 10), ProtocolError),  # not ascending
        ((10, 20, 30, 50), ProtocolError),  # unknown
        ((10, 20), AggregationAborted),  # below the threshold 3
        ((10,), AggregationAborted),
        ((), AggregationAborted),
    ],
)
def test_survivor_lists_that_lie(ids, error):
    loop = Loop(4).until("unmask")
    assert_refused(loop, Kind.SURVIVORS, survivors_body(*ids), error)
    assert not [kinds for (_, holder), kinds in shares_let_out(loop).items() if holder == VICTIM]


def test_a_peer_that_never_shared_is_no_survivor():
    loop = Loop(4, silent={20: "share"}).until("unmask")
    assert_refused(loop, Kind.SURVIVORS, survivors_body(10, 20, 30, 40))


class Forgetful(Client):
    """The negative control: answers requests for shares again and again."""

    def _enter(self, state):
        if self._phase is not Phase.UNMASK:
            super()._enter(state)

    def receive(self, message):
        reply = super().receive(message)
        if self._phase is Phase.DONE:
            self._phase = Phase.UNMASK
        return reply


def ask_twice(client_class):
    """A server that asks everybody for the victim's self mask, and then for its mask key.

    Returns the loop, the victim's upload, and the victim's shares by kind and abscissa.
    """
    loop = Loop(4, 50, threshold=3)
    loop.clients = {i: client_class(loop.config, i) for i in loop.ids}
    loop.until("upload")
    roster = {i: loop.server._collected.roster[i].masking for i in loop.ids}
    uploads = {i: loop.answer(i) for i in loop.ids}
    shares = {of: {} for of in ShareOf}
    for survivors in (loop.ids, tuple(i for i in loop.ids if i != VICTIM)):
        for holder in (20, 30, 40):
            loop.inbox[holder] = frame(Kind.SURVIVORS, loop.config, holder, survivors_body(*survivors))
            try:
                reply = messages.decode_unmask(loop.answer(holder)[HEADER:])
            except FedsecError:
                continue
            shares[reply[VICTIM].of][loop.config.abscissa(holder)] = reply[VICTIM].share
    return loop, roster, uploads[VICTIM], shares


def binding_of(loop):
    return keys.bind(loop.config, messages.encode_roster(loop.server._collected.roster))


def unmask_victim(loop, roster, upload, shares):
    """The attacker's arithmetic: with both secrets every mask of the upload can be made again."""
    config, binding = loop.config, binding_of(loop)
    owner = Party(VICTIM, roster[VICTIM])
    self_mask = shamir.combine(shares[ShareOf.SELF_MASK], 3)
    mask_key = shamir.combine(shares[ShareOf.MASK_KEY], 3)
    terms = [masking.Term(keys.self_seed(binding, self_mask, owner), 1)]
    for peer in (20, 30, 40):
        other = Party(peer, roster[peer])
        terms.append(masking.pair_term(binding, mask_key, owner, other, uploader=owner))
    vector = ring.unpack(upload[HEADER:], config.vector_length, config.modulus_bits)
    masking.subtract(config, vector, terms)
    return ring.centre(vector, config.modulus_bits)


def test_asking_for_both_kinds_of_share_fails():
    loop, _, _, shares = ask_twice(Client)
    assert len(shares[ShareOf.SELF_MASK]) == 3
    assert shares[ShareOf.MASK_KEY] == {}
    assert all(len(kinds) == 1 for kinds in shares_let_out(loop).values())
    assert all(loop.clients[i].phase is Phase.ABORTED for i in (20, 30, 40))


def test_negative_control_a_client_that_answers_twice_gives_the_victim_away():
    loop, roster, upload, shares = ask_twice(Forgetful)
    assert np.array_equal(unmask_victim(loop, roster, upload, shares), loop.vectors[VICTIM])
    assert any(len(set(kinds)) == 2 for kinds in shares_let_out(loop).values())


def test_the_same_request_twice_is_not_answered_twice():
    loop = Loop(4).until("unmask")
    loop.answer(VICTIM)
    assert loop.clients[VICTIM].phase is Phase.DONE
    with pytest.raises(ProtocolError, match="nothing is answered twice"):
        loop.answer(VICTIM)
    assert loop.clients[VICTIM].phase is Phase.ABORTED


# --- share: who gets keys, and whose shares are delivered ---


def test_rosters_that_lie():
    small_order = bytes(32)
    lies = {
        "without the client": lambda rows: rows[1:],
        "a stranger": lambda rows: [*rows, (50, rows[0][1][0] + rows[0][1][1])],
        "below the threshold": lambda rows: rows[:2],
        "nobody": lambda _: [],
        "somebody twice": lambda rows: [rows[0], rows[1], rows[1], rows[2], rows[3]],
        "not ascending": lambda rows: [rows[0], rows[2], rows[1], rows[3]],
        "the client's sealing key replaced": lambda rows: [(10, (b"k" * 32, rows[0][1][1])), *rows[1:]],
        "the client's mask key replaced": lambda rows: [(10, (rows[0][1][0], b"k" * 32)), *rows[1:]],
        "a copied key": lambda rows: [rows[0], (20, (rows[2][1][0], rows[1][1][1])), *rows[2:]],
        "the client's own key for a peer": lambda rows: [rows[0], (20, rows[0][1]), *rows[2:]],
        "a key of small order": lambda rows: [rows[0], (20, (small_order, rows[1][1][1])), *rows[2:]],
    }
    for lie, change in lies.items():
        loop = Loop(4).until("share")
        rows = [(i, row if isinstance(row, bytes) else b"".join(row)) for i, row in change(roster_rows(loop))]
        error = AggregationAborted if lie in ("below the threshold", "nobody") else ProtocolError
        assert_refused(loop, Kind.ROSTER, table(rows), error)


def test_deliveries_that_lie():
    other_session = Loop(4, session=b"another").until("upload")
    lies = {
        "one ciphertext for many senders": lambda rows, _: [(i, rows[-1][1]) for i, _ in rows],
        "one sender many times": lambda rows, _: [rows[-1]] * 3,
        "two senders swapped": lambda rows, _: [(20, rows[1][1]), (30, rows[0][1]), rows[2]],
        "sealed for another": lambda rows, loop: [(20, dict(delivery_rows(loop, 30))[20]), *rows[1:]],
        "the client's own, reflected": lambda rows, loop: [
            (20, dict(delivery_rows(loop, 20))[VICTIM]),
            *rows[1:],
        ],
        "from itself": lambda rows, _: [(VICTIM, rows[0][1]), *rows],
        "of another session": lambda rows, _: [(20, dict(delivery_rows(other_session))[20]), *rows[1:]],
        "of a stranger": lambda rows, _: [*rows, (50, rows[0][1])],
        "below the threshold": lambda rows, _: rows[:1],
    }
    for lie, change in lies.items():
        loop = Loop(4).until("upload")
        error = AggregationAborted if lie == "below the threshold" else ProtocolError
        assert_refused(loop, Kind.DELIVERY, table(change(delivery_rows(loop), loop)), error)


def test_shares_of_a_peer_that_did_not_advertise_are_refused():
    loop = Loop(5, threshold=3, silent={50: "advertise"}).until("upload")
    rows = delivery_rows(loop)
    assert_refused(loop, Kind.DELIVERY, table([*rows, (50, rows[0][1])]))


def test_a_roster_that_differs_between_clients_opens_no_shares():
    """A server that equivocates on a mask key would only spoil the sum; it is found out all the same."""
    loop = Loop(4).until("share")
    rows = [(i, b"".join(row)) for i, row in roster_rows(loop)]
    rows[1] = (20, rows[1][1][:32] + keys.public_key(b"m" * 32))
    loop.inbox[VICTIM] = frame(Kind.ROSTER, loop.config, VICTIM, table(rows))
    loop.play("share")
    for i in loop.ids:
        with pytest.raises(ProtocolError, match="not authentic"):
            loop.answer(i)


# --- any phase ---


@pytest.mark.parametrize("phase", PHASE_NAMES[1:])
@pytest.mark.parametrize("change", ["truncated", "extended", "empty", "headless"])
def test_lengths_that_lie(phase, change):
    loop = Loop(4).until(phase)
    honest = loop.inbox[VICTIM]
    loop.inbox[VICTIM] = {
        "truncated": honest[:-1],
        "extended": honest + b"\0",
        "empty": b"",
        "headless": honest[:HEADER],
    }[change]
    with pytest.raises(ProtocolError):
        loop.answer(VICTIM)
    assert loop.clients[VICTIM].phase is Phase.ABORTED


@pytest.mark.parametrize("phase", PHASE_NAMES[1:])
def test_messages_out_of_order_or_for_another_are_refused(phase):
    answers = {}
    loop = Loop(4)
    for before in PHASE_NAMES[:-1]:
        loop.play(before)
        answers[PHASE_NAMES[PHASE_NAMES.index(before) + 1]] = dict(loop.inbox)
    for given, inbox in answers.items():
        for addressee in (VICTIM, 20):
            if (given, addressee) == (phase, VICTIM):
                continue
            fresh = Loop(4).until(phase)
            fresh.inbox[VICTIM] = inbox[addressee]
            with pytest.raises(ProtocolError):
                fresh.answer(VICTIM)
            assert fresh.clients[VICTIM].phase is Phase.ABORTED


def other_configurations(config):
    fields = {
        "session_id": config.session_id,
        "round_id": config.round_id,
        "participants": config.participants,
        "vector_length": config.vector_length,
        "modulus_bits": config.modulus_bits,
        "threshold": config.threshold,
    }
    yield Config(**fields | {"session_id": b"t" * 32})
    yield Config(**fields | {"round_id": 8})
    yield Config(**fields | {"participants": (*config.participants, 50)})
    yield Config(**fields | {"vector_length": 4})
    yield Config(**fields | {"modulus_bits": 31})
    yield Config(**fields | {"threshold": 4})


def test_parties_of_different_configurations_never_talk():
    for other in other_configurations(Loop(4).config):
        loop = Loop(4)
        stranger = Client(other, 20)
        with pytest.raises(ProtocolError, match="another session or configuration"):
            loop.server.receive(20, stranger.start())
        loop.until("share")
        with pytest.raises(ProtocolError, match="another session or configuration"):
            stranger.receive(loop.inbox[20])
        assert stranger.phase is Phase.ABORTED


def test_a_rewritten_header_does_not_bring_configurations_together():
    """A server that lies about the digest reaches the AEAD, whose keys bind it as well."""
    loop = Loop(4)
    other = Config(b"t" * 32, 7, loop.ids, 3)
    loop.clients[VICTIM] = Client(other, VICTIM)
    started = loop.clients[VICTIM].start()
    loop.server.receive(VICTIM, frame(Kind.ADVERTISE, loop.config, VICTIM, started[HEADER:]))
    for i in (20, 30, 40):
        loop.server.receive(i, loop.answer(i))
    loop.inbox = loop.server.close_phase()
    shared = loop.clients[VICTIM].receive(frame(Kind.ROSTER, other, VICTIM, loop.inbox[VICTIM][HEADER:]))
    loop.server.receive(VICTIM, frame(Kind.SHARE, loop.config, VICTIM, shared[HEADER:]))
    for i in (20, 30, 40):
        loop.server.receive(i, loop.answer(i))
    loop.inbox = loop.server.close_phase()
    for i in (20, 30, 40):
        with pytest.raises(ProtocolError, match=r"shares of client 10 .* are not authentic"):
            loop.answer(i)


# --- clients that lie to the server ---


def test_a_copied_or_unusable_public_key_is_refused_and_the_round_goes_on():
    loop = Loop(4, threshold=3)
    first = loop.answer(10)
    loop.server.receive(10, first)
    own = b"k" * 32
    for body in (first[HEADER:], first[HEADER : HEADER + 32] + own, own + own, bytes(32) + own):
        with pytest.raises(ProtocolError, match="client 40"):
            loop.server.receive(40, frame(Kind.ADVERTISE, loop.config, 40, body))
    for i in (20, 30):
        loop.server.receive(i, loop.answer(i))
    loop.inbox = loop.server.close_phase()
    for phase in PHASE_NAMES[1:]:
        loop.play(phase)
    assert loop.server.result().tolist() == loop.expected_sum([10, 20, 30])
    assert loop.server.dropped == {40: "advertise"}


@pytest.mark.parametrize(
    ("silent", "secret"), [({}, "self mask of client 20"), ({20: "upload"}, "mask key of client 20")]
)
def test_a_wrong_share_aborts_by_name_rather_than_give_a_wrong_sum(silent, secret):
    loop = Loop(4, threshold=3, silent=silent).until("unmask")
    for i in loop.inbox:
        message = bytearray(loop.answer(i))
        if i == 10:
            message[HEADER + 2 + 37 + 5] ^= 1  # the second row: a share of client 20's secret
        loop.server.receive(i, bytes(message))
    with pytest.raises(AggregationAborted, match=secret):
        loop.server.close_phase()
    assert loop.server.phase is Phase.ABORTED
    with pytest.raises(ProtocolError):
        loop.server.result()


def test_giving_another_share_than_asked_is_refused():
    loop = Loop(4).until("unmask")
    honest = loop.answer(VICTIM)
    for position, value in ((HEADER + 2 + 4, ShareOf.MASK_KEY), (HEADER + 2 + 4, 3), (HEADER + 2, 11)):
        changed = bytearray(honest)
        changed[position] = value
        with pytest.raises(ProtocolError):
            loop.server.receive(VICTIM, bytes(changed))
    loop.server.receive(VICTIM, honest)


def test_shares_for_a_part_of_the_roster_are_refused():
    loop = Loop(4).until("share")
    honest = loop.answer(VICTIM)
    commitment, sealed = messages.decode_share(honest[HEADER:])
    del sealed[40]
    with pytest.raises(ProtocolError, match="every other client"):
        loop.server.receive(
            VICTIM, frame(Kind.SHARE, loop.config, VICTIM, messages.encode_share(commitment, sealed))
        )
    loop.server.receive(VICTIM, honest)
    for i in (20, 30, 40):
        loop.server.receive(i, loop.answer(i))
    loop.inbox = loop.server.close_phase()
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)
