"""One round with the noise inside the sum: encoding, shares, ring and cost, built together and frozen.

`plan_clients` and `plan_records` size each client's share so that what is *sure* to be honest protects: the
`min_survivors` of the aggregation less its `max_corrupt` clients. Who is not lost makes the noise larger than
that; the plan shows by how much, and apart from it what rounding and discreteness cost.

    client:  contribution -> encode -> + share -> residues -> (secure aggregation)
    server:  residues of the sum -> decode -> sum of contributions + noise

References
----------
[AKL21] Agarwal, Kairouz, Liu. The Skellam Mechanism for Differentially Private Federated Learning. NeurIPS
        2021 (arXiv 2110.04995).
[KLS21] Kairouz, Liu, Steinke. The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
        Aggregation. ICML 2021 (arXiv 2102.06387).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import _kernels, masks
from fedsec._checks import open_unit, positive, whole
from fedsec.accounting import Event, NeighboringRelation, PoissonSampled
from fedsec.accounting.integer_noise import IntegerNoise, gdp_mu
from fedsec.distributed import wraparound
from fedsec.distributed.encoding import ClientEncoding, Levels, RecordEncoding
from fedsec.distributed.shares import LAWS, Shares, shares_for
from fedsec.errors import InvalidArgumentError, InvalidTypeError, UnsupportedError

CLIENT_RELATIONS = (NeighboringRelation.REPLACE_SPECIAL, NeighboringRelation.REPLACE_ONE)
# What a ring is made wide enough for unless its width is given: P[some coordinate wraps around in a round].
_WRAPAROUND = 2.0**-20


@dataclass(frozen=True)
class Cohort:
    """Who takes part in a round, and what is certain about them; as `secagg.Parameters` have it.

    Parameters
    ----------
    num_clients : int
        Who is asked: n.
    min_survivors : int
        With fewer in the sum no client unmasks: T.
    max_corrupt : int
        So many of them may tell the server their shares of noise, or add none: C.
    result_is_public : bool
        Whether participants see the sum, as they do where the model goes back to them. Then any of them knows
        one share of its noise, and at least one is not counted.
    """

    num_clients: int
    min_survivors: int
    max_corrupt: int = 0
    result_is_public: bool = True

    def __post_init__(self) -> None:
        n = whole("num_clients", self.num_clients, minimum=1, maximum=2**32 - 1)
        least = whole("min_survivors", self.min_survivors, minimum=1, maximum=n)
        whole("max_corrupt", self.max_corrupt, minimum=0, maximum=n)
        if not isinstance(self.result_is_public, bool):
            raise InvalidTypeError(f"result_is_public must be True or False, got {self.result_is_public!r}")
        if least <= self.known_shares:
            raise UnsupportedError(
                f"min_survivors must be above the {self.known_shares} whose shares of noise may be known, "
                f"or nothing is certain to hide anybody, got {least}"
            )

    @property
    def known_shares(self) -> int:
        """How many shares of noise may be known to whoever looks at the sum."""
        return max(self.max_corrupt, 1) if self.result_is_public else self.max_corrupt

    @property
    def sure_shares(self) -> int:
        """How many honest shares are in any sum."""
        return self.min_survivors - self.known_shares

    def honest_shares(self, survivors: int) -> int:
        """How many honest shares are in a sum over so many survivors, at least."""
        count = whole("survivors", survivors, minimum=self.min_survivors, maximum=self.num_clients)
        return count - self.known_shares


@dataclass(frozen=True)
class Plan:
    """What happens to a contribution in a round, and what that costs: `plan_clients`, `plan_records` make it.

    Attributes
    ----------
    cohort, encoding, shares : as their classes say
    modulus_bits : int
        The ring of the aggregation.
    relation : NeighboringRelation
        Between whom `event` is priced.
    noise_multiplier : float
        What was asked for, of an ideal trusted server.
    sampling_probability : float or None
        With which a silo draws each of its records, secretly and independently.
    """

    cohort: Cohort
    encoding: ClientEncoding | RecordEncoding
    shares: Shares
    modulus_bits: int
    relation: NeighboringRelation
    noise_multiplier: float
    sampling_probability: float | None = None

    def __post_init__(self) -> None:
        if self.wraparound_probability > wraparound.MAX_PROBABILITY:
            raise InvalidArgumentError(
                f"modulus_bits must leave a wraparound in {wraparound.MAX_PROBABILITY:g} of rounds at most, "
                f"got {self.modulus_bits} with {self.wraparound_probability:.3g}"
            )

    # --- what is run ---

    def share_residues(
        self, contribution: npt.NDArray[Any], rotation_key: bytes | None = None
    ) -> npt.NDArray[Any]:
        """What a client hands to secure aggregation: its contribution, encoded, with its share of noise.

        Parameters
        ----------
        contribution : ndarray
            float32 or float64 (dimension,): a client's, of any norm; a silo's sum of clipped records.
        rotation_key : 32 bytes
            For clients: public, the same for all of a round, fresh for each.

        Returns
        -------
        Residues mod 2^modulus_bits, (length,), in `masks.lane_dtype(modulus_bits)`.

        Raises
        ------
        NonFiniteError, InvalidTypeError
            NaN or infinity; another shape or type. Nothing has left.

        Guarantees: the noise is fresh on each call, from the operating system's randomness; neither numpy's
        nor torch's seeds influence it.
        """
        levels = self._encode(contribution, rotation_key)
        share = self.shares.draw(levels.size)
        residues = _into_ring(levels, share, self.modulus_bits)
        levels.fill(0)
        share.fill(0)
        return residues

    def decode(
        self, residues: npt.NDArray[Any], rotation_key: bytes | None = None
    ) -> npt.NDArray[np.floating[Any]]:
        """The noisy sum of contributions, (dimension,), from the residues of the aggregated sum.

        float32 for clients and float64 for records. The mean divides by the public number of clients (or
        expected number of records), never by how many survived.
        """
        _kernels.require_array("residues", residues, (masks.lane_dtype(self.modulus_bits),))
        encoding, half = self.encoding, 2 ** (self.modulus_bits - 1)
        if residues.size != encoding.length:
            raise InvalidTypeError(f"residues must have length {encoding.length}, got {residues.size}")
        dtype = np.float64 if isinstance(encoding, RecordEncoding) else np.float32
        values = _kernels.dequantize(residues, self.modulus_bits, encoding.granularity, half, dtype)
        if values is None:
            raise AssertionError("a residue beyond half of the ring")
        if isinstance(encoding, RecordEncoding):
            return values
        return encoding.rotate_back(values, _required(rotation_key))

    def _encode(self, contribution: npt.NDArray[Any], rotation_key: bytes | None) -> Levels:
        if isinstance(self.encoding, RecordEncoding):
            return self.encoding.encode(contribution)
        return self.encoding.encode(contribution, _required(rotation_key))

    # --- what it costs ---

    def event(self, survivors: int | None = None) -> Event:
        """What a round with so many signed survivors costs a unit; by default with the fewest that can be.

        It counts the honest shares alone. Raises InvalidArgumentError below `cohort.min_survivors`: such a
        round is unmasked by no honest client.
        """
        count = self.cohort.min_survivors if survivors is None else survivors
        return self._sampled(self._noise(self.cohort.honest_shares(count)))

    def _noise(self, num_shares: int) -> IntegerNoise:
        return self.shares.event(num_shares, self.encoding.l2_sensitivity, self.encoding.length)

    def _sampled(self, event: Event) -> Event:
        return (
            event if self.sampling_probability is None else PoissonSampled(event, self.sampling_probability)
        )

    @property
    def effective_noise_multiplier(self) -> float:
        """Of the Gaussian mechanism that a round is at least as private as, with the fewest honest shares."""
        relation = NeighboringRelation.REPLACE_SPECIAL  # a shift by one sensitivity
        return math.nextafter(1.0 / gdp_mu(self._noise(self.cohort.sure_shares), relation), 0.0)

    @property
    def stddev(self) -> float:
        """Of the noise in the sum, in the contribution's unit, from the fewest honest shares."""
        return math.sqrt(self.cohort.sure_shares * self.shares.variance) * self.encoding.granularity

    @property
    def rounding_loss(self) -> float:
        """By which share the noise exceeds an ideal trusted server's of the same privacy, all shares counted.

        That server adds a Gaussian to the clipped reals. As epsilon is about proportional to the inverse of
        the noise, it is also the share of epsilon that integers cost.
        """
        return self.stddev / (self.effective_noise_multiplier * self.encoding.l2_clip_norm) - 1.0

    @property
    def variance_excess(self) -> float:
        """How many times the variance is what is counted on, when nobody is lost and nobody corrupt."""
        return self.cohort.num_clients / self.cohort.sure_shares

    @cached_property
    def wraparound_probability(self) -> float:
        """P[some coordinate of a round's sum leaves the ring], at most."""
        return _wraparound(self.cohort.num_clients, self.encoding, self.shares, self.modulus_bits)

    @property
    def upload_bytes(self) -> int:
        """What a client's masked vector takes on the wire."""
        return masks.packed_bytes(self.encoding.length, self.modulus_bits)

    def figures(self) -> dict[str, Any]:
        """The plan in numbers."""
        return {
            "law": self.shares.law,
            "coordinates": self.encoding.length,
            "granularity": self.encoding.granularity,
            "l2_sensitivity_steps": self.encoding.l2_sensitivity,
            "share_stddev_steps": math.sqrt(self.shares.variance),
            "modulus_bits": self.modulus_bits,
            "wraparound_probability": self.wraparound_probability,
            "effective_noise_multiplier": self.effective_noise_multiplier,
            "rounding_loss": self.rounding_loss,
            "honest_shares": self.cohort.sure_shares,
            "variance_excess": self.variance_excess,
            "upload_bytes": self.upload_bytes,
        }

    def lines(self) -> list[str]:
        """The plan in lines for people."""
        f, cohort = self.figures(), self.cohort
        return [
            f"noise: {f['law']} shares of stddev {f['share_stddev_steps']:.4g} steps from each of "
            f"{cohort.num_clients} clients; {f['honest_shares']} are counted "
            f"({cohort.min_survivors} survivors less {cohort.known_shares} known)",
            f"granularity: {f['granularity']:.4g}; sensitivity {f['l2_sensitivity_steps']:.6g} steps",
            f"effective noise multiplier: {f['effective_noise_multiplier']:.6g}",
            f"loss against an ideal trusted server: {100 * f['rounding_loss']:.3f} % of noise",
            f"variance when nobody is lost: {f['variance_excess']:.3f} times what is counted",
            f"ring: {f['modulus_bits']} bits, wraparound in {f['wraparound_probability']:.1e} of rounds",
            f"upload: {f['upload_bytes']} bytes a client for {f['coordinates']} coordinates",
        ]


