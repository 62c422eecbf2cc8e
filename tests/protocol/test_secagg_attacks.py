"""Attacks of a server and of up to C clients, each with the one check that stops it taken out as a control.

An attack is played twice by the same code. Against real clients it must fail: no honest client has let out
both kinds of share about anybody, the victim's vector does not follow from all that the attacker holds, and
at most one sum of honest vectors does. Against clients without the check it must succeed, in at least 99 %
of the coordinates; so it is that check that counts, and the attack is one.
"""

import __future__

import inspect
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from protocol.secagg_attacker import Attacker
from protocol.secagg_loop import (
    HEADER,
    Loop,
    client_of,
    complete,
    config_of,
    identity_of,
    policy_of,
    shares_let_out,
)

from fedsec.errors import InvalidArgumentError, ProtocolError
from fedsec.secagg import (
    Client,
    Config,
    Parameters,
    Phase,
    Policy,
    SessionStore,
    graph,
    keys,
    messages,
    steps,
)
from fedsec.secagg import client as clients
from fedsec.secagg import config as configs
from fedsec.secagg.keys import KeyPair, Party
from fedsec.secagg.messages import Kind, Proven, Roster, SealedPair, ShareOf, frame

LENGTH = 200
VICTIM = 10


# --- what stops it, and what it got ---


def take_out(monkeypatch, module, name, check, instead):
    """Replaces a function of the package by itself with one piece of its text changed."""
    original, space = getattr(module, name), {}
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(check) == 1, (name, check)
    flags = __future__.annotations.compiler_flag
    exec(compile(source.replace(check, instead), name, "exec", flags), vars(module), space)  # noqa: S102
    monkeypatch.setattr(module, name, space[name])
    for phase, step in clients._STEPS.items():
        if step is original:
            monkeypatch.setitem(clients._STEPS, phase, space[name])


def unchecked(**numbers):
    """Parameters that the package refuses."""
    with pytest.raises(InvalidArgumentError):
        Parameters(**numbers)
    weak = object.__new__(Parameters)
    for name, value in ({"privacy_bits": 40, "correctness_bits": 20} | numbers).items():
        object.__setattr__(weak, name, value)
    return weak


def assert_failed(loop, corrupt, victim=VICTIM, own_secrets=(), kind=Attacker):
    """Nothing was learned but one sum at most, and not one client gave two kinds of share."""
    for (owner, holder), kinds in shares_let_out(loop).items():
        assert len(kinds) == 1, (owner, holder)
    attacker = kind(loop, corrupt, own_secrets)
    assert attacker.solve([victim]) is None
    assert attacker.sums_learned() <= 1


def assert_recovered(loop, corrupt, victim=VICTIM, own_secrets=(), kind=Attacker):
    found = kind(loop, corrupt, own_secrets).solve([victim])
    assert found is not None
    assert np.mean(np.array(found) == loop.expected_sum([victim])) >= 0.99


# --- what a lying server does ---


def ask_for_shares(loop, told, corrupt):
    """Tells each client a set of survivors, gathers what was signed, and asks with all of it that fits.

    Corrupt clients sign anything.
    """
    views = Attacker(loop).views
    texts = {
        client: keys.agree_text(
            views[client].h1, views[client].root, messages.encode_set(loop.config, survivors)
        )
        for client, survivors in told.items()
        if client in views
    }
    signed = {client: {c: identity_of(c).sign(text) for c in corrupt} for client, text in texts.items()}
    for client, text in texts.items():
        answer = loop.tell(client, Kind.SURVIVORS, messages.encode_set(loop.config, told[client]))
        for other in texts if answer and client in told[client] else ():
            if texts[other] == text:
                signed[other][client] = answer[HEADER:]
    for client, signatures in signed.items():
        loop.tell(client, Kind.QUORUM, messages.encode_quorum(loop.config, signatures))


def all_but(loop, *clients):
    return tuple(i for i in loop.ids if i not in clients)


def take_uploads(loop):
    """Every client's answer to what is in its inbox, whatever the server object thinks of it."""
    for client in list(loop.inbox):
        loop.answer(client)


# --- two sets ---


def two_sets(loop):
    """To 20 and 30 the victim has survived, to 40 and 50 it has not; 60 signs whatever is wanted."""
    loop.until("agree")
    without = all_but(loop, VICTIM)
    told = {VICTIM: loop.ids, 20: loop.ids, 30: loop.ids, 40: without, 50: without}
    ask_for_shares(loop, told, corrupt=[60])


