"""Plans with the noise inside the sum: sizes, refusals, what is shown; whole rounds through the protocol."""

import math
import os

import numpy as np
import pytest
from scipy import stats

import fedsec
from fedsec import _kernels, distributed, masks, secagg
from fedsec.accounting import NeighboringRelation, integer_noise
from fedsec.distributed import wraparound
from fedsec.errors import InvalidArgumentError, InvalidTypeError, UnsupportedError

KEY = bytes(range(32))
COHORT = distributed.Cohort(num_clients=10, min_survivors=8, max_corrupt=1)
LAWS = ["skellam", "discrete_gaussian"]
RELATIONS = NeighboringRelation


def clients(cohort=COHORT, **changes):
    arguments = {"dimension": 1000, "l2_clip_norm": 1.0, "noise_multiplier": 1.0}
    return distributed.plan_clients(cohort, **arguments | changes)


def records(cohort=COHORT, **changes):
    encoding = distributed.RecordEncoding(dimension=500, l2_clip_norm=1.0, max_sum=100.0)
    arguments = {"noise_multiplier": 1.0, "sampling_probability": 0.02}
    return distributed.plan_records(cohort, encoding, **arguments | changes)


# ---- who counts


def test_honest_survivors_alone_count():
    assert COHORT.sure_shares == 7
    assert COHORT.honest_shares(10) == 9
    assert distributed.Cohort(10, 8, 0).sure_shares == 7  # a participant knows its own share
    assert distributed.Cohort(10, 8, 0, result_is_public=False).sure_shares == 8
    assert distributed.Cohort(10, 8, 3).sure_shares == 5


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((0, 1), InvalidArgumentError, "num_clients"),
        ((10, 11), InvalidArgumentError, "min_survivors"),
        ((10, 8, -1), InvalidArgumentError, "max_corrupt"),
        ((10, 8, 1, "yes"), InvalidTypeError, "result_is_public"),
        ((10, 1), UnsupportedError, "min_survivors must be above the 1"),
        ((10, 5, 5), UnsupportedError, "min_survivors must be above the 5"),
    ],
)
def test_cohorts_are_refused_by_name(arguments, error, says):
    with pytest.raises(error, match=says):
        distributed.Cohort(*arguments)


@pytest.mark.parametrize("survivors", [7, 11])
def test_no_event_for_survivors_that_cannot_be(survivors):
    with pytest.raises(InvalidArgumentError, match="survivors"):
        clients().event(survivors)


# ---- what a round costs


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("z", [0.05, 0.3, 1.0, 7.3, 100.0])
@pytest.mark.parametrize("cohort", [COHORT, distributed.Cohort(3, 3), distributed.Cohort(200, 150, 20)])
def test_the_sure_shares_protect_like_the_multiplier_asked_for(law, z, cohort):
    plan = clients(cohort, law=law, noise_multiplier=z)
    event = plan.event()
    assert integer_noise.gdp_mu(event, RELATIONS.REPLACE_SPECIAL) * z <= 1.0
    assert z <= plan.effective_noise_multiplier * (1 + 1e-15) <= z * (1 + 1e-9)
    assert event.l2_sensitivity == plan.encoding.l2_sensitivity
    gaussian = fedsec.RDPAccountant(neighboring_relation=RELATIONS.REPLACE_SPECIAL)
    ours = fedsec.RDPAccountant(neighboring_relation=RELATIONS.REPLACE_SPECIAL)
    assert ours.compose(event, 10).epsilon(1e-6) <= gaussian.compose(fedsec.Gaussian(z), 10).epsilon(1e-6) * (
        1 + 1e-9
    )


@pytest.mark.parametrize("law", LAWS)
def test_more_survivors_cost_less_and_linearly_so(law):
    plan = clients(law=law)
    epsilons = []
    for survivors in (8, 9, 10):
        event = plan.event(survivors)
        honest = survivors - 1
        total = event.variance if law == "skellam" else event.num_shares * event.stddev**2
        assert total == pytest.approx(honest * plan.shares.variance, rel=1e-12)
        assert total <= honest * plan.shares.variance
        epsilons.append(fedsec.RDPAccountant().compose(event).epsilon(1e-5))
    assert epsilons == sorted(epsilons, reverse=True)
    assert len(set(epsilons)) == 3


