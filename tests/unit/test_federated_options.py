"""What a federation offers beside the plain mean: weights, subsets of parameters, adaptive bounds, saving."""

import copy
import inspect
import io
import math
import shutil
from dataclasses import MISSING, fields

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import fedsec
from fedsec import _kernels
from fedsec.clipping import AdaptiveClipping, AutomaticClipping, FlatClipping, PerLayerClipping
from fedsec.errors import (
    BudgetExceededError,
    InvalidArgumentError,
    InvalidTypeError,
    LedgerError,
    ProtocolError,
    UnsupportedError,
)
from fedsec.federated.settings import Settings

CLIENT = {"l2_clip_norm": 1.0, "noise_multiplier": 1.0, "target_delta": 1e-5}
TINY = {"l2_clip_norm": 100.0, "noise_multiplier": 1e-6, "target_delta": 1e-5}
RECORD = {**CLIENT, "unit": "record", "sampling_probability": 0.5, "num_records": 40}
RELATION = fedsec.NeighboringRelation.REPLACE_SPECIAL


def linear(size=4):
    model = torch.nn.Linear(size, 1)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
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


def run_round(federation, by=1.0, weights=None):
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        rnd.submit(client, shifted(rnd.model(), by), **({"weight": weights[client]} if weights else {}))
    return rnd.finish()


def test_settings_and_federation_have_the_same_defaults():
    asked = inspect.signature(fedsec.Federation).parameters
    for field in fields(Settings):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        assert asked[field.name].default == default, field.name


@pytest.fixture
def fixed_keys(monkeypatch):
    """A fixed sequence of keys, so that a statistical test says the same every time."""
    keys = iter(range(10**6))
    monkeypatch.setattr(_kernels, "fresh_key", lambda: bytearray(next(keys).to_bytes(32, "little")))


# ---- weighted means


@pytest.mark.parametrize("secure", [True, False])
def test_a_private_weighted_mean_divides_by_the_public_sum_of_weights(secure):
    federation = federate(
        num_clients=4, max_weight=10.0, total_weight=20.0, secure_aggregation=secure, **TINY
    )
    rnd = next(federation.rounds())
    values, weights = [1.0, 2.0, 4.0, -1.0], [1.0, 5.0, 30.0, 2.0]  # the third counts as 10
    for client in rnd.cohort:
        rnd.submit(client, shifted(rnd.model(), values[client]), weight=weights[client])
    report = rnd.finish()
    expected = (1 * 1 + 5 * 2 + 10 * 4 - 2 * 1) / 20
    assert torch.allclose(flat(federation.model), torch.full((5,), expected, dtype=torch.float64), atol=1e-3)
    assert {"sum of all weights", "largest weight"} <= set(report.released.declared_public)


def test_a_cohort_has_its_share_of_the_weights():
    federation = federate(num_clients=8, cohort_size=4, max_weight=2.0, total_weight=16.0, **TINY)
    run_round(federation, weights=dict.fromkeys(range(8), 2.0))
    assert torch.allclose(flat(federation.model), torch.ones(5, dtype=torch.float64), atol=1e-3)


def test_no_weight_moves_the_integers_by_more_than_the_sensitivity():
    federation = federate(
        linear(50), num_clients=3, max_weight=3.0, total_weight=5.0, secure_aggregation=False, **CLIENT
    )
    rnd, mechanism = next(federation.rounds()), federation.plan.mechanism
    for client, weight in enumerate([1e-3, 3.0, 1e9]):
        rnd.submit(client, shifted(rnd.model(), 7.0), weight=weight)
        norm = math.sqrt(sum(int(x) ** 2 for x in rnd._contributions[client].integers))
        assert norm * federation.plan.noise_multiplier <= mechanism.integer_stddev
    assert norm * mechanism.quantizer.granularity == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"max_weight": 2.0}, "needs max_weight"),
        ({"total_weight": 2.0}, "needs max_weight"),
        ({"max_weight": 0.0, "total_weight": 2.0}, "max_weight"),
        ({"max_weight": math.nan, "total_weight": 2.0}, "max_weight"),
        ({**RECORD, "max_weight": 1.0, "total_weight": 2.0}, "weighted by itself"),
    ],
)
def test_weights_that_are_refused(change, names):
    with pytest.raises(InvalidArgumentError, match=names):
        federate(**{**CLIENT, **change})
    with pytest.raises(InvalidArgumentError, match="without privacy"):
        federate(max_weight=1.0, total_weight=2.0)


