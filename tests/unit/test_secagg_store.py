"""The session store in one process: what it grants, what it refuses, and which files it takes for its own."""

import contextlib
import copy
import os
import pickle
import shutil
import sqlite3
import stat
import threading
import time

import pytest

from fedsec.errors import InvalidArgumentError, InvalidTypeError, ProtocolError, StoreError
from fedsec.secagg.store import MAX_STEPS, SessionStore, _FileRows, _MemoryTable

ALICE, BOB = b"a" * 32, b"b" * 32
MANY = 10**6


def session(number):
    return number.to_bytes(32, "little")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sessions"


@pytest.fixture(params=["file", "memory"])
def store(request, path):
    return SessionStore(path) if request.param == "file" else SessionStore.in_memory()


@pytest.fixture
def started(store):
    store.open_session(ALICE, session(1), round_id=5, max_attempts=1)
    return store


class TestSessions:
    def test_whether_anything_of_a_kind_was_ever_let_out(self, store):
        for number in (1, 2):
            store.open_session(ALICE, session(number), number, MANY)
        store.claim(ALICE, session(1), "share")
        store.claim(ALICE, session(2), "uploads")
        assert not store.has_claimed("upload")
        store.claim(ALICE, session(1), "upload")
        store.end_session(ALICE, session(1))
        assert store.has_claimed("upload")
        assert not store.has_claimed("up")
        with pytest.raises(InvalidArgumentError, match="step must be"):
            store.has_claimed("no word")

    def test_whether_a_session_was_ever_started(self, started):
        assert started.has_started(session(1))
        assert not started.has_started(session(2))
        started.end_session(ALICE, session(1))
        assert started.has_started(session(1))
        with pytest.raises(InvalidArgumentError, match="session_id must be 32 bytes"):
            started.has_started(b"")

    def test_a_session_id_is_used_once_in_whatever_round(self, started):
        for round_id in (5, 6, 2**64 - 1):
            with pytest.raises(ProtocolError, match=f"session {session(1).hex()} was started before"):
                started.open_session(ALICE, session(1), round_id, MANY)
        started.end_session(ALICE, session(1))
        with pytest.raises(ProtocolError, match="started before"):
            started.open_session(ALICE, session(1), 7, MANY)

    def test_one_session_of_a_round_has_the_upload(self, store):
        for number in (1, 2):
            store.open_session(ALICE, session(number), 5, MANY)
        store.open_session(BOB, session(1), 5, MANY)
        store.claim(ALICE, session(1), "upload", once_per_round=True)
        store.claim(ALICE, session(2), "share")
        with pytest.raises(ProtocolError, match="the upload message of round 5 was let out before"):
            store.claim(ALICE, session(2), "upload", once_per_round=True)
        store.claim(BOB, session(1), "upload", once_per_round=True)
        store.open_session(ALICE, session(3), 6, MANY)
        store.claim(ALICE, session(3), "upload", once_per_round=True)

    def test_rounds_never_go_back(self, started):
        for round_id in (0, 4):
            with pytest.raises(ProtocolError, match=f"round {round_id} is over: .* has started round 5"):
                started.open_session(ALICE, session(2), round_id, MANY)
        started.open_session(ALICE, session(2), 6, 1)
        with pytest.raises(ProtocolError, match="round 5 is over"):
            started.open_session(ALICE, session(3), 5, MANY)

    def test_rounds_are_compared_as_numbers_up_to_the_last(self, store):
        for number, round_id in enumerate([0, 255, 256, 2**63 - 1, 2**63, 2**64 - 1]):
            store.open_session(ALICE, session(number), round_id, 1)
        with pytest.raises(ProtocolError, match=f"round {2**63} is over"):
            store.open_session(ALICE, session(9), 2**63, MANY)

    def test_a_round_has_so_many_attempts(self, store):
        for number in range(3):
            store.open_session(ALICE, session(number), 5, max_attempts=3)
            store.end_session(ALICE, session(number))
        with pytest.raises(ProtocolError, match="round 5 has had 3 sessions of at most 3"):
            store.open_session(ALICE, session(3), 5, max_attempts=3)
        store.open_session(ALICE, session(3), 6, max_attempts=1)
        with pytest.raises(ProtocolError, match="round 6 has had 1 sessions of at most 1"):
            store.open_session(ALICE, session(4), 6, max_attempts=1)

    def test_a_refusal_is_no_attempt(self, store):
        store.open_session(ALICE, session(0), 5, max_attempts=2)
        for _ in range(3):
            with pytest.raises(ProtocolError):
                store.open_session(ALICE, session(0), 5, max_attempts=2)
        store.open_session(ALICE, session(1), 5, max_attempts=2)

    def test_identities_have_nothing_to_do_with_each_other(self, started):
        started.open_session(BOB, session(1), 0, 1)
        started.claim(ALICE, session(1), "share")
        started.claim(BOB, session(1), "share")
        started.end_session(BOB, session(1))
        started.claim(ALICE, session(1), "upload")