@pytest.mark.parametrize("law", LAWS)
def test_a_shift_over_the_standard_deviation_is_at_most_what_is_charged(law):
    for z in (0.2, 0.5, 1.0):
        plan = clients(law=law, noise_multiplier=z, dimension=3)
        shift = plan.encoding.l2_sensitivity / math.sqrt(plan.cohort.sure_shares * plan.shares.variance)
        assert shift <= integer_noise.gdp_mu(plan.event(), RELATIONS.REPLACE_SPECIAL)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("num_clients", [10, 100, 1000, 10_000])
@pytest.mark.parametrize("dimension", [10**5, 10**6, 10**7])
def test_rounding_and_integers_cost_less_than_a_hundredth_of_epsilon(law, num_clients, dimension):
    """Against a trusted server with Gaussian noise of the same variance on the clipped reals."""
    cohort = distributed.Cohort(num_clients, math.ceil(0.8 * num_clients), math.ceil(0.05 * num_clients))
    for z in (0.5, 1.0, 4.0):
        plan = clients(cohort, law=law, dimension=dimension, noise_multiplier=z)
        assert 0.0 < plan.rounding_loss < 0.004
        ideal = fedsec.Gaussian(plan.stddev / plan.encoding.l2_clip_norm)
        ours, theirs = (fedsec.RDPAccountant().compose(e, 50).epsilon(1e-6) for e in (plan.event(), ideal))
        assert theirs < ours < 1.01 * theirs


def test_replace_one_doubles_and_absence_is_refused():
    plan = clients(neighboring_relation=RELATIONS.REPLACE_ONE)
    single, double = (
        integer_noise.gdp_mu(plan.event(), relation)
        for relation in (RELATIONS.REPLACE_SPECIAL, RELATIONS.REPLACE_ONE)
    )
    assert double == pytest.approx(2.0 * single, rel=1e-12)
    with pytest.raises(UnsupportedError, match="absent"):
        clients(neighboring_relation=RELATIONS.ADD_OR_REMOVE_ONE)


def test_records_are_amplified_by_their_silos_secret_draw():
    plan = records()
    event = plan.event()
    assert isinstance(event, fedsec.PoissonSampled)
    assert event.sampling_probability == 0.02
    assert event.event == plan.shares.event(7, plan.encoding.l2_sensitivity, 500)
    assert plan.relation is RELATIONS.ADD_OR_REMOVE_ONE
    sampled = fedsec.RDPAccountant().compose(event, 100).epsilon(1e-5)
    gaussian = fedsec.PoissonSampled(fedsec.Gaussian(1.0), 0.02)
    assert sampled <= fedsec.RDPAccountant().compose(gaussian, 100).epsilon(1e-5) * (1 + 1e-9)
    assert isinstance(records(sampling_probability=1.0).event(), fedsec.Skellam)


@pytest.mark.parametrize("law", LAWS)
def test_events_go_through_every_accountant(law, tmp_path):
    zeroed, target = RELATIONS.REPLACE_SPECIAL, {"target_epsilon": 20.0, "target_delta": 1e-5}
    event = clients(law=law).event()
    epsilons = [
        kind(neighboring_relation=zeroed).compose(event, 3).epsilon(1e-5)
        for kind in (fedsec.RDPAccountant, fedsec.PLDAccountant)
    ]
    assert epsilons[1] <= epsilons[0] < 20.0
    for kind in (fedsec.RDPFilter, fedsec.GDPFilter):
        kept = kind(neighboring_relation=zeroed, **target)
        assert not kept.spend(event, 3).would_exceed(event)
    odometer = fedsec.RDPOdometer(neighboring_relation=zeroed, target_delta=1e-5).spend(event, 3)
    assert odometer.epsilon() >= epsilons[1]
    ledger = fedsec.Ledger(tmp_path / "l", neighboring_relation=zeroed, **target)
    assert ledger.charge(event, 3).event == event
    assert fedsec.Ledger.open(ledger.path).entries()[0].event == event


