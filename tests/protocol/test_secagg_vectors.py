"""Whole sessions, byte for byte, and forgeries: tests/vectors/secagg, written by a reference of its own."""

import hashlib
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from protocol.secagg_loop import explicit_randomness
from reference import secagg_cases, secagg_reference

from fedsec import errors
from fedsec.secagg import Client, Config, Parameters, Policy, Quantizer, Server, SessionStore
from fedsec.secagg import client as client_module
from fedsec.secagg._machine import phases
from fedsec.secagg.graph import committee

FOLDER = Path(__file__).parents[1] / "vectors" / "secagg"
DOCUMENTS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
SESSIONS = {
    session["name"]: session for document in DOCUMENTS.values() for session in document.get("sessions", [])
}
FORGERIES = DOCUMENTS["forged.json"]["forgeries"]
CONFIGURATIONS = DOCUMENTS["configurations.json"]


def by_client(mapping):
    return {int(client): value for client, value in mapping.items()}


def identity_of(session, client_id):
    name = f"{session['name']} identity {client_id}"
    return Ed25519PrivateKey.from_private_bytes(hashlib.shake_256(name.encode()).digest(32))


def config_of(session):
    c = dict(session["config"])
    ids = c.pop("participants")
    del c["model_digest"]
    keys = {i: identity_of(session, i).public_key() for i in ids}
    grid = c.pop("quantizer")
    numbers = {name: c.pop(name) for name in Parameters.__dataclass_fields__ if name != "num_clients"}
    return Config(
        bytes.fromhex(c.pop("session_id")),
        participants=keys if c["profile"] == "authenticated" else ids,
        parameters=Parameters(len(ids), **numbers),
        quantizer=Quantizer(**grid) if grid else None,
        **c,
    )


def is_as_written(message, text):
    """Messages stand in the file in hexadecimal digits, or as their SHA-256."""
    if text.startswith("sha256:"):
        return hashlib.sha256(message).hexdigest() == text.removeprefix("sha256:")
    return message.hex() == text


class Replay:
    """The package's server and clients in the session of a file; every message is compared."""

    def __init__(self, session, monkeypatch):
        self.session, self.config = session, config_of(session)
        self.model = bytes.fromhex(session["config"]["model_digest"])
        self.server = Server(self.config)
        self.server.bind_model(self.model)
        self.store = SessionStore.in_memory()
        honest = [i for i in self.config.ids if i not in session["corrupt"]]
        self.clients = {i: self._client(i) for i in honest}
        self.inbox = {}
        self.closed = []
        monkeypatch.setattr(client_module, "CHUNK_LENGTH", session["chunk_elements"] or 2**16)

    def _client(self, client_id):
        p, signs = self.config.parameters, self.config.authenticated
        client = Client(
            self.config,
            client_id,
            identity_of(self.session, client_id) if signs else None,
            policy=Policy(p.max_corrupt, p.min_survivors, p.privacy_bits) if signs else None,
            store=self.store,
            insecure_randomness=explicit_randomness(f"{self.session['name']} {client_id}"),
        )
        if client_id % 2:  # the others learn of the model later
            client.bind_model(self.model)
        return client

    @property
    def phases(self):
        return self.session["phases"]

    def expected(self, phase):
        """What clients send in a phase, by client."""
        return by_client(self.session["to_server"][phase])

    def answers(self, client_id, phase, count):
        """The client's messages of a phase, at most `count`."""
        if client_id not in self.clients:
            return [bytes.fromhex(text) for text in self.expected(phase)[client_id]]
        client = self.clients[client_id]
        if phase == "advertise":
            return [client.start()]
        if phase != "upload":
            return [client.receive(self.inbox[client_id])]
        if not client_id % 2:
            client.bind_model(self.model)
        if self.session["chunk_elements"] is None:
            client.submit(self.vector(client_id))
            return [client.receive(self.inbox[client_id])]
        assert client.receive(self.inbox[client_id]) is None
        return list(islice(client.upload(self.vector(client_id)), count))

    def vector(self, client_id):
        return np.array(by_client(self.session["vectors"])[client_id], np.uint64)

    def send(self, client_id, phase, but=0):
        """The client's messages of a phase go to the server, without the first ones."""
        texts = self.expected(phase)[client_id]
        messages = self.answers(client_id, phase, len(texts))
        assert len(messages) == len(texts)
        for message, text in zip(messages, texts, strict=True):
            assert is_as_written(message, text)
        return messages[but:]

    def play(self, phase, but=()):
        for client_id in self.expected(phase):
            if client_id not in but:
                for message in self.send(client_id, phase):
                    self.server.receive(client_id, message)

    def close(self, phase):
        self.inbox = self.server.close_phase()
        self.closed.append(phase)
        following = self.phases[len(self.closed) :]
        texts = by_client(self.session["to_client"][following[0]]) if following else {}
        assert self.inbox.keys() == texts.keys()
        for client_id, message in self.inbox.items():
            assert is_as_written(message, texts[client_id])

    def until(self, phase):
        for before in self.phases:
            if before == phase:
                break
            self.play(before)
            self.close(before)

    def finish(self):
        for phase in self.phases[len(self.closed) :]:
            self.play(phase)
            self.close(phase)
        self.check_sum()

    def check_sum(self):
        assert self.server.result().tolist() == self.session["sum"]
        assert list(self.server.survivors) == self.session["survivors"]
        lost = by_client(self.session["silent"])
        assert {i: phase.value for i, phase in self.server.dropped.items()} == lost