def test_two_sets_of_survivors_for_two_groups():
    """[SPEC 8.2, 9.1]: two sets cannot both gather T signatures."""
    loop = Loop(6, LENGTH)
    two_sets(loop)
    assert_failed(loop, [60])


@pytest.mark.parametrize(
    ("check", "instead"),
    [
        ("len(signatures) < config.parameters.min_survivors", "False"),
        ("    _require_members(", "    return\n    _require_members("),
    ],
    ids=["T signatures", "any check of the quorum"],
)
def test_control_without_a_quorum_two_sets_open_the_victim(monkeypatch, check, instead):
    take_out(monkeypatch, steps, "_require_quorum", check, instead)
    loop = Loop(6, LENGTH)
    two_sets(loop)
    assert_recovered(loop, [60])


def forged_quorum(loop):
    """As before, and each quorum is filled up with signatures that nobody made."""
    loop.until("agree")
    without = all_but(loop, VICTIM)
    told = {VICTIM: loop.ids, 20: loop.ids, 30: loop.ids, 40: without, 50: without}
    for client, survivors in told.items():
        loop.tell(client, Kind.SURVIVORS, messages.encode_set(loop.config, survivors))
    for client, survivors in told.items():
        forged = dict.fromkeys(survivors, bytes(64))
        loop.tell(client, Kind.QUORUM, messages.encode_quorum(loop.config, forged))


def test_a_quorum_of_signatures_that_nobody_made():
    """[SPEC 9.1]: a client verifies all of them."""
    loop = Loop(6, LENGTH)
    forged_quorum(loop)
    assert_failed(loop, [60])


def test_control_without_verification_a_forged_quorum_opens_the_victim(monkeypatch):
    check = "not keys.is_signed(config.participants[client], text, signature)"
    take_out(monkeypatch, steps, "_require_quorum", check, "False")
    loop = Loop(6, LENGTH)
    forged_quorum(loop)
    assert_recovered(loop, [60])


# --- twice ---


class Tireless(Client):
    """The control: agrees and unmasks as often as it is asked."""

    def _claim(self, following):
        pass

    def receive(self, message):
        if self._phase is Phase.AGREE:
            self._before = steps.uploaded(self._state)
        answer = super().receive(message)
        if self._phase is Phase.DONE:
            self._phase, self._state = Phase.AGREE, self._before
        return answer


def ask_twice(loop):
    """Everybody for the victim's self mask, and then for its mask key."""
    loop.until("agree")
    for survivors in (loop.ids, all_but(loop, VICTIM)):
        ask_for_shares(loop, dict.fromkeys(set(survivors) - {40}, survivors), corrupt=[40])


def test_a_second_set_of_survivors_and_a_second_request_for_shares():
    """[SPEC 4.2, 8.1, 9.1]: each message that is due is answered once."""
    loop = Loop(4, LENGTH)
    ask_twice(loop)
    assert_failed(loop, [40])
    assert Attacker(loop, [40]).solve([10, 20, 30]) == loop.expected_sum([10, 20, 30])


def test_control_clients_that_answer_twice_open_the_victim():
    loop = Loop(4, LENGTH, kind=Tireless)
    ask_twice(loop)
    assert_recovered(loop, [40])


def ask_copies(loop):
    """Each client was saved before it agreed; the copies are told another set than the clients."""
    loop.until("agree")
    honest = (10, 20, 30)
    copies = {client: loop.copy_of(client) for client in honest}
    ask_for_shares(loop, dict.fromkeys(honest, loop.ids), corrupt=[40])
    loop.clients |= copies
    ask_for_shares(loop, dict.fromkeys((20, 30), all_but(loop, VICTIM)), corrupt=[40])


def test_copies_of_saved_clients_do_not_answer_again():
    """[SPEC 10, 3.5]: of all copies only one answers each phase."""
    loop = Loop(4, LENGTH)
    ask_copies(loop)
    assert_failed(loop, [40])
    assert {loop.clients[i].phase for i in (20, 30)} == {Phase.ABORTED}


def test_control_with_a_store_that_grants_all_copies_open_the_victim(monkeypatch):
    monkeypatch.setattr(SessionStore, "claim", lambda *_, **__: None)
    loop = Loop(4, LENGTH)
    ask_copies(loop)
    assert_recovered(loop, [40])