def test_small_shares_of_discrete_gaussians_are_refused():
    cohort = distributed.Cohort(1000, 900)
    with pytest.raises(UnsupportedError, match=r"stddev must be in \[1, "):
        clients(cohort, law="discrete_gaussian", dimension=4, noise_multiplier=0.5)
    clients(cohort, law="skellam", dimension=4, noise_multiplier=0.5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"law": "gaussian"}, "law"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"modulus_bits": 65}, "modulus_bits"),
        ({"l2_clip_norm": -1.0}, "l2_clip_norm"),
        ({"dimension": 0}, "dimension"),
        ({"neighboring_relation": "zero-out"}, "zero-out"),
    ],
)
def test_arguments_are_refused_by_name(changes, says):
    with pytest.raises(fedsec.FedsecError, match=says):
        clients(**changes)


@pytest.mark.parametrize("q", [0.0, 1.1, math.nan])
def test_sampling_probabilities_are_refused_by_name(q):
    with pytest.raises(InvalidArgumentError, match="sampling_probability"):
        records(sampling_probability=q)


# ---- the ring


def test_a_ring_that_wraps_around_too_often_is_refused():
    plan = clients()
    assert plan.wraparound_probability <= 2.0**-20
    with pytest.raises(InvalidArgumentError, match="modulus_bits must leave"):
        clients(modulus_bits=plan.modulus_bits - 2)
    assert clients(modulus_bits=plan.modulus_bits + 5).wraparound_probability < 1e-100


@pytest.mark.parametrize("variance", [0.3, 5.0, 400.0, 1e5])
@pytest.mark.parametrize("deviations", [1.0, 4.0, 12.0, 40.0])
def test_chernoffs_bound_is_above_the_tail_and_not_far(variance, deviations):
    shares = distributed.SkellamShares(variance)
    distance = math.ceil(deviations * math.sqrt(variance)) + 3
    bound = wraparound.tail(lambda t: shares.log_moment(1, t), distance, 1)
    truth = 2.0 * stats.skellam.sf(distance - 1, variance / 2, variance / 2)
    assert bound >= truth * (1 - 1e-6)
    if truth > 1e-250:
        assert math.log(bound) >= math.log(truth) - 1e-6
        assert math.log(bound) <= math.log(truth) + 0.2 * abs(math.log(truth)) + 6.0


def test_a_gaussian_bound_would_be_too_small_for_skellam_noise():
    """The control: Skellam noise has fatter tails far out than its variance suggests."""
    distance, variance = 25, 4.0
    truth = 2.0 * stats.skellam.pmf(np.arange(distance, 60), variance / 2, variance / 2).sum()
    assert 2.0 * math.exp(-(distance**2) / (2 * variance)) < truth
    assert (
        wraparound.tail(lambda t: distributed.SkellamShares(variance).log_moment(1, t), distance, 1) > truth
    )


