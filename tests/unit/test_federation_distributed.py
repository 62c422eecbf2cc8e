"""`Federation(noise="distributed")`: clients and records, losses, budgets, refusals."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import fedsec
from fedsec import _kernels
from fedsec.accounting import NeighboringRelation
from fedsec.errors import (
    AggregationAborted,
    BudgetExceededError,
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
    UnsupportedError,
)

CLIENT = {"noise": "distributed", "l2_clip_norm": 1.0, "noise_multiplier": 1.0, "target_delta": 1e-5}
RECORD = {**CLIENT, "unit": "record", "sampling_probability": 0.5, "num_records": 400}
SIZE = 1000


@pytest.fixture
def fixed_keys(monkeypatch):
    keys = iter(range(10**6))
    monkeypatch.setattr(_kernels, "fresh_key", lambda: bytearray(next(keys).to_bytes(32, "little")))


def linear(size=SIZE):
    model = torch.nn.Linear(size, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    return model


def federate(model=None, *, num_clients=10, num_rounds=3, **arguments):
    return fedsec.Federation(model or linear(), num_clients=num_clients, num_rounds=num_rounds, **arguments)


def moved(model, by):
    with torch.no_grad():
        model.weight.add_(by)
    return model


def flat(model):
    return model.weight.detach().double().flatten().numpy()


def shard(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, SIZE, generator=generator), torch.ones(count, 1))


def squared_error(output, target):
    return ((output - target) ** 2).sum(dim=1)


def play(rnd, by=0.0, but=()):
    for client in rnd.cohort:
        if client not in but:
            rnd.submit(client, moved(rnd.model(), by))
    return rnd.finish()


# ---- what comes out


@pytest.mark.parametrize("lost", [(), (3,)])
def test_the_model_moves_by_the_mean_and_by_noise_of_the_survivors_shares(lost, fixed_keys):
    federation = federate(**CLIENT | {"noise_multiplier": 0.1})
    plan = federation.plan.distributed
    assert plan.cohort.num_clients == 10
    direction = torch.nn.functional.normalize(torch.ones(1, SIZE))
    report = play(next(federation.rounds()), 0.5 * direction, but=lost)
    survivors = 10 - len(lost)
    assert len(report.operator_only.survivors) == survivors
    stddev = math.sqrt(survivors * plan.shares.variance) * plan.encoding.granularity / 10
    errors = (flat(federation.model) - 0.05 * survivors * direction.numpy()[0]) / stddev
    assert abs(np.mean(errors**2) - 1.0) < 5.0 * math.sqrt(2.0 / SIZE)
    assert abs(np.mean(errors)) < 5.0 / math.sqrt(SIZE)


def test_what_the_server_sees_of_a_client_is_noise_before_it_is_masked(fixed_keys):
    """The control: with noise='central' the contribution itself is exact."""
    rnd = next(federate(**CLIENT).rounds())
    rnd.submit(rnd.cohort[0], rnd.model())
    assert rnd._contributions[rnd.cohort[0]].integers.any()
    central = next(federate(**CLIENT | {"noise": "central"}).rounds())
    central.submit(central.cohort[0], central.model())
    assert not central._contributions[central.cohort[0]].integers.any()


def test_records_are_summed_with_noise_of_the_shares(fixed_keys):
    federation = federate(**RECORD | {"sampling_probability": 1.0, "noise_multiplier": 0.2})
    plan = federation.plan.distributed
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit_records(client, shard(40, client), squared_error)
    rnd.finish()
    gradients = torch.stack([-2.0 * x for client in range(10) for x, _ in shard(40, client)])
    truth = -torch.nn.functional.normalize(gradients).sum(dim=0).double().numpy()
    stddev = math.sqrt(10 * plan.shares.variance) * plan.encoding.granularity
    errors = (flat(federation.model) * 400 - truth) / stddev
    assert abs(np.mean(errors**2) - 1.0) < 5.0 * math.sqrt(2.0 / SIZE)


def test_rounds_have_rotations_of_their_own():
    federation = federate(**CLIENT)
    rounds = federation.rounds()
    keys = [next(rounds).mechanism.rotation_key for _ in range(3)]
    assert len(set(keys)) == 3


def test_adaptive_bounds_and_weights_go_along(fixed_keys):
    federation = federate(**CLIENT | {"clipping": "adaptive", "noise_multiplier": 0.02})
    before = federation.plan.rule.l2_clip_norm
    for rnd in federation.rounds():
        play(rnd, 5.0)
    assert federation.plan.rule.l2_clip_norm > before  # all were clipped
    weighted = federate(**CLIENT, max_weight=2.0, total_weight=10.0)
    rnd = next(weighted.rounds())
    for client in rnd.cohort:
        rnd.submit(client, rnd.model(), weight=1.0)
    rnd.finish()


# ---- what it costs


def test_the_sure_shares_are_as_private_as_the_multiplier():
    federation = federate(**CLIENT)
    plan = federation.plan.distributed
    p = federation.plan.secagg_parameters
    assert (p.min_survivors, p.max_corrupt) == (plan.cohort.min_survivors, plan.cohort.max_corrupt)
    assert plan.effective_noise_multiplier >= 1.0 * (1 - 1e-12)
    assert federation.plan.event == fedsec.Gaussian(1.0)
    assert federation.plan.relation is NeighboringRelation.REPLACE_SPECIAL
    guarantee = federation.spent()
    assert guarantee.noise == "distributed"
    assert "most corrupt clients" in guarantee.declared_public
    assert guarantee.warnings == ()
    record = federate(**RECORD).plan
    assert record.relation is NeighboringRelation.ADD_OR_REMOVE_ONE
    assert record.distributed.event() == fedsec.PoissonSampled(
        record.distributed.shares.event(
            record.distributed.cohort.sure_shares, record.distributed.encoding.l2_sensitivity, SIZE
        ),
        0.5,
    )


def test_fractions_decide_what_is_counted():
    plans = [
        federate(num_clients=20, corrupt_fraction=c, dropout_fraction=d, **CLIENT).plan
        for c, d in ((0.0, 0.0), (0.05, 0.2), (0.2, 0.1))
    ]
    assert [p.distributed.cohort.sure_shares for p in plans] == [19, 15, 14]
    variances = [p.distributed.shares.variance for p in plans]
    assert variances == sorted(variances)


def test_a_ledger_is_charged_for_the_survivors_that_there_were(tmp_path):
    ledger = fedsec.Ledger(
        tmp_path / "l",
        target_epsilon=30.0,
        target_delta=1e-5,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )
    federation = federate(ledger=ledger, **CLIENT)
    rounds, plan = federation.rounds(), federation.plan.distributed
    play(next(rounds))
    play(next(rounds), but=(0,))
    assert [entry.event for entry in ledger.entries()] == [plan.event(10), plan.event(9)]
    assert federation.spent().epsilon == federation.plan.epsilon(2)


def test_the_budget_counts_the_fewest_survivors(tmp_path):
    federation = federate(num_rounds=None, target_epsilon=12.0, **CLIENT)
    most = federation.plan.most_charges(12.0)
    assert 0 < most == sum(play(rnd) is not None for rnd in federation.rounds())
    ledger = fedsec.Ledger(
        tmp_path / "l",
        target_epsilon=5.0,
        target_delta=1e-5,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )
    rounds = federate(ledger=ledger, **CLIENT).rounds()
    play(next(rounds))
    with pytest.raises(BudgetExceededError, match="does not fit the ledger"):
        next(rounds)


@pytest.mark.parametrize(("phase", "charges"), [("upload", 0), ("share", 0), ("agree", 0), ("unmask", 1)])
def test_an_aborted_round_is_charged_once_shares_have_left(phase, charges):
    federation = federate(**CLIENT)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, rnd.model())
    for client in rnd.cohort[:8]:
        rnd.drop(client, phase)
    with pytest.raises(AggregationAborted):
        rnd.finish()
    assert federation.spent().rounds_charged == charges


def test_a_run_goes_on_where_it_was_saved():
    federation = federate(**CLIENT)
    play(next(federation.rounds()))
    again = federate(**CLIENT)
    again.load_state_dict(federation.state_dict())
    assert again.spent().epsilon == federation.spent().epsilon
    other = federate(dropout_fraction=0.2, **CLIENT)
    with pytest.raises(InvalidArgumentError, match="dropout_fraction"):
        other.load_state_dict(federation.state_dict())


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"secure_aggregation": False}, UnsupportedError, "secure_aggregation=True"),
        ({"sampling_probability": 0.5}, UnsupportedError, "cohort_size, a fixed cohort"),
        ({"local_steps": 2}, UnsupportedError, "local_steps"),
        ({"corrupt_fraction": 0.9}, UnsupportedError, "infeasible"),
        ({"corrupt_fraction": -0.1}, InvalidArgumentError, "corrupt_fraction"),
        ({"dropout_fraction": 1.5}, InvalidArgumentError, "dropout_fraction"),
        ({"noise": "central", "dropout_fraction": 0.1}, InvalidArgumentError, "noise='distributed'"),
        ({"num_clients": 2}, InvalidArgumentError, "at least 3"),
        ({"corrupt_fraction": "few"}, InvalidTypeError, "corrupt_fraction"),
    ],
)
def test_bad_settings_are_named_at_construction(changes, error, says):
    with pytest.raises(error, match=says):
        federate(**CLIENT | changes)


def test_noise_without_privacy_is_refused():
    with pytest.raises(InvalidArgumentError, match="belong to privacy"):
        federate(noise="distributed")


def test_what_is_not_finite_never_leaves():
    rnd = next(federate(**CLIENT).rounds())
    with pytest.raises(NonFiniteError):
        rnd.submit(rnd.cohort[0], moved(rnd.model(), math.inf))