def two_sessions(first, second):
    """The same vectors in two sessions of one round, once without the victim; how the sums differ."""
    first.finish()
    second.store = first.store
    second.clients = {i: client_of(second.config, i, first.store) for i in second.ids}
    second.silent = {VICTIM: "upload"}
    second.until("upload")
    try:
        second.finish()
    except ProtocolError:
        return None
    return (first.server.result() - second.server.result()).tolist()


def test_one_upload_in_a_round():
    """[SPEC 3.5]: sums over sets that differ in one client would give it away [SPEC 1.3]."""
    assert two_sessions(Loop(4, LENGTH), Loop(4, LENGTH, session=b"again")) is None


def test_control_with_two_uploads_in_a_round_the_sums_differ_by_the_victim(monkeypatch):
    claim = SessionStore.claim
    monkeypatch.setattr(SessionStore, "claim", lambda *given, **_: claim(*given))
    first = Loop(4, LENGTH)
    assert two_sessions(first, Loop(4, LENGTH, session=b"again")) == first.expected_sum([VICTIM])


# --- edges taken away ---


def isolate(loop, peers, lost, corrupt, victim=VICTIM):
    """The victim is shown the shares of some peers only, and the honest ones among these do not survive."""
    loop.until("upload")
    delivery = messages.decode_delivery(loop.inbox[victim][HEADER:])
    told = messages.encode_delivery({peer: delivery[peer] for peer in peers if peer in delivery})
    loop.tell(victim, Kind.DELIVERY, told)
    del loop.inbox[victim]
    take_uploads(loop)
    ask_for_shares(loop, dict.fromkeys(all_but(loop, *corrupt), all_but(loop, *lost)), corrupt)


EIGHT = {"num_clients": 8, "max_corrupt": 2, "max_dropped": 2, "num_neighbors": 7, "min_survivors": 6}


@pytest.mark.parametrize("peers", [(20, 30, 70, 80), (20, 70, 80), (20, 30, 40, 80), (20, 30, 40, 70, 80)])
@pytest.mark.parametrize("lost", [(20,), (20, 30)])
def test_edges_taken_away_in_the_share_phase(peers, lost):
    """[SPEC 3.1, 7.1, 8.1]: with so many peers, some honest one's mask stays on."""
    loop = Loop(parameters=Parameters(**EIGHT, threshold=4), d=LENGTH)
    isolate(loop, peers, lost, corrupt=[70, 80])
    assert_failed(loop, [70, 80])


def test_control_with_a_threshold_below_the_bound_the_victim_is_isolated():
    """Three shares open a secret, more than there are corrupt clients; and yet."""
    loop = Loop(parameters=unchecked(**EIGHT, threshold=3), d=LENGTH)
    isolate(loop, peers=(20, 70, 80), lost=[20], corrupt=[70, 80])
    assert_recovered(loop, [70, 80])


def test_control_with_as_many_corrupt_clients_as_shares_open_a_secret():
    loop = Loop(parameters=unchecked(**EIGHT, threshold=2), d=LENGTH)
    loop.until("upload")
    take_uploads(loop)
    assert_recovered(loop, [70, 80])


SIX = {"num_clients": 6, "max_corrupt": 1, "max_dropped": 1, "num_neighbors": 5, "threshold": 3}


@pytest.mark.parametrize("lost", [(20,), (20, 30)])
def test_a_set_shrunk_below_the_least_survivors(lost):
    """[SPEC 8.1, 9.1]: at least T members, and T signatures."""
    loop = Loop(parameters=Parameters(**SIX, min_survivors=5), d=LENGTH)
    isolate(loop, peers=(20, 30, 60), lost=lost, corrupt=[60])
    assert_failed(loop, [60])


def test_control_with_fewer_survivors_the_victim_is_isolated():
    """T = 3 of 6 would also let two sets gather T signatures [SPEC 8.2]."""
    loop = Loop(parameters=unchecked(**SIX, min_survivors=3), d=LENGTH)
    isolate(loop, peers=(20, 30, 60), lost=[20, 30], corrupt=[60])
    assert_recovered(loop, [60])


FOUR_OF_SIX = {**SIX, "max_dropped": 2, "min_survivors": 4}


