"""The ledger in one process: what is charged, what is refused, and what is seen of meddling with the file."""

import contextlib
import cProfile
import hashlib
import itertools
import json
import math
import os
import pstats
import shutil
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from fedsec.accounting import (
    Composed,
    DiscreteGaussian,
    Gaussian,
    GDPFilter,
    Ledger,
    NeighboringRelation,
    NonPrivate,
    PLDAccountant,
    PoissonSampled,
    RDPAccountant,
    RDPFilter,
    Repeated,
    Skellam,
    calibrate_noise_multiplier,
)
from fedsec.accounting.ledger import verify_export
from fedsec.accounting.ledger_file import Transaction
from fedsec.errors import (
    BudgetExceededError,
    InvalidArgumentError,
    InvalidTypeError,
    LedgerError,
    UnsupportedError,
)

TARGET = {"target_epsilon": 3.0, "target_delta": 1e-5}
ROUND = Gaussian(20.0)
CHEAP = Gaussian(1e4)
STEP = Gaussian(50.0)
PLAN = Composed([Repeated(STEP, 100), Repeated(ROUND, 10)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.ledger"


@pytest.fixture
def ledger(path):
    return Ledger(path, **TARGET)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    ledger = Ledger(tmp_path_factory.mktemp("template") / "five.ledger", **TARGET)
    for number in range(1, 6):
        ledger.charge(ROUND, number, purpose=f"round {number}")
    return ledger


@pytest.fixture
def five(template, path):
    """A ledger with five entries, of which its object has read all."""
    shutil.copy(template.path, path)
    return Ledger.open(path)


def edit(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(*([statement] if isinstance(statement, str) else statement))


class TestCharges:
    def test_an_entry_says_what_was_charged(self, ledger):
        entry = ledger.charge(STEP, 10, purpose="epoch 1")
        assert (entry.number, entry.event, entry.count, entry.purpose) == (1, STEP, 10, "epoch 1")
        assert entry.time.endswith("+00:00")
        assert ledger.entries() == (entry,)
        assert ledger.head == entry.hash
        assert ledger.terms.target_epsilon == 3.0

    def test_reopened_it_knows_everything(self, five, path):
        for again in (Ledger.open(path), Ledger(path, **TARGET), Ledger(str(path), **TARGET)):
            assert again.entries() == five.entries()
            assert again.head == five.head
            assert again.terms == five.terms
            assert again.remaining(ROUND) == five.remaining(ROUND)

    def test_it_allows_what_its_filter_allows(self, ledger):
        reference = RDPFilter(**TARGET)
        assert ledger.terms.order == reference.order
        for z in (3.0, 5.0, 2.5, 4.0, 3.0, 8.0, 6.0, 3.0, 30.0, 5.0):
            event = Gaussian(z)
            assert ledger.would_exceed(event) == reference.would_exceed(event)
            if reference.would_exceed(event):
                with pytest.raises(BudgetExceededError, match=r"Gaussian\(noise_multiplier=.*does not fit"):
                    ledger.charge(event)
            else:
                reference.spend(event)
                ledger.charge(event)
        assert 3 < len(ledger.entries()) < 10

    @pytest.mark.parametrize("count", [1, 7, 40])
    def test_for_gaussian_dp_it_pays_for_all_that_was_calibrated(self, path, count):
        """What meets the target as a schedule meets it as one goes, for all of it is Gaussian noise."""
        z = calibrate_noise_multiplier(Gaussian, count=count, **TARGET)
        ledger = Ledger(path, **TARGET, accountant="gdp")
        assert ledger.terms.order is None
        assert ledger.remaining(Gaussian(z)) == count
        for _ in range(count):
            Ledger.open(path).charge(Gaussian(z))
        with pytest.raises(BudgetExceededError, match="GDPFilter"):
            ledger.charge(Gaussian(10.0 * z))
        assert ledger.epsilon() <= 3.0
        assert Ledger(path.with_suffix(".rdp"), **TARGET).remaining(Gaussian(z)) < count or count == 1

    def test_for_gaussian_dp_it_takes_what_its_filter_takes(self, path):
        ledger, reference = Ledger(path, **TARGET, accountant="gdp"), GDPFilter(**TARGET)
        noises = (Gaussian(3.0), DiscreteGaussian(9.0, 1.0), Skellam(40.0, 1.0), Gaussian(2.5), Gaussian(2.0))
        for event in (*noises, *noises):
            assert ledger.would_exceed(event) == reference.would_exceed(event)
            if not ledger.would_exceed(event):
                reference.spend(event)
                ledger.charge(event)
        assert 3 < len(ledger.entries()) < 10
        with pytest.raises(UnsupportedError, match="GDPFilter takes"):
            ledger.charge(PoissonSampled(Gaussian(20.0), 0.5))

    def test_for_gaussian_dp_there_is_no_schedule(self, path):
        with pytest.raises(InvalidArgumentError, match="'gdp' has neither a schedule"):
            Ledger(path, **TARGET, accountant="gdp", schedule=PLAN)
        assert not path.exists()

    def test_remaining_is_the_largest_that_fits(self, five):
        most = five.remaining(ROUND)
        assert not five.would_exceed(ROUND, most)
        assert five.would_exceed(ROUND, most + 1)
        five.charge(ROUND, most)
        assert five.remaining(ROUND) == 0
        with pytest.raises(BudgetExceededError):
            five.charge(ROUND)

    def test_what_is_free_stays_free(self, five):
        five.charge(ROUND, five.remaining(ROUND))
        free = PoissonSampled(Gaussian(1.0), 0.0)
        assert five.remaining(free) == 2**53
        assert five.charge(free, 2**53).number == 7

    def test_remaining_of_something_composed(self, ledger):
        assert ledger.remaining(Repeated(ROUND, 10)) == ledger.remaining(ROUND) // 10
        assert ledger.remaining(NonPrivate()) == 0

    @pytest.mark.parametrize("accountant", ["rdp", "pld"])
    def test_epsilon_is_that_of_the_charges(self, path, accountant):
        ledger = Ledger(path, **TARGET, accountant=accountant, schedule=PLAN)
        assert ledger.epsilon() == 0.0
        ledger.charge(ROUND, 3)
        ledger.charge(STEP, 50)
        kind = {"rdp": RDPAccountant, "pld": PLDAccountant}[accountant]
        assert ledger.epsilon() == kind().compose(STEP, 50).compose(ROUND, 3).epsilon(1e-5)
        assert 0.0 < ledger.epsilon() < 3.0

    def test_a_refusal_leaves_the_file_as_it_was(self, five, path):
        before = path.read_bytes()
        for event, count, error in [
            (Gaussian(0.1), 1, BudgetExceededError),
            (NonPrivate(), 1, BudgetExceededError),
            (ROUND, 2**53, BudgetExceededError),
            (PoissonSampled(Repeated(ROUND, 2), 0.5), 1, UnsupportedError),
            (ROUND, 0, InvalidArgumentError),
            (ROUND, 1.0, InvalidTypeError),
            (1.1, 1, InvalidTypeError),
            (RDPAccountant(), 1, InvalidTypeError),
            (PLDAccountant(), 1, InvalidTypeError),
        ]:
            with pytest.raises(error):
                five.charge(event, count)
        for purpose, error in [("x" * 1001, InvalidArgumentError), ("a\nb", InvalidArgumentError),
                               ("\ud800", InvalidArgumentError), (7, InvalidTypeError)]:  # fmt: skip
            with pytest.raises(error, match="purpose must be"):
                five.charge(ROUND, purpose=purpose)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]
        assert len(five.entries()) == 5

    def test_purposes_may_be_in_any_language(self, ledger, path):
        purpose = "Runde 7 · раунд · 回合 · 🙂 'quoted' \"twice\" \\"
        ledger.charge(ROUND, purpose=purpose)
        assert Ledger.open(path).entries()[0].purpose == purpose

    def test_two_objects_on_one_file_see_each_other(self, ledger, path):
        other = Ledger.open(path)
        for turn in range(6):
            (ledger, other)[turn % 2].charge(ROUND, purpose=str(turn))
        assert ledger.head == other.head
        assert [entry.purpose for entry in other.entries()] == list("012345")

    def test_threads_share_a_ledger(self, path):
        event = Gaussian(6.0)
        ledger = Ledger(path, **TARGET)
        most, charged = ledger.remaining(event), []

        def run():
            with contextlib.suppress(BudgetExceededError):
                while True:
                    charged.append(ledger.charge(event).number)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(charged) == list(range(1, most + 1))
        assert ledger.verify() == most


class TestSchedules:
    """Numeric bounds hold for what was fixed beforehand, so nothing else can be charged."""

    def test_only_what_is_left_of_it_fits(self, path):
        ledger = Ledger(path, **TARGET, accountant="pld", schedule=PLAN)
        ledger.charge(STEP, 60)
        ledger.charge(Composed([ROUND, Repeated(STEP, 2)]), 5)
        assert Ledger.open(path).remaining(STEP) == ledger.remaining(STEP) == 30
        assert ledger.remaining(ROUND) == 5
        for event, count in [(STEP, 31), (ROUND, 6), (Gaussian(100.0), 1), (PLAN, 1), (NonPrivate(), 1)]:
            assert ledger.would_exceed(event, count)
            with pytest.raises(BudgetExceededError, match="35 runs of 2 mechanisms are left"):
                ledger.charge(event, count)
        ledger.charge(STEP, 30)
        ledger.charge(ROUND, 5)
        assert ledger.remaining(STEP) == ledger.remaining(ROUND) == 0
        assert ledger.epsilon() == PLDAccountant().compose(PLAN).epsilon(1e-5)

    def test_it_must_meet_the_target(self, path):
        epsilon = PLDAccountant().compose(PLAN).epsilon(1e-5)
        below = math.nextafter(epsilon, 0.0)
        with pytest.raises(BudgetExceededError, match="target_epsilon must be at least"):
            Ledger(path, target_epsilon=below, target_delta=1e-5, accountant="pld", schedule=PLAN)
        assert not path.exists()
        Ledger(path, target_epsilon=epsilon, target_delta=1e-5, accountant="pld", schedule=PLAN)

    def test_without_one_numeric_accounting_is_refused(self, path):
        with pytest.raises(InvalidArgumentError, match="'pld' needs the whole schedule"):
            Ledger(path, **TARGET, accountant="pld")
        assert not path.exists()

    @pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 2.0])
    def test_order_and_end_may_depend_on_what_was_released(self, epsilon):
        """Every plan that picks the next of the pairs by what it has seen, against their product; exactly."""
        pairs = {
            "a": [(0.5, 0.25), (0.3, 0.3), (0.2, 0.45)],
            "b": [(0.7, 0.4), (0.3, 0.6)],
            "c": [(0.1, 0.02), (0.9, 0.98)],
            "d": [(0.05, 0.3), (0.95, 0.7)],
        }
        odds = math.exp(epsilon)

        def best(left, p, q):
            """The most that any such plan can still make of P - e^epsilon Q."""
            stopping = max(p - odds * q, 0.0)
            going_on = (sum(best(left - {m}, p * x, q * y) for x, y in pairs[m]) for m in left)
            return max(stopping, *going_on) if left else stopping

        outcomes = itertools.product(*pairs.values())
        products = ([math.prod(side) for side in zip(*outcome, strict=True)] for outcome in outcomes)
        fixed = sum(max(p - odds * q, 0.0) for p, q in products)
        assert best(frozenset(pairs), 1.0, 1.0) == pytest.approx(fixed, rel=1e-12)
        fewer = best(frozenset("abc"), 1.0, 1.0)
        assert fewer < fixed  # all four count

    def test_charges_that_were_never_scheduled_close_it(self, path):
        """Somebody wrote them and a chain that fits: nothing is charged on top."""
        ledger = Ledger(path, **TARGET, accountant="pld", schedule=PLAN)
        edit(path, forged(ledger, Gaussian(0.5)))
        assert ledger.remaining(STEP) == ledger.remaining(ROUND) == 0

    def test_for_a_filter_it_is_a_hint(self, path):
        few = Repeated(PoissonSampled(Gaussian(0.8), 1e-3), 100)
        ledger = Ledger(path, **TARGET, schedule=few)
        assert ledger.terms.order == RDPFilter(**TARGET, planned=few).order
        assert ledger.remaining(few) >= Ledger(path.with_suffix(".plain"), **TARGET).remaining(few)
        ledger.charge(Gaussian(30.0))


