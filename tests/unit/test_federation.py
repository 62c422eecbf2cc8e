"""`Federation`: what a round does to the model and the budget, and what it refuses."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import fedsec
from fedsec import _kernels
from fedsec.errors import (
    AggregationAborted,
    BudgetExceededError,
    FedsecError,
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
    ProtocolError,
    UnsupportedError,
)

CLIENT = {"l2_clip_norm": 1.0, "noise_multiplier": 1.0, "target_delta": 1e-5}
RECORD = {**CLIENT, "unit": "record", "sampling_probability": 0.5, "num_records": 40}


def linear(value=0.0, size=4):
    model = torch.nn.Linear(size, 1)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    return model


def flat(model):
    return torch.cat([t.flatten().double() for t in model.state_dict().values()])


def shifted(model, by):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)
    return model


def federate(model=None, *, num_clients=5, num_rounds=3, **arguments):
    return fedsec.Federation(model or linear(), num_clients=num_clients, num_rounds=num_rounds, **arguments)


def shard(count, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, size, generator=generator), torch.ones(count, 1))


def squared_error(output, target):
    return ((output - target) ** 2).sum(dim=1)


@pytest.fixture
def fixed_keys(monkeypatch):
    """A fixed sequence of keys, so that a statistical test says the same every time."""
    keys = iter(range(10**6))
    monkeypatch.setattr(_kernels, "fresh_key", lambda: bytearray(next(keys).to_bytes(32, "little")))


# Without privacy: federated averaging.


@pytest.mark.parametrize("secure", [True, False])
def test_weighted_mean(secure):
    federation = federate(num_clients=3, secure_aggregation=secure)
    rnd = next(federation.rounds())
    for client, (value, weight) in enumerate([(1.0, 10), (2.0, 30), (-3.0, 5)]):
        rnd.submit(client, shifted(rnd.model(), value), weight=weight)
    rnd.finish()
    expected = (1.0 * 10 + 2.0 * 30 - 3.0 * 5) / 45
    assert torch.allclose(flat(federation.model), torch.full((5,), expected, dtype=torch.float64), atol=1e-6)


def test_a_state_dict_is_as_good_as_a_module():
    federation = federate(num_clients=3)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, shifted(rnd.model(), 1.0).state_dict())
    rnd.finish()
    assert torch.allclose(flat(federation.model), torch.ones(5, dtype=torch.float64), atol=1e-6)


def test_the_mean_is_over_survivors_and_dropouts_at_every_phase_are_recovered():
    federation = federate(num_clients=8)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, shifted(rnd.model(), float(client)))
    rnd.drop(1, "upload")
    rnd.drop(2, "unmask")
    report = rnd.finish()
    assert report.operator_only.survivors == (0, 2, 3, 4, 5, 6, 7)
    assert report.operator_only.dropped == (1,)
    assert torch.allclose(flat(federation.model), torch.full((5,), 27 / 7, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("privacy", [{}, {**CLIENT, "l2_clip_norm": 50.0, "noise_multiplier": 1e-4}])
def test_models_of_other_precision(dtype, privacy):
    federation = federate(linear().to(dtype), num_clients=3, **privacy)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, shifted(rnd.model(), 1.0))
    rnd.finish()
    assert federation.model.weight.dtype == dtype
    assert torch.allclose(flat(federation.model), torch.ones(5, dtype=torch.float64), atol=0.02)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["sums are exact", "at most 5 clients"]),
        ({"num_clients": 30}, ["sums are exact"]),
        ({"secure_aggregation": False}, ["the server sees each client's contribution"]),
        ({**CLIENT, "num_clients": 30}, ["the server sees the exact sum before it adds noise"]),
        ({**CLIENT, "noise": "local"}, []),
    ],
)
def test_reports_warn_of_what_aggregation_alone_gives_away(settings, words):
    warnings = federate(**settings).spent().warnings
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


def test_with_nobody_left_there_is_no_mean():
    federation = federate(num_clients=3, secure_aggregation=False)
    before = flat(federation.model)
    with pytest.raises(AggregationAborted, match="none of 3 clients"):
        next(federation.rounds()).finish()
    assert torch.equal(flat(federation.model), before)


def test_momentum_is_the_servers():
    federation = federate(num_clients=3, strategy=fedsec.FedAvg(learning_rate=0.5, momentum=0.5))
    for rnd in federation.rounds():
        for client in rnd.cohort:
            rnd.submit(client, shifted(rnd.model(), 1.0))
        rnd.finish()
    # Velocities 1, 1.5, 1.75 times 0.5.
    assert torch.allclose(flat(federation.model), torch.full((5,), 2.125, dtype=torch.float64), atol=1e-5)


def test_federated_averaging_finds_the_optimum_of_a_convex_problem():
    """sum n_i / n F_i with F_i(w) = |w - c_i|^2 / 2: the optimum is the weighted mean of the c_i."""
    centres, sizes = [torch.randn(5, dtype=torch.float64) for _ in range(4)], [1, 5, 20, 2]
    federation = federate(num_clients=4, num_rounds=30)
    for rnd in federation.rounds():
        for client in rnd.cohort:
            state = rnd.model().state_dict()
            start = torch.cat([t.flatten() for t in state.values()])
            local = start - 0.5 * (start - centres[client])
            state["weight"], state["bias"] = local[:4].view(1, 4).float(), local[4:].float()
            rnd.submit(client, state, weight=sizes[client])
        rnd.finish()
    optimum = sum(n * c for n, c in zip(sizes, centres, strict=True)) / sum(sizes)
    assert torch.allclose(flat(federation.model), optimum, atol=1e-5)


def test_batch_norm_statistics_travel_and_its_counter_stays():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    federation = federate(model, num_clients=3)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        local = rnd.model()
        local(torch.randn(8, 2) + 5.0)
        rnd.submit(client, local)
    rnd.finish()
    assert float(model[1].running_mean.abs().sum()) > 0
    assert int(model[1].num_batches_tracked) == 0


def test_frozen_parameters_stay_and_must_come_back_unchanged():
    model = linear(2.0)
    model.bias.requires_grad_(requires_grad=False)
    federation = federate(model, num_clients=3)
    rnd = next(federation.rounds())
    with pytest.raises(InvalidArgumentError, match="bias is frozen"):
        rnd.submit(0, shifted(rnd.model(), 1.0))
    for client in rnd.cohort:
        local = rnd.model()
        with torch.no_grad():
            local.weight.add_(1.0)
        rnd.submit(client, local)
    rnd.finish()
    assert float(model.bias) == 2.0
    assert torch.allclose(model.weight, torch.full((1, 4), 3.0))


def test_tied_weights_move_once():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(2, 2, bias=False)
            self.second = torch.nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight

    model = Tied()
    start = model.first.weight.detach().clone()
    federation = federate(model, num_clients=3)
    assert federation.plan.dimension == 4
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        local = rnd.model()
        with torch.no_grad():
            local.first.weight.add_(1.0)
        rnd.submit(client, local)
    rnd.finish()
    assert torch.allclose(model.first.weight, start + 1.0, atol=1e-6)


# Client-level privacy.


@pytest.mark.parametrize("secure", [True, False])
def test_the_sum_is_divided_by_the_public_count_never_by_survivors(secure):
    tiny = {**CLIENT, "l2_clip_norm": 100.0, "noise_multiplier": 1e-6}
    federation = federate(num_clients=8, secure_aggregation=secure, **tiny)
    rnd = next(federation.rounds())
    for client in range(6):
        rnd.submit(client, shifted(rnd.model(), 1.0))
    rnd.finish()
    assert torch.allclose(flat(federation.model), torch.full((5,), 6 / 8, dtype=torch.float64), atol=1e-3)


@pytest.mark.usefixtures("fixed_keys")
@pytest.mark.parametrize("noise", ["central", "local"])
def test_the_noise_has_the_declared_variance(noise):
    """False alarm over keys: 1e-9 (chi-square of 40,001 coordinates: variance off by at most 4.4 %)."""
    federation = federate(linear(size=40_000), num_clients=4, noise=noise, **CLIENT)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, rnd.model())
    rnd.finish()
    clients_noise = 4 if noise == "local" else 1
    variance = float((flat(federation.model) ** 2).mean()) * 4**2 / clients_noise
    assert abs(variance - 1.0) < 0.044
    assert abs(1.1 * variance - 1.0) > 0.044  # negative control: 5 % more noise would be noticed


def test_seeds_of_others_neither_repeat_nor_influence_noise():
    models = []
    for _ in range(2):
        np.random.seed(0)
        torch.manual_seed(0)
        federation = federate(num_clients=3, **CLIENT)
        rnd = next(federation.rounds())
        for client in rnd.cohort:
            rnd.submit(client, rnd.model())
        rnd.finish()
        models.append(flat(federation.model))
    assert not torch.equal(*models)


def test_a_fixed_cohort_is_charged_without_amplification():
    federation = federate(num_clients=10, cohort_size=3, num_rounds=4, **CLIENT)
    for rnd in federation.rounds():
        assert len(set(rnd.cohort)) == 3
        for client in rnd.cohort:
            rnd.submit(client, rnd.model())
        report = rnd.finish()
        expected = fedsec.PLDAccountant().compose(fedsec.Gaussian(1.0), rnd.round_id).epsilon(1e-5)
        assert report.released.epsilon == expected
    spent = federation.spent()
    assert (spent.rounds_charged, spent.neighboring_relation, spent.unit) == (4, "REPLACE_SPECIAL", "client")
    assert "no amplification" in spent.sampler


def test_poisson_cohorts_are_charged_as_such_and_divided_by_the_expected_count():
    tiny = {**CLIENT, "l2_clip_norm": 100.0, "noise_multiplier": 1e-3}
    arguments = {"num_clients": 50, "sampling_probability": 0.2, "secure_aggregation": False}
    federation = federate(num_rounds=1, **arguments, **tiny)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, shifted(rnd.model(), 1.0))
    report = rnd.finish()
    expected = torch.full((5,), len(rnd.cohort) / 10, dtype=torch.float64)
    assert torch.allclose(flat(federation.model), expected, atol=0.1)
    event = fedsec.PoissonSampled(fedsec.Gaussian(1e-3), 0.2)
    assert report.released.epsilon == fedsec.PLDAccountant().compose(event).epsilon(1e-5)
    assert report.released.neighboring_relation == "ADD_OR_REMOVE_ONE"


def test_the_integers_of_an_update_stay_within_the_sensitivity_that_scales_the_noise():
    federation = federate(linear(size=200), num_clients=3, secure_aggregation=False, **CLIENT)
    plan = federation.plan
    largest = math.sqrt(plan.dimension) + plan.l2_sensitivity / plan.mechanism.quantizer.granularity
    assert plan.mechanism.integer_stddev >= largest * plan.noise_multiplier
    rnd = next(federation.rounds())
    generator = torch.Generator().manual_seed(0)
    for client, scale in enumerate([1e-3, 1e6]):
        local = rnd.model()
        with torch.no_grad():
            local.weight.add_(torch.randn(1, 200, generator=generator) * scale)
        rnd.submit(client, local)
        norm = math.sqrt(sum(int(x) ** 2 for x in rnd._contributions[client].integers))
        assert 0 < norm <= largest


# Record-level privacy.


def test_records_are_charged_as_poisson_sampled():
    federation = federate(num_clients=4, num_rounds=2, **RECORD)
    for rnd in federation.rounds():
        for client in rnd.cohort:
            rnd.submit_records(client, shard(10), squared_error)
        report = rnd.finish()
    event = fedsec.PoissonSampled(fedsec.Gaussian(1.0), 0.5)
    assert report.released.epsilon == fedsec.PLDAccountant().compose(event, 2).epsilon(1e-5)
    assert "number of records" in report.released.declared_public


@pytest.mark.parametrize("secure", [True, False])
def test_the_step_is_minus_the_mean_clipped_gradient_over_the_public_count(secure):
    arguments = {**RECORD, "noise_multiplier": 1e-3, "sampling_probability": 1.0, "l2_clip_norm": 0.5}
    federation = federate(num_clients=4, secure_aggregation=secure, **arguments)
    rnd = next(federation.rounds())
    for client in range(4):
        rnd.submit_records(client, shard(10, seed=client), squared_error)
    rnd.finish()
    expected = torch.zeros(5, dtype=torch.float64)
    for client in range(4):
        for x in shard(10, seed=client).tensors[0].double():
            gradient = -2 * torch.cat([x, torch.ones(1, dtype=torch.float64)])
            expected -= gradient * min(1.0, 0.5 / float(gradient.norm()))
    assert torch.allclose(flat(federation.model), expected / 40, atol=1e-3)


def test_any_indexable_data_set_will_do_and_an_empty_draw_too():
    arguments = {**RECORD, "sampling_probability": 1e-12}
    federation = federate(num_clients=4, **arguments)
    rnd = next(federation.rounds())
    rnd.submit_records(2, shard(10), squared_error)
    rnd.submit_records(0, [(torch.zeros(4), torch.zeros(1))] * 10, squared_error)
    rnd.submit_records(1, shard(10), squared_error)
    assert rnd._contributions[0].num_units == 0
    rnd.finish()


def test_local_noise_charges_each_client_for_itself():
    federation = federate(num_clients=3, num_rounds=2, noise="local", local_steps=3, **RECORD)
    for rnd in federation.rounds():
        for client in rnd.cohort:
            rnd.submit_records(client, shard(10), squared_error)
        if rnd.round_id == 2:
            rnd.drop(1, "upload")
            with pytest.raises(AggregationAborted):
                rnd.finish()
        else:
            rnd.finish()
    event = fedsec.PoissonSampled(fedsec.Gaussian(1.0), 0.5)

    def expected(steps):
        return fedsec.PLDAccountant().compose(event, steps).epsilon(1e-5)

    # The others' uploads had left them before the second round aborted.
    assert [federation.client_epsilon(c) for c in range(3)] == pytest.approx([expected(n) for n in (6, 3, 6)])
    assert federation.spent().epsilon == pytest.approx(expected(6))


# The budget.


def test_the_budget_is_checked_before_any_client_trains():
    federation = federate(num_clients=3, num_rounds=10, target_epsilon=6.0, **CLIENT)
    rounds = federation.rounds()
    affordable = next(n for n in range(11) if federation.plan.epsilon(n + 1) > 6.0)
    assert 1 <= affordable < 10
    for _ in range(affordable):
        rnd = next(rounds)
        for client in rnd.cohort:
            rnd.submit(client, rnd.model())
        rnd.finish()
    with pytest.raises(BudgetExceededError, match="the budget is 6"):
        next(rounds)
    assert federation.spent().rounds_charged == affordable


def test_without_planned_rounds_the_run_ends_at_the_budget():
    federation = federate(num_clients=3, num_rounds=None, target_epsilon=15.0, **CLIENT)
    for rnd in federation.rounds():
        for client in rnd.cohort:
            rnd.submit(client, rnd.model())
        rnd.finish()
    spent = federation.spent()
    assert spent.epsilon <= 15.0 < federation.plan.epsilon(spent.rounds_charged + 1)


def test_noise_is_calibrated_to_the_target_over_all_planned_rounds():
    arguments = {**RECORD, "noise_multiplier": None, "target_epsilon": 2.0}
    federation = federate(num_clients=3, num_rounds=50, **arguments)
    assert federation.plan.epsilon(50) <= 2.0
    assert federation.plan.epsilon(50) == pytest.approx(2.0, rel=1e-3)


def test_an_aborted_round_releases_and_charges_nothing():
    federation = federate(num_clients=5, num_rounds=2, **CLIENT)
    before = flat(federation.model)
    rounds = federation.rounds()
    rnd = next(rounds)
    rnd.submit(0, shifted(rnd.model(), 1.0))
    with pytest.raises(AggregationAborted):
        rnd.finish()
    assert torch.equal(flat(federation.model), before)
    assert federation.spent().epsilon == 0.0
    assert next(rounds).round_id == 2


def test_leaving_a_round_releases_nothing():
    federation = federate(num_clients=3, **CLIENT)
    before = flat(federation.model)
    rounds = federation.rounds()
    first = next(rounds)
    first.submit(0, shifted(first.model(), 1.0))
    next(rounds)
    for late in (lambda: first.submit(1, first.model()), first.finish, lambda: first.drop(1)):
        with pytest.raises(ProtocolError, match="round 1 has ended"):
            late()
    assert torch.equal(flat(federation.model), before)
    assert federation.spent().rounds_charged == 0


def test_a_round_is_finished_once():
    federation = federate(num_clients=3)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, rnd.model())
    rnd.finish()
    with pytest.raises(ProtocolError):
        rnd.finish()


def test_rounds_started_side_by_side_cannot_overspend():
    federation = federate(num_clients=3, num_rounds=10, target_epsilon=6.0, **CLIENT)
    open_rounds = [next(federation.rounds()) for _ in range(5)]
    for rnd in open_rounds[:-1]:
        with pytest.raises(ProtocolError, match="has ended"):
            rnd.submit(0, rnd.model())
    assert federation.spent().epsilon == 0.0


def test_the_budget_is_checked_again_before_the_release():
    federation = federate(num_clients=3, num_rounds=10, target_epsilon=6.0, **CLIENT)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, shifted(rnd.model(), 1.0))
    before = flat(federation.model)
    federation._budget._charges[-1] = federation.plan.most_charges(6.0)
    with pytest.raises(BudgetExceededError):
        rnd.finish()
    assert torch.equal(flat(federation.model), before)
    assert federation.spent().epsilon <= 6.0


def test_one_record_without_a_gradient_ends_the_round():
    """A sum without the client's other records, or a second draw, would tell that the record is there."""
    federation = federate(num_clients=3, **{**RECORD, "sampling_probability": 1.0})
    before = flat(federation.model)
    rnd = next(federation.rounds())
    rnd.submit_records(1, shard(5), squared_error)
    inputs = shard(5).tensors[0].clone()
    inputs[2] = math.nan
    with pytest.raises(NonFiniteError):
        rnd.submit_records(0, TensorDataset(inputs, shard(5).tensors[1]), squared_error)
    for afterwards in (lambda: rnd.submit_records(0, shard(5), squared_error), rnd.finish):
        with pytest.raises(ProtocolError, match="has ended"):
            afterwards()
    assert torch.equal(flat(federation.model), before)
    assert federation.spent().epsilon == 0.0


