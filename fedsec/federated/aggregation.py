"""The server's side of a round: the sum of the survivors' integers, securely or in the clear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsec import masks, secagg
from fedsec.errors import AggregationAborted
from fedsec.federated.mechanism import Integers
from fedsec.federated.plan import Plan


@dataclass(frozen=True, repr=False)
class Aggregate:
    """The exact integer sum over the survivors; secret until noise is added where noise is central.

    `seconds`: "masking", one client's share of the protocol (the mean), and "unmasking", the server's.
    """

    integers: Integers
    survivors: tuple[int, ...]
    seconds: dict[str, float]
    bytes_per_client: float


def aggregate(plan: Plan, vectors: dict[int, Integers], dropped: dict[int, str]) -> Aggregate:
    """The sum over the ring, lifted to signed integers; refuses one that no such contributions can have.

    Raises `AggregationAborted` when too few are left.
    """
    secure = plan.settings.secure_aggregation
    return _securely(plan, vectors, dropped) if secure else _in_the_clear(plan, vectors, dropped)


def _securely(plan: Plan, vectors: dict[int, Integers], dropped: dict[int, str]) -> Aggregate:
    outcome = secagg.aggregate(
        vectors,
        modulus_bits=plan.mechanism.modulus_bits,
        dropped=dropped,
        parameters=plan.secagg_parameters,
    )
    phases = outcome.seconds.values()
    seconds = {"masking": sum(s["client"] for s in phases), "unmasking": sum(s["server"] for s in phases)}
    return Aggregate(plan.mechanism.lift(outcome.sum), outcome.survivors, seconds, outcome.bytes_per_client)


def _in_the_clear(plan: Plan, vectors: dict[int, Integers], dropped: dict[int, str]) -> Aggregate:
    bits = plan.mechanism.modulus_bits
    survivors = tuple(
        client
        for client in sorted(vectors)
        if client not in dropped or dropped[client] in secagg.AFTER_UPLOAD
    )
    if not survivors and not plan.private:
        raise AggregationAborted(f"none of {len(vectors)} clients is left: there is no mean")
    total = np.zeros(plan.mechanism.vector_length, masks.lane_dtype(bits))
    for client in survivors:
        masks.add(total, secagg.to_residues(vectors[client], bits), bits)
    size = total.size * total.itemsize
    return Aggregate(plan.mechanism.lift(total), survivors, {}, float(size))