def test_a_client_signs_no_survivors_that_it_did_not_accept():
    """[SPEC 8.1]: its neighbours in the set are all accepted peers.

    Otherwise the victim itself would be the T-th to sign.
    """
    loop = Loop(parameters=Parameters(**FOUR_OF_SIX), d=LENGTH)
    isolate(loop, peers=(20, 30, 60), lost=[20, 30], corrupt=[60])
    assert_failed(loop, [60])


def test_control_a_client_that_signs_for_strangers_makes_the_quorum_that_opens_it(monkeypatch):
    check = "surviving.difference(state.self_mask_shares)"
    take_out(monkeypatch, steps, "_acceptable_survivors", check, "()")
    loop = Loop(parameters=Parameters(**FOUR_OF_SIX), d=LENGTH)
    isolate(loop, peers=(20, 30, 60), lost=[20, 30], corrupt=[60])
    assert_recovered(loop, [60])


@pytest.mark.parametrize("copies", [1, 3, 5])
def test_one_ciphertext_many_times(copies):
    """[SPEC 2, 7.1]: t distinct peers, whose masks the attacker cannot all make."""
    loop = Loop(6, LENGTH).until("upload")
    delivery = messages.decode_delivery(loop.inbox[VICTIM][HEADER:])
    row = (60).to_bytes(4, "little") + delivery[60].commitments + delivery[60].sealed
    loop.tell(VICTIM, Kind.DELIVERY, copies.to_bytes(2, "little") + copies * row)
    del loop.inbox[VICTIM]
    take_uploads(loop)
    ask_for_shares(loop, dict.fromkeys((20, 30, 40, 50), loop.ids), corrupt=[60])
    assert_failed(loop, [60])
    assert not messages_of(loop, VICTIM, Kind.UPLOAD)


def messages_of(loop, client, kind):
    return [message for message in loop.sent[client] if message[1] == kind]


def test_control_a_client_content_with_one_peer_is_masked_towards_a_corrupt_one_alone(monkeypatch):
    check = '_require_threshold(me.config, "neighbors shared keys", len(delivery))'
    take_out(monkeypatch, steps, "deliver", check, "pass")
    loop = Loop(6, LENGTH)
    isolate(loop, peers=[60], lost=[], corrupt=[60])
    assert_recovered(loop, [60])


# --- keys of others ---


def advertisement_of(signer, h0, client, sealing, masking):
    """Keys under a client's id, signed by whoever has an identity to sign with; else zeros."""
    signed = KeyPair(sealing).public + KeyPair(masking).public + bytes(32)
    signature = identity_of(signer).sign(keys.advertise_text(h0, client, signed)) if signer else bytes(64)
    return messages.decode_advertise(signed + signature)


def pair_dealt_by(dealer, sealing, victim, binding):
    """A sealed pair of made-up shares, from whoever has the sealing key behind `dealer`."""
    shares = (b"1" * 32, b"2" * 32)
    commitments = b"".join(
        keys.share_commitment(binding, of, dealer.client_id, victim.client_id, share)
        for of, share in zip(ShareOf, shares, strict=True)
    )
    key = keys.sealing_key(KeyPair(sealing).agree(victim), binding, dealer, victim)
    return SealedPair(commitments, keys.seal(key, binding, b"".join(shares), commitments, dealer, victim))


def secrets_of_server(loop):
    """A sealing and a mask key for each client but the victim."""
    return {i: (bytes([i, 1]) * 16, bytes([i, 2]) * 16) for i in all_but(loop, VICTIM)}


def roster_of(loop, rows):
    """A complete roster of these advertisements, under the root that fits them, and that root."""
    proven = {i: Proven(advertised, b"") for i, advertised in rows.items()}
    root = steps.root_of(loop.config, proven)
    return messages.encode_roster(loop.config, Roster(root, {}, proven)), root


def substitute_keys(loop, signer=None):
    """The victim's whole neighbourhood is the server's: keys, shares, masks."""
    loop.until("share")
    own = loop.server._collected.advertised[VICTIM]
    secrets, h0 = secrets_of_server(loop), loop.config.h0
    rows = {i: advertisement_of(signer, h0, i, *pair) for i, pair in secrets.items()} | {VICTIM: own}
    body, root = roster_of(loop, rows)
    if loop.tell(VICTIM, Kind.ROSTER, body):
        binding, victim = keys.binding(h0, root, bytes(32)), Party(VICTIM, own.sealing)
        dealt = {
            i: pair_dealt_by(Party(i, rows[i].sealing), sealing, victim, binding)
            for i, (sealing, _) in secrets.items()
        }
        loop.tell(VICTIM, Kind.DELIVERY, messages.encode_delivery(dealt))
    return [secret for pair in secrets.values() for secret in pair]


