"""A whole session in this process, real bytes between real parties: for simulators, tests, benchmarks."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fedsec.errors import CommitteeLostError, InvalidArgumentError, InvalidTypeError, UnsupportedError
from fedsec.secagg._machine import PHASES, Phase, phases
from fedsec.secagg.client import Client
from fedsec.secagg.config import Config, Policy
from fedsec.secagg.identities import Identity
from fedsec.secagg.parameters import MAX_ATTEMPTS, Parameters, recommend
from fedsec.secagg.server import Server
from fedsec.secagg.store import SessionStore

_CORRUPT, _LOST = 0.05, 0.1  # fractions of a cohort that a session is set up for if nothing else is said


@dataclass(frozen=True)
class Outcome:
    """What came of a session, and what it took.

    Attributes
    ----------
    sum : (d,) residues mod 2**modulus_bits, of the lane dtype; exact, so not in the repr
    survivors : ids of the clients whose vectors are in the sum, ascending
    dropped : the phase whose message was missing, by client id; a client dropped in "agree" or "unmask" has
        uploaded, and is among the survivors
    seconds : by phase: "client", the mean over the clients at work in it, and "server"
    bytes_per_client : the most that one client sent
    attempts : how many sessions it took, more than one where a member of the committee was lost
    """

    sum: npt.NDArray[Any] = field(repr=False)
    survivors: tuple[int, ...]
    dropped: dict[int, str]
    seconds: dict[str, dict[str, float]]
    bytes_per_client: int
    attempts: int = 1


def aggregate(
    vectors: Mapping[int, npt.NDArray[np.integer[Any]]],
    modulus_bits: int = 32,
    dropped: Mapping[int, str] | None = None,
    parameters: Parameters | None = None,
    prg: str = "chacha20",
    profile: str = "authenticated",
) -> Outcome:
    """Runs the protocol over all of `vectors`, by client id: (d,) integers as for `Client.submit`.

    `dropped` says which clients never send the message of which phase, nor any later one: "advertise",
    "reveal", "share", "upload", "agree" or "unmask". Without `parameters` the session is set up for a
    twentieth of the clients corrupt and a tenth lost, or as many as `dropped` names if that is more and
    feasible at all. Identities are made on the spot. Too few that are left raise `AggregationAborted`.
    """
    silent_in = _schedule(dropped or {}, vectors)
    chosen = parameters or default_parameters(len(_ids(vectors)), len(silent_in))
    identities = {client: Identity.new() for client in _ids(vectors)} if profile == "authenticated" else {}
    session = _Session(vectors, silent_in, identities)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        config = Config(
            session_id=os.urandom(32),
            round_id=0,
            participants={i: one.public_key for i, one in identities.items()} or _ids(vectors),
            vector_length=_length(vectors),
            parameters=chosen,
            modulus_bits=modulus_bits,
            prg=prg,
            model_digest=bytes(32),
            profile=profile,
        )
        try:
            return session.run(config, attempt)
        except CommitteeLostError:
            if attempt == MAX_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def default_parameters(num_clients: int, num_dropped: int = 0) -> Parameters:
    """What `aggregate` sets up: for as many losses as are asked for, or the most that is feasible."""
    wanted = max(ceil(_LOST * num_clients), num_dropped)
    if found := _feasible(num_clients, wanted):
        return found
    most = bisect_left(range(1, wanted + 1), True, key=lambda lost: _feasible(num_clients, lost) is None)
    return _recommend(num_clients, most)


def _feasible(num_clients: int, lost: int) -> Parameters | None:
    try:
        return _recommend(num_clients, lost)
    except UnsupportedError:
        return None


def _recommend(num_clients: int, lost: int) -> Parameters:
    fraction = lost / max(1, num_clients)  # no clients are refused by name
    return recommend(num_clients=num_clients, corrupt_fraction=_CORRUPT, dropout_fraction=fraction)


@dataclass(frozen=True, repr=False)
class _Session:
    vectors: Mapping[int, npt.NDArray[Any]]
    silent_in: Mapping[int, Phase]
    identities: Mapping[int, Identity]
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)

    def run(self, config: Config, attempt: int) -> Outcome:
        """One session; the seconds and bytes of attempts before it stay on the account."""
        server, clients = Server(config), self._clients(config)
        inbox = dict.fromkeys(clients, b"")
        for phase in phases(config):
            inbox = self._phase(phase, server, clients, inbox)
        dropped = {client: str(phase.value) for client, phase in server.dropped.items()}
        most = max(self.sent.values())
        return Outcome(server.result(), server.survivors, dropped, self.seconds, most, attempt)

    def _clients(self, config: Config) -> dict[int, Client]:
        if not self.identities:
            return {client: Client(config, client) for client in config.ids}
        p, store = config.parameters, SessionStore.in_memory()
        policy = Policy(p.max_corrupt, p.min_survivors, p.privacy_bits)
        return {
            client: Client(config, client, identity, policy=policy, store=store)
            for client, identity in self.identities.items()
        }

    def _phase(
        self, phase: Phase, server: Server, clients: Mapping[int, Client], inbox: Mapping[int, bytes]
    ) -> dict[int, bytes]:
        at_work = [client for client in inbox if not self._is_silent(client, phase)]
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
        spent = self.seconds.setdefault(phase.value, {"client": 0.0, "server": 0.0})
        spent["client"] += client_seconds / max(1, len(at_work))
        spent["server"] += server_seconds
        return answers

    def _is_silent(self, client: int, phase: Phase) -> bool:
        last = self.silent_in.get(client)
        return last is not None and PHASES.index(phase) >= PHASES.index(last)

    def _answer(self, phase: Phase, client: Client, message: bytes) -> bytes:
        if phase is Phase.ADVERTISE:
            return client.start()
        if phase is Phase.UPLOAD:
            client.submit(self.vectors[client.client_id])
        return cast(bytes, client.receive(message))


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