def test_who_says_it_is_lost_at_unmask_but_never_submits_is_lost_at_upload():
    federation = federate(num_clients=4, noise="local", **CLIENT)
    rnd = next(federation.rounds())
    for client in range(3):
        rnd.submit(client, rnd.model())
    rnd.drop(3, "unmask")
    report = rnd.finish()
    assert report.operator_only.survivors == (0, 1, 2)
    assert federation.client_epsilon(3) == 0.0


def test_local_noise_with_nobody_there_charges_nobody():
    federation = federate(num_clients=3, noise="local", secure_aggregation=False, **CLIENT)
    report = next(federation.rounds()).finish()
    assert report.released.epsilon == 0.0


def test_weights_that_vanish_on_the_grid_are_refused_not_divided_by():
    federation = federate(num_clients=3)
    before = flat(federation.model)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, rnd.model(), weight=1e-30)
    with pytest.raises(InvalidArgumentError, match="weights"):
        rnd.finish()
    assert torch.equal(flat(federation.model), before)


def test_a_model_whose_trainable_parameters_change_is_refused():
    model = linear()
    federation = federate(model, num_clients=3, **RECORD)
    model.bias.requires_grad_(requires_grad=False)
    rnd = next(federation.rounds())
    with pytest.raises(InvalidArgumentError, match="5 coordinates, got 4"):
        rnd.submit_records(0, shard(5), squared_error)
    assert federation.spent().epsilon == 0.0


