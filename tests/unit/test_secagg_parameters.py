"""Parameters: the bounds in exact arithmetic, what is refused and how, and what is recommended."""

import re
from fractions import Fraction
from itertools import combinations
from math import comb, log2
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.errors import InvalidArgumentError, InvalidTypeError, UnsupportedError
from fedsec.secagg.parameters import (
    GRINDING_BITS,
    MAX_ATTEMPTS,
    Parameters,
    committee_risk,
    graph_risk,
    graph_risk_allowed,
    graphs_seen,
    isolation_limit,
    isolation_risk,
    loss_risk,
    recommend,
    split_risk,
    tail,
)

PAGE = Path(__file__).parents[2] / "docs" / "secagg_parameters.md"
GOOD = {
    "num_clients": 1000,
    "max_corrupt": 50,
    "max_dropped": 50,
    "num_neighbors": 58,
    "threshold": 42,
    "min_survivors": 950,
}
COMPLETE = {
    "num_clients": 10,
    "max_corrupt": 2,
    "max_dropped": 1,
    "num_neighbors": 9,
    "threshold": 6,
    "min_survivors": 9,
}


def bits(risk):
    return log2(risk.numerator) - log2(risk.denominator)


def recommended(n, corrupt=0.05, dropout=0.05, **more):
    return recommend(num_clients=n, corrupt_fraction=corrupt, dropout_fraction=dropout, **more)


# --- probabilities ---


def counted(population, marked, draws, at_least):
    """The tail by the textbook, term by term."""
    terms = (
        Fraction(comb(marked, x) * comb(population - marked, draws - x), comb(population, draws))
        for x in range(max(at_least, 0), draws + 1)
        if draws - x <= population - marked
    )
    return sum(terms, Fraction(0))


def test_tails_are_exact_for_every_small_urn():
    for population in range(9):
        for marked in range(population + 1):
            for draws in range(population + 1):
                for at_least in range(-2, draws + 3):
                    case = (population, marked, draws, at_least)
                    assert tail(*case) == counted(*case), case


def test_a_tail_is_the_share_of_samples_that_reach_it():
    samples = [sum(x < 4 for x in sample) for sample in combinations(range(9), 5)]
    for at_least in range(6):
        hits = sum(marked >= at_least for marked in samples)
        assert tail(9, 4, 5, at_least) == Fraction(hits, len(samples))


@pytest.mark.parametrize(
    "case", [(999, 50, 58, 26), (999, 330, 240, 136), (99_999, 5000, 80, 36), (10**6 - 1, 10**5, 168, 70)]
)
def test_large_tails_agree_with_gamma_functions(case):
    population, marked, draws, at_least = case
    with mpmath.workdps(60):
        ways = mpmath.fsum(
            mpmath.binomial(marked, x) * mpmath.binomial(population - marked, draws - x)
            for x in range(at_least, draws + 1)
        )
        truth = mpmath.log(ways / mpmath.binomial(population, draws), 2)
        assert abs(bits(tail(*case)) / truth - 1) < 1e-12