def forged(ledger, event):
    """An insertion with all hashes right, as only somebody who knows the format can write it."""
    from fedsec.accounting.chain import link
    from fedsec.accounting.codec import canonical

    number = len(ledger.entries()) + 1
    row = link(ledger.head, number, time=ledger.terms.created, event=event, count=1, purpose="").encode()
    values = (number, row["time"], canonical(row["event"]), 1, "", row["hash"])
    return "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", values


class TestTerms:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("target_epsilon", 4.0),
            ("target_delta", 1e-6),
            ("neighboring_relation", NeighboringRelation.REPLACE_ONE),
            ("schedule", PLAN),
        ],
    )
    def test_others_than_in_the_file_are_refused(self, five, path, name, value):
        before = path.read_bytes()
        with pytest.raises(LedgerError, match=f"{name} of this ledger is"):
            Ledger(path, **TARGET | {name: value})
        assert path.read_bytes() == before

    def test_another_accountant_is_refused(self, five, path):
        with pytest.raises(LedgerError, match="accountant of this ledger is 'rdp', got 'pld'"):
            Ledger(path, **TARGET, accountant="pld", schedule=PLAN)

    @pytest.mark.parametrize(
        ("name", "value", "error"),
        [
            ("target_epsilon", 0.0, InvalidArgumentError),
            ("target_epsilon", math.inf, InvalidArgumentError),
            ("target_epsilon", "3", InvalidTypeError),
            ("target_delta", 1.0, InvalidArgumentError),
            ("target_delta", 0.0, InvalidArgumentError),
            ("neighboring_relation", "add", InvalidTypeError),
            ("accountant", "zcdp", InvalidArgumentError),
            ("schedule", "all", InvalidTypeError),
        ],
    )
    def test_out_of_their_domain(self, path, name, value, error):
        with pytest.raises(error, match=f"{name} must be"):
            Ledger(path, **TARGET | {name: value})
        assert not path.exists()

    def test_targets_that_no_order_serves(self, path):
        with pytest.raises(InvalidArgumentError):
            Ledger(path, target_epsilon=1e300, target_delta=1e-5)
        assert not path.exists()

    @pytest.mark.parametrize("value", [None, 3, b"bytes.ledger", "a\0b"])
    def test_paths_that_are_none(self, value):
        with pytest.raises((InvalidTypeError, InvalidArgumentError), match="path must"):
            Ledger(value, **TARGET)

    def test_relations_reach_the_judge(self, path):
        halved = Ledger(path, **TARGET, neighboring_relation=NeighboringRelation.REPLACE_ONE)
        whole = Ledger(path.with_suffix(".add"), **TARGET)
        assert halved.remaining(Gaussian(40.0)) == whole.remaining(Gaussian(20.0))