@pytest.mark.parametrize("number", [1.0, True, "1", None])
def test_clients_are_whole_numbers(number):
    rnd = next(federate(num_clients=3).rounds())
    with pytest.raises(InvalidTypeError, match="client must be a whole number"):
        rnd.submit(number, rnd.model())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float64, torch.float16])
@pytest.mark.parametrize("privacy", [{}, CLIENT])
def test_other_dtypes_are_not_cast_silently(dtype, privacy):
    rnd = next(federate(num_clients=3, **privacy).rounds())
    state = {name: tensor.to(dtype) for name, tensor in rnd.model().state_dict().items()}
    with pytest.raises(InvalidTypeError, match=r"must have dtype torch.float32, got"):
        rnd.submit(0, state)


def test_what_is_not_finite_is_named_also_without_privacy():
    rnd = next(federate(num_clients=3).rounds())
    local = rnd.model()
    with torch.no_grad():
        local.bias.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="bias"):
        rnd.submit(0, local)


def test_stopping_early_counts_for_every_answer():
    federation = federate(num_clients=3, num_rounds=20, **CLIENT)
    for rnd in federation.rounds(stop=lambda report: True):
        for client in rnd.cohort:
            rnd.submit(client, rnd.model())
        rnd.finish()
    assert federation.client_epsilon(0) == federation.spent().epsilon == federation.plan.epsilon(20)


