"""`fedsec identity` as a user types it."""

import json
import stat

import pytest

from fedsec import cli
from fedsec.secagg.identity.enrolment import Enrolment, Rotation
from fedsec.secagg.identity.identities import Identity

AUTHORITY = Identity.new(insecure_randomness=lambda length: b"\1" * length).public_key
ME = ("--client-id", 3, "--name", "Hospital [bold]Süd", "--authority", AUTHORITY.hex())


def run(capsys, *arguments):
    status = cli.main(["identity", *map(str, arguments)])
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
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDSEC_PASSPHRASE", raising=False)
    return tmp_path


@pytest.fixture
def typed(monkeypatch):
    """What is typed at prompts."""
    lines = []
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda prompt: lines.pop(0))
    return lines


def test_a_key_alone(capsys, folder):
    status, out, err = run(capsys, "new", "authority.pem")
    own = Identity.load(folder / "authority.pem")
    assert (status, err) == (0, "")
    assert own.public_key.hex() in out
    assert own.fingerprint in out
    assert stat.S_IMODE((folder / "authority.pem").stat().st_mode) == 0o600


def test_a_key_and_the_request_for_it(capsys, folder):
    status, out, err = run(capsys, "new", "alice.pem", *ME)
    enrolment = Enrolment.from_bytes(out.encode())
    assert (status, err) == (0, "")
    assert enrolment.public_key == Identity.load("alice.pem").public_key
    assert (enrolment.client_id, enrolment.name, enrolment.authority) == (3, "Hospital [bold]Süd", AUTHORITY)


def test_the_request_in_a_file_and_in_json(capsys):
    status, out, _ = run(capsys, "new", "alice.pem", *ME, "--request", "alice.request", "--json")
    shown = json.loads(out)
    assert status == 0
    assert shown["statement_file"] == "alice.request"
    assert Enrolment.load("alice.request").public_key.hex() == shown["public_key"]
    shown = json.loads(run(capsys, "new", "bob.pem", *ME, "--json")[1])
    assert Enrolment.from_bytes(shown["statement"].encode()).public_key.hex() == shown["public_key"]


def test_show(capsys):
    run(capsys, "new", "alice.pem")
    own = Identity.load("alice.pem")
    assert own.public_key.hex() in run(capsys, "show", "alice.pem")[1]
    assert run(capsys, "show", "alice.pem", "--public-key") == (0, own.public_key.hex() + "\n", "")
    assert json.loads(run(capsys, "show", "alice.pem", "--json")[1]) == {
        "public_key": own.public_key.hex(),
        "fingerprint": own.fingerprint,
        "key_file": "alice.pem",
    }


def test_request_for_a_key_that_is_there(capsys):
    run(capsys, "new", "alice.pem")
    status, out, _ = run(capsys, "request", "alice.pem", *ME)
    assert status == 0
    assert Enrolment.from_bytes(out.encode()).public_key == Identity.load("alice.pem").public_key
    assert "Missing option '--name'" in refused(capsys, "request", "alice.pem", *ME[:2], *ME[4:])


def test_rotate(capsys):
    run(capsys, "new", "old.pem")
    rotate = ("--client-id", 3, "--authority", AUTHORITY.hex())
    status, out, err = run(capsys, "rotate", "old.pem", "new.pem", *rotate)
    rotation = Rotation.from_bytes(out.encode())
    assert (status, err) == (0, "")
    assert rotation.old_key == Identity.load("old.pem").public_key
    assert rotation.new_key == Identity.load("new.pem").public_key
    run(capsys, "rotate", "new.pem", "third.pem", *rotate, "--statement", "statement")
    assert Rotation.load("statement").new_key == Identity.load("third.pem").public_key
    assert "new.pem: File exists" in refused(capsys, "rotate", "old.pem", "new.pem", *rotate)


def test_nothing_is_overwritten_and_nothing_half_done(capsys, folder):
    (folder / "taken").write_text("mine")
    assert "taken: File exists" in refused(capsys, "new", "taken")
    assert "taken is there already" in refused(capsys, "new", "key.pem", *ME, "--request", "taken")
    assert not (folder / "key.pem").exists()
    assert (folder / "taken").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--client-id", 3), "A request needs --client-id, --name and --authority"),
        (("--request", "there"), "A request needs"),
        (ME[:4], "A request needs"),
        (("--client-id", -1, *ME[2:]), "-1 is not in the range"),
        (("--client-id", "three", *ME[2:]), "'three' is not a valid integer"),
        ((*ME[:2], "--name", "two\nlines", *ME[4:]), "name must be 1 to 200 printable characters"),
        ((*ME[:4], "--authority", "ff"), "64 hexadecimal digits, got 'ff'"),
        ((*ME[:4], "--authority", "00" * 32), "must be an Ed25519 public key"),
        ((*ME[:4], "--authority", "zz" * 32), "must be an Ed25519 public key"),
    ],
)
def test_what_is_refused(capsys, folder, arguments, words):
    assert words in refused(capsys, "new", "key.pem", *arguments)
    assert not list(folder.iterdir())


def test_passphrases_at_the_prompt(capsys, typed):
    typed += ["correct horse", "correct horse"]  # twice for a new one
    status, out, err = run(capsys, "new", "alice.pem", "--passphrase", "--json")
    assert status == 0
    assert "correct horse" not in out + err
    assert Identity.load("alice.pem", b"correct horse").public_key.hex() == json.loads(out)["public_key"]
    typed += ["correct horse"]
    assert run(capsys, "show", "alice.pem", "--passphrase", "--public-key")[0] == 0
    typed += ["wrong"]
    status, out, err = run(capsys, "show", "alice.pem", "--passphrase")
    assert (status, out) == (2, "")
    assert "the passphrase is wrong" in err
    assert "needs a passphrase" in refused(capsys, "show", "alice.pem")
    typed += ["correct horse", "next", "next"]
    rotate = ("--client-id", 3, "--authority", AUTHORITY.hex(), "--passphrase")
    assert run(capsys, "rotate", "alice.pem", "new.pem", *rotate)[0] == 0
    assert Identity.load("new.pem", b"next")


def test_passphrases_in_the_environment(capsys, monkeypatch, folder):
    monkeypatch.setenv("FEDSEC_PASSPHRASE", "from the environment ü")
    run(capsys, "new", "alice.pem")
    assert Identity.load("alice.pem", "from the environment ü".encode())
    assert run(capsys, "show", "alice.pem")[0] == 0
    monkeypatch.setenv("FEDSEC_PASSPHRASE", "")
    assert "FEDSEC_PASSPHRASE must not be empty" in refused(capsys, "new", "bob.pem")
    assert not (folder / "bob.pem").exists()


def test_key_files_that_are_refused(capsys, folder):
    run(capsys, "new", "alice.pem")
    (folder / "alice.pem").chmod(0o644)
    assert "group or others may use it (mode 644)" in refused(capsys, "show", "alice.pem")
    assert "missing.pem: No such file" in refused(capsys, "show", "missing.pem")
    assert "Missing argument" in refused(capsys, "show")


@pytest.mark.parametrize("command", ["new", "show", "request", "rotate"])
def test_help_has_an_example(capsys, command):
    status, out, _ = run(capsys, command, "--help")
    assert status == 0
    assert f"Example: fedsec identity {command}" in out