@pytest.mark.parametrize("signer", [None, 40], ids=["unsigned", "signed by a corrupt client"])
def test_keys_of_the_server_under_the_clients_ids(signer):
    """[SPEC 5.1, 6.1]: a client's keys are those that it signed."""
    loop = Loop(4, LENGTH)
    assert_failed(loop, [40], own_secrets=substitute_keys(loop, signer))
    assert not messages_of(loop, VICTIM, Kind.SHARE)


def test_control_without_signatures_the_servers_keys_open_the_victim(monkeypatch):
    take_out(monkeypatch, steps, "require_signed", "if not signed:", "if False:")
    loop = Loop(4, LENGTH)
    assert_recovered(loop, [40], own_secrets=substitute_keys(loop))


def test_a_configuration_full_of_the_servers_identities():
    """[SPEC 3.3]: verification keys are those of the client's trust store."""
    sybil = config_of(complete(4))
    store = {i: identity_of(i).public_key for i in (10, 21, 31, 41)}
    with pytest.raises(InvalidArgumentError, match="the key of client 20 is not the one of the trust store"):
        Config.from_bytes(sybil.to_bytes(), store)


def test_control_without_a_trust_store_the_cohort_is_the_servers():
    sybil = configs.decode_config(config_of(complete(4), LENGTH).to_bytes())
    loop = Loop(4, LENGTH)
    assert loop.config == sybil
    loop.finish()
    assert_recovered(loop, corrupt=[20, 30, 40])


COPYING = {"num_clients": 6, "max_corrupt": 2, "max_dropped": 1, "num_neighbors": 5}
COPIED, VICTIM_OF_COPY, COPIER, SECOND = 20, 30, 40, 60


def copy_key(loop):
    """40 advertises 20's mask key as its own: for 30, between the two, one mask with either sign.

    30 is shown 20, 40 and 60 alone, and does not sign; the others do.
    """
    sealing, honest = b"c" * 32, [i for i in loop.ids if i != COPIER]
    for i in honest:
        loop.server.receive(i, loop.answer(i))
    copied = loop.server._collected.advertised[COPIED].masking
    signed = KeyPair(sealing).public + copied + bytes(32)
    signature = identity_of(COPIER).sign(keys.advertise_text(loop.config.h0, COPIER, signed))
    loop.server.receive(COPIER, frame(Kind.ADVERTISE, loop.config.h0, COPIER, signed + signature))
    loop.close()
    for i in honest:
        loop.server.receive(i, loop.answer(i))
    loop.close()
    rows, binding = loop.server._collected.advertised, loop.server._graph.binding
    for i in honest:
        victim, dealer = Party(i, rows[i].sealing), Party(COPIER, rows[COPIER].sealing)
        delivery = messages.decode_delivery(loop.inbox[i][HEADER:])
        delivery[COPIER] = pair_dealt_by(dealer, sealing, victim, binding)
        if i == VICTIM_OF_COPY:
            delivery = {peer: delivery[peer] for peer in (COPIED, COPIER, SECOND)}
        loop.tell(i, Kind.DELIVERY, messages.encode_delivery(delivery))
    told = dict.fromkeys((10, 20, 30, 50), loop.ids)
    ask_for_shares(loop, told, corrupt=[COPIER, SECOND])


def copied_loop():
    return Loop(parameters=Parameters(**COPYING, threshold=3, min_survivors=5), d=LENGTH)


def test_a_copied_mask_key_gives_other_masks():
    """[SPEC 6.2, 7.3]: contexts name both clients, so the copy's masks do not cancel the copied ones'."""
    loop = copied_loop()
    copy_key(loop)
    assert messages_of(loop, VICTIM_OF_COPY, Kind.UPLOAD)
    assert_failed(loop, [SECOND], victim=VICTIM_OF_COPY)


class ByKeys(Attacker):
    """For masks that follow from the two public keys alone."""

    def _name(self, view, own, other):
        return (view.h1, *sorted((own.public_key, other.public_key)))


