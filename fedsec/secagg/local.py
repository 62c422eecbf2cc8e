"""A whole session in this process, real bytes between real parties: for simulators, tests, benchmarks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.secagg._machine import PHASES, Phase
from fedsec.secagg.client import Client
from fedsec.secagg.config import Config
from fedsec.secagg.server import Server


@dataclass(frozen=True)
class Outcome:
    """What came of a session, and what it took.

    Attributes
    ----------
    sum : (d,) residues mod 2**modulus_bits, of the lane dtype; exact, so not in the repr
    survivors : ids of the clients whose vectors are in the sum, ascending
    dropped : the phase whose message was missing, by client id; "unmask" is after the upload, so that
        such a client is among the survivors
    seconds : by phase: "client", the mean over the clients at work in it, and "server"
    bytes_per_client : the most that one client sent
    """

    sum: npt.NDArray[Any] = field(repr=False)
    survivors: tuple[int, ...]
    dropped: dict[int, str]
    seconds: dict[str, dict[str, float]]
    bytes_per_client: int


def aggregate(
    vectors: Mapping[int, npt.NDArray[np.integer[Any]]],
    modulus_bits: int = 32,
    dropped: Mapping[int, str] | None = None,
    threshold: int | None = None,
    prg: str = "chacha20",
) -> Outcome:
    """Runs the protocol over all of `vectors`, by client id: (d,) integers as for `Client.submit`.

    `dropped` says which clients never send the message of which phase: "advertise", "share", "upload"
    or "unmask". Fewer than `threshold` senders in a phase (`Config`) raise `AggregationAborted`.
    """
    config = Config(os.urandom(32), 0, _ids(vectors), _length(vectors), modulus_bits, threshold, prg)
    return _Session(config, vectors, _schedule(dropped or {}, vectors)).run()


@dataclass(frozen=True, repr=False)
class _Session:
    config: Config
    vectors: Mapping[int, npt.NDArray[Any]]
    silent_in: Mapping[int, Phase]
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)

    def run(self) -> Outcome:
        server = Server(self.config)
        clients = {client: Client(self.config, client) for client in self.config.participants}
        inbox = dict.fromkeys(clients, b"")
        for phase in PHASES:
            inbox = self._phase(phase, server, clients, inbox)
        dropped = {client: str(phase.value) for client, phase in server.dropped.items()}
        most = max(self.sent.values())
        return Outcome(server.result(), server.survivors, dropped, self.seconds, most)

    def _phase(
        self, phase: Phase, server: Server, clients: Mapping[int, Client], inbox: Mapping[int, bytes]
    ) -> dict[int, bytes]:
        at_work = [client for client in inbox if self.silent_in.get(client) is not phase]
        client_seconds = server_seconds = 0.0
        for client in at_work:
            started = perf_counter()
            message = self._answer(phase, clients[client], inbox[client])
            answered = perf_counter()
            server.receive(client, message)
            client_seconds += answered - started
            server_seconds += perf_counter() - answered
            self.sent[client] = self.sent.get(client, 0) + len(message)
        started = perf_counter()
        answers = server.close_phase()
        server_seconds += perf_counter() - started
        self.seconds[phase.value] = {"client": client_seconds / len(at_work), "server": server_seconds}
        return answers

    def _answer(self, phase: Phase, client: Client, message: bytes) -> bytes:
        if phase is Phase.ADVERTISE:
            return client.start()
        if phase is Phase.UPLOAD:
            client.submit(self.vectors[client.client_id])
        return client.receive(message)


def _ids(vectors: object) -> tuple[int, ...]:
    if not isinstance(vectors, Mapping):
        raise InvalidTypeError(f"vectors must be a mapping by client id, got {type(vectors).__name__}")
    return tuple(vectors)


def _length(vectors: Mapping[int, npt.NDArray[Any]]) -> int:
    lengths = {client: np.shape(vector) for client, vector in vectors.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidArgumentError(f"vectors must have one common shape, got {set(lengths.values())}")
    return int(np.size(next(iter(vectors.values())))) if vectors else 1


def _schedule(dropped: object, vectors: Mapping[int, object]) -> dict[int, Phase]:
    if not isinstance(dropped, Mapping):
        raise InvalidTypeError(f"dropped must be a mapping of client ids to phases, got {dropped!r}")
    allowed = [phase.value for phase in PHASES]
    for client, phase in dropped.items():
        if client not in vectors:
            raise InvalidArgumentError(f"dropped must name clients that have vectors, got {client}")
        if phase not in allowed:
            raise InvalidArgumentError(f"dropped[{client}] must be one of {allowed}, got {phase!r}")
    return {client: Phase(phase) for client, phase in dropped.items()}