class TestFiles:
    def test_a_new_one_is_private(self, ledger, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_a_commit_returns_when_the_disk_has_it(self, ledger, path, monkeypatch):
        """What SQLite was told, as it says itself: FULL is 2."""
        settings, add = [], Transaction.add

        def asked(transaction, record):
            query = transaction._connection.execute
            settings.extend(query(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous"))
            add(transaction, record)

        monkeypatch.setattr(Transaction, "add", asked)
        ledger.charge(ROUND)
        assert settings == ["wal", 2]

    def test_nothing_else_is_left_behind(self, five, path):
        assert os.listdir(path.parent) == [path.name]

    def test_a_copy_of_the_file_is_a_copy_of_the_ledger(self, five, path, tmp_path):
        shutil.copy(path, tmp_path / "copy")
        assert Ledger.open(tmp_path / "copy").entries() == five.entries()

    def test_odd_names(self, tmp_path):
        for name in ("a?b#c%20.ledger", ":memory:", "café 🙂", "file:x?mode=memory"):
            Ledger(tmp_path / name, **TARGET).charge(ROUND)
            assert len(Ledger.open(tmp_path / name).entries()) == 1
        assert len(os.listdir(tmp_path)) == 4

    def test_relative_paths_stay_where_they_were(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        ledger = Ledger("here.ledger", **TARGET)
        monkeypatch.chdir("/")
        ledger.charge(ROUND)
        assert len(Ledger.open(tmp_path / "here.ledger").entries()) == 1

    def test_symbolic_links_lead_to_the_same_ledger(self, five, path, tmp_path):
        (tmp_path / "link").symlink_to(path)
        Ledger.open(tmp_path / "link").charge(ROUND)
        assert len(five.entries()) == 6

    def test_hard_links_are_refused(self, five, path, tmp_path):
        os.link(path, tmp_path / "second")
        for call in (lambda: five.charge(ROUND), lambda: Ledger.open(tmp_path / "second")):
            with pytest.raises(LedgerError, match="hard links"):
                call()

    def test_open_creates_nothing(self, path):
        with pytest.raises(LedgerError, match="No such file"):
            Ledger.open(path)
        assert not path.exists()

    def test_an_empty_file_becomes_a_ledger_but_is_none(self, path):
        path.touch()
        with pytest.raises(LedgerError, match="holds no ledger"):
            Ledger.open(path)
        assert Ledger(path, **TARGET).entries() == ()

    def test_places_where_no_file_can_be(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        for place in (tmp_path, tmp_path / "pipe", tmp_path / "dangling", tmp_path / "no" / "such"):
            with pytest.raises(LedgerError, match=str(place)):
                Ledger(place, **TARGET)
            with pytest.raises(LedgerError, match=str(place)):
                Ledger.open(place)

    @pytest.mark.parametrize(
        "content", [b"epsilon 3\n", b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 4080, b"SQLite"]
    )
    def test_files_of_other_kinds(self, path, content):
        path.write_bytes(content)
        for call in (lambda: Ledger(path, **TARGET), lambda: Ledger.open(path)):
            with pytest.raises(LedgerError, match=str(path)):
                call()
        assert path.read_bytes() == content

    def test_databases_of_others(self, path):
        edit(path, "CREATE TABLE entries (number INTEGER)", "INSERT INTO entries VALUES (7)")
        before = path.read_bytes()
        for call in (lambda: Ledger(path, **TARGET), lambda: Ledger.open(path)):
            with pytest.raises(LedgerError, match="holds no ledger"):
                call()
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
            "CREATE TABLE more (x)",
            "CREATE VIEW v AS SELECT * FROM entries",
            "ALTER TABLE entries ADD COLUMN x",
            "PRAGMA user_version=2",
            "PRAGMA application_id=0",
            "DROP TABLE terms",
        ],
    )
    def test_ledgers_with_something_more_or_less(self, five, path, statement):
        edit(path, statement)
        with pytest.raises(LedgerError, match="holds no ledger"):
            five.charge(ROUND)

    def test_a_directory_that_cannot_be_written(self, five, path):
        path.unlink()
        with pytest.raises(LedgerError, match="No such file"):
            five.charge(ROUND)

    def test_flipped_bytes_are_seen_or_do_not_matter(self, five, path, tmp_path):
        whole, entries, head = path.read_bytes(), five.entries(), five.head
        broken, seen = tmp_path / "broken", 0
        for place in range(0, len(whole), 127):
            broken.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            try:
                again = Ledger.open(broken)
                again.verify(head)
            except LedgerError:
                seen += 1
            else:
                assert again.entries() == entries
            for left in ("broken-wal", "broken-shm", "broken-journal"):
                (tmp_path / left).unlink(missing_ok=True)
        assert seen >= 10

    def test_files_that_end_early_are_seen(self, five, path, tmp_path):
        whole, short = path.read_bytes(), tmp_path / "short"
        for length in (1, 50, 100, 1000, 4096, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
            short.write_bytes(whole[:length])
            with pytest.raises(LedgerError):
                Ledger.open(short).verify(five.head)


class TestVerification:
    def test_a_clean_ledger(self, five):
        assert five.verify() == five.verify(five.head) == five.verify(five.head, 5) == 5

    def test_heads_stay_valid_as_it_grows(self, ledger):
        heads = [ledger.head]
        for _ in range(4):
            ledger.charge(ROUND)
            heads.append(ledger.head)
        for length, head in enumerate(heads):
            assert ledger.verify(head) == ledger.verify(head, length) == 4
            with pytest.raises(LedgerError, match="removed or rewritten"):
                ledger.verify(head, (length + 1) % 5)

    @pytest.mark.parametrize(
        ("statement", "first"),
        [
            ("UPDATE entries SET count = 1 WHERE number = 3", 3),
            ("UPDATE entries SET event = replace(event, '20.0', '40.0') WHERE number = 2", 2),
            ("UPDATE entries SET time = replace(time, '20', '19') WHERE number = 4", 4),
            ("UPDATE entries SET purpose = 'round 6' WHERE number = 5", 5),
            ("UPDATE entries SET hash = replace(hash, substr(hash, 9, 1), 'x') WHERE number = 1", 1),
            ("UPDATE entries SET hash = upper(hash) WHERE number = 1", 1),
            ("UPDATE entries SET number = 9 WHERE number = 5", 5),
            ("UPDATE entries SET number = 0 WHERE number = 1", 1),
            ("UPDATE entries SET number = -7 WHERE number = 3", 1),
            ("DELETE FROM entries WHERE number = 1", 1),
            ("DELETE FROM entries WHERE number = 3", 3),
            ("INSERT INTO entries SELECT 0, time, event, count, purpose, hash FROM entries LIMIT 1", 1),
            ("INSERT INTO entries SELECT 6, time, event, count, purpose, hash FROM entries LIMIT 1", 6),
            ("UPDATE entries SET event = 'Gaussian' WHERE number = 3", 3),
            ("UPDATE entries SET event = CAST(event AS BLOB) WHERE number = 3", 3),
            ("UPDATE entries SET event = x'ff' WHERE number = 3", 3),
            ("UPDATE entries SET event = 3 WHERE number = 3", 3),
            ("UPDATE entries SET count = 0 WHERE number = 3", 3),
            ("UPDATE entries SET count = 3.5 WHERE number = 3", 3),
            ("UPDATE entries SET count = 'three' WHERE number = 3", 3),
            ("UPDATE entries SET count = -9223372036854775808 WHERE number = 3", 3),
            ("UPDATE entries SET purpose = x'00' WHERE number = 3", 3),
            ("UPDATE entries SET time = 'yesterday' WHERE number = 3", 3),
            ("UPDATE entries SET hash = 5 WHERE number = 3", 3),
            ("UPDATE terms SET text = replace(text, '3.0', '30.0')", 1),
            ("UPDATE terms SET text = replace(text, 'ADD_OR_REMOVE_ONE', 'REPLACE_SPECIAL')", 1),
        ],
    )
    def test_the_first_bad_entry_is_named(self, five, path, statement, first):
        edit(path, statement)
        message = rf"study.ledger: entry {first} is (not as it was recorded|missing)"
        with pytest.raises(LedgerError, match=message):
            Ledger.open(path)
        with pytest.raises(LedgerError):
            five.verify()

    def test_reordering(self, five, path):
        edit(
            path,
            "UPDATE entries SET number = 99 WHERE number = 2",
            "UPDATE entries SET number = 2 WHERE number = 3",
            "UPDATE entries SET number = 3 WHERE number = 99",
        )
        with pytest.raises(LedgerError, match="entry 2 is not as it was recorded"):
            Ledger.open(path)

    def test_a_removed_end_is_seen_by_a_head_that_was_kept(self, five, path):
        head = five.head
        edit(path, "DELETE FROM entries WHERE number > 3")
        assert Ledger.open(path).verify() == 3  # nothing within the file can show it
        with pytest.raises(LedgerError, match="removed or rewritten"):
            Ledger.open(path).verify(head)
        with pytest.raises(LedgerError, match="there were 5 entries and are 3"):
            Ledger.open(path).verify(length=5)

    def test_a_ledger_rewritten_with_all_hashes_is_seen_by_a_head_that_was_kept(self, five, path):
        head = five.head
        edit(path, "DELETE FROM entries WHERE number = 5")
        edit(path, forged(Ledger.open(path), Gaussian(1000.0)))
        assert Ledger.open(path).verify() == 5
        with pytest.raises(LedgerError, match="removed or rewritten"):
            Ledger.open(path).verify(head)

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM entries WHERE number = 5",
            "DELETE FROM entries",
            "UPDATE entries SET hash = 'x' WHERE number = 5",
            "UPDATE terms SET text = replace(text, '3.0', '30.0')",
            "INSERT INTO terms SELECT text FROM terms",
            "DELETE FROM terms",
        ],
    )
    def test_who_has_it_open_sees_it_at_the_next_charge(self, five, path, statement):
        edit(path, statement)
        before = path.read_bytes()
        for call in (lambda: five.charge(ROUND), lambda: five.would_exceed(ROUND), five.entries, five.export):
            with pytest.raises(LedgerError):
                call()
        assert path.read_bytes() == before

    def test_who_charged_last_sees_that_it_is_gone(self, five, path):
        five.charge(ROUND)
        edit(path, "DELETE FROM entries WHERE number = 6")
        with pytest.raises(LedgerError, match="entry 6 is not as it was recorded: it is gone"):
            five.charge(ROUND)

    def test_another_ledger_in_its_place_is_seen(self, five, path, tmp_path):
        Ledger(tmp_path / "other", **TARGET).charge(ROUND, 1, purpose="round 1")
        os.replace(tmp_path / "other", path)
        with pytest.raises(LedgerError, match="terms are not what they were"):
            five.charge(ROUND)

    def test_two_ledgers_on_the_same_terms_have_different_heads(self, tmp_path):
        assert Ledger(tmp_path / "a", **TARGET).head != Ledger(tmp_path / "b", **TARGET).head

    @pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"accountant":"rdp"}', b"{}", 7])
    def test_hostile_terms(self, five, path, text):
        edit(path, ("UPDATE terms SET text = ?", (text,)))
        with pytest.raises(LedgerError, match="its terms are damaged"):
            Ledger.open(path)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("order", 1.0),
            ("order", None),
            ("order", "7"),
            ("order", [7.0]),
            ("accountant", "pld"),
            ("accountant", ["rdp"]),
            ("target_epsilon", True),
            ("target_delta", 2),
            ("neighboring_relation", []),
            ("neighboring_relation", "NONE"),
            ("schedule", {"type": "Gaussian"}),
            ("schedule", 5),
            ("created", "now"),
            ("ledger_id", 5),
            ("surprise", 1),
        ],
    )
    def test_terms_that_none_can_have(self, ledger, path, name, value):
        changed = json.dumps(ledger.terms.encode() | {name: value})
        edit(path, ("UPDATE terms SET text = ?", (changed,)))
        with pytest.raises(LedgerError, match="its terms are damaged"):
            Ledger.open(path)

    def test_more_was_charged_than_now_would_be(self, five, path):
        """By hand, or by another version's prices: it can be read, and nothing more can be charged."""
        edit(path, forged(five, Gaussian(0.2)))
        again = Ledger.open(path)
        assert again.verify() == 6
        assert again.epsilon() > 3.0
        assert again.remaining(Gaussian(1e6)) == 0
        with pytest.raises(BudgetExceededError, match=r"more than the budget of .* has been charged"):
            again.charge(Gaussian(1e6))