def test_control_with_masks_of_keys_alone_the_copy_cancels_the_copied(monkeypatch):
    check = '_context(b"pair mask", first, second)'
    take_out(monkeypatch, keys, "pair_seed", check, 'tag(b"pair mask")')
    loop = copied_loop()
    copy_key(loop)
    assert_recovered(loop, [SECOND], victim=VICTIM_OF_COPY, kind=ByKeys)


# --- another model or configuration ---


def another_model(loop):
    """The victim trains one model; all others one whose updates are zero, and so is their part of the sum."""
    victim = client_of(replace(loop.config, model_digest=b"v" * 32), VICTIM, loop.store, randomness=None)
    loop.clients[VICTIM] = victim
    loop.vectors = {i: vector * (i == VICTIM) for i, vector in loop.vectors.items()}
    loop.until("upload")
    take_uploads(loop)
    ask_for_shares(loop, dict.fromkeys(all_but(loop, 50), loop.ids), corrupt=[50])


def test_another_model_for_one_client():
    """[SPEC 7.2]: masks of different models have nothing to do with each other; no sum comes out."""
    loop = Loop(5, LENGTH)
    another_model(loop)
    assert_failed(loop, [50])
    attacker = Attacker(loop, [50])
    assert attacker.sums_learned() == 0
    assert len(messages_of(loop, 20, Kind.UNMASK)) == 1


def test_control_with_masks_of_any_model_the_sum_is_the_victims_vector(monkeypatch):
    check = 'hashed(b"session", bound, model_digest)'
    take_out(monkeypatch, keys, "session_digest", check, 'hashed(b"session", bound)')
    loop = Loop(5, LENGTH)
    another_model(loop)
    honest = all_but(loop, 50)
    assert Attacker(loop, [50]).solve(honest) == loop.expected_sum([VICTIM])


NOBODY_CORRUPT = {"num_clients": 5, "max_corrupt": 0, "max_dropped": 2, "num_neighbors": 4}


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        (Parameters(**NOBODY_CORRUPT, threshold=2, min_survivors=3), "max_corrupt of at least 1, got 0"),
        (Parameters(5, 1, 1, 4, 3, 4, 20), "privacy_bits of at least 40, got 20"),
        (Parameters(4, 1, 1, 3, 2, 3), "min_survivors of at least 4, got 3"),
    ],
    ids=str,
)
def test_configurations_below_the_policy(parameters, named):
    """[SPEC 3.4]"""
    policy = Policy(max_corrupt=1, min_survivors=3 if parameters.num_clients == 5 else 4)
    store = SessionStore.in_memory()
    with pytest.raises(ProtocolError, match=named):
        Client(config_of(parameters), VICTIM, identity_of(VICTIM), policy=policy, store=store)


@pytest.mark.parametrize(("field", "value"), [("threshold", 1), ("threshold", 0), ("min_survivors", 2)])
def test_configurations_below_the_bounds_do_not_decode(field, value):
    """[SPEC 3.1]: also where a server sends them."""
    config = config_of(complete(4))
    object.__setattr__(config.parameters, field, value)
    with pytest.raises(InvalidArgumentError, match=field):
        Config.from_bytes(config.to_bytes(), config.participants)


def test_control_without_a_policy_a_server_that_says_nobody_is_corrupt_isolates_the_victim():
    """The same as below, by a configuration that the package accepts: only the client knows better."""
    loop = Loop(parameters=Parameters(**NOBODY_CORRUPT, threshold=2, min_survivors=3), d=LENGTH)
    assert policy_of(loop.config).max_corrupt == 0
    isolate(loop, peers=(20, 50), lost=[20], corrupt=[50])
    assert_recovered(loop, [50])


def test_with_one_corrupt_client_reckoned_with_it_does_not():
    loop = Loop(5, LENGTH)
    isolate(loop, peers=(20, 30, 50), lost=[20], corrupt=[50])
    assert_failed(loop, [50])


# --- the ring ---

FOURTEEN = Parameters(14, 1, 1, 6, 4, 10, privacy_bits=1, correctness_bits=1)


def isolate_on_the_ring(loop):
    """Three honest ones of the four accepted peers are lost, and yet asked for their shares.

    They are so far apart that everybody else keeps enough neighbours.
    """
    loop.until("upload")
    ring = graph._ring(loop.graph_seed, len(loop.ids))
    near = {step: loop.ids[ring[step]] for step in range(-3, 4)}
    victim, corrupt, lost = near[0], near[2], [near[step] for step in (-3, 1, 3)]
    isolate(loop, [corrupt, *lost], lost, [corrupt], victim)
    return {"corrupt": [corrupt], "victim": victim}