@pytest.mark.parametrize("session", SESSIONS.values(), ids=SESSIONS)
def test_sessions(session, monkeypatch):
    """SPEC: clients and the server say what the reference says, byte for byte, to the sum or the abort."""
    replay = Replay(session, monkeypatch)
    aborted = session["aborted"]
    if aborted is None:
        return replay.finish()
    replay.until(aborted["phase"])
    replay.play(aborted["phase"])
    with pytest.raises(errors.AggregationAborted) as raised:
        replay.close(aborted["phase"])
    assert raised.type is getattr(errors, aborted["outcome"])
    assert replay.server.phase == "aborted"
    for client_id in replay.config.ids:
        with pytest.raises(errors.ProtocolError, match="the session is aborted"):
            replay.server.receive(client_id, b"anything")
    return None


@pytest.mark.parametrize("session", SESSIONS.values(), ids=SESSIONS)
def test_configurations(session):
    config = config_of(session)
    canonical, model = (
        bytes.fromhex(session["config_bytes"]),
        bytes.fromhex(session["config"]["model_digest"]),
    )
    assert config.to_bytes() == canonical + b"\0"
    assert config.with_model(model).to_bytes() == canonical + b"\1" + model
    assert config.h0.hex() == session["h0"]
    assert [phase.value for phase in phases(config)] == session["phases"]
    assert config.parameters.committee_size * config.reveals == session["committee_size"]
    assert list(committee(config)) == session["committee"]
    trusted = config.participants if config.authenticated else None
    assert Config.from_bytes(canonical + b"\1" + model, trusted) == config.with_model(model)


@pytest.mark.parametrize("case", CONFIGURATIONS["accepted"], ids=lambda c: c["name"])
def test_large_configurations(case):
    first, count = case["participants"]["first"], case["participants"]["count"]
    ids = list(range(first, first + count))
    config = config_of(case | {"config": case["config"] | {"participants": ids}})
    assert is_as_written(config.to_bytes()[:-1], case["bytes"])
    assert config.h0.hex() == case["h0"]
    assert config.parameters.committee_size == case["committee_size"]
    assert list(committee(config)) == case["committee"]


@pytest.mark.parametrize("case", CONFIGURATIONS["refused"], ids=lambda c: c["why"])
def test_forged_configurations(case):
    anybody = {client: bytes(32) for client in range(1000)}
    with pytest.raises(errors.InvalidArgumentError) as raised:
        Config.from_bytes(bytes.fromhex(case["bytes"]), anybody)
    assert "trust store" not in str(raised.value)


