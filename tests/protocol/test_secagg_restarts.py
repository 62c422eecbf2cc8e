"""Attacks on clients at rest, for which a new object answers each message, and on folders that are put back.

Attacker and controls are those of `test_secagg_attacks`. Clients are restarted before every message, and what
lies in their folders is what an administrator or a backup has left there.
"""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from protocol.secagg_loop import Loop, complete, identity_of, policy_of
from protocol.test_secagg_attacks import (
    LENGTH,
    VICTIM,
    all_but,
    ask_for_shares,
    ask_twice,
    assert_failed,
    assert_recovered,
    forged_quorum,
    isolate,
    two_sets,
    unchecked,
)

from fedsec.errors import FedsecError, ProtocolError
from fedsec.secagg import Client, Participant, Phase, SessionStore

HONEST = (10, 20, 30)


class AtRest:
    """A client in a folder, with the face that `Loop` knows; nothing of it is kept between two messages."""

    def __init__(self, folder, config, client_id):
        self.folder, self.config, self.client_id = folder, config, client_id
        self._me = self  # the attacker reads the configuration there

    @property
    def participant(self):
        identity = identity_of(self.client_id)
        return Participant(self.folder, self.client_id, identity, policy=policy_of(self.config))

    @property
    def phase(self):
        rest = self.participant._rest()
        return rest.phase if rest and rest.session_id == self.config.session_id else Phase.ADVERTISE

    def start(self):
        return self.participant.join(self.config)

    def submit(self, vector):
        self.vector = vector

    def receive(self, message):
        return self.participant.answer(self.config.session_id, message, lambda _: self.vector)

    def _digest(self):
        one = self.participant
        sealed = one._rest().sealed
        if not sealed:
            return self.config.h0
        return Client.from_bytes(sealed, one._key, one._identity, **one._own)._digest()


def at_rest(loop, path, corrupt):
    """The loop, with its honest clients in folders."""
    for client in loop.ids:
        if client not in corrupt:
            loop.clients[client] = AtRest(path / str(client), loop.config, client)
    return loop


