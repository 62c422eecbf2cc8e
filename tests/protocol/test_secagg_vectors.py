"""Whole transcripts, byte for byte, made by a reference that shares no code with the package."""

import json
from pathlib import Path

import numpy as np
import pytest
from protocol.secagg_loop import PHASE_NAMES, explicit_randomness
from reference import secagg_reference

from fedsec import errors
from fedsec.secagg import Client, Config, Phase, Server

DOCUMENT = json.loads((Path(__file__).parents[1] / "vectors" / "secagg_transcripts.json").read_text())
TRANSCRIPTS, NEGATIVE = DOCUMENT["transcripts"], DOCUMENT["negative"]


def config_of(transcript):
    given = dict(transcript["config"])
    return Config(bytes.fromhex(given.pop("session_id")), **given)


class Replay:
    """Package parties in the session of a transcript."""

    def __init__(self, transcript):
        self.config, self.transcript = config_of(transcript), transcript
        self.server = Server(self.config)
        self.clients = {
            i: Client(self.config, i, insecure_randomness=explicit_randomness(f"{transcript['name']} {i}"))
            for i in self.config.participants
        }

    def advance(self, client, phase):
        """The client's message of this phase, from the server's message in the transcript."""
        if phase == "advertise":
            return self.clients[client].start()
        if phase == "upload":
            vector = np.array(self.transcript["vectors"][str(client)], np.uint64)
            self.clients[client].submit(vector)
        before = PHASE_NAMES[PHASE_NAMES.index(phase) - 1]
        return self.clients[client].receive(bytes.fromhex(self.transcript["to_client"][before][str(client)]))

    def close(self, phase):
        for client, message in self.transcript["to_server"][phase].items():
            self.server.receive(int(client), bytes.fromhex(message))
        return self.server.close_phase()


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda t: t["name"])
def test_transcripts(transcript):
    replay = Replay(transcript)
    assert replay.config.to_bytes().hex() == transcript["config_bytes"]
    assert replay.config.digest().hex() == transcript["config_digest"]
    for phase in PHASE_NAMES:
        for client, message in transcript["to_server"][phase].items():
            assert replay.advance(int(client), phase).hex() == message
        answers = replay.close(phase)
        assert {str(i): m.hex() for i, m in answers.items()} == transcript["to_client"][phase]
    assert replay.server.result().tolist() == transcript["sum"]
    assert list(replay.server.survivors) == transcript["survivors"]
    assert replay.server.dropped == {int(i): p for i, p in transcript["silent"].items()}


@pytest.mark.parametrize("case", NEGATIVE, ids=lambda c: f"{c['receiver']}: {c['why']}")
def test_negative(case):
    replay = Replay(TRANSCRIPTS[0])
    client = case["client"]
    for phase in PHASE_NAMES[: PHASE_NAMES.index(case["phase"])]:
        replay.advance(client, phase)
        replay.close(phase)
    message, error = bytes.fromhex(case["message"]), getattr(errors, case["outcome"])
    if case["receiver"] == "server":
        with pytest.raises(error):
            replay.server.receive(client, message)
        honest = replay.transcript["to_server"][case["phase"]][str(client)]
        replay.server.receive(client, bytes.fromhex(honest))
        return
    if case["phase"] == "upload":
        replay.clients[client].submit(np.zeros(replay.config.vector_length, np.int64))
    with pytest.raises(error):
        replay.clients[client].receive(message)
    assert replay.clients[client].phase is Phase.ABORTED


def test_a_quarter_of_the_vectors_is_negative():
    assert 4 * len(NEGATIVE) >= len(NEGATIVE) + len(TRANSCRIPTS)


def test_the_file_is_what_the_reference_writes():
    assert json.loads(json.dumps(secagg_reference.document())) == DOCUMENT


def test_the_references_x25519_against_rfc_7748():
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    product = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert secagg_reference.x25519(scalar, point).hex() == product


def test_the_references_hkdf_against_rfc_5869():
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    okm = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    assert secagg_reference.hkdf(b"\x0b" * 22, bytes(range(13)), info).hex() == okm