def plan_clients(
    cohort: Cohort,
    *,
    dimension: int,
    l2_clip_norm: float,
    noise_multiplier: float,
    law: str = "skellam",
    granularity: float | None = None,
    modulus_bits: int | None = None,
    neighboring_relation: NeighboringRelation = NeighboringRelation.REPLACE_SPECIAL,
) -> Plan:
    """A plan whose unit is the client: its whole contribution against an empty one.

    Parameters
    ----------
    cohort : Cohort
    dimension : int
        Length of the vector.
    l2_clip_norm : float
    noise_multiplier : float
        Standard deviation of an ideal trusted server's noise over the clip norm; the honest shares that are
        sure protect at least as well.
    law : "skellam" or "discrete_gaussian"
    granularity : float, optional
        See `ClientEncoding`.
    modulus_bits : int, optional
        By default the smallest ring that a round leaves with probability 2^-20 at most.
    neighboring_relation : NeighboringRelation
        REPLACE_SPECIAL: a client that takes part with an empty contribution, its share of noise present.
        REPLACE_ONE, which doubles the sensitivity when the event is priced.

    Raises
    ------
    UnsupportedError
        ADD_OR_REMOVE_ONE: an absent client's noise is absent as well, so that the sums differ in more than
        one contribution. Shares that are too small or too large for the law.
    InvalidArgumentError, InvalidTypeError
        An argument outside its domain; a ring that wraps around in more than 1e-3 of rounds.
    """
    if neighboring_relation not in CLIENT_RELATIONS:
        raise UnsupportedError(
            f"distributed noise of clients is not private under {neighboring_relation!r}: an absent client's "
            "share of noise is absent too; use REPLACE_SPECIAL (an empty contribution) or REPLACE_ONE"
        )
    encoding = ClientEncoding(dimension, l2_clip_norm, 0.0 if granularity is None else granularity)
    z = positive("noise_multiplier", noise_multiplier)
    return _plan(cohort, encoding, law, modulus_bits, neighboring_relation, z, None)


