"""One session of secure aggregation in this process, phase by phase, with the seconds of each party.

`secagg.aggregate` times whole phases; here single steps can be taken, repeated and looked at.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fedsec import secagg
from fedsec.measure.timing import Clock, Result, timed
from fedsec.secagg import graph, keys
from fedsec.secagg.identity import identities

PRG = "aes128ctr"
BITS = 32


@dataclass
class Spent:
    """Seconds of a phase: of each client that was at work, and of the server; bytes up and down."""

    clients: list[float] = field(default_factory=list)
    server: float = 0.0
    bytes_up: list[int] = field(default_factory=list)
    bytes_down: list[int] = field(default_factory=list)

    @property
    def client(self) -> float:
        """The median client's seconds."""
        return statistics.median(self.clients)

    def plain(self) -> dict[str, float]:
        """For reports: seconds of the median client, of all clients together, and of the server; bytes."""
        return {
            "client": self.client,
            "all_clients": sum(self.clients),
            "server": self.server,
            "bytes_up": statistics.median(self.bytes_up),
            "bytes_down": statistics.median(self.bytes_down) if self.bytes_down else 0,
        }


class Round:
    """All parties of a session with vectors of `vector_length` small integers, ready to advertise.

    With `cold` clients, as many of each phase have the process' memory of checked signatures taken away
    before their turn, as it is with a client that has a process of its own; only they are in the seconds.
    """

    def __init__(
        self,
        parameters: secagg.Parameters,
        vector_length: int,
        cold: int | None = None,
        clock: Clock = time.perf_counter,
        modulus_bits: int = BITS,
    ) -> None:
        signers = [secagg.Identity.new() for _ in range(parameters.num_clients)]
        self.config = secagg.Config(
            session_id=os.urandom(32),
            round_id=0,
            participants={number: signer.public_key for number, signer in enumerate(signers)},
            vector_length=vector_length,
            parameters=parameters,
            modulus_bits=modulus_bits,
            prg=PRG,
            model_digest=bytes(32),
        )
        policy = secagg.Policy(parameters.max_corrupt, parameters.min_survivors, parameters.privacy_bits)
        store = secagg.SessionStore.in_memory()
        self.server = secagg.Server(self.config)
        self.clients = {
            number: secagg.Client(self.config, number, signer, policy=policy, store=store)
            for number, signer in enumerate(signers)
        }
        self.inbox: Mapping[int, bytes] = dict.fromkeys(self.clients, b"")
        self.spent: dict[str, Spent] = {}
        self._cold, self._clock = cold, clock
        self.make_vector: Callable[[], npt.NDArray[np.integer[Any]]] = lambda: self.vector

    @cached_property
    def vector(self) -> npt.NDArray[np.int32]:
        """What every client submits."""
        return np.random.default_rng(0).integers(-1000, 1000, self.config.vector_length, dtype=np.int32)

    @property
    def phase(self) -> str:
        """Whose messages are due."""
        return str(self.server.phase.value)

    def until(self, phase: str, lost: Collection[int] = ()) -> Round:
        """Runs all phases before this one; the `lost` never upload."""
        while self.phase != phase:
            silent = lost if self.phase == "upload" else ()
            self.run_phase([client for client in self.inbox if client not in silent])
        return self

    def run_phase(self, at_work: Iterable[int]) -> Spent:
        """The current phase, with these clients at work."""
        spent = self.spent[self.phase] = Spent()
        for turn, client in enumerate(at_work):
            message, seconds = self.answer(client, cold=self._cold is not None and turn < self._cold)
            if self._cold is None or turn < self._cold:
                spent.clients.append(seconds)
            spent.bytes_up.append(len(message))
            spent.server += self._timed(partial(self.server.receive, client, message))[1]
        self.inbox, closing = self._timed(self.server.close_phase)
        spent.bytes_down, answering = self._timed(lambda: [len(one) for one in self.inbox.values()])
        spent.server += closing + answering
        return spent

    def answer(self, number: int, cold: bool = False) -> tuple[bytes, float]:
        """A client's message of the current phase, and its seconds."""
        if cold:
            forget()
        client, message = self.clients[number], self.inbox[number]
        if self.phase == "advertise":
            return self._timed(client.start)
        if self.phase == "upload":
            return self._timed(lambda: self._upload(client, message))
        return self._timed(lambda: cast(bytes, client.receive(message)))

    def _timed(self, call: Callable[[], Result]) -> tuple[Result, float]:
        return timed(call, self._clock)

    def _upload(self, client: secagg.Client, message: bytes) -> bytes:
        client.submit(self.make_vector())
        return cast(bytes, client.receive(message))

    def require_right(self, survivors: int) -> None:
        """The sum is what it should be."""
        expected: npt.NDArray[Any] = self.vector.astype(np.int64) * survivors
        if not np.array_equal(secagg.centre(self.server.result(), BITS), expected):
            raise AssertionError("the secure sum differs from the plain sum")


def forget() -> None:
    """Takes away what a process remembers of public values: signatures and keys that it has checked."""
    keys.is_signed.cache_clear()
    identities._is_on_curve.cache_clear()


def common(config: secagg.Config, clock: Clock = time.perf_counter) -> float:
    """Seconds of what each client computes once of the whole list of participants, if it is alone.

    It reads the configuration, hashes it, picks the committee and sorts the ring.
    """
    data, keys_by_id = config.to_bytes(), config.participants
    graph.committee.cache_clear()
    graph._ring.cache_clear()

    def once() -> None:
        own = secagg.Config.from_bytes(data, keys_by_id)
        graph.committee(own)
        graph.neighbors(own, bytes(32), own.ids[0])

    return timed(once, clock)[1]