def test_stopping_a_run_that_goes_on_to_the_budget_states_the_budgets_rounds():
    federation = federate(num_clients=3, num_rounds=None, target_epsilon=15.0, **CLIENT)
    for rnd in federation.rounds(stop=lambda report: True):
        for client in rnd.cohort:
            rnd.submit(client, rnd.model())
        rnd.finish()
    spent = federation.spent()
    assert spent.epsilon <= 15.0 < federation.plan.epsilon(spent.rounds_charged + 1)
    assert spent.rounds_charged > 1


def test_stop_must_be_callable_before_anything_runs():
    with pytest.raises(InvalidTypeError, match="stop must be callable, got 5"):
        federate(num_clients=3).rounds(stop=5)


def test_neither_federations_nor_rounds_are_copied():
    federation = federate(num_clients=3, **CLIENT)
    rnd = next(federation.rounds())
    for secretive in (federation, rnd):
        with pytest.raises(InvalidTypeError, match="cannot be pickled or copied"):
            copy.deepcopy(secretive)
        with pytest.raises(InvalidTypeError):
            pickle.dumps(secretive)


def test_nothing_private_is_printed():
    federation = federate(num_clients=3, **CLIENT)
    rnd = next(federation.rounds())
    rnd.submit(0, shifted(rnd.model(), 7.25))
    contribution = rnd._contributions[0]
    assert "array" not in repr(contribution)
    assert "cohort" not in repr(rnd)
    integers = contribution.integers
    rnd.close()
    assert not integers.any()