small = st.integers(4, 40).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.integers(0, n // 3),
        st.integers(0, n // 3),
        st.integers(1, (n - 2) // 2).map(lambda h: 2 * h),
    )
)


@settings(deadline=None)
@given(small, st.data())
def test_bounds_are_the_formulas_of_the_page(setting, data):
    n, C, D, k = setting
    t = data.draw(st.integers(2, k))
    T = data.draw(st.integers(n // 2, n))
    h = k // 2
    exposed = min(t, max(2 * t - k, t - (n - T) + 1))
    assert isolation_risk(n, C, k, t, T) == (n - C) * counted(n - 1, C, k, exposed)
    pairs = Fraction(n * (n - k - 1), 2)
    assert split_risk(n, C, k, t, T) == pairs * min(
        counted(n, C, h, t - h) ** 2, counted(n, C, k, k - (n - T))
    )
    lost = (n - D) * counted(n - 1, D, k, k - t + 1)
    assert loss_risk(n, D, k, t) == lost + (D * counted(n - 1, D - 1, k, k - t + 1) if D else 0)


@settings(deadline=None)
@given(small, st.data())
def test_what_makes_bounds_smaller(setting, data):
    n, C, D, k = setting
    t = data.draw(st.integers(2, k))
    T = data.draw(st.integers(n // 2, n - 1))
    assert graph_risk(n, C, k, t, T + 1) <= graph_risk(n, C, k, t, T)
    assert loss_risk(n, D, k, t - 1) <= loss_risk(n, D, k, t) <= loss_risk(n, D + 1, k, t)
    assert tail(n, C, k, t) <= tail(n, C + 1, k, t)
    if t < k:
        assert graph_risk(n, C, k, t + 1, T) <= graph_risk(n, C, k, t, T)


def test_losses_leave_too_few_neighbours_as_often_as_counted():
    """All sets of D lost clients on the ring of 8 against the union bound, which is exact for one client."""
    n, D, k, t = 8, 3, 4, 3
    ring = [{(u + step) % n for step in (-2, -1, 1, 2)} for u in range(n)]
    short = [sum(len(ring[u] - set(lost)) < t for u in range(n)) for lost in combinations(range(n), D)]
    assert loss_risk(n, D, k, t) == Fraction(sum(short), len(short))
    assert sum(map(bool, short)) <= sum(short)


def test_graphs_seen_grow_with_what_the_server_may_leave_out():
    assert graphs_seen(1000, 0, 1000) == MAX_ATTEMPTS
    assert graphs_seen(1000, 50, 950) == 67
    for n, C in [(3, 0), (10, 3), (1000, 330)]:
        assert graphs_seen(n, C, (n + C) // 2 + 1) < 2 * MAX_ATTEMPTS


# --- what is refused ---


def test_good_parameters():
    sparse, complete = Parameters(**GOOD), Parameters(**COMPLETE)
    assert (sparse.privacy_bits, sparse.correctness_bits) == (40, 20)
    assert not sparse.is_complete
    assert complete.is_complete
    assert complete.committee_size == 0
    assert sparse == Parameters(**GOOD | {"threshold": np.int64(42)})
    assert type(Parameters(**GOOD | {"threshold": np.int64(42)}).threshold) is int


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_clients": 1}, "num_clients must be in .* got 1"),
        ({"max_corrupt": -1}, r"max_corrupt must be in \[0, 1000\], got -1"),
        ({"max_dropped": 1001}, r"max_dropped must be in \[0, 1000\], got 1001"),
        ({"num_neighbors": 0}, r"num_neighbors must be in \[1, 999\], got 0"),
        ({"num_neighbors": 1000}, r"num_neighbors must be in \[1, 999\], got 1000"),
        (
            {"num_neighbors": 256},
            r"num_neighbors must be at most 255, as shares live in GF\(2\^8\), and it is 256",
        ),
        ({"num_neighbors": 999}, "num_neighbors must be at most 255, .* and it is 999"),
        ({"num_neighbors": 57}, "num_neighbors must be even or n - 1 = 999, and it is 57"),
        ({"threshold": 1}, "threshold must be at least 2, got 1"),
        ({"threshold": 59}, "threshold must be at most num_neighbors = 58, and it is 59"),
        (
            {"threshold": 41},
            r"isolates or splits .* bounded by 2\^-39\.3.* and 2\^-47 is allowed; got num_clients",
        ),
        (
            {"threshold": 43},
            r"50 losses leave some client fewer than 43 .* by 2\^-1\d.* and 2\^-20 is allowed",
        ),
        ({"num_neighbors": 56, "threshold": 41}, r"and 2\^-20 is allowed"),
        ({"num_neighbors": 56, "threshold": 40}, r"and 2\^-47 is allowed"),
        ({"min_survivors": 951}, "min_survivors must be at most n - D = 950, .* it is 951"),
        ({"min_survivors": 525}, r"min_survivors must be above \(n \+ C\)/2 = 525, .* it is 525"),
        ({"max_corrupt": 51}, "is allowed"),
        ({"privacy_bits": 44}, r"\(isolates: 2\^-6\d.*, splits: 2\^-4.*\), and 2\^-51 is allowed"),
        ({"correctness_bits": 30}, r"2\^-30 is allowed"),
        ({"privacy_bits": 0}, r"privacy_bits must be in \[1, 128\], got 0"),
        ({"correctness_bits": 129}, r"correctness_bits must be in \[1, 128\], got 129"),
    ],
)
def test_weaker_parameters_are_refused_with_the_bound_and_both_values(changes, named):
    with pytest.raises(InvalidArgumentError, match=named):
        Parameters(**GOOD | changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"threshold": 2}, "threshold on the complete graph must be at least 3, or 2 corrupt .* it is 2"),
        ({"threshold": 9}, "threshold on the complete graph must be at most n - 1 - D = 8, and it is 9"),
        ({"min_survivors": 6}, r"min_survivors must be above \(n \+ C\)/2 = 6, .* it is 6"),
        ({"min_survivors": 10}, "min_survivors must be at most n - D = 9, .* it is 10"),
        ({"max_corrupt": 8}, r"min_survivors must be above \(n \+ C\)/2 = 9"),
        (
            {"max_corrupt": 8, "max_dropped": 0, "min_survivors": 9, "num_clients": 9, "num_neighbors": 8},
            r"min_survivors - max\(C, 1\) must be at least 2, .* it is 1",
        ),
        (
            {"num_clients": 2, "num_neighbors": 1, "max_corrupt": 0, "max_dropped": 0, "min_survivors": 2},
            r"min_survivors - max\(C, 1\) must be at least 2, .* it is 1",
        ),
    ],
)
def test_weaker_parameters_of_a_complete_graph_are_refused(changes, named):
    with pytest.raises(InvalidArgumentError, match=named):
        Parameters(**COMPLETE | changes)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [1.0, True, "5", None])