def test_who_is_no_survivor_opens_nothing():
    """[SPEC 8.1]: a client signs only if it is a member of the set itself."""
    loop = Loop(parameters=FOURTEEN, d=LENGTH)
    assert_failed(loop, **isolate_on_the_ring(loop))


def test_control_lost_clients_that_open_shares_open_the_victim(monkeypatch):
    take_out(monkeypatch, steps, "_acceptable_survivors", "me.client_id not in survivors", "False")
    loop = Loop(parameters=FOURTEEN, d=LENGTH)
    assert_recovered(loop, **isolate_on_the_ring(loop))


THIRTY = {"num_clients": 30, "max_corrupt": 1, "max_dropped": 1, "num_neighbors": 6, "min_survivors": 24}
FEW_BITS = {"privacy_bits": 1, "correctness_bits": 1}


def cut_the_ring(loop):
    """Three clients in a row are lost at two places, and nobody is left who shares with both sides."""
    loop.until("upload")
    take_uploads(loop)
    ring = [loop.ids[at] for at in graph._ring(loop.graph_seed, len(loop.ids))]
    lost = [*ring[0:3], *ring[15:18]]
    survivors = all_but(loop, *lost)
    ask_for_shares(loop, dict.fromkeys(all_but(loop, ring[8]), survivors), corrupt=[ring[8]])
    return ring[8], ring[3:15]


def test_a_ring_cut_in_two():
    """[SPEC 3.1, 8.1]: those at the ends, with t - 1 neighbours or fewer on their side, do not sign."""
    loop = Loop(parameters=Parameters(**THIRTY, **FEW_BITS, threshold=5), d=LENGTH)
    corrupt, _ = cut_the_ring(loop)
    assert_failed(loop, [corrupt])


def test_control_with_half_the_neighbours_shares_each_side_is_summed_alone():
    """Enough against random losses; two sums of a dozen clients each, where one of all was agreed upon."""
    loop = Loop(parameters=unchecked(**THIRTY, **FEW_BITS, threshold=3), d=LENGTH)
    corrupt, side = cut_the_ring(loop)
    honest = set(side) - {corrupt}
    attacker = Attacker(loop, [corrupt])
    assert attacker.sums_learned() == 2
    assert attacker.solve(honest) == loop.expected_sum(honest)


# The numbers count on no honest client having six of the six corrupt ones among its eight neighbours.
RING = Parameters(28, 6, 1, 8, 6, 27, privacy_bits=1, correctness_bits=1)


def grind_the_ring(loop):
    """A corrupt member of the committee waits for all other nonces, and then picks its own."""
    last = graph.committee(loop.config)[0]
    others = [i for i in loop.ids if i != last]
    corrupt = {last, *others[::5][:5]}
    loop.until("reveal")
    for member in loop.inbox:
        answer = loop.answer(member)
        if member != last:
            loop.server.receive(member, answer)
    nonce, victim = bad_nonce(loop, last, corrupt)
    text = keys.reveal_text(loop.config.h0, loop.server._graph.root, last, nonce)
    # The server need not like it.
    loop.server._collected.reveals[last] = messages.Reveal(nonce, identity_of(last).sign(text))
    loop.server._arrived[Phase.REVEAL].add(last)
    loop.close()
    for client in loop.inbox:
        if message := loop.ask(client):
            loop.server.receive(client, message)
    if loop.server._arrived[Phase.SHARE]:
        loop.close()
        take_uploads(loop)
    return {"corrupt": corrupt, "victim": victim}


def bad_nonce(loop, last, corrupt):
    """A nonce that surrounds some honest client, and that client."""
    config, reveals = loop.config, loop.server._collected.reveals
    for number in range(100_000):
        nonce = number.to_bytes(32, "little")
        nonces = {i: reveal.nonce for i, reveal in reveals.items()} | {last: nonce}
        seed = graph.seed(config, loop.server._graph.root, b"".join(nonces[i] for i in sorted(nonces)))
        for client in set(config.ids) - corrupt:
            if len(corrupt.intersection(graph.neighbors(config, seed, client))) >= 6:
                return nonce, client
    raise AssertionError("no ring was bad")


