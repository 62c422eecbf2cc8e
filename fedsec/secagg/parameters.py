"""How many neighbours, shares and survivors one session takes, and why that many are enough.

`recommend` turns a cohort and the shares of it that may be corrupt or lost into `Parameters`; they refuse
values weaker than the bounds that docs/secagg_parameters.md derives, whoever chose them. All
probabilities are exact fractions of integers, so no rounding error stands between a bound and its limit.

The graph: all n clients of the configuration stand on a ring in uniformly random order, and each has
h = k/2 neighbours on either side, or all others on the complete graph. The corrupt clients are fixed before
the ring is drawn. Everything here holds for clients that check what the page says they check.

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
[BBG+20] Bell et al. Secure Single-Server Aggregation with (Poly)Logarithmic Overhead. CCS 2020.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from math import ceil, comb, log2

from fedsec._checks import probability, whole
from fedsec.errors import InvalidArgumentError, UnsupportedError
from fedsec.secagg.primitives.shamir import MAX_SHARES

MAX_CLIENTS = 2**32 - 1
MAX_BITS = 128

# Sessions that a client starts for one round. Each shows the server one more graph, and it goes on with the
# one it likes best; but with fewer, lost members of the committee would use them up.
MAX_ATTEMPTS = 64

# The committee is picked by a hash of the configuration, and a server can try session ids offline until it
# likes the committee. After 2^80 hashes it still owns one with probability 2^-(privacy_bits + 1) at most.
GRINDING_BITS = 80

# Where hardly anybody is corrupt fewer would do, until one client more than was thought is.
MIN_COMMITTEE = 8


def tail(population: int, marked: int, draws: int, at_least: int) -> Fraction:
    """P[X >= at_least], X the marked among `draws` out of `population` without replacement; exact."""
    low, high = max(0, draws - (population - marked)), min(draws, marked)
    if at_least <= low:
        return Fraction(1)
    if at_least > high:
        return Fraction(0)
    ways = comb(marked, at_least) * comb(population - marked, draws - at_least)
    total = 0
    for x in range(at_least, high + 1):
        total += ways  # of having exactly x; the next line divides without remainder
        ways = ways * (marked - x) * (draws - x) // ((x + 1) * (population - marked - draws + x + 1))
    return Fraction(total, comb(population, draws))


def isolation_limit(n: int, k: int, t: int, T: int) -> int:
    """So many corrupt neighbours expose an honest client: the smallest number that may.

    With t of them its secrets are open. With fewer, a server that hides from the client which peers take
    part, so that it masks towards t peers only, strips these masks if all honest ones among the t are
    missing from the T signers (at most n - T - 1 others are), and still finds t neighbours who open the
    self mask (so at least 2t - k of the peers are among them, and corrupt).
    """
    return min(t, max(2 * t - k, t - (n - T) + 1))


def isolation_risk(n: int, C: int, k: int, t: int, T: int) -> Fraction:
    """P[some honest client has `isolation_limit` corrupt neighbours], at most."""
    return (n - C) * tail(n - 1, C, k, isolation_limit(n, k, t, T))


def split_risk(n: int, C: int, k: int, t: int, T: int) -> Fraction:
    """P[a server that sees the ring can cut the honest signers in two], at most; 0 on the complete graph.

    A cut removes h clients in a row at two places. The last client before a gap needs t neighbours who open
    its self mask, at most h behind it: so t - h in each gap are corrupt. At most n - T are removed
    without being corrupt: so k - (n - T) in both gaps together are. (n (n - k - 1))/2 pairs of places.
    """
    h = k // 2
    each = tail(n, C, h, t - h) ** 2  # gaps are negatively associated: at most the product
    both = tail(n, C, k, k - (n - T))
    return Fraction(n * (n - k - 1), 2) * min(each, both)


def graph_risk(n: int, C: int, k: int, t: int, T: int) -> Fraction:
    """P[one uniformly random ring lets the server learn a partial sum], at most."""
    return isolation_risk(n, C, k, t, T) + split_risk(n, C, k, t, T)


def loss_risk(n: int, D: int, k: int, t: int) -> Fraction:
    """P[D clients, lost whatever the ring, leave some client fewer than t neighbours], at most."""
    too_many = k - t + 1
    survivors = (n - D) * tail(n - 1, D, k, too_many)
    return survivors + (D * tail(n - 1, D - 1, k, too_many) if D else 0)


def committee_risk(n: int, C: int, m: int) -> Fraction:
    """P[2^GRINDING_BITS committees of m include one that is all corrupt], at most."""
    return Fraction(comb(C, m) << GRINDING_BITS, comb(n, m))


def graphs_seen(n: int, C: int, T: int) -> int:
    """How many graphs that can still lead to a sum the server sees in one round, at most.

    Among the keys that were fixed before a ring was drawn are those of its T signers, so T - C honest
    clients started that session, and each of the n - C starts MAX_ATTEMPTS. T > (n + C)/2 keeps this below
    twice that.
    """
    return MAX_ATTEMPTS * (n - C) // (T - C)


def graph_risk_allowed(n: int, C: int, T: int, privacy_bits: int) -> Fraction:
    """What `graph_risk` may be at most: half of 2^-privacy_bits, shared out among the graphs seen."""
    return Fraction(1, graphs_seen(n, C, T) << (privacy_bits + 1))


@dataclass(frozen=True)
class Parameters:
    """The numbers of one session that its guarantees rest on; weaker ones than the bounds are refused.

    Parameters
    ----------
    num_clients : int, at least 3
        n, all participants of the configuration.
    max_corrupt : int in [0, n]
        C: clients, fixed before the session, that deviate and share all they know with the server.
    max_dropped : int in [0, n]
        D: clients lost for reasons that do not depend on the graph, corrupt ones that fall silent included.
    num_neighbors : int
        k: n - 1 for the complete graph, otherwise even and below n - 1; at most 255, since shares live in
        GF(2^8).
    threshold : int in [2, k]
        t: this many shares open a secret. A client keeps no share of its own secrets.
    min_survivors : int
        T: signatures under the set of survivors, in ((n + C)/2, n - D], and at least max(C, 1) + 2.
    privacy_bits : int in [1, 128]
        A round reveals more than one sum with probability at most 2^-privacy_bits. On the complete graph
        the probability is 0 (apart from the cryptography, which is not counted here).
    correctness_bits : int in [1, 128]
        With at most D lost, some secret cannot be opened with probability at most 2^-correctness_bits.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Naming the parameter or bound, the value reached and the value allowed.
    """

    num_clients: int
    max_corrupt: int
    max_dropped: int
    num_neighbors: int
    threshold: int
    min_survivors: int
    privacy_bits: int = 40
    correctness_bits: int = 20

    def __post_init__(self) -> None:
        n = whole("num_clients", self.num_clients, minimum=2, maximum=MAX_CLIENTS)
        ranges = {
            "num_clients": (2, MAX_CLIENTS),
            "max_corrupt": (0, n),
            "max_dropped": (0, n),
            "num_neighbors": (1, n - 1),
            "threshold": (2, None),
            "min_survivors": (1, n),
            "privacy_bits": (1, MAX_BITS),
            "correctness_bits": (1, MAX_BITS),
        }
        for name, (minimum, maximum) in ranges.items():
            value = whole(name, getattr(self, name), minimum=minimum, maximum=maximum)
            object.__setattr__(self, name, value)  # numpy integers become ints
        if weakness := _weakness(self):
            raise InvalidArgumentError(f"{weakness}; got {self}")

    def __str__(self) -> str:
        return ", ".join(f"{field.name} {getattr(self, field.name)}" for field in fields(self))

    @property
    def is_complete(self) -> bool:
        """Whether every client is every other's neighbour; then no ring is drawn."""
        return self.num_neighbors == self.num_clients - 1

    @cached_property
    def committee_size(self) -> int:
        """m: clients whose nonces draw the ring, so many that one is honest; 0 on the complete graph.

        The smallest m >= 8 (n at most) for which `committee_risk` is at most 2^-(privacy_bits + 1): the other
        half of the privacy budget.
        """
        if self.is_complete:
            return 0
        return _committee_size(self.num_clients, self.max_corrupt, self.privacy_bits)


