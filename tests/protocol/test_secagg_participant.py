"""Clients at rest in folders: each message in a fresh object, delivered twice, at once, or not at all."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from protocol.secagg_loop import config_of, identity_of, policy_of

from fedsec.errors import InvalidTypeError, ProtocolError, StoreError
from fedsec.secagg import Participant, Server, recommend
from fedsec.secagg.identity import _files
from fedsec.secagg.messages import Kind, encode_set, frame

FOUR = recommend(num_clients=4, corrupt_fraction=0.0, dropout_fraction=0.25)
VICTIM = 20


class Study:
    """Four clients in folders; nothing of them is kept in memory between two messages."""

    def __init__(self, path, parameters=FOUR, **settings):
        self.path, self.config = path, config_of(parameters, **settings)
        self.server = Server(self.config)
        self.vectors = {i: np.array([i, -i, 1]) for i in self.config.ids}
        self.inbox = dict.fromkeys(self.config.ids)

    def participant(self, client_id):
        folder, identity = self.path / str(client_id), identity_of(client_id)
        return Participant(folder, client_id, identity, policy=policy_of(self.config))

    def answer(self, client_id, message=None):
        asked = message or self.inbox[client_id]
        if asked is None:
            return self.participant(client_id).join(self.config)
        return self.participant(client_id).answer(
            self.config.session_id, asked, lambda _: self.vectors[client_id]
        )

    def play(self, but=()):
        for client_id in self.inbox:
            if client_id not in but:
                self.server.receive(client_id, self.answer(client_id))
        self.inbox = self.server.close_phase()

    def until(self, phase):
        while self.server.phase != phase:
            self.play()
        return self


def total(study):
    return study.server.result().view(np.int32).tolist()


@pytest.mark.parametrize("n", [4, 40])
def test_a_session_of_folders(tmp_path, n):
    parameters = recommend(num_clients=n, corrupt_fraction=0.05 if n > 4 else 0.0, dropout_fraction=0.1)
    study = Study(tmp_path, parameters).until("done")
    ids = study.config.ids
    assert total(study) == [sum(ids), -sum(ids), n]
    assert study.participant(VICTIM).phase == "done"


def test_what_is_delivered_twice_is_answered_with_the_same_bytes(tmp_path):
    study = Study(tmp_path)
    while study.server.phase != "done":
        first = {i: study.answer(i) for i in study.inbox}
        study.vectors = {i: -vector for i, vector in study.vectors.items()}  # is not asked for again
        assert {i: study.answer(i) for i in study.inbox} == first
        assert study.participant(VICTIM).join(study.config) == first[VICTIM]
        study.play()
        study.vectors = {i: -vector for i, vector in study.vectors.items()}
    assert total(study) == [100, -100, 4]


def test_two_at_once_give_one_answer(tmp_path):
    study = Study(tmp_path).until("unmask")
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(study.answer, [VICTIM] * 8))
    assert len(answers) == 1


def test_a_second_set_of_survivors_ends_the_session(tmp_path):
    study = Study(tmp_path).until("agree")
    digest = study.inbox[VICTIM][6:38]
    other = frame(Kind.SURVIVORS, digest, VICTIM, encode_set(study.config, (10, VICTIM, 30)))
    study.answer(VICTIM)
    with pytest.raises(ProtocolError):
        study.answer(VICTIM, other)
    assert study.participant(VICTIM).phase == "aborted"
    for again in (other, study.inbox[VICTIM]):
        with pytest.raises(ProtocolError, match="aborted"):
            study.answer(VICTIM, again)
    with pytest.raises(ProtocolError, match="aborted"):
        study.participant(VICTIM).join(study.config)


def test_after_the_end_nothing_else_is_answered(tmp_path):
    study = Study(tmp_path).until("unmask")
    last = study.answer(VICTIM)
    with pytest.raises(ProtocolError, match="over"):
        study.answer(VICTIM, b"\2" + study.inbox[VICTIM])
    assert study.answer(VICTIM) == last


def test_messages_of_another_session_change_nothing(tmp_path):
    study = Study(tmp_path).until("share")
    with pytest.raises(ProtocolError, match="not in"):
        study.participant(VICTIM).answer(bytes(32), study.inbox[VICTIM], lambda _: study.vectors[VICTIM])
    study.until("done")
    assert total(study) == [100, -100, 4]


def test_killed_between_record_and_answer_is_dropped_out(tmp_path, monkeypatch):
    study = Study(tmp_path).until("upload")
    with monkeypatch.context() as patch:
        patch.setattr(_files, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            study.answer(VICTIM)
    with pytest.raises(ProtocolError):
        study.answer(VICTIM)
    study.play(but=(VICTIM,))
    study.until("done")
    assert study.server.survivors == (10, 30, 40)
    assert total(study) == [80, -80, 3]


def test_a_file_that_was_torn_is_taken_away(tmp_path):
    study = Study(tmp_path).until("upload")
    torn = tmp_path / str(VICTIM) / ".session.0123456789abcdef"
    torn.write_bytes(b"half of a ses")
    study.until("done")
    assert not torn.exists()


def test_an_error_of_the_vector_leaves_the_session_as_it_was(tmp_path):
    study = Study(tmp_path).until("upload")
    for vector, error in ((lambda _: 1 / 0, ZeroDivisionError), (lambda _: np.zeros(3), InvalidTypeError)):
        with pytest.raises(error):
            study.participant(VICTIM).answer(study.config.session_id, study.inbox[VICTIM], vector)
    study.until("done")
    assert total(study) == [100, -100, 4]


def test_a_new_session_takes_the_place_of_the_old(tmp_path):
    first = Study(tmp_path).until("upload")
    second = Study(tmp_path, session=b"t", round_id=8).until("done")
    assert total(second) == [100, -100, 4]
    with pytest.raises(ProtocolError, match="not in"):
        first.answer(VICTIM)


def test_a_session_id_is_used_once(tmp_path):
    study = Study(tmp_path)
    study.answer(VICTIM)
    (tmp_path / str(VICTIM) / "session").unlink()
    with pytest.raises(ProtocolError, match="used once"):
        study.answer(VICTIM)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_files_are_for_the_owner_alone(tmp_path):
    study = Study(tmp_path).until("upload")
    folder = tmp_path / str(VICTIM)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
    assert modes.pop(str(VICTIM)) == 0o700
    assert set(modes) == {"session", "session.key", "sessions"}
    assert set(modes.values()) == {0o600}
    assert str(folder) in repr(study.participant(VICTIM))


@pytest.mark.parametrize(
    "damage", [b"", b"short", bytes(84) + b"\xff" * 8, bytes(64) + b"nowhere" + bytes(21)]
)
def test_a_damaged_file_is_named(tmp_path, damage):
    study = Study(tmp_path).until("share")
    path = tmp_path / str(VICTIM) / "session"
    path.write_bytes(damage)
    with pytest.raises(StoreError, match="holds no session"):
        study.answer(VICTIM)


def test_what_is_no_config(tmp_path):
    study = Study(tmp_path)
    with pytest.raises(InvalidTypeError, match="config"):
        study.participant(VICTIM).join(b"")
    assert study.participant(VICTIM).phase is None


def test_a_config_below_the_policy_is_refused(tmp_path):
    study = Study(tmp_path)
    weak = Study(tmp_path, recommend(num_clients=3, corrupt_fraction=0.0, dropout_fraction=0.0))
    strict = policy_of(config_of(recommend(num_clients=4, corrupt_fraction=0.25, dropout_fraction=0.0)))
    one = Participant(tmp_path / "strict", VICTIM, identity_of(VICTIM), policy=strict)
    for config in (study.config, weak.config):
        with pytest.raises(ProtocolError, match="policy"):
            one.join(config)
    assert one.phase is None
