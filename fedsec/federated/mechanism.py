"""From one client's bounded vector to the integers that travel, and from their sum to what is released.

A mechanism says where noise is added: nowhere, by the server, by each client, or a share by each client; one
class for each place.
The noise takes its scale, in the integer units that travel, from what one unit can change, rounding included.

Rounding is at random, by one uniform number a coordinate that does not depend on data. Given those, two
neighbouring vectors that are s apart in real units are less than s / granularity + sqrt(length) steps apart,
for floor(a + u) and floor(b + u) differ by less than |a - b| + 1: the same as for rounding to nearest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fedsec import distributed, noise, secagg

if TYPE_CHECKING:
    from typing_extensions import Self

Integers = npt.NDArray[Any]  # of an integer dtype
Reals = npt.NDArray[np.float64]

# A discrete Gaussian passes 64 standard deviations with probability below exp(-2048).
_TAIL = 64.0
# Without a bound the range is not known beforehand: up to 2**24 a coordinate, at whatever resolution a 64-bit
# ring leaves (2**-31 for a hundred clients).
OPEN_RANGE = 2.0**24


class Mechanism(Protocol):
    """What happens to a client's vector on its way into the sum, and to the sum."""

    @property
    def vector_length(self) -> int:
        """How many integers travel."""
        ...

    @property
    def modulus_bits(self) -> int:
        """The ring that they travel in."""
        ...

    def of_round(self, public_key: bytes) -> Self:
        """The same for one round, with 32 bytes that all of it share."""
        ...

    def encode(self, vector: npt.NDArray[Any]) -> Integers:
        """The client's side: integers, with the client's own noise where it adds any."""
        ...

    def lift(self, residues: npt.NDArray[Any]) -> Integers:
        """The sum that residues stand for; refuses one that no such contributions can have."""
        ...

    def release(self, total: Integers) -> Reals:
        """The server's side: the sum in real units, with the server's noise where it adds any."""
        ...


@dataclass(frozen=True)
class Rounding:
    """Vectors on a public grid, without noise."""

    vector_length: int
    quantizer: secagg.Quantizer

    @property
    def modulus_bits(self) -> int:
        """See `Mechanism`."""
        return self.quantizer.modulus_bits

    def of_round(self, public_key: bytes) -> Self:
        """See `Mechanism`: all rounds are alike."""
        return self

    def encode(self, vector: npt.NDArray[Any]) -> Integers:
        """See `Mechanism`."""
        return self.quantizer.quantize(vector)

    def lift(self, residues: npt.NDArray[Any]) -> Integers:
        """See `Mechanism`."""
        return self.quantizer.lift(residues)

    def release(self, total: Integers) -> Reals:
        """See `Mechanism`."""
        return self.quantizer.dequantize(total)


@dataclass(frozen=True)
class CentralNoise(Rounding):
    """Exact integer noise of the server's, added to the sum."""

    integer_stddev: float

    def release(self, total: Integers) -> Reals:
        """See `Mechanism`."""
        return super().release(total + noise.discrete_gaussian(total.size, self.integer_stddev))


@dataclass(frozen=True)
class LocalNoise(Rounding):
    """Exact integer noise of each client's own, added before anything leaves it."""

    integer_stddev: float

    def encode(self, vector: npt.NDArray[Any]) -> Integers:
        """See `Mechanism`."""
        integers = super().encode(vector)
        integers += noise.discrete_gaussian(integers.size, self.integer_stddev)
        return integers


@dataclass(frozen=True)
class DistributedNoise:
    """A share of each client's, of which the sum protects: the server is not trusted with noise either."""

    plan: distributed.Plan
    rotation_key: bytes | None = None

    @property
    def vector_length(self) -> int:
        """See `Mechanism`; padding included."""
        return self.plan.encoding.length

    @property
    def modulus_bits(self) -> int:
        """See `Mechanism`."""
        return self.plan.modulus_bits

    def of_round(self, public_key: bytes) -> DistributedNoise:
        """See `Mechanism`: each round has a rotation of its own."""
        return replace(self, rotation_key=public_key)

    def encode(self, vector: npt.NDArray[Any]) -> Integers:
        """See `Mechanism`; residues."""
        return self.plan.share_residues(vector, self.rotation_key)

    def lift(self, residues: npt.NDArray[Any]) -> Integers:
        """See `Mechanism`; as they are, for the ring is allowed to wrap around once in a million rounds."""
        return residues

    def release(self, total: Integers) -> Reals:
        """See `Mechanism`: there is noise in it already."""
        return self.plan.decode(total, self.rotation_key).astype(np.float64)


def without_noise(vector_length: int, num_clients: int) -> Rounding:
    """For `num_clients` vectors with coordinates up to `OPEN_RANGE`: the finest grid that fits 64 bits."""
    granularity = 2.0 ** (math.ceil(math.log2(num_clients * OPEN_RANGE)) - 61)
    quantizer = secagg.Quantizer(granularity=granularity, max_abs=OPEN_RANGE, num_clients=num_clients)
    return Rounding(vector_length, quantizer)


def with_noise(
    place: str,
    vector_length: int,
    l2_sensitivity: float,
    noise_multiplier: float,
    max_sum: float,
    num_clients: int,
) -> CentralNoise | LocalNoise:
    """For sums in which one unit changes at most `l2_sensitivity` in L2 norm.

    Parameters
    ----------
    place : "central" or "local"
    vector_length : int
    l2_sensitivity : float
        In real units, before rounding.
    noise_multiplier : float
    max_sum : float
        No coordinate of a sum of `num_clients` vectors is larger, before noise and rounding.
    num_clients : int
    """
    granularity = noise.grid(l2_sensitivity, vector_length, noise_multiplier)
    sensitivity = noise.integer_sensitivity(l2_sensitivity, vector_length, granularity)
    stddev = noise.integer_stddev(sensitivity, noise_multiplier)
    own_noise = _TAIL * stddev if place == "local" else 0.0
    # One "client" of the quantizer stands for all: however a sum is spread over clients, it fits the ring.
    quantizer = secagg.Quantizer(
        granularity=granularity,
        max_abs=max_sum + num_clients * granularity * (1.0 + own_noise),
        num_clients=1,
    )
    kind = LocalNoise if place == "local" else CentralNoise
    return kind(vector_length, quantizer, stddev)
