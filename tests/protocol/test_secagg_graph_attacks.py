"""A server that sees the graph chooses who drops and who is told what: what it learns, sum by sum.

The model below knows the rules by which honest clients accept peers, sign and open, and nothing else of the
package: it says which sums the pooled views of server and corrupt clients give away. Attackers search for a
ring that lets them learn more than one sum; where parameters are weak they find one in (nearly) every ring,
and on rings for recommended parameters they find none.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, combinations, product

import pytest

from fedsec.errors import InvalidArgumentError
from fedsec.secagg.parameters import Parameters, graph_risk, isolation_limit, recommend, split_risk, tail

SEEDS = range(20)


def neighborhoods(ring, k):
    """The Harary graph: each client and the k/2 before and after it on the ring; k = n - 1 is complete."""
    n = len(ring)
    if k == n - 1:
        return {u: set(ring) - {u} for u in ring}
    steps = [step for step in range(-(k // 2), k // 2 + 1) if step]
    return {u: {ring[(at + step) % n] for step in steps} for at, u in enumerate(ring)}


@dataclass
class Session:
    """What the server arranged. Clients accept all their neighbours unless `accepted` says otherwise."""

    neighbors: dict[int, set[int]]
    corrupt: set[int]
    t: int
    T: int
    dropped: set[int] = field(default_factory=set)
    unasked: set[int] = field(default_factory=set)  # never asked to sign, or their signatures left out
    accepted: dict[int, set[int]] = field(default_factory=dict)

    def __post_init__(self):
        self.survivors = set(self.neighbors) - self.dropped
        self.honest = self.survivors - self.corrupt
        self.accepted = {u: self.accepted.get(u, self.neighbors[u]) for u in self.honest}
        assert all(len(peers) >= self.t for peers in self.accepted.values())  # else no upload

    def signs(self, u):
        """Its neighbours among the survivors are all accepted, and at least t."""
        alive = self.neighbors[u] & self.survivors
        return u not in self.unasked and len(alive) >= self.t and alive <= self.accepted[u]

    def sums(self):
        """The sets of honest clients whose sums are learned, and the honest signers."""
        signers = {u for u in self.honest if self.signs(u)}
        if len(signers) + len(self.survivors & self.corrupt) < self.T:
            return [], signers  # no quorum: nobody opens anything
        openers = signers | self.corrupt
        hidden = {u for u in self.honest if len(self.neighbors[u] & openers) < self.t or self._one_sided(u)}
        return [group for group in self._groups() if not group & hidden], signers

    def _one_sided(self, u):
        """Whether u added a mask that the other one did not."""
        return any(u not in self.accepted[v] for v in self.accepted[u] & self.honest)

    def _groups(self):
        """Honest survivors, together if masks cancel between them."""
        left = set(self.honest)
        while left:
            group, border = set(), {left.pop()}
            while border:
                u = border.pop()
                group.add(u)
                found = {v for v in self.accepted[u] & left if u in self.accepted[v]}
                border |= found
                left -= found
            yield group

    def broken(self):
        """Whether a sum without some honest signer is learned, or the secrets of a client are."""
        sums, signers = self.sums()
        open_clients = any(len(self.neighbors[u] & self.corrupt) >= self.t for u in self.honest)
        return open_clients or any(not signers <= members for members in sums)


# --- every ring of eight ---


def subsets(items, sizes):
    return chain.from_iterable(combinations(items, size) for size in sizes)


def arrangements(neighbors, honest, t, most_missing):
    """All that a server can do to those who do not sign: drop them, or tell them of t peers or more."""
    for missing in subsets(honest, range(most_missing + 1)):
        choices = [[None, *map(set, subsets(neighbors[u], range(t, len(neighbors[u]) + 1)))] for u in missing]
        for told in product(*choices):
            accepted = {u: peers for u, peers in zip(missing, told, strict=True) if peers is not None}
            yield {"dropped": set(missing) - set(accepted), "unasked": set(accepted), "accepted": accepted}


def breakable(n, k, corrupt, t, T):
    neighbors = neighborhoods(range(n), k)
    honest = [u for u in range(n) if u not in corrupt]
    return any(
        Session(neighbors, set(corrupt), t, T, **arranged).broken()
        for arranged in arrangements(neighbors, honest, t, n - T)
    )


def bad(n, k, corrupt, t, T):
    """What the bounds count: a client with too many corrupt neighbours, or two gaps with enough of them."""
    h, marks = k // 2, [int(u in corrupt) for u in range(n)]
    gaps = [sum(marks[(at + step) % n] for step in range(h)) for at in range(n)]
    near = [gaps[(u + 1) % n] + gaps[(u - h) % n] for u in range(n) if not marks[u]]
    return max(near) >= isolation_limit(n, k, t, T) or any(
        min(gaps[a], gaps[b]) >= t - h and gaps[a] + gaps[b] >= k - (n - T)
        for a, b in combinations(range(n), 2)
        if h < b - a < n - h
    )


@pytest.mark.parametrize(
    ("n", "k", "C", "t", "T"),
    [
        (8, 4, 2, 3, 6),
        (8, 4, 1, 3, 5),
        (8, 4, 3, 4, 6),
        (9, 6, 3, 5, 7),
        (10, 4, 4, 4, 8),
        (10, 4, 4, 3, 9),
        (10, 4, 5, 4, 9),
        (12, 4, 4, 4, 9),
    ],
)
def test_no_arrangement_breaks_a_ring_that_the_bounds_call_good(n, k, C, t, T):
    """By symmetry a fixed ring with random corrupt places, one of them the first."""
    broken = total = 0
    for others in combinations(range(1, n), C - 1):
        corrupt = {0, *others}
        total += 1
        if breakable(n, k, corrupt, t, T):
            broken += 1
            assert bad(n, k, corrupt, t, T), corrupt
    assert Fraction(broken, total) <= graph_risk(n, C, k, t, T)


def test_complete_graphs_of_six_break_exactly_where_parameters_are_refused():
    for C, t, T in product(range(4), range(2, 6), range(3, 7)):
        if T > (6 + C) / 2 and T - max(C, 1) >= 2:
            fine = True
            try:
                Parameters(6, C, min(6 - T, 5 - t), 5, t, T)
            except InvalidArgumentError:
                fine = False
            assert breakable(6, 5, set(range(C)), t, T) is not fine, (C, t, T)


# --- attackers on large rings ---


def drawn(n, C, seed):
    """A ring and the corrupt clients, drawn apart from each other."""
    rng = random.Random(seed)  # noqa: S311
    return rng.sample(range(n), n), set(rng.sample(range(n), C))


def cuts(ring, corrupt, k, t, T, arc):
    """Pairs of gaps worth a try, most corrupt first, that leave at least `arc` places on either side."""
    n, h = len(ring), k // 2
    marks = [int(u in corrupt) for u in ring] * 2
    inside = [sum(marks[at : at + h]) for at in range(n)]
    starts = sorted((at for at in range(n) if inside[at] >= t - h), key=lambda at: -inside[at])
    for a, b in combinations(starts, 2):
        if inside[a] + inside[b] < k - (n - T):
            if b == starts[starts.index(a) + 1]:
                return  # all that follow have fewer
            continue
        if h + arc <= abs(a - b) <= n - h - arc:
            yield {ring[(start + step) % n] for start in (a, b) for step in range(h)} - corrupt


def cut_attack(ring, corrupt, k, t, T, tries=5):
    """Drops two gaps so that both sides get opened; the two sums, if it works."""
    for _, dropped in zip(range(tries), cuts(ring, corrupt, k, t, T, arc=k), strict=False):
        sums, _ = Session(neighborhoods(ring, k), corrupt, t, T, dropped).sums()
        if len(sums) > 1:
            return sums
    return None


def isolation_attack(ring, corrupt, k, t, T):
    """Tells a victim of t peers only, all corrupt ones among them, and drops the honest ones."""
    neighbors = neighborhoods(ring, k)
    victim = max((u for u in ring if u not in corrupt), key=lambda u: len(neighbors[u] & corrupt))
    peers = sorted(neighbors[victim], key=lambda v: v not in corrupt)[:t]
    session = Session(neighbors, corrupt, t, T, set(peers) - corrupt, accepted={victim: set(peers)})
    return {victim} in session.sums()[0]


def test_a_third_of_the_neighbours_is_broken_in_every_ring():
    """Enough against losses that the graph does not know of; n, C, k and T as recommended."""
    for seed in SEEDS:
        ring, corrupt = drawn(1000, 50, seed)
        sums = cut_attack(ring, corrupt, 58, 19, 950)
        assert sums is not None
        assert len(sums) == 2
        assert min(map(len, sums)) >= 20
        assert isolation_attack(ring, corrupt, 58, 19, 950)


def test_the_same_number_of_neighbours_with_fewer_survivors():
    for seed in SEEDS:
        ring, corrupt = drawn(1000, 50, seed)
        assert cut_attack(ring, corrupt, 100, 34, 700) is not None


@pytest.mark.parametrize(("n", "corrupt", "lost"), [(1000, 0.05, 0.05), (300, 0.1, 0.1), (1000, 0.2, 0.05)])
def test_recommended_parameters_leave_the_same_attackers_nothing(n, corrupt, lost):
    p = recommend(num_clients=n, corrupt_fraction=corrupt, dropout_fraction=lost)
    k, t, T = p.num_neighbors, p.threshold, p.min_survivors
    for seed in SEEDS:
        ring, pooled = drawn(n, p.max_corrupt, seed)
        assert next(cuts(ring, pooled, k, t, T, arc=1), None) is None
        assert not isolation_attack(ring, pooled, k, t, T)


def test_without_the_isolation_bound_clients_would_be_picked_out():
    """k, t, T for which secrets stay closed and rings hold together, and yet any client can be picked out."""
    n, C, k, t, T = 300, 15, 32, 16, 285
    assert (n - C) * tail(n - 1, C, k, t) + split_risk(n, C, k, t, T) <= Fraction(1, 2**47)
    for seed in SEEDS:
        ring, corrupt = drawn(n, C, seed)
        assert cut_attack(ring, corrupt, k, t, T) is None
        assert isolation_attack(ring, corrupt, k, t, T)
    with pytest.raises(InvalidArgumentError, match="isolates"):
        Parameters(n, C, 15, k, t, T)


def test_the_complete_graph_has_the_same_weakness_below_its_least_threshold():
    ring, corrupt = drawn(100, 5, 0)
    for t in range(6, 10):  # more than the corrupt clients, and still too few
        assert isolation_attack(ring, corrupt, 99, t, 95)
        with pytest.raises(InvalidArgumentError, match="at least 10"):
            Parameters(100, 5, 5, 99, t, 95)
    assert not isolation_attack(ring, corrupt, 99, 10, 95)
    Parameters(100, 5, 5, 99, 10, 95)


def test_an_honest_session_gives_one_sum():
    """The model at rest: random losses, nothing hidden, one sum over all honest survivors."""
    p = recommend(num_clients=300, corrupt_fraction=0.05, dropout_fraction=0.05)
    for seed in SEEDS:
        ring, corrupt = drawn(300, 15, seed)
        lost = set(random.Random(-seed).sample(ring, 15))  # noqa: S311
        session = Session(
            neighborhoods(ring, p.num_neighbors), corrupt, p.threshold, p.min_survivors, dropped=lost
        )
        assert session.sums()[0] == [set(ring) - lost - corrupt]