# ---- subsets of parameters


def two_layers():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


@pytest.mark.parametrize("chosen", ["0.*", ["0.weight", "0.bias"]])
@pytest.mark.parametrize("privacy", [{}, TINY])
def test_only_the_chosen_parameters_leave_a_client(chosen, privacy):
    model = two_layers()
    before = copy.deepcopy(model)
    federation = federate(model, num_clients=3, parameters=chosen, **privacy)
    assert federation.plan.dimension == 16
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        local = shifted(rnd.model(), 1.0)
        if client == 1:  # the chosen ones alone will do
            local = {name: t for name, t in local.state_dict().items() if name.startswith("0.")}
        rnd.submit(client, local)
    rnd.finish()
    assert torch.allclose(model[0].weight, before[0].weight + 1.0, atol=1e-3)
    assert torch.equal(model[2].weight, before[2].weight)


def test_a_missing_or_changed_tensor_of_the_chosen_ones_is_refused():
    federation = federate(two_layers(), num_clients=3, parameters="0.*")
    rnd = next(federation.rounds())
    with pytest.raises(InvalidArgumentError, match=r"0\.bias, which is exchanged"):
        rnd.submit(0, {"0.weight": rnd.model()[0].weight})


def test_adapters_beside_a_frozen_model():
    """LoRA: W and the head stay, A and B travel, and only they have gradients."""

    class Adapted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.base = torch.nn.Linear(4, 4).requires_grad_(requires_grad=False)
            self.lora_a = torch.nn.Parameter(torch.randn(4, 2) * 0.1)
            self.lora_b = torch.nn.Parameter(torch.zeros(2, 4))
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.base(x) + x @ self.lora_a @ self.lora_b)

    def loss(output, target):
        return torch.nn.functional.cross_entropy(output, target)

    arguments = {**RECORD, "noise_multiplier": 1e-3, "sampling_probability": 1.0}
    federation = federate(Adapted(), num_clients=3, parameters="lora_*", **arguments)
    assert federation.plan.dimension == 16
    before = copy.deepcopy(federation.model.state_dict())
    rnd = next(federation.rounds())
    for client in rnd.cohort:
        dataset = TensorDataset(torch.randn(10, 4), torch.randint(0, 2, (10,)))
        rnd.submit_records(client, dataset, loss)
    rnd.finish()
    moved = {n for n, t in federation.model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {"lora_a", "lora_b"}


@pytest.mark.parametrize(
    ("chosen", "error", "names"),
    [
        ("lora_*", InvalidArgumentError, r"'lora_\*'; there are 0\.weight"),
        (["0.weight", "nothing"], InvalidArgumentError, "'nothing'"),
        ([], InvalidTypeError, "pattern"),
        ([3], InvalidTypeError, "pattern"),
    ],
)
def test_names_that_match_nothing_are_refused(chosen, error, names):
    with pytest.raises(error, match=names):
        federate(two_layers(), parameters=chosen)


# ---- bounds that adapt


def test_the_bound_follows_the_quantile_of_the_updates():
    """Norms 1 to 9, quantile 1/2: from 100 times too large or too small the bound ends near the median."""
    for start in (0.05, 500.0):
        rule = AdaptiveClipping(start, learning_rate=1.0)
        federation = federate(
            linear(1), num_clients=9, num_rounds=60, clipping=rule, noise_multiplier=1e-3, target_delta=1e-5,
            secure_aggregation=False,
        )  # fmt: skip
        for rnd in federation.rounds():
            for client in rnd.cohort:
                rnd.submit(client, shifted(rnd.model(), (client + 1) / math.sqrt(2)))
            rnd.finish()
        assert 4.0 <= federation.plan.rule.l2_clip_norm <= 6.0


@pytest.mark.usefixtures("fixed_keys")
def test_the_count_and_the_sum_have_the_multipliers_of_the_budgets_shares():
    """False alarm over keys: 1e-9 for the sum (40,001 coordinates), 1e-4 for the count (400 rounds)."""
    rule = AdaptiveClipping(1.0, budget_share=0.04, learning_rate=1e-9)
    federation = federate(
        linear(40_000), num_clients=4, num_rounds=1, clipping=rule, noise_multiplier=1.0, target_delta=1e-5
    )
    of_sum, of_count = rule.multipliers(1.0)
    plan, zeros = federation.plan, np.zeros(40_002, np.int64)
    released = plan.mechanism.release(zeros)
    assert abs(released[:-1].var() / of_sum**2 - 1.0) < 0.044
    small = federate(
        linear(1), num_clients=4, num_rounds=1, clipping=rule, noise_multiplier=1.0, target_delta=1e-5
    ).plan
    counts = [
        small.mechanism.release(np.zeros(3, np.int64))[-1] / (2 * small._count_size) for _ in range(400)
    ]
    assert abs(np.var(counts) / (of_count / 2) ** 2 - 1.0) < 0.31
    assert plan.event == fedsec.Gaussian(1.0)  # both together cost what z says


def test_each_unit_moves_sum_and_count_together_by_the_sensitivity_at_most():
    rule = AdaptiveClipping(1.0, budget_share=0.3)
    federation = federate(
        linear(50), num_clients=3, clipping=rule, noise_multiplier=1.0, target_delta=1e-5,
        secure_aggregation=False,
    )  # fmt: skip
    rnd = next(federation.rounds())
    for client, by in enumerate([0.0, 1e-3, 1e3]):
        rnd.submit(client, shifted(rnd.model(), by))
        integers = rnd._contributions[client].integers
        assert len(integers) == 52
        assert math.sqrt(sum(int(x) ** 2 for x in integers)) <= federation.plan.mechanism.integer_stddev
        assert (integers[-1] > 0) == (by < 1.0)


def test_records_have_bounds_that_adapt_too():
    arguments = {**RECORD, "l2_clip_norm": 1e-4, "noise_multiplier": 0.1, "sampling_probability": 1.0}
    federation = federate(num_clients=4, num_rounds=20, clipping="adaptive", **arguments)
    generator = torch.Generator().manual_seed(0)
    dataset = TensorDataset(torch.randn(10, 4, generator=generator), torch.ones(10, 1))
    for rnd in federation.rounds():
        for client in rnd.cohort:
            rnd.submit_records(client, dataset, lambda out, y: (out - y).sum())
        rnd.finish()
    assert federation.plan.rule.l2_clip_norm > 5e-4


@pytest.mark.parametrize("clipping", ["per_layer", "automatic"])
def test_the_other_rules_clip_records_and_not_updates(clipping):
    with pytest.raises(UnsupportedError, match="clipped as a whole"):
        federate(clipping=clipping, **CLIENT)
    federation = federate(num_clients=3, clipping=clipping, **RECORD)
    kind = {"per_layer": PerLayerClipping, "automatic": AutomaticClipping}[clipping]
    assert federation.plan.rule == kind(1.0)


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ({**CLIENT, "clipping": "median"}, InvalidArgumentError, "median"),
        ({**CLIENT, "clipping": 3}, InvalidTypeError, "clipping"),
        ({**CLIENT, "clipping": FlatClipping(1.0)}, InvalidArgumentError, "l2_clip_norm=1.0 too"),
        ({"clipping": FlatClipping(1.0)}, InvalidArgumentError, "come together"),
        ({**RECORD, "clipping": "adaptive", "noise": "local"}, UnsupportedError, "bound of its own"),
    ],
)
def test_clipping_that_is_refused(arguments, error, names):
    with pytest.raises(error, match=names):
        federate(**arguments)