def plan_records(
    cohort: Cohort,
    encoding: RecordEncoding,
    *,
    noise_multiplier: float,
    sampling_probability: float,
    law: str = "skellam",
    modulus_bits: int | None = None,
    neighboring_relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
) -> Plan:
    """A plan whose unit is the record: each silo sums a secret Poisson sample of its clipped records.

    The sum is that of one private step on the pooled records, as if a trusted party had trained. A silo's
    draw is its own secret, and its noise is the same with and without a record, so that amplification by
    sampling holds against the server and all other silos.

    Parameters
    ----------
    cohort, noise_multiplier, law, modulus_bits : as for `plan_clients`
    encoding : RecordEncoding
        What is summed, and how far one record moves it.
    sampling_probability : float
        In (0, 1); 1 for all records in each round.
    neighboring_relation : NeighboringRelation
        Any; adding or removing a record by default.
    """
    if sampling_probability != 1.0:
        open_unit("sampling_probability", sampling_probability)
    if not isinstance(encoding, RecordEncoding):
        raise InvalidTypeError(f"encoding must be a RecordEncoding, got {encoding!r}")
    q = None if sampling_probability == 1.0 else float(sampling_probability)
    z = positive("noise_multiplier", noise_multiplier)
    return _plan(cohort, encoding, law, modulus_bits, neighboring_relation, z, q)


