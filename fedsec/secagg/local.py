"""A whole session in this process, real bytes between real parties: for simulators, tests, benchmarks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fedsec._kernels import fresh_bytes
from fedsec.errors import CommitteeLostError, InvalidArgumentError, InvalidTypeError, UnsupportedError
from fedsec.secagg._machine import PHASES, Phase, phases
from fedsec.secagg.client import Client
from fedsec.secagg.config import Config, Policy
from fedsec.secagg.identity.identities import Identity
from fedsec.secagg.outbox import Outbox
from fedsec.secagg.parameters import MAX_ATTEMPTS, Parameters, recommend
from fedsec.secagg.server import Server
from fedsec.secagg.store import SessionStore

# Fractions of a cohort that a session is set up for if nothing else is said.
CORRUPT_FRACTION, DROPOUT_FRACTION = 0.05, 0.1


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

    `dropped`, `parameters` and the rest are those of `LocalSession`. Too few that are left raise
    `AggregationAborted`.
    """
    session = LocalSession(_ids(vectors), _length(vectors), modulus_bits, dropped, parameters, prg, profile)
    for client in session.awaited:
        session.upload(client, vectors[client])
    return session.finish()


def default_parameters(num_clients: int, num_dropped: int = 0) -> Parameters:
    """What `aggregate` sets up: for as many losses as are asked for, or the most that is feasible."""
    wanted = max(ceil(DROPOUT_FRACTION * num_clients), num_dropped)
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
    return recommend(num_clients=num_clients, corrupt_fraction=CORRUPT_FRACTION, dropout_fraction=fraction)


class LocalSession:
    """A session whose uploads come one at a time: each vector is masked, added to the sum and let go of.

    Parameters
    ----------
    client_ids : collection of int
    vector_length : int
    modulus_bits : int
    dropped : mapping of client ids to phases, optional
        Which clients never send the message of which phase, nor any later one: "advertise", "reveal",
        "share", "upload", "agree" or "unmask". Who is awaited and never uploads is lost at "upload" anyway.
    parameters : Parameters, optional
        By default for a twentieth of the clients corrupt and a tenth lost, or as many as `dropped` names if
        that is more and feasible at all.
    prg, profile : str
        As for `Config`. Identities are made on the spot.

    Raises
    ------
    AggregationAborted
        Too few clients are left: from the constructor in the phases before the upload, from `finish` later.
    """

    def __init__(
        self,
        client_ids: Collection[int],
        vector_length: int,
        modulus_bits: int = 32,
        dropped: Mapping[int, str] | None = None,
        parameters: Parameters | None = None,
        prg: str = "chacha20",
        profile: str = "authenticated",
    ) -> None:
        self._silent_in = _schedule(dropped or {}, client_ids)
        self._seconds: dict[str, dict[str, float]] = {}
        self._sent: dict[int, int] = {}
        chosen = parameters or default_parameters(len(client_ids), len(self._silent_in))
        made = {client: Identity.new() for client in client_ids} if profile == "authenticated" else {}
        for self._attempt in range(1, MAX_ATTEMPTS + 1):
            config = Config(
                session_id=fresh_bytes(32),
                round_id=0,
                participants={i: one.public_key for i, one in made.items()} or tuple(client_ids),
                vector_length=vector_length,
                parameters=chosen,
                modulus_bits=modulus_bits,
                prg=prg,
                model_digest=bytes(32),
                profile=profile,
            )
            try:
                self._open(config, made)
            except CommitteeLostError:
                if self._attempt == MAX_ATTEMPTS:
                    raise
            else:
                return

    @property
    def awaited(self) -> tuple[int, ...]:
        """The clients whose upload is still to come, ascending."""
        return tuple(client for client in sorted(self._inbox) if not self._is_silent(client, Phase.UPLOAD))

    def lose(self, client: int, phase: str) -> None:
        """Says late that a client is lost in a phase that is still to come."""
        self._silent_in |= _schedule({client: phase}, self._clients)

    def upload(self, client: int, vector: npt.NDArray[np.integer[Any]]) -> None:
        """The upload of a client that is awaited: (vector_length,) integers, as for `Client.submit`."""
        if client not in self._inbox or self._is_silent(client, Phase.UPLOAD):
            raise InvalidArgumentError(f"client must be one whose upload is awaited, got {client}")
        message, started = self._read(Phase.UPLOAD, client, self._inbox), perf_counter()
        self._clients[client].submit(vector)
        self._answer(Phase.UPLOAD, client, message, started)
        del self._inbox[client]
        self._num_uploads += 1

    def finish(self) -> Outcome:
        """The phases after the upload, and what came of all."""
        inbox = self._close(Phase.UPLOAD, self._num_uploads)
        for phase in self._phases[self._phases.index(Phase.UPLOAD) + 1 :]:
            inbox = self._phase(phase, inbox)
        server = self._server
        dropped = {client: str(phase.value) for client, phase in server.dropped.items()}
        most = max(self._sent.values())
        return Outcome(server.result(), server.survivors, dropped, self._seconds, most, self._attempt)

    def _open(self, config: Config, identities: Mapping[int, Identity]) -> None:
        """One session; the seconds and bytes of attempts before it stay on the account."""
        self._server, self._clients = Server(config), _clients(config, identities)
        self._phases, self._num_uploads, self._busy = phases(config), 0, 0.0
        inbox: MutableMapping[int, bytes] = dict.fromkeys(self._clients, b"")
        for phase in self._phases[: self._phases.index(Phase.UPLOAD)]:
            inbox = self._phase(phase, inbox)
        self._inbox = inbox

    def _phase(self, phase: Phase, inbox: Mapping[int, bytes]) -> Outbox:
        at_work = [client for client in inbox if not self._is_silent(client, phase)]
        for client in at_work:
            self._answer(phase, client, self._read(phase, client, inbox), perf_counter())
        return self._close(phase, len(at_work))

    def _read(self, phase: Phase, client: int, inbox: Mapping[int, bytes]) -> bytes:
        """What the server says to a client, which it makes only now."""
        started = perf_counter()
        message = inbox[client]
        self._seconds_of(phase)["server"] += perf_counter() - started
        return message

    def _answer(self, phase: Phase, client: int, message: bytes, started: float) -> None:
        party = self._clients[client]
        answer = party.start() if phase is Phase.ADVERTISE else cast(bytes, party.receive(message))
        answered = perf_counter()
        self._server.receive(client, answer)
        self._busy += answered - started
        self._seconds_of(phase)["server"] += perf_counter() - answered
        self._sent[client] = self._sent.get(client, 0) + len(answer)

    def _close(self, phase: Phase, num_at_work: int) -> Outbox:
        started = perf_counter()
        answers = self._server.close_phase()
        self._seconds_of(phase)["server"] += perf_counter() - started
        self._seconds_of(phase)["client"] += self._busy / max(1, num_at_work)
        self._busy = 0.0
        return answers

    def _seconds_of(self, phase: Phase) -> dict[str, float]:
        return self._seconds.setdefault(phase.value, {"client": 0.0, "server": 0.0})

    def _is_silent(self, client: int, phase: Phase) -> bool:
        last = self._silent_in.get(client)
        return last is not None and PHASES.index(phase) >= PHASES.index(last)