# ---- the budget


def test_what_was_planned_holds_wherever_one_stops():
    federation = federate(num_clients=3, num_rounds=7, **CLIENT)
    run_round(federation)
    spent = federation.spent()
    accountant = fedsec.PLDAccountant(neighboring_relation=RELATION).compose(fedsec.Gaussian(1.0), 7)
    assert spent.planned_epsilon == accountant.epsilon(1e-5)
    assert spent.epsilon_lower <= spent.epsilon < spent.planned_epsilon
    assert spent.accountant == "PLD"


def test_the_numeric_accountant_needs_less_noise_than_renyi():
    arguments = {**RECORD, "noise_multiplier": None, "target_epsilon": 2.0}
    z = federate(num_rounds=50, **arguments).plan.noise_multiplier
    event = fedsec.PoissonSampled(fedsec.Gaussian(z), 0.5)
    assert fedsec.PLDAccountant().compose(event, 50).epsilon(1e-5) <= 2.0
    assert fedsec.RDPAccountant().compose(event, 50).epsilon(1e-5) > 2.0


def ledger(path, **change):
    terms = {"target_epsilon": 12.0, "target_delta": 1e-5, "neighboring_relation": RELATION} | change
    return fedsec.Ledger(path, **terms)


def test_a_ledger_is_charged_before_each_release_and_outlives_the_process(tmp_path):
    kept = ledger(tmp_path / "study")
    affordable = kept.remaining(fedsec.Gaussian(1.0))
    assert affordable >= 2
    for _ in range(affordable):  # each time as if in a process of its own
        federation = federate(num_clients=3, ledger=ledger(tmp_path / "study"), **CLIENT)
        run_round(federation)
    federation = federate(num_clients=3, ledger=ledger(tmp_path / "study"), **CLIENT)
    with pytest.raises(BudgetExceededError, match="does not fit the ledger"):
        next(federation.rounds())
    assert [entry.purpose for entry in kept.entries()] == ["federated round 1"] * affordable


