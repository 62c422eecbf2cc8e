"""A client's folder: what is loaded, and what is refused of what a server proposes."""

import time

import pytest

from fedsec.errors import FedsecError, IdentityError, InvalidArgumentError, PolicyError, ProtocolError
from fedsec.integrations.node import Node, enrol, is_introduced
from fedsec.secagg import Config, Directory, Identity, recommend

THREE = recommend(num_clients=3, corrupt_fraction=0.0, dropout_fraction=0.0)


@pytest.fixture
def folder(tmp_path):
    enrol(tmp_path, 3, max_corrupt=0, min_survivors=3)
    return tmp_path


def proposal(folder, *, round_id=None, participants=None, **settings):
    directory = Node.load(folder / "1").directory
    return Config(
        session_id=bytes(32),
        round_id=time.time_ns() if round_id is None else round_id,
        participants=participants or directory,
        vector_length=4,
        parameters=THREE,
        **settings,
    ).to_bytes()


def test_a_node_of_its_own_identity(folder):
    node = Node.load(folder / "1")
    assert node.client_id == 1
    assert node.directory[1] == Identity.load(folder / "1" / "identity.pem").public_key
    assert sorted(node.directory) == [0, 1, 2]
    config = node.accept(proposal(folder))
    assert node.participant.join(config)
    assert Node.load(folder / "1").participant.phase == "share"


@pytest.mark.parametrize("days", [-2, 2, 365])
def test_a_round_far_from_now_is_refused(folder, days):
    round_id = time.time_ns() + days * 24 * 60 * 60 * 10**9
    with pytest.raises(ProtocolError, match="within a day"):
        Node.load(folder / "1").accept(proposal(folder, round_id=round_id))


def test_keys_of_others_and_no_keys_are_refused(folder):
    node = Node.load(folder / "1")
    foreign = dict(node.directory) | {2: Identity.new().public_key}
    with pytest.raises(InvalidArgumentError, match="trust store"):
        node.accept(proposal(folder, participants=foreign))
    with pytest.raises(ProtocolError, match="semi_honest"):
        node.accept(proposal(folder, participants=[0, 1, 2], profile="semi_honest"))


def test_a_weak_configuration_is_refused(folder):
    path = folder / "1" / "node.toml"
    path.write_text(path.read_text().replace("min_survivors = 3", "min_survivors = 4"))
    node = Node.load(folder / "1")
    with pytest.raises(PolicyError, match="min_survivors"):
        node.participant.join(node.accept(proposal(folder)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("client_id = 1", ""),
        ("client_id = 1", 'client_id = "1"'),
        ("max_corrupt", "corrupt"),
        ("= 3", "= = 3"),
    ],
)
def test_a_node_file_that_is_none(folder, old, new):
    path = folder / "1" / "node.toml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(IdentityError, match=r"node\.toml"):
        Node.load(folder / "1")


def test_an_old_directory_or_another_authority_is_refused(folder):
    path = folder / "1" / "node.toml"
    said = path.read_text()
    path.write_text(said.replace("min_serial = 3", "min_serial = 4"))
    with pytest.raises(IdentityError, match="old"):
        Node.load(folder / "1")
    other = Identity.new()
    Directory.new(other.public_key).save(folder / "other.directory", other)
    path.write_text(said)
    (folder / "other.directory").replace(folder / "1" / "clients.directory")
    with pytest.raises(IdentityError):
        Node.load(folder / "1")


def test_an_encrypted_key_needs_the_passphrase(folder, monkeypatch):
    path = folder / "1" / "identity.pem"
    identity = Identity.load(path)
    path.unlink()
    identity.save(path, b"a passphrase")
    monkeypatch.delenv("FEDSEC_PASSPHRASE", raising=False)
    with pytest.raises(FedsecError, match="passphrase"):
        Node.load(folder / "1")
    monkeypatch.setenv("FEDSEC_PASSPHRASE", "a passphrase")
    assert Node.load(folder / "1").directory[1] == identity.public_key


def test_a_client_introduces_itself_and_nobody_else(folder):
    nodes = [Node.load(folder / str(number)) for number in range(3)]
    challenge, signature = b"c" * 32, nodes[1].introduce(b"c" * 32)
    directory = nodes[0].directory
    assert is_introduced(directory, 1, challenge, signature)
    assert not is_introduced(directory, 2, challenge, signature)
    assert not is_introduced(directory, 1, b"d" * 32, signature)
    assert not is_introduced(directory, 7, challenge, signature)
    with pytest.raises(ProtocolError, match="32 bytes"):
        nodes[1].introduce(b"fedsec secagg 2 agree")