def test_what_is_no_whole_number_is_refused(name, value):
    with pytest.raises(InvalidTypeError, match=name):
        Parameters(**GOOD | {name: value})


def test_all_that_a_complete_graph_of_six_accepts():
    """The conditions as the page words them: t peers and the signers have an honest client in common."""
    for C in range(6):
        for D in range(6):
            for t in range(2, 6):
                for T in range(1, 7):
                    signed_once = (6 + C) / 2 < T <= 6 - D and T - max(C, 1) >= 2
                    attached = t > C + (6 - T) - 1 or 2 * t > 5 + C
                    fine = signed_once and C < t <= 5 - D and attached
                    try:
                        Parameters(6, C, D, 5, t, T)
                    except InvalidArgumentError:
                        assert not fine, (C, D, t, T)
                    else:
                        assert fine, (C, D, t, T)


# --- the committee ---


@pytest.mark.parametrize("corrupt", [0.0, 0.01, 0.05, 0.2, 0.33])
@pytest.mark.parametrize("privacy_bits", [20, 40])
def test_the_committee_is_the_smallest_that_grinding_cannot_own(corrupt, privacy_bits):
    parameters = recommended(1000, corrupt, 0.05, privacy_bits=privacy_bits)
    C, m = parameters.max_corrupt, parameters.committee_size
    owned = [Fraction(comb(C, size), comb(1000, size)) * 2**GRINDING_BITS for size in range(m + 1)]
    assert owned[m] == committee_risk(1000, C, m) <= Fraction(1, 2 ** (privacy_bits + 1))
    assert m == 8 or owned[m - 1] > Fraction(1, 2 ** (privacy_bits + 1))


def test_the_whole_budget_of_privacy():
    p = recommended(1000, 0.2, 0.05)
    graph = graph_risk(1000, 200, p.num_neighbors, p.threshold, 950) * graphs_seen(1000, 200, 950)
    assert graph + committee_risk(1000, 200, p.committee_size) <= Fraction(1, 2**40)
    assert graph_risk_allowed(1000, 200, 950, 40) * graphs_seen(1000, 200, 950) == Fraction(1, 2**41)


# --- what is recommended ---


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 400), st.data())
def test_a_count_over_the_cohort_is_that_count(n, data):
    count = data.draw(st.integers(0, n))
    try:
        assert recommended(n, 0.0, count / n).max_dropped == count
    except UnsupportedError as refusal:
        named = re.search(r"with 0 corrupt and (\d+) lost", str(refusal))
    else:
        return
    assert int(named[1]) == count


def test_the_example_of_a_thousand_clients():
    assert recommended(1000) == Parameters(**GOOD)
    assert recommended(1000).committee_size == 26


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 3000),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.integers(1, 60),
    st.integers(1, 40),
)
def test_recommendations_meet_every_bound(n, corrupt, dropout, privacy_bits, correctness_bits):
    try:
        p = recommended(n, corrupt, dropout, privacy_bits=privacy_bits, correctness_bits=correctness_bits)
    except UnsupportedError:
        return
    C, D, k, t, T = p.max_corrupt, p.max_dropped, p.num_neighbors, p.threshold, p.min_survivors
    assert C / n >= corrupt
    assert C == 0 or (C - 1) / n < corrupt
    assert D / n >= dropout
    assert D == 0 or (D - 1) / n < dropout
    assert (n + C) / 2 < T == n - D
    if p.is_complete:
        assert isolation_limit(n, k, t, T) > C
        assert t <= n - 1 - D
    else:
        assert graph_risk(n, C, k, t, T) * graphs_seen(n, C, T) <= Fraction(1, 2 ** (privacy_bits + 1))
        assert loss_risk(n, D, k, t) <= Fraction(1, 2**correctness_bits)
        assert committee_risk(n, C, p.committee_size) <= Fraction(1, 2 ** (privacy_bits + 1))


@pytest.mark.parametrize(
    ("n", "corrupt", "dropout"), [(300, 0.05, 0.05), (1000, 0.05, 0.05), (400, 0.2, 0.02)]
)
def test_no_smaller_graph_would_do(n, corrupt, dropout):
    best = recommended(n, corrupt, dropout)
    C, D, T = best.max_corrupt, best.max_dropped, best.min_survivors
    allowed = graph_risk_allowed(n, C, T, 40)
    for k in range(2, best.num_neighbors, 2):
        for t in range(2, k + 1):
            assert loss_risk(n, D, k, t) > 2**-20 or graph_risk(n, C, k, t, T) > allowed, (k, t)


