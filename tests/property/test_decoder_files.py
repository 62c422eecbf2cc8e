"""Files of SQLite that were changed, byte by byte or value by value: an error by name, and nothing made up.

A ledger has hashes, so what opens is a beginning of what was recorded. Stores of sessions and reservations
have none; what opens there is what the file says, and what it cannot say is refused.
"""

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property.mutations import VALUES, changed_bytes, changed_value, outcome
from protocol.store_worker import ME, session

from fedsec import distributed
from fedsec.accounting import Gaussian, Ledger, NeighboringRelation
from fedsec.accounting.codec import canonical, parse
from fedsec.accounting.ledger import verify_export
from fedsec.errors import InvalidArgumentError, LedgerError, ProtocolError, StoreError
from fedsec.secagg import SessionStore

LONG = os.environ.get("FEDSEC_LONG") == "1"
SOME = settings(
    max_examples=2000 if LONG else 30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
RELATION = NeighboringRelation.REPLACE_SPECIAL
PLAN = distributed.plan_clients(
    distributed.Cohort(5, 4, 1), dimension=3, l2_clip_norm=1.0, noise_multiplier=1.0
)
# What SQLite may hold in any column, whatever its declared type.
CELLS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    st.binary(max_size=12),
    st.sampled_from(["{}", "[[1], [2, 3]]", '{"type":"Gaussian"}', "upload upload", "a" * 64]),
    VALUES.map(lambda value: repr(value)[:200]),
)


def fresh(folder, name, data):
    """The bytes as a file of its own, without the logs of another one."""
    path = Path(folder) / name
    for other in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}-journal")):
        other.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("decoders")


@pytest.fixture(scope="module")
def recorded(folder):
    """A ledger of three charges: its bytes and entries; a store of sessions; a list of reservations."""
    ledger = Ledger(
        folder / "recorded.ledger", target_epsilon=50.0, target_delta=1e-5, neighboring_relation=RELATION
    )
    for number in range(3):
        ledger.charge(Gaussian(5.0 + number), purpose=f"round {number}")
    store = SessionStore(folder / "recorded.sessions")
    for number in range(3):
        store.open_session(ME, session(number), number, 1)
        store.claim(ME, session(number), "upload")
    budget = distributed.ClientBudget(PLAN, ledger)
    with budget._file.writing() as rows:
        rows.execute(
            "INSERT INTO reservations VALUES (?, ?)",
            ("ab" * 32, canonical([{"type": "Gaussian", "noise_multiplier": 2.0}])),
        )
    return ledger, store, budget


