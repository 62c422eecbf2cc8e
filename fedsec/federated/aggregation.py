"""The server's side of a round: the sum of the survivors' integers, under masks or in the clear.

A collector takes contributions in. Where it is known beforehand who will be lost, as in a simulation, each is
masked and added as soon as it is there (`Masked`, `SessionKeyMasked`, `Clear`), so that memory holds one
contribution and the sum; otherwise they wait for the end of the round (`Waiting`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedsec import masks, secagg
from fedsec._kernels import fresh_bytes, fresh_seed
from fedsec.errors import AggregationAborted
from fedsec.federated.mechanism import Integers, Mechanism
from fedsec.federated.plan import Plan
from fedsec.federated.settings import SESSION_KEY
from fedsec.secagg.local import LocalSession, default_parameters

# Who will be lost in a round, by the phase whose message never comes: (round_id, cohort) to {client: phase}.
Schedule = Callable[[int, tuple[int, ...]], Mapping[int, str]]

_PRG = "chacha20"


@dataclass(frozen=True, repr=False)
class Aggregate:
    """The exact integer sum over the survivors; secret until noise is added where noise is central.

    `seconds`: "masking", one client's share of the protocol (the mean), and "unmasking", the server's;
    `phases`: the same by phase, "client" and "server", where the protocol was run.
    """

    integers: Integers
    survivors: tuple[int, ...]
    seconds: dict[str, float]
    bytes_per_client: float
    phases: dict[str, dict[str, float]] = field(default_factory=dict)


class Collector(Protocol):
    """Takes the contributions of one round, each once, and gives their sum."""

    def add(self, client: int, integers: Integers) -> None:
        """A contribution; the caller may let go of it."""
        ...

    def finish(self, lost: Mapping[int, str]) -> Aggregate:
        """The sum over those who uploaded, given who was lost in which phase.

        Refuses a sum that no such contributions can have; raises `AggregationAborted` when too few are left.
        """
        ...


def collector(plan: Plan, cohort: tuple[int, ...], lost: Mapping[int, str]) -> Collector:
    """What adds contributions up as they come; `lost` is who will be, as far as that is known."""
    secure = plan.settings.secure_aggregation
    if not secure:
        return Clear(plan, cohort)
    kind = SessionKeyMasked if secure == SESSION_KEY else Masked
    parameters = plan.secagg_parameters or default_parameters(len(cohort), len(lost))
    return kind(plan.mechanism, parameters, cohort, lost)


class Waiting:
    """Keeps contributions until it is known who is left."""

    def __init__(self, plan: Plan, cohort: tuple[int, ...]) -> None:
        self._plan, self._cohort = plan, cohort
        self._held: dict[int, Integers] = {}

    def add(self, client: int, integers: Integers) -> None:
        """See `Collector`."""
        self._held[client] = integers

    def finish(self, lost: Mapping[int, str]) -> Aggregate:
        """See `Collector`."""
        total = collector(self._plan, self._cohort, lost)
        for client, integers in self._held.items():
            if uploads(client, lost):
                total.add(client, integers)
        return total.finish(lost)


class Clear:
    """A plain sum."""

    def __init__(self, plan: Plan, cohort: tuple[int, ...]) -> None:
        self._plan, self._cohort = plan, cohort
        self._bits = plan.mechanism.modulus_bits
        self._sum = _zeros(plan.mechanism)
        self._added: list[int] = []

    def add(self, client: int, integers: Integers) -> None:
        """See `Collector`."""
        masks.add(self._sum, secagg.to_residues(integers, self._bits), self._bits)
        self._added.append(client)

    def finish(self, lost: Mapping[int, str]) -> Aggregate:
        """See `Collector`."""
        del lost  # who is lost after the upload is in the sum
        if not self._added and not self._plan.private:
            raise AggregationAborted(f"none of {len(self._cohort)} clients is left: there is no mean")
        return Aggregate(
            self._plan.mechanism.lift(self._sum), tuple(sorted(self._added)), {}, float(self._sum.nbytes)
        )


class Masked:
    """Secure aggregation, all parties in this process."""

    def __init__(
        self,
        mechanism: Mechanism,
        parameters: secagg.Parameters,
        cohort: tuple[int, ...],
        lost: Mapping[int, str],
    ) -> None:
        self._mechanism, self._lost = mechanism, dict(lost)
        self._session = LocalSession(
            cohort, mechanism.vector_length, mechanism.modulus_bits, self._lost, parameters
        )

    def add(self, client: int, integers: Integers) -> None:
        """See `Collector`."""
        self._session.upload(client, integers)

    def finish(self, lost: Mapping[int, str]) -> Aggregate:
        """See `Collector`."""
        for client in lost.keys() - self._lost.keys():
            self._session.lose(client, lost[client])
        outcome = self._session.finish()
        phases = outcome.seconds.values()
        seconds = {"masking": sum(s["client"] for s in phases), "unmasking": sum(s["server"] for s in phases)}
        total = self._mechanism.lift(outcome.sum)
        return Aggregate(total, outcome.survivors, seconds, outcome.bytes_per_client, outcome.seconds)


class SessionKeyMasked:
    """Masks as in the protocol, from one key that this process makes: a rehearsal that protects nobody.

    The graph, the threshold, every mask byte and what the server takes off are the protocol's; key
    agreement, shares, seals and signatures are left out. Whoever has the key can unmask anyone.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        parameters: secagg.Parameters,
        cohort: tuple[int, ...],
        lost: Mapping[int, str],
    ) -> None:
        self._mechanism, self._bits = mechanism, mechanism.modulus_bits
        self._key = fresh_bytes(32)
        self._parameters = parameters
        self._dealt = tuple(c for c in cohort if lost.get(c) not in ("advertise", "reveal", "share"))
        self._peers = self._graph()
        self._sum = _zeros(mechanism)
        self._added: set[int] = set()
        self._masking = 0.0

    def add(self, client: int, integers: Integers) -> None:
        """See `Collector`."""
        started = perf_counter()
        residues = secagg.to_residues(integers, self._bits)
        pairs = [(self._pair(client, peer), 1 if client > peer else -1) for peer in self._peers[client]]
        self._apply(residues, [(self._seed(client), 1), *pairs])
        self._masking += perf_counter() - started
        masks.add(self._sum, residues, self._bits)
        self._added.add(client)

    def finish(self, lost: Mapping[int, str]) -> Aggregate:
        """See `Collector`."""
        del lost
        if len(self._added) < self._parameters.min_survivors:
            raise AggregationAborted(
                f"{len(self._added)} clients uploaded, at least {self._parameters.min_survivors} must"
            )
        started = perf_counter()
        left = [(self._seed(client), -1) for client in sorted(self._added)]
        for gone in sorted(set(self._dealt) - self._added):
            peers = self._added.intersection(self._peers[gone])
            left += [(self._pair(peer, gone), -1 if peer > gone else 1) for peer in peers]
        self._apply(self._sum, left)
        seconds = {
            "masking": self._masking / len(self._added),
            "unmasking": perf_counter() - started,
        }
        packed = masks.packed_bytes(self._sum.size, self._bits)
        return Aggregate(self._mechanism.lift(self._sum), tuple(sorted(self._added)), seconds, float(packed))

    def _graph(self) -> dict[int, tuple[int, ...]]:
        """Each client's neighbours: the others, or the nearest on a random ring."""
        count = self._parameters.num_neighbors
        ring = np.random.default_rng(fresh_seed()).permutation(self._dealt)
        if count >= len(ring) - 1:
            return {c: tuple(p for p in self._dealt if p != c) for c in self._dealt}
        offsets = [step for step in range(-(count // 2), count // 2 + 1) if step]
        return {
            int(client): tuple(int(ring[(place + step) % len(ring)]) for step in offsets)
            for place, client in enumerate(ring)
        }

    def _pair(self, one: int, other: int) -> bytes:
        return self._derived(b"pair", min(one, other), max(one, other))

    def _seed(self, client: int) -> bytes:
        return self._derived(b"self", client, client)

    def _derived(self, kind: bytes, one: int, other: int) -> bytes:
        text = kind + one.to_bytes(8, "little") + other.to_bytes(8, "little")
        return hashlib.blake2b(text, digest_size=32, key=self._key).digest()

    def _apply(self, vector: npt.NDArray[Any], terms: list[tuple[bytes, int]]) -> None:
        seeds = np.frombuffer(b"".join(seed for seed, _ in terms), np.uint8).reshape(-1, 32)
        masks.accumulate(vector, seeds, np.array([s for _, s in terms], np.int8), self._bits, _PRG)


def uploads(client: int, lost: Mapping[int, str]) -> bool:
    """Whether a client's contribution leaves it."""
    return client not in lost or lost[client] in secagg.AFTER_UPLOAD


def _zeros(mechanism: Mechanism) -> npt.NDArray[Any]:
    return np.zeros(mechanism.vector_length, masks.lane_dtype(mechanism.modulus_bits))