def test_stopping_on_a_metric_states_the_planned_rounds():
    federation = federate(num_clients=3, num_rounds=20, **CLIENT)
    for rnd in federation.rounds(stop=lambda report: report.round_id == 2):
        for client in rnd.cohort:
            rnd.submit(client, rnd.model())
        rnd.finish()
    assert federation.spent().rounds_charged == 20
    assert federation.spent().epsilon == federation.plan.epsilon(20)


# What is refused.


def test_submissions_that_are_refused_leave_the_round_as_it_was():
    federation = federate(num_clients=3, **CLIENT)
    rnd = next(federation.rounds())
    broken = shifted(rnd.model(), 0.0)
    with torch.no_grad():
        broken.bias.fill_(math.nan)
    for client, local, weight, error, names in [
        (7, rnd.model(), 1.0, InvalidArgumentError, "cohort"),
        (0, rnd.model(), 12, InvalidArgumentError, "weight must be 1"),
        (0, rnd.model(), -1.0, InvalidArgumentError, "weight"),
        (0, broken, 1.0, NonFiniteError, "bias"),
        (0, linear(size=3), 1.0, InvalidArgumentError, r"weight must have shape \(1, 4\), got \(1, 3\)"),
        (0, torch.nn.Linear(4, 1, bias=False), 1.0, InvalidArgumentError, "bias"),
        (0, {"weight": 1.0, "bias": 2.0}, 1.0, InvalidTypeError, "float"),
        (0, 3, 1.0, InvalidTypeError, "int"),
    ]:
        with pytest.raises(error, match=names) as caught:
            rnd.submit(client, local, weight)
        assert isinstance(caught.value, FedsecError)
    assert not rnd._contributions
    with pytest.raises(UnsupportedError, match="unit='record'"):
        rnd.submit_records(0, shard(4), squared_error)
    rnd.submit(0, rnd.model())
    with pytest.raises(InvalidArgumentError, match="submitted"):
        rnd.submit(0, rnd.model())
    with pytest.raises(InvalidArgumentError, match="phase"):
        rnd.drop(1, "lunch")