def recommend(
    *,
    num_clients: int,
    corrupt_fraction: float,
    dropout_fraction: float,
    privacy_bits: int = 40,
    correctness_bits: int = 20,
) -> Parameters:
    """The cheapest parameters that meet every bound.

    T is n - D, the most that D losses leave: every bound gets easier as T rises. k is the smallest even
    number for which some t meets the bounds, or n - 1 where a sparse graph does not pay (see below). t is in
    the middle of the range that is left, rounded up: as far from what corruption needs as from what losses
    leave.

    A sparse graph costs two more phases and a committee that must answer in full. Up to 256 clients it is
    taken only if it halves the neighbours at least and its committee is at most a quarter of the cohort.

    Parameters
    ----------
    num_clients : int in [2, 2**32 - 1]
    corrupt_fraction, dropout_fraction : float in [0, 1]
        C and D are these times n, rounded up: the smallest counts that are, over n, at least these.
    privacy_bits, correctness_bits : int in [1, 128]
        See `Parameters`.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        An argument outside its domain.
    UnsupportedError
        No parameters meet the bounds: names the bound that fails, and what would help.
    """
    n = whole("num_clients", num_clients, minimum=2, maximum=MAX_CLIENTS)
    privacy_bits = whole("privacy_bits", privacy_bits, minimum=1, maximum=MAX_BITS)
    correctness_bits = whole("correctness_bits", correctness_bits, minimum=1, maximum=MAX_BITS)
    C = _rounded_up("corrupt_fraction", corrupt_fraction, n)
    D = _rounded_up("dropout_fraction", dropout_fraction, n)
    T = n - D
    if weakness := _survivors_weakness(n, C, D, T):
        raise UnsupportedError(
            f"{n} clients with {C} corrupt and {D} lost are infeasible: {weakness}; "
            "more clients, or fewer corrupt or lost ones, would help"
        )
    k, t = _sparse(n, C, D, privacy_bits, correctness_bits) or (0, 0)
    if n - 1 <= MAX_SHARES and not (k and _pays(n, k, _committee_size(n, C, privacy_bits))):
        k, t = n - 1, _middle(_least_complete_threshold(n, C, T), n - 1 - D)
    if not k:
        raise UnsupportedError(_out_of_neighbors(n, C, D, privacy_bits, correctness_bits))
    return Parameters(n, C, D, k, t, T, privacy_bits, correctness_bits)