def test_a_nonce_that_was_chosen_last():
    """[SPEC 5.3, 6.1]: each nonce fits the commitment that was there before the others were known."""
    loop = Loop(parameters=RING, d=LENGTH)
    assert_failed(loop, **grind_the_ring(loop))
    assert not any(messages_of(loop, client, Kind.SHARE) for client in loop.ids)


def test_control_without_commitments_the_ring_is_the_last_ones_choice(monkeypatch):
    check = "keys.nonce_commitment(config.h0, client, revealed.nonce) != advertisement.commitment"
    take_out(monkeypatch, steps, "require_reveal", check, "False")
    loop = Loop(parameters=RING, d=LENGTH)
    assert_recovered(loop, **grind_the_ring(loop))


# --- whatever a server may think of ---

ON_THE_COMPLETE_GRAPH = Parameters(**FOUR_OF_SIX)


def some_of(rng, items, least, chance):
    """By chance a random subset of at least so many; else all."""
    most = len(items)
    size = most if rng.random() > chance or most <= least else int(rng.integers(least, most + 1))
    return [int(one) for one in rng.choice(sorted(items), size, replace=False)]


def tell_different_rosters(loop, rng):
    """Everybody of everybody, or some without somebody."""
    rows = loop.server._collected.advertised
    few = some_of(rng, rows, loop.config.parameters.threshold + 1, chance=0.5)
    for client in loop.ids:
        seen = few if client in few and rng.random() < 0.2 else loop.ids
        loop.tell(client, Kind.ROSTER, roster_of(loop, {i: rows[i] for i in seen})[0])


def tell_different_deliveries(loop, rng, chance):
    """To each the shares of some peers that had the same roster."""
    views = Attacker(loop).views
    for client, view in views.items():
        sealed = {i: v.sealed[client] for i, v in views.items() if client in v.sealed and v.root == view.root}
        chosen = some_of(rng, sealed, loop.config.parameters.threshold, chance)
        loop.tell(client, Kind.DELIVERY, messages.encode_delivery({i: sealed[i] for i in chosen}))


def play_at_random(loop, rng, corrupt, chance):
    """A server that follows no protocol, but keeps to what clients might take."""
    loop.until("share")
    if loop.config.is_complete:
        tell_different_rosters(loop, rng)
    else:
        loop.play("share")
    tell_different_deliveries(loop, rng, chance)
    least = loop.config.parameters.min_survivors
    sets = [tuple(sorted(some_of(rng, loop.ids, least, chance=0.8))) for _ in range(2)]
    told = {i: sets[int(rng.random() < 0.05)] for i in all_but(loop, *corrupt)}
    ask_for_shares(loop, told, corrupt)


def sums_of_random_servers(parameters, strategies, chance=0.15):
    """Whose vectors are in the sums that each strategy leads to; who signed the survivors."""
    for seed in range(strategies):
        loop = Loop(parameters=parameters, d=3, session=b"%d" % seed)
        corrupt = loop.ids[-1:]
        play_at_random(loop, np.random.default_rng(seed), corrupt, chance)
        for (owner, holder), kinds in shares_let_out(loop).items():
            assert len(kinds) == 1, (owner, holder)
        opened = {i for i in all_but(loop, *corrupt) if messages_of(loop, i, Kind.UNMASK)}
        yield Attacker(loop, corrupt).sums(), opened


@pytest.mark.parametrize("parameters", [ON_THE_COMPLETE_GRAPH, FOURTEEN], ids=["complete", "sparse"])
def test_servers_that_do_anything(parameters):
    """[SPEC 1.1]: one sum at most, and in it all honest clients that let shares out, T - C or more."""
    learned = 0
    for sums, opened in sums_of_random_servers(parameters, strategies=100):
        assert len(sums) <= 1
        for members in sums:
            assert members >= opened
            assert len(opened) >= parameters.min_survivors - parameters.max_corrupt
            learned += 1
    assert learned > 15


def test_control_with_fewer_shares_and_survivors_some_of_them_find_a_way():
    weak = unchecked(**SIX | {"threshold": 2}, min_survivors=3)
    sums = [one for one, _ in sums_of_random_servers(weak, strategies=100, chance=0.6)]
    assert any(len(one) > 1 or any(len(members) == 1 for members in one) for one in sums)