def test_record_submissions_that_are_refused():
    rnd = next(federate(num_clients=3, **RECORD).rounds())
    with pytest.raises(UnsupportedError, match="submit_records"):
        rnd.submit(0, rnd.model())
    with pytest.raises(InvalidArgumentError, match=r"declared as 40, .* hold 41"):
        rnd.submit_records(0, shard(41), squared_error)
    with pytest.raises(InvalidArgumentError, match="at least one record"):
        rnd.submit_records(0, shard(0), squared_error)
    with pytest.raises(InvalidTypeError, match="length"):
        rnd.submit_records(0, iter([]), squared_error)
    rnd.submit_records(0, shard(30), squared_error)
    with pytest.raises(InvalidArgumentError, match="hold 41"):
        rnd.submit_records(1, shard(11), squared_error)


def test_values_beyond_the_open_range_are_refused_not_wrapped():
    rnd = next(federate(num_clients=10).rounds())
    with pytest.raises(InvalidArgumentError, match="16777216"):
        rnd.submit(0, shifted(rnd.model(), 7.9), weight=2**24)
    with pytest.raises(NonFiniteError):
        rnd.submit(0, shifted(rnd.model(), math.inf))


REFUSED = [
    ({"num_clients": 0}, InvalidArgumentError, "num_clients"),
    ({"num_clients": 2.0}, InvalidTypeError, "num_clients"),
    ({"num_rounds": 0}, InvalidArgumentError, "num_rounds"),
    ({"num_rounds": None}, InvalidArgumentError, "num_rounds=None"),
    ({"cohort_size": 6}, InvalidArgumentError, r"cohort_size must be in \[1, 5\], got 6"),
    ({"cohort_size": 0}, InvalidArgumentError, "cohort_size"),
    ({"unit": "hospital"}, InvalidArgumentError, "hospital"),
    ({**CLIENT, "noise": "none"}, InvalidArgumentError, "central, distributed, local"),
    ({**CLIENT, "noise_multiplier": 0.0}, InvalidArgumentError, "noise_multiplier"),
    ({**CLIENT, "noise_multiplier": math.nan}, InvalidArgumentError, "noise_multiplier"),
    ({**CLIENT, "noise_multiplier": -1.0}, InvalidArgumentError, "noise_multiplier"),
    ({**CLIENT, "target_delta": 1.0}, InvalidArgumentError, "target_delta"),
    ({**CLIENT, "target_delta": None}, InvalidArgumentError, "target_delta"),
    ({**CLIENT, "l2_clip_norm": None}, InvalidArgumentError, "come together"),
    ({"l2_clip_norm": 1.0}, InvalidArgumentError, "come together"),
    ({**CLIENT, "l2_clip_norm": 0.0}, InvalidArgumentError, "l2_clip_norm"),
    ({**CLIENT, "sampling_probability": 0.5}, UnsupportedError, "secure aggregation"),
    (
        {**CLIENT, "sampling_probability": 0.5, "cohort_size": 3},
        InvalidArgumentError,
        "not both",
    ),
    ({**RECORD, "sampling_probability": 1.5}, InvalidArgumentError, "sampling_probability"),
    ({**RECORD, "sampling_probability": 0.0}, InvalidArgumentError, "sampling_probability"),
    ({**RECORD, "sampling_probability": None}, InvalidArgumentError, "sampling_probability"),
    ({**RECORD, "num_records": None}, InvalidArgumentError, "num_records"),
    ({**RECORD, "num_records": 0}, InvalidArgumentError, "num_records"),
    ({**CLIENT, "local_steps": 2}, UnsupportedError, "local_steps"),
    ({"unit": "record", "sampling_probability": 0.5, "num_records": 9}, InvalidArgumentError, "l2_clip_norm"),
    ({"strategy": "FedAvg"}, InvalidTypeError, "strategy"),
    ({"strategy": fedsec.FedAvg}, InvalidTypeError, "strategy"),
    ({"noise": "local"}, InvalidArgumentError, "belong to privacy"),
    ({"target_delta": 1e-5}, InvalidArgumentError, "belong to privacy"),
    ({"num_records": 100}, InvalidArgumentError, "num_records"),
    ({"secure_aggregation": "no"}, InvalidTypeError, "'no'"),
    ({"model": "linear"}, InvalidTypeError, "str"),
    ({"model": torch.nn.Flatten()}, InvalidArgumentError, "floating-point"),
    ({"num_clients": 2}, InvalidArgumentError, "at least 3 clients, got 2"),
]