def _clients(config: Config, identities: Mapping[int, Identity]) -> dict[int, Client]:
    if not identities:
        return {client: Client(config, client) for client in config.ids}
    p, store = config.parameters, SessionStore.in_memory()
    policy = Policy(p.max_corrupt, p.min_survivors, p.privacy_bits)
    return {
        client: Client(config, client, identity, policy=policy, store=store)
        for client, identity in identities.items()
    }


def _ids(vectors: object) -> tuple[int, ...]:
    if not isinstance(vectors, Mapping):
        raise InvalidTypeError(f"vectors must be a mapping by client id, got {type(vectors).__name__}")
    return tuple(vectors)


def _length(vectors: Mapping[int, npt.NDArray[Any]]) -> int:
    lengths = {client: np.shape(vector) for client, vector in vectors.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidArgumentError(f"vectors must have one common shape, got {set(lengths.values())}")
    return int(np.size(next(iter(vectors.values())))) if vectors else 1


def _schedule(dropped: object, client_ids: Collection[int]) -> dict[int, Phase]:
    if not isinstance(dropped, Mapping):
        raise InvalidTypeError(f"dropped must be a mapping of client ids to phases, got {dropped!r}")
    allowed = [phase.value for phase in PHASES]
    for client, phase in dropped.items():
        if client not in client_ids:
            raise InvalidArgumentError(f"dropped must name clients of the session, got {client}")
        if phase not in allowed:
            raise InvalidArgumentError(f"dropped[{client}] must be one of {allowed}, got {phase!r}")
    return {client: Phase(phase) for client, phase in dropped.items()}
