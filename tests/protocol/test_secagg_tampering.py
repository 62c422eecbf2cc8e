"""Messages changed, cut short, drawn out, mixed up: every byte of every kind of them, and whole sessions."""

import contextlib
import dataclasses

import numpy as np
import pytest
from protocol.secagg_attacker import Attacker
from protocol.secagg_loop import HEADER, PHASE_NAMES, SPARSE, Loop, complete, shares_let_out

from fedsec.errors import FedsecError, ProtocolError
from fedsec.secagg import Phase, graph

COHORTS = {"complete": complete(4), "sparse": SPARSE}
# Nobody may be lost, so that there is one set of survivors that a client signs.
OF_ALL = {
    "complete": complete(4, lost=0),
    "sparse": dataclasses.replace(SPARSE, max_dropped=0, min_survivors=10),
}
IN_UPLOAD = HEADER + 8  # where the elements begin, which the transport has to vouch for


def copied(value):
    """A state's or a state's part's own copy."""
    if isinstance(value, bytearray):
        return bytearray(value)
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    if dataclasses.is_dataclass(value):
        return type(value)(*(copied(getattr(value, f.name)) for f in dataclasses.fields(value)))
    return value


def flipped(message, position):
    """One bit of one byte changed, another one from byte to byte."""
    changed = bytearray(message)
    changed[position] ^= 1 << position % 8
    return bytes(changed)


def variants(message):
    """One changed bit in every byte, every length that is too short, and one that is too long."""
    yield from (flipped(message, position) for position in range(len(message)))
    yield from (message[:length] for length in range(len(message)))
    yield message + b"\0"


@pytest.mark.parametrize("cohort", COHORTS)
def test_every_byte_of_every_message_to_a_client(cohort, monkeypatch):
    """[SPEC 4.2, 2.1]: there is none that may be changed, left out or added."""
    loop, tried = Loop(parameters=OF_ALL[cohort]), 0
    for phase in loop.phases[1:]:
        loop.until(phase)
        client = loop.clients[(graph.committee(loop.config) or loop.ids)[0]]
        before = copied(client._state)
        with monkeypatch.context() as patch:
            patch.setattr(loop.store, "claim", lambda *_, **__: pytest.fail("a message was about to leave"))
            patch.setattr(loop.store, "end_session", lambda *_: None)
            for message in variants(loop.inbox[client.client_id]):
                client._phase, client._state = Phase(phase), copied(before)
                with pytest.raises(FedsecError):
                    client.receive(message)
                assert client.phase is Phase.ABORTED
                tried += 1
        client._phase, client._state = Phase(phase), before
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)
    assert tried > (15_000 if cohort == "sparse" else 2_900)


@pytest.mark.parametrize("cohort", COHORTS)
@pytest.mark.parametrize("phase", [name for name in PHASE_NAMES if name not in ("share", "upload")])
def test_every_byte_of_every_message_to_the_server(cohort, phase):
    """[SPEC 4.3]: refused, and nothing has changed; keys and nonces are signed, shares committed to."""
    loop = Loop(parameters=COHORTS[cohort])
    if phase not in loop.phases:
        return
    loop.until(phase)
    sender = next(iter(loop.inbox))
    honest = loop.answer(sender)
    for message in variants(honest):
        with pytest.raises(ProtocolError):
            loop.server.receive(sender, message)
    loop.server.receive(sender, honest)
    loop.play_others([sender])
    result = loop.server.result() if phase == "unmask" else loop.finish()
    assert result.tolist() == loop.expected_sum(loop.ids)


def test_every_byte_of_shares_on_their_way_to_the_server():
    """[SPEC 6.4, 9.2]: what the server cannot see, the receiver or the last phase does; no sum is wrong."""
    loop = Loop(4).until("share")
    honest = loop.answer(10)
    for lie in (*(honest[:length] for length in range(len(honest))), honest + b"\0"):
        with pytest.raises(ProtocolError):
            loop.server.receive(10, lie)
    for position in range(len(honest)):
        loop = Loop(4).until("share")
        tampered = flipped(loop.answer(10), position)
        try:
            loop.server.receive(10, tampered)
        except ProtocolError:
            continue
        assert position >= HEADER
        loop.play_others([10])
        assert_exact_or_aborted(loop)


def test_the_start_of_an_upload():
    """[SPEC 7.4]: its header and position; its elements are the sender's business."""
    loop = Loop(4, 16).until("upload")
    honest = loop.answer(10)
    for message in [flipped(honest, position) for position in range(IN_UPLOAD)]:
        with pytest.raises(ProtocolError):
            loop.server.receive(10, message)
    for length in range(len(honest)):
        if length < IN_UPLOAD or (length - IN_UPLOAD) % (8 * 4) or length == IN_UPLOAD:
            with pytest.raises(ProtocolError):
                loop.server.receive(10, honest[:length])
    loop.server.receive(10, honest)
    loop.play_others([10])
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


# --- whole sessions ---


def assert_exact_or_aborted(loop):
    """Those that refuse fall out; the server goes on with the others."""
    try:
        while loop.server.phase in PHASE_NAMES:
            for client in list(loop.inbox):
                if message := loop.ask(client):
                    loop.server.receive(client, message)
            loop.close()
    except FedsecError:
        assert loop.server.phase in (Phase.ABORTED, *PHASE_NAMES)
    else:
        assert loop.server.result().tolist() == loop.expected_sum(loop.server.survivors)


class Wire:
    """A transport that now and then changes a message, swaps it for another one, or loses it."""

    def __init__(self, seed, rate):
        self.rng, self.rate, self.seen = np.random.default_rng(seed), rate, []

    def carry(self, message):
        """What arrives, one after the other."""
        self.seen.append(message)
        if self.rng.random() > self.rate:
            return [message]
        other = self.seen[self.rng.integers(len(self.seen))]
        # The elements of uploads are left as they are [SPEC 1.4].
        reach = IN_UPLOAD if message[1] == 7 else len(message)
        at = int(self.rng.integers(reach))
        return [
            [flipped(message, at)],
            [message[:at]],
            [message + b"\0"],
            [other],
            [message[:HEADER] + other[HEADER:]] if 7 not in (message[1], other[1]) else [],
            [message, message],
            [other, message],
            [],
        ][self.rng.integers(8)]


def play_over(wire, loop):
    while loop.server.phase in PHASE_NAMES:
        for client in list(loop.inbox):
            arriving = [b""] if loop.inbox[client] is None else wire.carry(loop.inbox[client])
            for given in arriving:
                loop.inbox[client] = given
                if answer := loop.ask(client):
                    for message in wire.carry(answer):
                        deliver(loop.server, client, message)
        loop.close()


def deliver(server, client, message):
    with contextlib.suppress(FedsecError):
        server.receive(client, message)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("cohort", COHORTS)
def test_sessions_over_a_wire_that_lies(cohort, rate):
    """60 sessions each: the exact sum or an abort, one kind of share a peer, no vector but in one sum."""
    sums = 0
    for seed in range(60):
        loop = Loop(parameters=COHORTS[cohort])
        try:
            play_over(Wire(seed, rate), loop)
        except FedsecError:
            assert loop.server.phase is Phase.ABORTED
        else:
            assert loop.server.result().tolist() == loop.expected_sum(loop.server.survivors)
            sums += 1
        assert all(len(kinds) == 1 for kinds in shares_let_out(loop).values())
        attacker = Attacker(loop, corrupt=loop.ids[-1:])
        assert attacker.sums_learned() <= 1
        assert all(attacker.solve([client]) is None for client in loop.ids[:-1])
    assert sums or rate > 0.02