class TestExport:
    def test_it_is_json_and_verifies_on_its_own(self, five):
        export = json.loads(json.dumps(five.export()))
        assert verify_export(export) == verify_export(export, five.head, 5) == 5
        assert export["head"] == five.head
        assert export["entries"][2]["event"] == {"type": "Gaussian", "noise_multiplier": 20.0}

    def test_without_entries(self, ledger):
        export = ledger.export()
        assert verify_export(export, ledger.head, 0) == 0

    def test_whole_numbers_in_place_of_floats_do_not_matter(self, five):
        """Other tools write 20 for 20.0."""
        assert (
            verify_export(json.loads(json.dumps(five.export()).replace(".0,", ",").replace(".0}", "}"))) == 5
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda export: export["entries"].pop(), "removed or rewritten"),
            (lambda export: export["entries"].pop(1), "entry 2 is missing"),
            (lambda export: export["entries"].reverse(), "entry 1 is missing"),
            (lambda export: export["entries"][3].update(count=1), "entry 4 is not as it was recorded"),
            (lambda export: export["entries"][3].update(colour="red"), "entry 4 .* unknown 'colour'"),
            (lambda export: export["entries"][3].pop("purpose"), "entry 4 .* misses 'purpose'"),
            (lambda export: export["entries"].insert(0, None), "entry 1 .* must be a mapping"),
            (lambda export: export["terms"].update(target_epsilon=30.0), "entry 1 is not as it was recorded"),
            (lambda export: export["terms"].update(target_epsilon=-1), "target_epsilon must be"),
            (lambda export: export["terms"].pop("order"), "terms misses 'order'"),
            (lambda export: export.update(head="0" * 64), "removed or rewritten"),
            (lambda export: export.update(head=None), "removed or rewritten"),
            (lambda export: export.update(format=2), "format must be 1"),
            (lambda export: export.update(entries={}), "entries a list"),
            (lambda export: export.update(more=1), "unknown 'more'"),
            (lambda export: export.pop("head"), "misses 'head'"),
        ],
    )
    def test_changes_are_seen(self, five, change, message):
        export = json.loads(json.dumps(five.export()))
        change(export)
        with pytest.raises(LedgerError, match=message):
            verify_export(export)

    @pytest.mark.parametrize("export", [None, [], "export", 3])
    def test_what_is_no_export(self, export):
        with pytest.raises(LedgerError, match="must be a mapping"):
            verify_export(export)

    def test_a_shorter_export_is_seen_by_a_head_that_was_kept(self, five):
        old = five.export()
        five.charge(ROUND)
        with pytest.raises(LedgerError, match="removed or rewritten"):
            verify_export(old, five.head)
        assert verify_export(five.export(), old["head"], 5) == 6