@pytest.mark.parametrize(("change", "error", "names"), REFUSED)
def test_bad_settings_are_named_at_construction(change, error, names):
    arguments = {"model": linear(), "num_clients": 5, "num_rounds": 3} | change
    with pytest.raises(error, match=names):
        fedsec.Federation(arguments.pop("model"), **arguments)


def test_a_target_that_needs_more_noise_than_there_is_is_refused_at_construction():
    with pytest.raises(InvalidArgumentError, match="noise_multiplier"):
        federate(l2_clip_norm=1.0, target_epsilon=1e-12, target_delta=1e-12)


def test_a_report_keeps_operator_figures_out_of_sight():
    federation = federate(num_clients=3, **CLIENT)
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, shifted(rnd.model(), 12345.0))
    report = rnd.finish()
    assert "operator_only" not in repr(report)
    assert report.operator_only.clipped_fraction == 1.0
    assert report.operator_only.l2_norms[0] == pytest.approx(12345 * math.sqrt(5))
    assert {"training", "masking", "unmasking", "noise"} <= set(report.operator_only.seconds)
    assert report.operator_only.bytes_per_client > 0


def test_the_model_that_is_handed_out_is_a_copy():
    federation = federate(num_clients=3)
    rnd = next(federation.rounds())
    before = copy.deepcopy(federation.model)
    shifted(rnd.model(), 9.0)
    assert torch.equal(flat(federation.model), flat(before))


def test_the_noise_follows_from_the_clippers_own_sensitivity():
    """Twice the bound, twice the noise; and never less than one record's share can move, times z."""
    plans = [federate(**{**RECORD, "l2_clip_norm": c}).plan for c in (0.5, 1.0)]
    noise = []
    for plan in plans:
        step, stddev = plan.mechanism.quantizer.granularity, plan.mechanism.integer_stddev
        least = (plan.rule.l2_sensitivity / step + math.sqrt(plan.dimension)) * plan.noise_multiplier
        assert least <= stddev <= 1.001 * least
        noise.append(stddev * step)
    assert noise[1] == pytest.approx(2 * noise[0], rel=1e-3)


def test_the_ring_holds_every_sum_of_the_declared_records():
    plan = federate(**RECORD).plan
    largest_record = plan.rule.l2_sensitivity / plan.mechanism.quantizer.granularity
    assert 2 ** (plan.mechanism.modulus_bits - 1) > 40 * largest_record + 5