class TestClaims:
    def test_a_step_is_granted_once(self, started):
        for step in ("advertise", "share", "upload"):
            started.claim(ALICE, session(1), step)
        for step in ("advertise", "share", "upload"):
            with pytest.raises(ProtocolError, match=f"the {step} message .* was let out before"):
                started.claim(ALICE, session(1), step)

    def test_a_step_that_another_begins_with_is_another(self, started):
        for step in ("share", "shared", "share_2", "s"):
            started.claim(ALICE, session(1), step)

    def test_sessions_that_were_never_started_grant_nothing(self, started):
        for identity, number in ((ALICE, 2), (BOB, 1)):
            with pytest.raises(ProtocolError, match="never started"):
                started.claim(identity, session(number), "share")

    def test_sessions_that_are_over_grant_nothing(self, started):
        started.claim(ALICE, session(1), "share")
        for _ in range(2):
            started.end_session(ALICE, session(1))
            for step in ("share", "upload"):
                with pytest.raises(ProtocolError, match="is over"):
                    started.claim(ALICE, session(1), step)

    def test_ending_what_was_never_started_changes_nothing(self, started):
        started.end_session(ALICE, session(2))
        started.end_session(BOB, session(1))
        started.claim(ALICE, session(1), "share")
        started.open_session(ALICE, session(2), 6, 1)

    def test_a_session_has_only_so_many_steps(self, store):
        store.open_session(ALICE, session(1), 5, 1)
        for number in range(MAX_STEPS):
            store.claim(ALICE, session(1), f"s{number}")
        with pytest.raises(ProtocolError, match=f"{MAX_STEPS} steps"):
            store.claim(ALICE, session(1), "one_more")

    def test_one_of_many_threads_is_granted_it(self, started):
        threads_, steps = 8, [f"s{number}" for number in range(12)]
        granted, barrier = [], threading.Barrier(threads_)

        def race():
            barrier.wait()
            for step in steps:
                with contextlib.suppress(ProtocolError):
                    started.claim(ALICE, session(1), step)
                    granted.append(step)

        threads = [threading.Thread(target=race) for _ in range(threads_)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(granted) == sorted(steps)

    def test_threads_that_change_at_every_step_of_a_claim(self, monkeypatch):
        """In memory a claim takes microseconds: a session that is slow to look up lets the others in."""
        store, granted, get = SessionStore.in_memory(), [], _MemoryTable.get

        def slow(table, *key):
            found = get(table, *key)
            time.sleep(0.01)
            return found

        def race():
            with contextlib.suppress(ProtocolError):
                store.claim(ALICE, session(1), "share")
                granted.append(1)

        store.open_session(ALICE, session(1), 5, 1)
        monkeypatch.setattr(_MemoryTable, "get", slow)
        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert granted == [1]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("text", session(1), 0, 1), InvalidTypeError),
        ((bytearray(ALICE), session(1), 0, 1), InvalidTypeError),
        ((b"", session(1), 0, 1), InvalidArgumentError),
        ((bytes(65), session(1), 0, 1), InvalidArgumentError),
        ((ALICE, None, 0, 1), InvalidTypeError),
        ((ALICE, bytes(31), 0, 1), InvalidArgumentError),
        ((ALICE, bytes(33), 0, 1), InvalidArgumentError),
        ((ALICE, session(1), -1, 1), InvalidArgumentError),
        ((ALICE, session(1), 2**64, 1), InvalidArgumentError),
        ((ALICE, session(1), 1.0, 1), InvalidTypeError),
        ((ALICE, session(1), True, 1), InvalidTypeError),
        ((ALICE, session(1), 0, 0), InvalidArgumentError),
    ],
)
def test_arguments_outside_their_domain(store, arguments, error):
    with pytest.raises(error, match="must be"):
        store.open_session(*arguments)
    store.open_session(ALICE, session(1), 0, 1)