VECTORS = Path(__file__).parents[1] / "vectors" / "ledger_exports.json"


@pytest.mark.parametrize(
    "case", json.loads(VECTORS.read_text(encoding="utf-8"))["cases"], ids=lambda case: case["comment"]
)
class TestVectors:
    """The format of hashes never changes: somebody keeps a head, and an export, for years."""

    def test_as_recorded(self, case):
        if case["error"] is None:
            assert verify_export(case["export"]) == len(case["export"]["entries"])
        else:
            with pytest.raises(LedgerError, match=case["error"]):
                verify_export(case["export"])

    def test_hashes_by_the_description_alone(self, case):
        """docs/ledger.md, without fedsec."""
        export = case["export"]
        previous, fits = sha256({"format": 1, "terms": export["terms"]}), True
        for entry in export["entries"]:
            fits &= entry["hash"] == sha256(entry | {"hash": previous})
            previous = entry["hash"]
        fits &= export["head"] == previous
        assert fits == (case["error"] is None)


def sha256(record):
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def test_many_entries_are_read_once(ledger):
    """With many entries a charge makes about as many Python calls as with one."""

    def calls():
        profile = cProfile.Profile()
        profile.runcall(ledger.charge, CHEAP)
        return pstats.Stats(profile).total_calls

    ledger.charge(CHEAP)
    first = calls()
    for _ in range(40):
        ledger.charge(CHEAP)
    assert calls() <= 1.1 * first