def test_a_schedule_that_is_fixed_may_be_charged_to_a_ledger_of_the_tight_kind(tmp_path):
    schedule = fedsec.Repeated(fedsec.Gaussian(1.0), 3)
    kept = ledger(tmp_path / "study", accountant="pld", schedule=schedule)
    federation = federate(num_clients=3, num_rounds=4, ledger=kept, **CLIENT)
    for _ in range(3):
        run_round(federation)
    with pytest.raises(BudgetExceededError):
        next(federation.rounds())


def test_ledgers_that_are_refused(tmp_path):
    other = fedsec.Ledger(tmp_path / "other", target_epsilon=1.0, target_delta=1e-5)
    for arguments, error, names in [
        ({**CLIENT, "ledger": other}, InvalidArgumentError, "neighboring_relation"),
        ({**CLIENT, "ledger": "study"}, InvalidTypeError, "str"),
        ({**CLIENT, "ledger": other, "noise": "local"}, UnsupportedError, "each client keeps"),
        ({"ledger": other}, InvalidArgumentError, "belongs to privacy"),
    ]:
        with pytest.raises(error, match=names):
            federate(num_clients=3, **arguments)


# ---- saving and going on


def saved(federation):
    """Through a file, as `weights_only` reads it."""
    file = io.BytesIO()
    torch.save({"model": federation.model.state_dict(), "federation": federation.state_dict()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"strategy": fedsec.FedAdam(learning_rate=0.1)},
        {"strategy": fedsec.FedAvgM(), **TINY, "clipping": AdaptiveClipping(100.0), "l2_clip_norm": None},
        {**TINY, "noise": "local"},
    ],
)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(arguments):
    whole, first = (federate(num_clients=4, num_rounds=4, **arguments) for _ in range(2))
    for by in (1.0, -0.5):
        run_round(whole, by)
        run_round(first, by)
    state = saved(first)
    second = federate(num_clients=4, num_rounds=4, **arguments)
    second.model.load_state_dict(state["model"])
    second.load_state_dict(state["federation"])
    for by in (0.25, 2.0):
        run_round(whole, by)
        report = run_round(second, by)
    assert report.round_id == 4
    assert list(second.rounds()) == []
    assert second.spent() == whole.spent()
    assert torch.allclose(flat(second.model), flat(whole.model), atol=0.02)
    if second.plan.private:
        assert second.plan.rule.l2_clip_norm == pytest.approx(whole.plan.rule.l2_clip_norm, rel=1e-2)


