"""`fedsec ledger` as a user types it: what it shows, what it verifies, and what it exports."""

import json
import sqlite3

import pytest

import fedsec
from fedsec import cli


@pytest.fixture
def book(tmp_path):
    ledger = fedsec.Ledger(tmp_path / "study.ledger", target_epsilon=3.0, target_delta=1e-5)
    step = fedsec.PoissonSampled(fedsec.Gaussian(1.1), 0.01)
    for number in range(1, 4):
        ledger.charge(step, 10, purpose=f"[bold]round {number} :tada:")
    return ledger


def run(capsys, *arguments):
    status = cli.main(["ledger", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_show(book, capsys):
    status, out, err = run(capsys, "show", book.path)
    text = " ".join(out.replace("│", " ").split())
    assert (status, err) == (0, "")
    for words in ("epsilon 3.0 at delta 1e-05", "add or remove one", "entries 3", "[bold]round 3 :tada:"):
        assert words in text
    assert book.head in out.replace("│", "").replace(" ", "").replace("\n", "")
    status, out, err = run(capsys, "show", book.path, "--json")
    shown = json.loads(out)
    assert (status, err) == (0, "")
    assert [entry["purpose"][6:13] for entry in shown["entries"]] == ["round 1", "round 2", "round 3"]
    assert (shown["head"], shown["epsilon_so_far"]) == (book.head, book.epsilon())


def test_show_an_empty_ledger_and_one_with_a_schedule(tmp_path, capsys):
    plan = fedsec.Repeated(fedsec.Gaussian(5.0), 4)
    path = tmp_path / "plan.ledger"
    fedsec.Ledger(path, target_epsilon=3.0, target_delta=1e-5, accountant="pld", schedule=plan)
    status, out, _ = run(capsys, "show", path)
    assert status == 0
    assert "Gaussian(noise_multiplier=5.0)" in " ".join(out.split())
    assert json.loads(run(capsys, "show", path, "--json")[1])["entries"] == []


def test_only_the_last_entries_are_shown_to_people(tmp_path, capsys):
    ledger = fedsec.Ledger(tmp_path / "long.ledger", target_epsilon=3.0, target_delta=1e-5)
    for number in range(1, 24):
        ledger.charge(fedsec.Gaussian(1e3), purpose=f"no. {number}.")
    out = run(capsys, "show", ledger.path)[1]
    assert "no. 23." in out
    assert "no. 3." not in out
    assert "The last 20 entries" in out


def test_verify(book, capsys):
    head = book.head
    status, out, err = run(capsys, "verify", book.path, "--head", head, "--length", 3)
    assert (status, err) == (0, "")
    assert "3 entries, as they were recorded" in out
    assert "head that was kept" not in out
    assert "head that was kept" in run(capsys, "verify", book.path)[1]
    assert json.loads(run(capsys, "verify", book.path, "--json")[1]) == {"entries": 3, "verified": True}
    book.charge(fedsec.Gaussian(100.0))
    assert run(capsys, "verify", book.path, "--head", head)[0] == 0
    status, out, err = run(capsys, "verify", book.path, "--head", "0" * 64)
    assert (status, out) == (2, "")
    assert "entries were removed or rewritten" in err


def test_a_changed_entry_is_named(book, capsys):
    with sqlite3.connect(book.path) as file:
        (table,) = (
            name
            for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if "purpose" in {column[1] for column in file.execute(f"PRAGMA table_info({name})")}
        )
        file.execute(f"UPDATE {table} SET purpose = 'lunch' WHERE number = 2")  # noqa: S608
    file.close()
    for command in ("verify", "show", "export"):
        status, out, err = run(capsys, command, book.path)
        assert (status, out) == (2, "")
        assert "entry 2" in err


def test_export_can_be_verified_on_its_own(book, tmp_path, capsys):
    status, out, err = run(capsys, "export", book.path)
    assert (status, err) == (0, "")
    assert json.loads(out) == book.export()
    copy = tmp_path / "copy.json"
    copy.write_text(out)
    assert run(capsys, "verify", copy, "--head", book.head)[0] == 0
    copy.write_text(out.replace("round 2", "round 9"))
    status, out, err = run(capsys, "verify", copy)
    assert (status, out) == (2, "")
    assert "entry 2" in err


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("a.ledger", b"", "a.ledger"),
        ("a.ledger", b"not a ledger " * 100, "a.ledger"),
        ("a.json", b"{", "not a JSON text"),
        ("a.json", b"\xff", "a.json"),
        ("a.json", b"[]", "must hold one JSON object, got list"),
        ("a.json", b"{}", "misses"),
        ("a.json", b"[" * 100_000, "not a JSON text"),
    ],
)
def test_files_that_are_no_ledger(name, contents, words, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(contents)
    status, out, err = run(capsys, "verify", path)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_bad_lines(tmp_path, capsys):
    for arguments, words in (
        ((), "Missing command"),
        (("show",), "Missing argument 'PATH'"),
        (("burn",), "No such command 'burn'"),
        (("show", tmp_path), "is a directory"),
        (("show", tmp_path / "none"), "does not exist"),
        (("verify", __file__, "--length", "-1"), "-1 is not in the range"),
    ):
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (2, "")
        assert words in err
    assert not list(tmp_path.iterdir())


def test_help_shows_examples(capsys):
    for command in ("show", "verify", "export"):
        assert f"Example: fedsec ledger {command}" in run(capsys, command, "--help")[1]