ATTACKS = {
    "two sets": (two_sets, 6, (60,)),
    "a forged quorum": (forged_quorum, 6, (60,)),
    "twice": (ask_twice, 4, (40,)),
    "edges taken away": (lambda loop: isolate(loop, (20, 50), [20], [60]), 6, (60,)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_on_clients_that_restart_before_every_message(tmp_path, name):
    attack, n, corrupt = ATTACKS[name]
    loop = at_rest(Loop(n, LENGTH), tmp_path, corrupt)
    attack(loop)
    assert_failed(loop, corrupt)


def put_back(path, what):
    """Of each honest folder some files, as they were when they were copied."""
    for client in HONEST:
        for name in what:
            shutil.copy(path / "backup" / str(client) / name, path / str(client) / name)


def ask_before_and_after(path, what):
    """Everybody for the victim's self mask, and, with these files put back, for its mask key."""
    loop = at_rest(Loop(4, LENGTH), path, [40]).until("agree")
    for client in HONEST:
        shutil.copytree(path / str(client), path / "backup" / str(client))
    ask_for_shares(loop, dict.fromkeys(HONEST, loop.ids), corrupt=[40])
    put_back(path, what)
    ask_for_shares(loop, dict.fromkeys((20, 30), all_but(loop, VICTIM)), corrupt=[40])
    return loop


@pytest.mark.parametrize("what", [["session"], ["sessions"]])
def test_one_file_of_a_folder_put_back_opens_nothing(tmp_path, what):
    """The session at rest, or the record of what was let out: each holds for itself."""
    assert_failed(ask_before_and_after(tmp_path, what), [40])


def test_control_a_folder_put_back_whole_opens_the_victim(tmp_path):
    """Outside the model, as the folder's own documentation says: no file can notice it."""
    assert_recovered(ask_before_and_after(tmp_path, ["session", "sessions"]), [40])


def two_sums(path, meddle):
    """Two sessions of one round, the second without the victim; folders are meddled with in between."""
    first = at_rest(Loop(4, LENGTH), path, ())
    (path / "backup").mkdir()
    for client in first.ids:
        SessionStore(path / "backup" / str(client))  # as it was before the session
    first.finish()
    meddle()
    second = at_rest(Loop(4, LENGTH, session=b"again"), path, ())
    second.silent = {VICTIM: "upload"}
    try:
        second.finish()
    except FedsecError as error:
        return str(error)
    return (first.server.result() - second.server.result()).tolist() == first.expected_sum([VICTIM])


@pytest.mark.parametrize(
    "take_away", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["gone", "empty"]
)
def test_a_record_that_is_gone_is_not_begun_anew(tmp_path, take_away):
    """Deleted as damaged, say, or left out of a copy: what it forbade would be allowed again."""

    def delete():
        for client in (10, 20, 30, 40):
            take_away(tmp_path / str(client) / "sessions")

    assert "the record of sessions that was here is gone" in two_sums(tmp_path, delete)


def test_a_record_that_was_put_back_alone_starts_nothing(tmp_path):
    """It knows nothing of the session that lies beside it."""

    def restore():
        for client in (10, 20, 30, 40):
            shutil.copy(tmp_path / "backup" / str(client), tmp_path / str(client) / "sessions")

    assert "was put back" in two_sums(tmp_path, restore)


def test_control_a_whole_folder_put_back_gives_two_sums_of_one_round(tmp_path):
    def restore():
        for client in (10, 20, 30, 40):
            shutil.copy(tmp_path / "backup" / str(client), tmp_path / str(client) / "sessions")
            (tmp_path / str(client) / "session").unlink()

    assert two_sums(tmp_path, restore) is True


def test_two_sums_of_one_round_from_folders(tmp_path):
    """[SPEC 3.5]"""
    assert "of round 7 was let out before" in two_sums(tmp_path, lambda: None)


def test_a_session_that_was_left_for_another_is_not_taken_up_again(tmp_path):
    """Whatever order a server interleaves two sessions in, a client is in the one that it joined last."""
    first = at_rest(Loop(4, LENGTH), tmp_path, ()).until("agree")
    late = {client: first.clients[client] for client in first.ids}
    second = at_rest(Loop(4, LENGTH, session=b"t", round_id=8), tmp_path, ()).until("upload")
    for client in first.ids:
        with pytest.raises(ProtocolError, match="not in"):
            late[client].receive(first.inbox[client])
        with pytest.raises(ProtocolError, match=r"started before|is over"):
            late[client].start()
    assert second.finish().tolist() == second.expected_sum(second.ids)


def test_an_upload_that_is_asked_for_again_is_the_same_whatever_the_app_would_say_now(tmp_path):
    """Two vectors under one mask would tell their difference: the app is not even asked."""
    loop = at_rest(Loop(4, LENGTH), tmp_path, ()).until("upload")
    sent, asked = loop.answer(VICTIM), []

    def another(config):
        asked.append(config)
        return np.zeros(LENGTH, np.int64)

    for _ in range(2):
        one = loop.clients[VICTIM].participant
        assert one.answer(loop.config.session_id, loop.inbox[VICTIM], another) == sent
    assert asked == []


def test_an_app_that_fails_is_asked_again_for_nothing_but_its_first_upload(tmp_path):
    """A server that can make an app fail gets no second try with another delivery."""
    loop = at_rest(Loop(4, LENGTH), tmp_path, ()).until("upload")
    one = loop.clients[VICTIM].participant

    def fails(_):
        raise OSError("no data")

    with pytest.raises(OSError, match="no data"):
        one.answer(loop.config.session_id, loop.inbox[VICTIM], fails)
    assert one.phase is Phase.UPLOAD
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


# --- exactly at the edge ---

FIVE = {"num_clients": 5, "max_corrupt": 1, "max_dropped": 1, "num_neighbors": 4, "threshold": 3}


def split_honest(parameters, told_otherwise):
    """Some honest clients are told that all survived, the others that the victim did not."""
    loop = Loop(parameters=parameters, d=LENGTH).until("agree")
    told = {
        client: all_but(loop, VICTIM) if client in told_otherwise else loop.ids
        for client in (10, 20, 30, 40)
        if not (client == VICTIM and client in told_otherwise)
    }
    ask_for_shares(loop, told, corrupt=[50])
    return loop


SPLITS = [some for size in range(4) for some in itertools.combinations((20, 30, 40), size)]


@pytest.mark.parametrize("told_otherwise", SPLITS, ids=str)
def test_every_way_to_tell_honest_clients_two_sets(told_otherwise):
    """[SPEC 8.2]: T = 4 of 5 with one corrupt, the least above (n + C)/2 = 3; one set at most gathers T."""
    assert_failed(split_honest(complete(5, corrupt=1, lost=1), told_otherwise), [50])


def test_control_with_as_many_survivors_as_half_of_all_and_the_corrupt_two_sets_open_the_victim():
    """T = (n + C)/2 itself, and a threshold of 2: both sets have their signatures, and both secrets open."""
    weak = unchecked(**FIVE | {"threshold": 2}, min_survivors=3)
    assert_recovered(split_honest(weak, (30, 40)), [50])