@pytest.mark.parametrize(
    ("population", "q"), [(100, 0.5), (1000, 0.01), (60_000, 0.004), (10, 0.9), (7, 1.0)]
)
def test_hardly_ever_are_more_drawn(population, q):
    most, probability = wraparound.most_drawn(population, q)
    assert most <= population
    assert stats.binom.sf(most, population, q) <= probability
    if most < population:
        assert stats.binom.sf(most // 2, population, q) > 1e-13


# ---- whole rounds


def vectors(plan, count, seed=0):
    rng = np.random.default_rng(seed)
    return {i: rng.normal(size=plan.encoding.dimension).astype(np.float32) for i in range(count)}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("lost", [{}, {0: "upload", 4: "unmask"}])
def test_a_round_through_secure_aggregation(law, lost):
    """The decoded sum is that of the survivors' clipped vectors, but for noise of the stated size."""
    plan = clients(law=law, noise_multiplier=0.3, dimension=3000)
    given = vectors(plan, 10)
    p = secagg.recommend(num_clients=10, corrupt_fraction=0.1, dropout_fraction=0.2)
    outcome = secagg.aggregate(
        {i: plan.share_residues(v, KEY) for i, v in given.items()},
        modulus_bits=plan.modulus_bits,
        dropped=lost,
        parameters=p,
    )
    decoded = plan.decode(outcome.sum, KEY)
    truth = sum(given[i] / np.linalg.norm(given[i]) for i in outcome.survivors)
    stddev = math.sqrt(len(outcome.survivors) * plan.shares.variance) * plan.encoding.granularity
    errors = (decoded - truth) / stddev
    assert abs(np.mean(errors**2) - 1.0) < 6.0 * math.sqrt(2.0 / errors.size)
    assert np.linalg.norm(decoded - truth) < 2.0 * stddev * math.sqrt(errors.size)


@pytest.mark.parametrize("law", LAWS)
def test_decoded_sums_are_rotated_points_of_the_lattice(law):
    plan = clients(law=law, dimension=1024)
    assert plan.encoding.length == 1024  # nothing is cut off
    total = np.zeros(1024, masks.lane_dtype(plan.modulus_bits))
    for vector in vectors(plan, 3).values():
        masks.add(total, plan.share_residues(vector, KEY), plan.modulus_bits)
    decoded = plan.decode(total, KEY)
    steps = (decoded / plan.encoding.granularity).astype(np.float32)
    _kernels.rotate(steps, plan.encoding.block, KEY)
    assert np.abs(steps - np.rint(steps)).max() < 1e-2


def test_records_round_through_the_ring():
    plan = records(noise_multiplier=0.01)
    sums = np.linspace(-90.0, 90.0, 500)
    residues = plan.share_residues(sums)
    assert residues.max() < 2**plan.modulus_bits
    errors = plan.decode(residues) - sums
    stddev = math.sqrt(plan.shares.variance) * plan.encoding.granularity
    assert np.abs(errors).max() < 8 * stddev
    assert np.std(errors) == pytest.approx(stddev, rel=0.3)


def test_a_client_needs_the_rounds_key():
    plan = clients()
    with pytest.raises(InvalidTypeError, match="rotation_key"):
        plan.share_residues(np.zeros(1000))
    with pytest.raises(InvalidTypeError, match="rotation_key"):
        plan.decode(np.zeros(plan.encoding.length, masks.lane_dtype(plan.modulus_bits)))
    for wrong in (np.zeros(5, np.uint16), np.zeros(plan.encoding.length, np.int64)):
        with pytest.raises(InvalidTypeError, match="residues"):
            plan.decode(wrong, KEY)


# ---- noise is never repeated, nor chosen by others


def test_seeds_neither_repeat_nor_influence_noise():
    torch = pytest.importorskip("torch")
    plan, zero = clients(), np.zeros(1000)
    seen = set()
    for _ in range(3):
        np.random.seed(0)
        torch.manual_seed(0)
        seen.add(plan.share_residues(zero, KEY).tobytes())
    assert len(seen) == 3


def test_forks_draw_their_own_noise():
    plan, zero = clients(), np.zeros(1000)
    draws = []
    for _ in range(2):
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.write(write, plan.share_residues(zero, KEY)[:100].tobytes())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            draws.append(pipe.read())
        os.waitpid(child, 0)
    draws.append(plan.share_residues(zero, KEY)[:100].tobytes())
    assert len(set(draws)) == 3


def test_each_attempt_at_rounding_and_each_share_has_a_key_of_its_own(monkeypatch):
    keys, attempts, plan = [], [], clients()
    fresh, count = _kernels.fresh_key, _kernels.squared_norm

    def recorded():
        keys.append(bytes(key := fresh()))
        return key

    def too_long_at_first(levels, backend):
        attempts.append(1)
        return 2**60 if len(attempts) <= 5 else count(levels, backend)

    monkeypatch.setattr(_kernels, "fresh_key", recorded)
    monkeypatch.setattr(_kernels, "squared_norm", too_long_at_first)
    plan.share_residues(np.ones(1000), KEY)
    assert len(attempts) >= 6
    assert len(keys) == len(set(keys)) >= 7


# ---- what is shown


def test_the_plan_shows_its_figures():
    plan = clients()
    figures = plan.figures()
    assert figures["variance_excess"] == pytest.approx(10 / 7)
    assert figures["upload_bytes"] == math.ceil(plan.encoding.length * plan.modulus_bits / 8)
    assert figures["wraparound_probability"] == plan.wraparound_probability
    text = "\n".join(plan.lines())
    for word in (
        "granularity",
        "effective noise multiplier",
        "trusted server",
        "nobody is lost",
        "wraparound",
        "bytes",
    ):
        assert word in text