def _rounded_up(name: str, fraction: object, n: int) -> int:
    share = probability(name, fraction)
    count = ceil(Fraction(share) * n)  # one too many where the double lies just above the count over n
    return count - 1 if count and (count - 1) / n >= share else count


# What is too weak, as a sentence that names the bound, the value reached and the value allowed.


def _weakness(p: Parameters) -> str | None:
    return (
        _survivors_weakness(p.num_clients, p.max_corrupt, p.max_dropped, p.min_survivors)
        or _neighbors_weakness(p)
        or (_complete_weakness(p) if p.is_complete else _sparse_weakness(p))
    )


def _survivors_weakness(n: int, C: int, D: int, T: int) -> str | None:
    if n + C >= 2 * T:
        return (
            f"min_survivors must be above (n + C)/2 = {(n + C) / 2:g}, or two different sets of survivors "
            f"could both be signed, and it is {T}"
        )
    if n - D < T:
        return f"min_survivors must be at most n - D = {n - D}, or D losses abort, and it is {T}"
    if T - max(C, 1) < 2:
        return (
            f"min_survivors - max(C, 1) must be at least 2, or a sum tells one client's vector, "
            f"and it is {T - max(C, 1)}"
        )
    return None


def _neighbors_weakness(p: Parameters) -> str | None:
    k, n = p.num_neighbors, p.num_clients
    if k > MAX_SHARES:
        return f"num_neighbors must be at most {MAX_SHARES}, as shares live in GF(2^8), and it is {k}"
    if k % 2 and not p.is_complete:
        return f"num_neighbors must be even or n - 1 = {n - 1}, and it is {k}"
    if p.threshold > k:
        return f"threshold must be at most num_neighbors = {k}, and it is {p.threshold}"
    return None


def _complete_weakness(p: Parameters) -> str | None:
    n, C, D, t = p.num_clients, p.max_corrupt, p.max_dropped, p.threshold
    least = _least_complete_threshold(n, C, p.min_survivors)
    if t < least:
        return (
            f"threshold on the complete graph must be at least {least}, or {C} corrupt clients and a server "
            f"that says who takes part open a vector, and it is {t}"
        )
    if t > n - 1 - D:
        return f"threshold on the complete graph must be at most n - 1 - D = {n - 1 - D}, and it is {t}"
    return None