def bytes_of(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Path(path).read_bytes()


def opened_ledger(path):
    ledger = Ledger.open(path)
    ledger.verify()
    ledger.would_exceed(Gaussian(10.0))
    return ledger.entries()


def assert_ledger(path, entries):
    kind, found = outcome(opened_ledger, path, errors=LedgerError)
    assert kind == "refused" or found == entries[: len(found)]


def assert_store(path):
    def used(path):
        store = SessionStore(path)
        for number in range(4):
            for call in (
                lambda number=number: store.open_session(ME, session(number), 9, 5),
                lambda number=number: store.claim(ME, session(number), "upload", once_per_round=True),
                lambda number=number: store.end_session(ME, session(number)),
            ):
                with contextlib.suppress(ProtocolError):
                    call()

    outcome(used, path, errors=StoreError)


def assert_budget(path, recorded):
    """In place of the reservations; each reservation that is there is counted or all is refused."""
    ledger, _, budget = recorded
    kind, found = outcome(lambda _: budget.reserved(), path, errors=LedgerError)
    assert kind == "refused" or all(isinstance(one, bytes) for one in found)
    kept = ledger.entries()
    outcome(lambda _: budget.reserve(SESSION), path, errors=(LedgerError, ProtocolError))
    assert ledger.entries() == kept


class SESSION:
    session_id, round_id, vector_length, modulus_bits = bytes(32), 1, PLAN.encoding.length, PLAN.modulus_bits

    class parameters:  # noqa: N801
        num_clients, min_survivors, max_corrupt = 5, 4, 1


@SOME
@given(data=st.data())
def test_a_ledger_of_changed_bytes(folder, recorded, data):
    ledger = recorded[0]
    changed = data.draw(changed_bytes([bytes_of(ledger.path)]))
    assert_ledger(fresh(folder, "changed.ledger", changed), ledger.entries())


@SOME
@given(data=st.data())
def test_a_store_of_changed_bytes(folder, recorded, data):
    changed = data.draw(changed_bytes([bytes_of(folder / "recorded.sessions")]))
    assert_store(fresh(folder, "changed.sessions", changed))


@SOME
@given(data=st.data())
def test_reservations_of_changed_bytes(folder, recorded, data):
    changed = data.draw(changed_bytes([bytes_of(folder / "recorded.ledger.reserved")]))
    path, before = folder / "recorded.ledger.reserved", bytes_of(folder / "recorded.ledger.reserved")
    try:
        assert_budget(fresh(folder, path.name, changed), recorded)
    finally:
        fresh(folder, path.name, before)


def change_a_cell(data, path, tables):
    """One value of one row, by whoever can write the file."""
    table, columns = data.draw(st.sampled_from(tables))
    column, value = data.draw(st.sampled_from(columns)), data.draw(CELLS)
    row = data.draw(st.integers(0, 2))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        raw = data.draw(st.booleans()) and isinstance(value, bytes)
        place = "CAST(? AS TEXT)" if raw else "?"  # a text that is no UTF-8
        # Table and columns are ours.
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        chosen = f"{columns[0]} = (SELECT {columns[0]} FROM {table} LIMIT 1 OFFSET ?)"  # noqa: S608
        change = f"UPDATE {table} SET {column} = {place} WHERE {chosen}"  # noqa: S608
        with contextlib.suppress(sqlite3.IntegrityError):
            connection.execute(change, (value, row % rows))


@SOME
@given(data=st.data())
def test_a_ledger_with_other_values(folder, recorded, data):
    ledger = recorded[0]
    path = fresh(folder, "changed.ledger", bytes_of(ledger.path))
    columns = ("number", "time", "event", "count", "purpose", "hash")
    change_a_cell(data, path, [("entries", columns), ("terms", ("text",))])
    assert_ledger(path, ledger.entries())


@SOME
@given(data=st.data())
def test_a_store_with_other_values(folder, recorded, data):
    path = fresh(folder, "changed.sessions", bytes_of(folder / "recorded.sessions"))
    change_a_cell(data, path, [("sessions", ("session", "identity", "round", "steps", "ended"))])
    assert_store(path)


@SOME
@given(data=st.data())
def test_reservations_with_other_values(folder, recorded, data):
    path, before = folder / "recorded.ledger.reserved", bytes_of(folder / "recorded.ledger.reserved")
    try:
        change_a_cell(data, path, [("reservations", ("session", "events")), ("seen", ("entries", "head"))])
        assert_budget(path, recorded)
    finally:
        fresh(folder, path.name, before)


@SOME
@given(data=st.data())
def test_an_exported_ledger_of_changed_values(recorded, data):
    changed = data.draw(changed_value([recorded[0].export()]))
    outcome(verify_export, changed, errors=LedgerError)


@SOME
@given(data=st.data())
def test_an_exported_ledger_of_changed_text(recorded, data):
    text = data.draw(changed_bytes([canonical(recorded[0].export()).encode()])).decode("utf-8", "replace")
    outcome(lambda text: verify_export(parse(text)), text, errors=(LedgerError, InvalidArgumentError))


@pytest.mark.parametrize("session_id", [b"\xab" * 32, "no digits", ""])
def test_a_reservation_under_no_session_refuses_everything(folder, recorded, session_id):
    path, before = folder / "recorded.ledger.reserved", bytes_of(folder / "recorded.ledger.reserved")
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE reservations SET session = ?", (session_id,))
        with pytest.raises(LedgerError, match="damaged"):
            recorded[2].reserved()
        with pytest.raises(LedgerError, match="damaged"):
            recorded[2].reserve(SESSION)
    finally:
        fresh(folder, path.name, before)
