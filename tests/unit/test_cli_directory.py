"""`fedsec directory` as an authority and as a client type it."""

import json

import pytest

from fedsec import cli
from fedsec.secagg.identity.directory import Directory
from fedsec.secagg.identity.enrolment import Enrolment, Rotation
from fedsec.secagg.identity.identities import Identity


def known(number):
    """An identity that is the same in every run."""
    return Identity.new(insecure_randomness=lambda length: bytes([number]) * length)


AUTHORITY, OTHER, ALICE, BOB, NEXT = (known(number) for number in range(1, 6))
TRUSTED = AUTHORITY.public_key
TRUST = ("--authority", TRUSTED.hex())
SIGN = ("--key", "authority.pem")


def run(capsys, *arguments):
    status = cli.main(["directory", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def refused(capsys, *arguments):
    """The one sentence of a command that ends with status 2 and prints nothing else."""
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("fedsec: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A directory with two clients, the authority's key, and what clients have sent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDSEC_PASSPHRASE", raising=False)
    AUTHORITY.save("authority.pem")
    OTHER.save("other.pem")
    requests = [
        Enrolment.new(who, i, name, TRUSTED) for who, i, name in ((ALICE, 3, "Alice [red]"), (BOB, 5, "Bob"))
    ]
    directory = Directory.new(TRUSTED).add(requests[0])
    directory.save("clients", AUTHORITY)
    requests[1].save("bob.request")
    Rotation.new(ALICE, NEXT, 3, TRUSTED).save("alice.rotation")
    return tmp_path


def current():
    return Directory.load("clients", authority=TRUSTED)


def test_new(capsys, folder):
    status, out, err = run(capsys, "new", "empty", *SIGN)
    assert (status, err) == (0, "")
    assert "serial 0, 0 active clients" in out
    assert len(Directory.load("empty", authority=TRUSTED)) == 0
    assert "empty is there already" in refused(capsys, "new", "empty", *SIGN)
    shown = json.loads(run(capsys, "new", "second", *SIGN, "--json")[1])
    assert shown == {"authority": TRUSTED.hex(), "serial": 0, "active": 0}


def test_add(capsys):
    status, out, err = run(capsys, "add", "clients", "bob.request", *SIGN)
    assert (status, err) == (0, "")
    assert "serial 2, 2 active clients" in out
    assert BOB.public_key.hex() in out
    assert current()[5] == BOB.public_key
    assert "client 5 is in the directory" in refused(capsys, "add", "clients", "bob.request", *SIGN)


def test_add_a_rotation(capsys):
    status, out, _ = run(capsys, "add", "clients", "--rotation", "alice.rotation", *SIGN, "--json")
    client = json.loads(out)["client"]
    assert status == 0
    assert (client["public_key"], client["former_keys"]) == (NEXT.public_key.hex(), [ALICE.public_key.hex()])
    assert current()[3] == NEXT.public_key
    again = refused(capsys, "add", "clients", "--rotation", "alice.rotation", *SIGN)
    assert "client 3 does not go by the key" in again


def test_add_needs_one_of_two(capsys):
    for arguments in ((), ("bob.request", "--rotation", "alice.rotation")):
        assert "Give either a request or --rotation" in refused(capsys, "add", "clients", *arguments, *SIGN)
    assert "holds no 'fedsec enrolment 1'" in refused(capsys, "add", "clients", "alice.rotation", *SIGN)
    assert "holds no 'fedsec rotation 1'" in refused(
        capsys, "add", "clients", "--rotation", "bob.request", *SIGN
    )


def test_a_stolen_or_changed_request_is_refused(capsys, folder):
    before = (folder / "clients").read_bytes()
    text = (folder / "bob.request").read_text()
    changes = {
        "another name": text.replace('"Bob"', '"Eve"'),
        "another id": text.replace('"client_id": 5', '"client_id": 6'),
        "another key": text.replace(BOB.public_key.hex(), NEXT.public_key.hex()),
    }
    for name, changed in changes.items():
        assert changed != text
        (folder / "stolen").write_text(changed)
        assert "is not signed by the key" in refused(capsys, "add", "clients", "stolen", *SIGN), name
    Enrolment.new(BOB, 5, "Bob", OTHER.public_key).save("elsewhere")
    assert "is meant for the directory of" in refused(capsys, "add", "clients", "elsewhere", *SIGN)
    assert (folder / "clients").read_bytes() == before


def test_only_the_authority_changes_it(capsys, folder):
    before = (folder / "clients").read_bytes()
    for command in (("add", "clients", "bob.request"), ("revoke", "clients", 3, "--reason", "r")):
        assert "clients: it is not the directory of" in refused(capsys, *command, "--key", "other.pem")
    assert (folder / "clients").read_bytes() == before


def test_revoke(capsys):
    status, out, _ = run(capsys, "revoke", "clients", 3, "--reason", "key stolen", *SIGN)
    assert status == 0
    assert "revoked, key stolen" in out
    assert 3 not in current()
    assert "client 3 was revoked" in refused(capsys, "revoke", "clients", 3, "--reason", "again", *SIGN)
    assert "there is no client 4" in refused(capsys, "revoke", "clients", 4, "--reason", "gone", *SIGN)
    assert "reason must be" in refused(capsys, "revoke", "clients", 3, "--reason", "", *SIGN)
    assert "Missing option '--reason'" in refused(capsys, "revoke", "clients", 3, *SIGN)
    run(capsys, "add", "clients", "bob.request", *SIGN)
    shown = json.loads(run(capsys, "revoke", "clients", 5, "--reason", "left", *SIGN, "--json")[1])
    assert (shown["active"], shown["client"]["revoked"], shown["client"]["reason"]) == (0, True, "left")


def test_verify(capsys):
    status, out, err = run(capsys, "verify", "clients", *TRUST, "--min-serial", 1)
    assert (status, err) == (0, "")
    assert out == "clients: signed by its authority, serial 1, 1 active clients\n"
    assert "Without --min-serial" in run(capsys, "verify", "clients", *TRUST)[1]
    shown = json.loads(run(capsys, "verify", "clients", *TRUST, "--json")[1])
    assert shown == {"authority": TRUSTED.hex(), "serial": 1, "active": 1, "verified": True}


def test_what_does_not_verify(capsys, folder):
    text = (folder / "clients").read_text()
    (folder / "changed").write_text(text.replace("Alice", "Alibi"))
    assert "changed: it is not signed by its authority" in refused(capsys, "verify", "changed", *TRUST)
    (folder / "other").write_text("a list of groceries")
    assert "other: it holds no 'fedsec directory 1'" in refused(capsys, "verify", "other", *TRUST)
    assert "missing: No such file" in refused(capsys, "verify", "missing", *TRUST)
    elsewhere = ("--authority", OTHER.public_key.hex())
    assert "it is not the directory of" in refused(capsys, "verify", "clients", *elsewhere)
    for command in ("verify", "show"):
        old = refused(capsys, command, "clients", *TRUST, "--min-serial", 2)
        assert "serial number must be at least 2, got 1" in old
        assert "Missing option '--authority'" in refused(capsys, command, "clients")


def test_show(capsys):
    run(capsys, "add", "clients", "bob.request", *SIGN)
    run(capsys, "revoke", "clients", 5, "--reason", "left [bold]", *SIGN)
    status, out, err = run(capsys, "show", "clients", *TRUST)
    text = " ".join(out.replace("│", " ").split())
    assert (status, err) == (0, "")
    for words in ("serial 3, 1 active clients", "3 Alice [red]", ALICE.fingerprint, "revoked, left [bold]"):
        assert words in text
    shown = json.loads(run(capsys, "show", "clients", *TRUST, "--json")[1])
    assert [client["client_id"] for client in shown["clients"]] == [3, 5]
    assert shown["clients"][0]["public_key"] == ALICE.public_key.hex()
    assert shown["serial"] == 3


def test_a_key_with_a_passphrase(capsys, monkeypatch):
    AUTHORITY.save("locked.pem", b"correct horse")
    locked = ("revoke", "clients", 3, "--reason", "left", "--key", "locked.pem")
    assert "needs a passphrase" in refused(capsys, *locked)
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda prompt: "correct horse")
    assert run(capsys, *locked, "--passphrase")[0] == 0
    monkeypatch.setenv("FEDSEC_PASSPHRASE", "correct horse")
    assert run(capsys, "add", "clients", "bob.request", "--key", "locked.pem")[0] == 0
    assert list(current()) == [5]


@pytest.mark.parametrize("command", ["new", "add", "revoke", "verify", "show"])
def test_help_has_an_example(capsys, command):
    status, out, _ = run(capsys, command, "--help")
    assert status == 0
    assert f"Example: fedsec directory {command}" in out