def _sparse_weakness(p: Parameters) -> str | None:
    n, C, D, k, t, T = (
        p.num_clients,
        p.max_corrupt,
        p.max_dropped,
        p.num_neighbors,
        p.threshold,
        p.min_survivors,
    )
    allowed = graph_risk_allowed(n, C, T, p.privacy_bits)
    if graph_risk(n, C, k, t, T) > allowed:
        return _graph_weakness(n, C, k, t, T, allowed)
    risk, allowed = loss_risk(n, D, k, t), Fraction(1, 1 << p.correctness_bits)
    if risk > allowed:
        return (
            f"the probability that {D} losses leave some client fewer than {t} neighbours is bounded by "
            f"{_power(risk)}, and {_power(allowed)} is allowed"
        )
    return None


def _graph_weakness(n: int, C: int, k: int, t: int, T: int, allowed: Fraction) -> str:
    isolation, split = isolation_risk(n, C, k, t, T), split_risk(n, C, k, t, T)
    return (
        f"the probability that a graph isolates or splits honest clients is bounded by "
        f"{_power(isolation + split)} (isolates: {_power(isolation)}, splits: {_power(split)}), and "
        f"{_power(allowed)} is allowed"
    )


def _out_of_neighbors(n: int, C: int, D: int, privacy_bits: int, correctness_bits: int) -> str:
    k, T = min(n - 2, MAX_SHARES) // 2 * 2, n - D
    t = _most_threshold(n, D, k, correctness_bits)
    reached = _graph_weakness(n, C, k, t, T, graph_risk_allowed(n, C, T, privacy_bits))
    return (
        f"{n} clients with {C} corrupt and {D} lost need more than {MAX_SHARES} neighbours, and shares live "
        f"in GF(2^8). With {k} neighbours and threshold {t}, the most that {correctness_bits} bits of "
        f"correctness leave, {reached}; fewer corrupt or lost clients, fewer bits, or at most "
        f"{MAX_SHARES + 1} clients would help"
    )


def _power(risk: Fraction) -> str:
    """2^x with x rounded up to a tenth."""
    if not risk:
        return "0"
    exponent = log2(risk.numerator) - log2(risk.denominator)
    return f"2^{ceil(10 * exponent) / 10:g}"


# The search.


def _sparse(n: int, C: int, D: int, privacy_bits: int, correctness_bits: int) -> tuple[int, int] | None:
    """The smallest even k below n - 1 for which some t meets the bounds, and t; None if none does.

    Privacy only gains from a larger t and correctness only loses, so a k is feasible if the largest t that
    correctness leaves is private.
    """
    T = n - D
    allowed = graph_risk_allowed(n, C, T, privacy_bits)
    for k in range(2, min(n - 2, MAX_SHARES) + 1, 2):
        most = _most_threshold(n, D, k, correctness_bits)
        if most >= 2 and graph_risk(n, C, k, most, T) <= allowed:
            return k, _middle(_least_private_threshold(n, C, k, T, allowed), most)
    return None


def _least_private_threshold(n: int, C: int, k: int, T: int, allowed: Fraction) -> int:
    """The smallest t in [2, k] that is private; k if none is."""
    return 2 + bisect_left(range(2, k), True, key=lambda t: graph_risk(n, C, k, t, T) <= allowed)


def _most_threshold(n: int, D: int, k: int, correctness_bits: int) -> int:
    """The largest t in [0, k] that D losses leave; t = 0 always is."""
    allowed = Fraction(1, 1 << correctness_bits)
    return bisect_left(range(1, k + 1), True, key=lambda t: loss_risk(n, D, k, t) > allowed)


def _least_complete_threshold(n: int, C: int, T: int) -> int:
    """The smallest t >= 2 with fewer than `isolation_limit` corrupt clients."""
    return next(t for t in range(2, n + C + 1) if isolation_limit(n, n - 1, t, T) > C)


def _committee_size(n: int, C: int, privacy_bits: int) -> int:
    allowed = Fraction(1, 1 << (privacy_bits + 1))
    m = min(MIN_COMMITTEE, n)
    while committee_risk(n, C, m) > allowed:  # ends: no committee of C + 1 <= n is all corrupt
        m += 1
    return m


def _pays(n: int, k: int, m: int) -> bool:
    return 2 * k <= n - 1 and 4 * m <= n


def _middle(least: int, most: int) -> int:
    return (least + most + 1) // 2