def _plan(
    cohort: Cohort,
    encoding: ClientEncoding | RecordEncoding,
    law: str,
    modulus_bits: int | None,
    relation: NeighboringRelation,
    noise_multiplier: float,
    sampling_probability: float | None,
) -> Plan:
    if not isinstance(cohort, Cohort):
        raise InvalidTypeError(f"cohort must be a Cohort, got {cohort!r}")
    if not isinstance(relation, NeighboringRelation):
        raise InvalidTypeError(f"neighboring_relation must be a NeighboringRelation, got {relation!r}")
    if law not in LAWS:
        raise InvalidArgumentError(f"law must be one of {', '.join(LAWS)}, got {law!r}")
    shares = shares_for(law, noise_multiplier, cohort.sure_shares, encoding.l2_sensitivity)
    return Plan(
        cohort=cohort,
        encoding=encoding,
        shares=shares,
        modulus_bits=_bits(cohort, encoding, shares, modulus_bits),
        relation=relation,
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
    )


def _bits(
    cohort: Cohort, encoding: ClientEncoding | RecordEncoding, shares: Shares, modulus_bits: int | None
) -> int:
    if modulus_bits is not None:
        return whole("modulus_bits", modulus_bits, minimum=1, maximum=wraparound.MAX_BITS)
    for bits in range(1, wraparound.MAX_BITS + 1):
        if _wraparound(cohort.num_clients, encoding, shares, bits) <= _WRAPAROUND:
            return bits
    raise UnsupportedError(f"no ring of up to {wraparound.MAX_BITS} bits holds these sums: use coarser steps")


def _wraparound(
    num_clients: int, encoding: ClientEncoding | RecordEncoding, shares: Shares, bits: int
) -> float:
    """For all clients alike, their contributions equal, as far as they can be from zero."""
    half = 2.0 ** (bits - 1)
    if isinstance(encoding, RecordEncoding):
        distance, signal = half - encoding.largest_level(num_clients), 0.0
        excess = encoding.excess_probability
    else:
        distance = half - num_clients  # a step for the rounding of each
        signal, excess = num_clients * num_clients * encoding.signal_variance, 0.0

    def log_moment(t: float) -> float:
        return 0.5 * signal * t * t + shares.log_moment(num_clients, t)

    return min(1.0, excess + wraparound.tail(log_moment, distance, encoding.length))


def _into_ring(levels: Levels, share: Levels, modulus_bits: int) -> npt.NDArray[Any]:
    if levels.dtype == np.int32:
        return _kernels.add_noise(levels, share, modulus_bits)
    lane = masks.lane_dtype(modulus_bits)
    return np.asarray((levels + share).astype(lane) & lane.type(2**modulus_bits - 1))


def _required(rotation_key: bytes | None) -> bytes:
    if rotation_key is None:
        raise InvalidTypeError("rotation_key must be 32 bytes for contributions of clients, got None")
    return rotation_key