def forged_message(case):
    """The message itself, or the one that is due with some bytes replaced."""
    if "message" in case:
        return bytes.fromhex(case["message"])
    session, edit = SESSIONS[case["session"]], case["edit"]
    if case["receiver"] == "client":
        due = session["to_client"][case["phase"]][str(case["client"])]
    else:
        sent = session["to_server"][case["phase"]][str(case["client"])]
        due = sent[min(case["taken_before"], len(sent) - 1)]
    raw = bytes.fromhex(due)
    return raw[: edit["at"]] + bytes.fromhex(edit["insert"]) + raw[edit["at"] + edit["remove"] :]


@pytest.mark.parametrize(
    "case", FORGERIES, ids=lambda c: f"{c['session']}: to {c['receiver']}, {c['phase']}: {c['why']}"
)
def test_forgeries(case, monkeypatch):
    """SPEC 4.2: a client is ABORTED, and never answers again; SPEC 4.3: a server stands as before."""
    replay = Replay(SESSIONS[case["session"]], monkeypatch)
    replay.until(case["phase"])
    message, error = forged_message(case), getattr(errors, case["outcome"])
    if case["receiver"] == "client":
        return refused_by_client(replay, case["client"], case["phase"], message, error)
    sender, phase, before = case["client"], case["phase"], case["taken_before"]
    own = replay.send(sender, phase) if phase != "done" and sender in replay.expected(phase) else []
    for taken in own[:before]:
        replay.server.receive(sender, taken)
    with pytest.raises(errors.FedsecError) as raised:
        replay.server.receive(sender, message)
    assert raised.type is error
    assert replay.server.phase == phase
    if phase != "done":
        for taken in own[before:]:
            replay.server.receive(sender, taken)
        replay.play(phase, but=[sender])
        replay.close(phase)
    return replay.finish()


def refused_by_client(replay, client_id, phase, message, error):
    client = replay.clients[client_id]
    if phase == "upload":
        if not client_id % 2:
            client.bind_model(replay.model)
        client.submit(replay.vector(client_id))
    with pytest.raises(errors.FedsecError) as raised:
        client.receive(message)
    assert raised.type is error
    assert client.phase == "aborted"
    if phase in replay.phases:
        with pytest.raises(errors.ProtocolError):
            client.receive(replay.inbox[client_id])


def test_every_forgery_differs_from_what_is_due():
    for case in FORGERIES:
        if case["receiver"] == "client" and "edit" in case:
            due = SESSIONS[case["session"]]["to_client"][case["phase"]][str(case["client"])]
            assert forged_message(case).hex() != due


def test_a_quarter_of_the_vectors_is_negative():
    negative = len(FORGERIES) + len(CONFIGURATIONS["refused"])
    assert 3 * negative >= len(SESSIONS) + len(CONFIGURATIONS["accepted"])


def test_the_files_are_what_the_reference_writes():
    written = {name: secagg_cases.written(document) for name, document in secagg_cases.documents().items()}
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == written


def test_the_files_stay_small():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 400_000


def test_the_references_x25519_against_rfc_7748():
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    product = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert secagg_reference.x25519(scalar, point).hex() == product


def test_the_references_hkdf_against_rfc_5869():
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    okm = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    assert secagg_reference.kdf(b"\x0b" * 22, bytes(range(13)), info).hex() == okm


def test_the_references_counter_modes_against_rfc_3686():
    """Test vectors 3 (AES-128) and 9 (AES-256) of RFC 3686 begin with counter 1; ours with 0."""
    key = bytes.fromhex("7691be035e5020a8ac6e618529f9a0dc")
    nonce = bytes.fromhex("00e0017b27777f3f4a1786f0")
    stream = secagg_reference.keystream("aes128ctr", key + nonce + bytes(4), 48)[16:]
    plain = bytes(range(32))
    cipher = bytes(a ^ b for a, b in zip(plain, stream, strict=True))
    assert cipher.hex() == "c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef31053"