@pytest.mark.parametrize("step", ["", "Share", "share upload", "1st", "share\n", "é", "s" * 33, b"share", 1])
def test_steps_are_short_words(started, step):
    with pytest.raises((InvalidArgumentError, InvalidTypeError), match="step must be"):
        started.claim(ALICE, session(1), step)


class TestFile:
    def test_another_store_on_the_file_remembers(self, path):
        SessionStore(path).open_session(ALICE, session(1), 5, 1)
        SessionStore(str(path)).claim(ALICE, session(1), "share")
        again = SessionStore(path)
        with pytest.raises(ProtocolError, match="let out before"):
            again.claim(ALICE, session(1), "share")
        with pytest.raises(ProtocolError, match="started before"):
            again.open_session(ALICE, session(1), 6, 1)
        with pytest.raises(ProtocolError, match="round 4 is over"):
            again.open_session(ALICE, session(2), 4, 1)

    def test_a_new_file_is_for_its_owner_alone(self, path):
        before = os.umask(0)
        try:
            SessionStore(path)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
    def test_a_file_that_others_can_write_is_refused(self, path, mode):
        store = SessionStore(path)
        path.chmod(mode)
        with pytest.raises(StoreError, match=f"others must not be able to write it, its mode is {mode:o}"):
            SessionStore(path)
        with pytest.raises(StoreError, match="its mode"):
            store.open_session(ALICE, session(1), 5, 1)

    def test_a_file_whose_damage_is_no_text_is_refused(self, path):
        """SQLite's error quotes it."""
        SessionStore(path)
        path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CRE\xf9TE TABLE"))
        with pytest.raises(StoreError, match=r"sessions: "):
            SessionStore(path)

    def test_a_store_that_must_be_there_is_not_made(self, path):
        for made in (lambda: None, path.touch):
            made()
            with pytest.raises(StoreError, match="sessions: the record of sessions that was here is gone"):
                SessionStore.open(path)
        assert path.read_bytes() == b""
        SessionStore(path).open_session(ALICE, session(1), 1, 1)
        assert SessionStore.open(path).has_started(session(1))

    def test_a_file_that_is_gone_is_not_made_again(self, path):
        store = SessionStore(path)
        path.unlink()
        with pytest.raises(StoreError, match="No such file"):
            store.open_session(ALICE, session(1), 5, 1)
        assert not path.exists()

    def test_foreign_files_are_refused_and_left_alone(self, path):
        path.write_bytes(b"a list of groceries, and more than a hundred bytes of it " * 3)
        contents = path.read_bytes()
        with pytest.raises(StoreError, match="file is not a database"):
            SessionStore(path)
        assert path.read_bytes() == contents

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE TABLE other (x)",
            "CREATE TRIGGER forget AFTER INSERT ON sessions BEGIN DELETE FROM sessions; END",
            "CREATE VIEW v AS SELECT 1",
            "DROP INDEX rounds",
            "PRAGMA user_version=2",
            "PRAGMA application_id=1716735079",  # a budget ledger's
        ],
    )
    def test_other_databases_are_refused(self, path, statement):
        store = SessionStore(path)
        store.open_session(ALICE, session(1), 5, 1)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(statement)
        with pytest.raises(StoreError, match="holds no session store"):
            SessionStore(path)
        with pytest.raises(StoreError, match="holds no session store"):
            store.claim(ALICE, session(1), "share")

    def test_links_and_folders_are_refused(self, path, tmp_path):
        SessionStore(path)
        os.link(path, tmp_path / "second")
        for name in (path, tmp_path / "second"):
            with pytest.raises(StoreError, match="hard links"):
                SessionStore(name)
        with pytest.raises(StoreError, match="no regular file"):
            SessionStore(tmp_path)
        with pytest.raises(StoreError, match="No such file"):
            SessionStore(tmp_path / "missing" / "sessions")

    @pytest.mark.parametrize(
        "change",
        [
            "steps = 'share  upload'",
            "steps = ' '",
            "steps = x'736861'",
            "ended = 2",
            "ended = 'no'",
            "round = x'05'",
            "round = 5",
        ],
    )
    def test_a_row_that_was_damaged_grants_nothing(self, path, change):
        store = SessionStore(path)
        store.open_session(ALICE, session(1), 5, 1)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE sessions SET {change}")  # noqa: S608
        with pytest.raises(StoreError, match=r"sessions: a (session is not as|round must)"):
            store.claim(ALICE, session(1), "upload")

    @pytest.mark.parametrize("path", ["", 5, None, "a\0b"])
    def test_what_is_no_path(self, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises((InvalidTypeError, InvalidArgumentError, StoreError)):
            SessionStore(path)
        assert not list(tmp_path.iterdir())

    def test_a_store_that_is_locked_grants_nothing(self, path, monkeypatch):
        monkeypatch.setattr("fedsec._sqlite._PATIENCE", 0.05)
        store = SessionStore(path)
        store.open_session(ALICE, session(1), 5, 1)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="sessions: database is locked"):
                store.claim(ALICE, session(1), "share")
        store.claim(ALICE, session(1), "share")

    def test_a_commit_returns_when_the_disk_has_it(self, path, monkeypatch):
        """What SQLite was told, as it says itself: FULL is 2."""
        store, settings, put = SessionStore(path), [], _FileRows.put

        def asked(rows, *arguments):
            query = rows._connection.execute
            settings.extend(query(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous"))
            put(rows, *arguments)

        monkeypatch.setattr(_FileRows, "put", asked)
        store.open_session(ALICE, session(1), 5, 1)
        assert settings == ["wal", 2]

    def test_what_a_copy_cannot_know(self, path, tmp_path):
        """Rolling a store back is outside the model: the docstring says so, and so it is."""
        store = SessionStore(path)
        store.open_session(ALICE, session(1), 5, 1)
        shutil.copy(path, tmp_path / "backup")
        store.claim(ALICE, session(1), "share")
        SessionStore(tmp_path / "backup").claim(ALICE, session(1), "share")

    def test_repr_names_the_file(self, path):
        assert repr(SessionStore(path)) == f"SessionStore({str(path)!r})"


class TestMemory:
    def test_it_cannot_be_pickled_or_copied(self):
        store = SessionStore.in_memory()
        for attempt in (pickle.dumps, copy.deepcopy):
            with pytest.raises(InvalidTypeError, match="a copy grants again"):
                attempt(store)
        assert repr(store) == "SessionStore(in memory)"

    def test_a_shallow_copy_is_the_same_store(self):
        store = SessionStore.in_memory()
        copy.copy(store).open_session(ALICE, session(1), 5, 1)
        with pytest.raises(ProtocolError, match="started before"):
            store.open_session(ALICE, session(1), 5, 1)

    def test_it_grants_nothing_in_another_process(self, monkeypatch):
        store = SessionStore.in_memory()
        store.open_session(ALICE, session(1), 5, 1)
        monkeypatch.setattr("os.getpid", lambda: -1)
        with pytest.raises(ProtocolError, match="forked"):
            store.claim(ALICE, session(1), "share")

    def test_stores_in_memory_are_apart(self):
        for _ in range(2):
            SessionStore.in_memory().open_session(ALICE, session(1), 5, 1)