def test_a_state_of_another_federation_is_refused_by_name():
    federation = federate(num_clients=4, **CLIENT)
    run_round(federation)
    state = federation.state_dict()
    for change, names in [
        ({"noise_multiplier": 2.0}, "noise_multiplier of the saved federation is 1.0, and 2.0 now"),
        ({"num_rounds": 9}, "num_rounds"),
        ({"strategy": fedsec.FedAdam()}, "strategy"),
        ({"model": linear(5)}, "parameters"),
        ({"cohort_size": 3}, "cohort_size"),
    ]:
        with pytest.raises(InvalidArgumentError, match=names):
            federate(**{"num_clients": 4, **CLIENT, **change}).load_state_dict(state)
    for broken, error in [
        ({}, InvalidTypeError),
        ({**state, "format": 2}, InvalidArgumentError),
        ({**state, "rounds_started": -1}, InvalidArgumentError),
        ({**state, "l2_clip_norm": 7.0}, InvalidArgumentError),
        ({**state, "budget": {**state["budget"], "charges": {-1: -1}}}, InvalidArgumentError),
        ({**state, "budget": {"charges": {}, "stopped_early": False}}, InvalidTypeError),
    ]:
        with pytest.raises(error):
            federate(num_clients=4, **CLIENT).load_state_dict(broken)


def test_charges_are_never_forgotten():
    federation = federate(num_clients=4, **CLIENT)
    early = federation.state_dict()
    run_round(federation)
    with pytest.raises(InvalidArgumentError, match="at least"):
        federation.load_state_dict(early)
    assert federation.spent().rounds_charged == 1


def test_rounds_that_a_crash_took_are_charged(tmp_path):
    """The ledger has them, and somebody may have the model after them; a round done again is paid again."""

    def start(name="budget"):
        ledger = fedsec.Ledger(
            tmp_path / name, target_epsilon=50.0, target_delta=1e-5, neighboring_relation=RELATION
        )
        return federate(num_clients=4, ledger=ledger, **CLIENT)

    federation = start()
    run_round(federation)
    saved = federation.state_dict()
    shutil.copy(tmp_path / "budget", tmp_path / "copy")
    run_round(federation)
    late = federation.state_dict()
    other = start()
    other.load_state_dict(saved)
    assert other.spent() == federation.spent()
    assert other.spent().rounds_charged == 2
    assert run_round(other).round_id == 2
    with pytest.raises(BudgetExceededError, match="another round would bring"):
        run_round(other)
    for name in ("copy", "new"):
        with pytest.raises(LedgerError, match=f"{name}: another ledger than the one"):
            start(name).load_state_dict(late)
    with pytest.raises(InvalidArgumentError, match="ledger must be the one that was charged"):
        federate(num_clients=4, **CLIENT).load_state_dict(late)


def test_an_open_round_cannot_be_saved():
    federation = federate(num_clients=3)
    rnd = next(federation.rounds())
    with pytest.raises(ProtocolError, match="round 1 is open"):
        federation.state_dict()
    rnd.close()
    assert federation.state_dict()["rounds_started"] == 1
