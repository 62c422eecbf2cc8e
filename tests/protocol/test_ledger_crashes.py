"""The ledger among processes: killed at any instant, and several at once on one file."""

import contextlib
import itertools
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
from protocol import ledger_worker
from protocol.workers import Worker

from fedsec.accounting import Gaussian, Ledger
from fedsec.errors import BudgetExceededError, LedgerError

TERMS = ledger_worker.TERMS
CHEAP, DEAR = Gaussian(3000.0), Gaussian(10.0)  # millions fit, and few
ENOUGH = 400  # kills, of which at least one in twenty falls into a transaction but for a chance of 1e-9


@pytest.fixture(scope="module")
def worker():
    with contextlib.closing(Worker(ledger_worker)) as worker:
        yield worker


@pytest.fixture
def most(tmp_path):
    """How often DEAR fits."""
    (tmp_path / "apart").mkdir()
    return Ledger(tmp_path / "apart" / "reference.ledger", **TERMS).remaining(DEAR)


def start(worker, path, event, children=1, times=10**6):
    return worker.start("charge", path, event.noise_multiplier, times, children=children)


def run_and_kill(worker, path, after, seconds):
    """Kill a child so long after its `after`-th charge has returned; return the last number charged."""
    work = ("charge", path, CHEAP.noise_multiplier, 10**6)
    said, code = worker.run(*work, after=after, seconds=seconds)
    assert code == -signal.SIGKILL
    return max((number for _, number in said), default=0)


def test_killed_at_any_instant_it_loses_no_charge(worker, tmp_path):
    path, known, interrupted = tmp_path / "study.ledger", 0, 0
    for instant in itertools.count():
        if instant >= 20 and interrupted:
            break
        assert instant < ENOUGH
        acknowledged = max(known, run_and_kill(worker, path, after=1, seconds=instant % 20 * 4e-4))
        interrupted += len(list(tmp_path.iterdir())) > 1  # within a transaction, for its log was left
        ledger = Ledger(path, **TERMS)
        known = ledger.verify()
        assert acknowledged <= known <= acknowledged + 1
        assert {entry.event for entry in ledger.entries()} == {CHEAP}
        assert [entry.number for entry in ledger.entries()] == list(range(1, known + 1))


def test_killed_while_it_is_created(worker, tmp_path):
    for instant in range(12):
        path = tmp_path / f"{instant}.ledger"
        acknowledged = run_and_kill(worker, path, after=0, seconds=1e-3 + instant * 6e-4)
        ledger = Ledger(path, **TERMS)
        assert acknowledged <= ledger.verify() <= acknowledged + 1
        ledger.charge(CHEAP)


def test_processes_on_one_file_never_overspend_together(worker, tmp_path, most):
    path = tmp_path / "study.ledger"
    start(worker, path, DEAR, children=3, times=most // 2)
    said, codes = worker.until_gone()
    assert ledger_worker.EXHAUSTED in codes
    assert set(codes) <= {0, ledger_worker.EXHAUSTED}
    assert sorted(number for _, number in said) == list(range(1, most + 1))
    ledger = Ledger.open(path)
    assert ledger.verify() == most
    assert len({entry.purpose for entry in ledger.entries()}) > 1
    with pytest.raises(BudgetExceededError):
        ledger.charge(DEAR)


def test_an_object_goes_on_while_another_process_charges(worker, tmp_path, most):
    ledger, mine = Ledger(tmp_path / "study.ledger", **TERMS), []
    start(worker, ledger.path, DEAR, times=most // 2)
    assert worker.line() == ["charged", 1]
    with contextlib.suppress(BudgetExceededError):
        while True:
            mine.append(ledger.charge(DEAR).number)
    theirs = [number for _, number in worker.until_gone()[0]]
    assert sorted([1, *theirs, *mine]) == list(range(1, most + 1))


def torn_logs(tmp_path, charges):
    """A ledger whose last charges are still in its write-ahead log, held there by a reader."""
    path = tmp_path / "study.ledger"
    ledger = Ledger(path, **TERMS)
    ledger.charge(CHEAP)
    with contextlib.closing(sqlite3.connect(path)) as reader:
        reader.execute("SELECT count(*) FROM entries").fetchone()
        for _ in range(charges):
            ledger.charge(CHEAP)
        shutil.copy(path, tmp_path / "main")
        log = Path(f"{path}-wal").read_bytes()
    return ledger, tmp_path / "main", log


def test_a_log_that_ends_anywhere_gives_whole_entries(tmp_path):
    """As after a loss of power, which may leave any beginning of the log."""
    ledger, main, log = torn_logs(tmp_path, charges=6)
    entries, found = ledger.entries(), []
    assert len(log) > 6 * 4096
    for length in [*range(0, len(log), 1103), len(log)]:
        torn = tmp_path / f"torn{length}"
        shutil.copy(main, torn)
        Path(f"{torn}-wal").write_bytes(log[:length])
        again = Ledger.open(torn)
        found.append(again.verify())
        assert again.entries() == entries[: found[-1]]
    assert found == sorted(found)
    assert set(found) == set(range(1, 8))


def test_a_lock_that_never_ends_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsec._sqlite._PATIENCE", 0.05)
    ledger = Ledger(tmp_path / "study.ledger", **TERMS)
    with contextlib.closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match=r"study\.ledger: database is locked"):
            ledger.charge(CHEAP)
        assert not ledger.would_exceed(Gaussian(10.0))  # reading goes on
    assert ledger.charge(CHEAP).number == 1


def test_a_full_disk_charges_nothing(tmp_path, monkeypatch):
    """SQLite's limit on pages stands for the disk: the insertion fails, and what was there stays."""
    ledger = Ledger(tmp_path / "study.ledger", **TERMS)
    ledger.charge(CHEAP)
    connect = sqlite3.connect

    def small(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count=1")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr("fedsec._sqlite.sqlite3.connect", small)
        with pytest.raises(LedgerError, match="full"):
            charge_often(ledger, 20)
    recorded = ledger.verify()
    assert 1 <= recorded < 20
    assert ledger.charge(CHEAP).number == recorded + 1


def charge_often(ledger, times):
    for _ in range(times):
        ledger.charge(CHEAP, purpose="x" * 1000)
