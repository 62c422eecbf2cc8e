"""The session store among processes: killed at any instant, several at once on one file, forked."""

import contextlib
import itertools
import os
import shutil
import signal
import sqlite3
import threading
import warnings
from pathlib import Path

import pytest
from protocol import store_worker
from protocol.store_worker import ME, STEPS, session
from protocol.workers import Worker

from fedsec.errors import ProtocolError
from fedsec.secagg.store import SessionStore

ENOUGH = 400  # kills, of which at least one in twenty falls into a transaction but for a chance of 1e-9


@pytest.fixture(scope="module")
def worker():
    with contextlib.closing(Worker(store_worker)) as worker:
        yield worker


def walk_and_kill(worker, path, first, seconds):
    """Kill a child so long after its first words; return all that it said was granted."""
    granted, code = worker.run("walk", path, first, seconds=seconds, after=min(first, 1))
    assert code == -signal.SIGKILL
    return granted


def assert_never_again(store, granted):
    for words in granted:
        number = words[1]
        again = (10**6, 10**6) if words[0] == "open" else (words[2],)
        call = store.open_session if words[0] == "open" else store.claim
        with pytest.raises(ProtocolError, match=r"started before|let out before"):
            call(ME, session(number), *again)


def test_killed_at_any_instant_it_forgets_no_claim(worker, tmp_path):
    """At most one call that had not returned is on record."""
    path, interrupted, first = tmp_path / "sessions", 0, 1
    for instant in itertools.count():
        if instant >= 20 and interrupted:
            break
        assert instant < ENOUGH
        granted = walk_and_kill(worker, path, first, seconds=instant % 20 * 3e-3)
        interrupted += len(list(tmp_path.iterdir())) > 1  # within a transaction, for its log was left
        rows = recorded(path)
        assert [number for number, _ in rows] == list(range(1, len(rows) + 1))
        calls = sum(1 + len(steps) for number, steps in rows if number >= first)
        assert len(granted) <= calls <= len(granted) + 1
        assert all(steps == STEPS[: len(steps)] for _, steps in rows)
        assert_never_again(SessionStore(path), granted[-4:])
        first = len(rows) + 1


def recorded(path):
    SessionStore(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT session, steps FROM sessions ORDER BY round").fetchall()
    return [(int.from_bytes(key, "little"), tuple(steps.split())) for key, steps in rows]


def test_killed_while_it_is_created(worker, tmp_path):
    for instant in range(12):
        path = tmp_path / f"sessions{instant}"
        granted = walk_and_kill(worker, path, 0, seconds=5e-4 + instant * 2e-3)
        store = SessionStore(path)
        assert_never_again(store, granted)
        store.open_session(ME, session(10**6), 10**6, 1)
        store.claim(ME, session(10**6), "share")


def test_of_several_processes_exactly_one_is_granted_a_claim(worker, tmp_path):
    worker.start("race", tmp_path / "sessions", 20, children=4)
    granted, codes = worker.until_gone()
    assert codes == [0] * 4
    claims = [words[2] for words in granted if words[0] == "claim"]
    assert [words for words in granted if words[0] == "open"] == [["open", 0]]
    assert sorted(claims) == sorted(f"s{number}" for number in range(20))


def test_this_process_and_another_race(worker, tmp_path):
    store, mine = SessionStore(tmp_path / "sessions"), []
    store.open_session(ME, session(0), 0, 1)
    worker.start("race", tmp_path / "sessions", 30)
    for number in reversed(range(30)):
        with contextlib.suppress(ProtocolError):
            store.claim(ME, session(0), f"s{number}")
            mine.append(f"s{number}")
    theirs, codes = worker.until_gone()
    assert codes == [0]
    assert sorted([*mine, *(words[2] for words in theirs)]) == sorted(f"s{number}" for number in range(30))


def test_a_fork_goes_on_with_the_same_memory(tmp_path):
    """Also while other threads of the parent are in the middle of claims."""
    store, stop = SessionStore(tmp_path / "sessions"), threading.Event()
    store.open_session(ME, session(0), 0, 1)

    def busy(name):
        for number in range(20):
            store.claim(ME, session(0), f"{name}{number}")
            if stop.is_set():
                return

    threads = [threading.Thread(target=busy, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    try:
        outcomes = [fork_and_claim(store, "s0") for _ in range(6)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == [0, 1, 1, 1, 1, 1]


def fork_and_claim(store, step):
    """The exit code of a child that claims a step: 0 if it was granted, 1 if not, 2 for any other end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: that is the point
        child = os.fork()
    if child == 0:
        code = 2
        try:
            store.claim(ME, session(0), step)
            code = 0
        except ProtocolError:
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_log_that_ends_anywhere_forgets_only_from_the_end(tmp_path):
    """As after a loss of power, which may leave any beginning of the log."""
    path = tmp_path / "sessions"
    store = SessionStore(path)
    store.open_session(ME, session(0), 0, 1)
    with contextlib.closing(sqlite3.connect(path)) as reader:
        reader.execute("SELECT count(*) FROM sessions").fetchone()
        for step in STEPS:
            store.claim(ME, session(0), step)
        shutil.copy(path, tmp_path / "main")
        log = Path(f"{path}-wal").read_bytes()
    found = set()
    for length in [*range(0, len(log), 1777), len(log)]:
        torn = tmp_path / f"torn{length}"
        shutil.copy(tmp_path / "main", torn)
        Path(f"{torn}-wal").write_bytes(log[:length])
        ((_, steps),) = recorded(torn)
        assert steps == STEPS[: len(steps)]
        found.add(steps)
    assert found == {STEPS[:length] for length in range(4)}