@settings(max_examples=20, deadline=None)
@given(st.integers(300, 2000), st.integers(10, 40), st.integers(5, 20))
def test_more_bits_never_take_fewer_neighbours(n, privacy_bits, correctness_bits):
    def neighbors(**more):
        return recommended(
            n, **{"privacy_bits": privacy_bits, "correctness_bits": correctness_bits} | more
        ).num_neighbors

    assert neighbors(privacy_bits=privacy_bits + 5) >= neighbors()
    assert neighbors(correctness_bits=correctness_bits + 5) >= neighbors()


def test_small_cohorts_get_the_complete_graph():
    for n in (4, 10, 30):
        p = recommended(n)
        assert p.is_complete
        assert p.num_neighbors == n - 1
    assert recommended(100, 0.33, 0.1).is_complete
    assert not recommended(256).is_complete


def test_the_threshold_of_a_complete_graph_is_in_the_middle():
    p = recommended(10, 0.2, 0.1)
    assert (p.max_corrupt, p.max_dropped, p.min_survivors) == (2, 1, 9)
    for t in (3, 8):
        Parameters(10, 2, 1, 9, t, 9)
    for t in (2, 9):
        with pytest.raises(InvalidArgumentError, match="threshold on the complete graph"):
            Parameters(10, 2, 1, 9, t, 9)
    assert p.threshold == 6


@pytest.mark.parametrize(
    ("fraction", "n", "count"),
    [
        (0.07, 100, 7),
        (0.29, 100, 29),
        (1 / 3, 300, 100),
        (49 / 300, 300, 49),
        (5e-324, 50, 1),
        (0.0501, 1000, 51),
        (0.0, 50, 0),
    ],
)
def test_fractions_of_the_cohort_are_rounded_up(fraction, n, count):
    assert recommended(n, fraction, 0.0).max_corrupt == count
    assert recommended(n, np.float64(fraction), 0).max_corrupt == count


@pytest.mark.parametrize(
    ("n", "corrupt", "dropout", "reason"),
    [
        (
            3,
            0.3,
            0.3,
            r"^3 clients with 1 corrupt and 1 lost are infeasible: min_survivors .* above \(n \+ C\)/2 = 2",
        ),
        (
            1000,
            0.4,
            0.3,
            r"400 corrupt and 300 lost are infeasible: .* above \(n \+ C\)/2 = 700, .* it is 700",
        ),
        (2, 0.0, 0.0, r"2 clients .* min_survivors - max\(C, 1\) must be at least 2, .* it is 1"),
        (1000, 1.0, 0.0, "1000 corrupt and 0 lost are infeasible"),
        (
            3000,
            0.33,
            0.1,
            r"need more than 255 neighbours, and shares live in GF\(2\^8\).*2\^-23\.7.*2\^-47\.2 is allowed",
        ),
        (10**6, 0.9, 0.0, "need more than 255 neighbours"),
        (1000, 0.0, 0.49, "need more than 255 neighbours"),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_reason_and_a_way_out(n, corrupt, dropout, reason):
    with pytest.raises(UnsupportedError, match=reason) as refused:
        recommended(n, corrupt, dropout)
    assert "would help" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"num_clients": 1}, InvalidArgumentError, "num_clients"),
        ({"num_clients": 10.0}, InvalidTypeError, "num_clients"),
        ({"corrupt_fraction": 1.1}, InvalidArgumentError, "corrupt_fraction"),
        ({"corrupt_fraction": float("nan")}, InvalidArgumentError, "corrupt_fraction"),
        ({"dropout_fraction": -0.1}, InvalidArgumentError, "dropout_fraction"),
        ({"dropout_fraction": "some"}, InvalidTypeError, "dropout_fraction"),
        ({"privacy_bits": 0}, InvalidArgumentError, "privacy_bits"),
        ({"correctness_bits": 2.5}, InvalidTypeError, "correctness_bits"),
    ],
)
def test_arguments_outside_their_domain(changes, error, named):
    with pytest.raises(error, match=named):
        recommend(**{"num_clients": 10, "corrupt_fraction": 0.1, "dropout_fraction": 0.1} | changes)


def cell(n, corrupt, dropout):
    try:
        p = recommended(n, corrupt, dropout)
    except UnsupportedError:
        return "refused"
    return f"{p.num_neighbors}, {p.threshold}, {p.min_survivors}, {p.committee_size}"


def test_the_table_of_the_page():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [int(n) for n, _ in rows] == [10, 30, 100, 300, 1000, 3000, 10_000, 100_000]
    for n, cells in rows:
        shares = [(0.05, 0.05), (0.1, 0.1), (0.2, 0.05), (0.33, 0.1)]
        assert cells.split(" | ") == [cell(int(n), *share) for share in shares], n
