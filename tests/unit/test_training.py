"""`fedsec.attach`: steps, gradients and what is refused, on loops as users write them."""

import gc
import io
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from reference.clipping_reference import record_gradients
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, TensorDataset

import fedsec
from fedsec import sampling
from fedsec.clipping import AdaptiveClipping, BookKeeper, PerLayerClipping, bookkeeping
from fedsec.errors import (
    BudgetExceededError,
    InvalidArgumentError,
    InvalidTypeError,
    LedgerError,
    NonFiniteError,
    ProtocolError,
    UnsupportedError,
)
from fedsec.training import DeclaredLoader, batches, draws
from fedsec.training import privacy as privacy_module


def records(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return TensorDataset(x, x[:, :3].argmax(dim=1))


def classifier(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def losses_of(model, x, y):
    return cross_entropy(model(x), y, reduction="none")


class Loop:
    """A training, with everything at hand."""

    def __init__(self, model=None, optimizer=None, dataset=None, **options):
        self.model = classifier() if model is None else model
        self.dataset = records() if dataset is None else dataset
        self.optimizer = optimizer or torch.optim.SGD(self.model.parameters(), lr=0.1)
        defaults = {"batch_size": 10, "noise_multiplier": 1.0, "target_delta": 1e-5, "epochs": 3}
        self.privacy = fedsec.attach(self.model, self.optimizer, self.dataset, **(defaults | options))

    def epoch(self, rows=4, **options):
        for x, y in self.privacy.loader(max_physical_batch_size=rows, **options):
            self.privacy.backward(losses_of(self.model, x, y))
            self.optimizer.step()
            self.optimizer.zero_grad()

    def past_trial(self, rows=4):
        """An iterator whose next micro-batch counts."""
        batches = iter(self.privacy.loader(max_physical_batch_size=rows))
        x, y = next(batches)
        while self.privacy.on_trial:
            self.privacy.backward(losses_of(self.model, x, y))
            x, y = next(batches)
        return itertools.chain([(x, y)], batches)


@pytest.fixture
def no_noise(monkeypatch):
    """What would be released, without the noise; and what the noise was asked to be."""
    asked = []

    def release_parts(parts, dimension, l2_sensitivity, noise_multiplier, *, dtype, scale):
        asked.append((l2_sensitivity, noise_multiplier))
        return ((part * scale).astype(dtype) for part in parts)

    monkeypatch.setattr(privacy_module.noise, "release_parts", release_parts)
    return asked


@pytest.fixture
def drawn(monkeypatch):
    """What each step draws."""
    steps = []
    poisson = sampling.poisson

    def recorded(size, probability):
        steps.append(poisson(size, probability))
        return steps[-1]

    monkeypatch.setattr(sampling, "poisson", recorded)
    return steps


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---- steps


def test_totals_are_widened_before_they_round_too_often(monkeypatch, no_noise):
    """Records times micro-batches so far are 3, 12 and 27."""
    monkeypatch.setattr(sampling, "poisson", lambda *_: np.arange(9))
    monkeypatch.setattr(privacy_module, "MOST_ROUNDINGS", 12)
    loop = Loop()
    kinds = []
    for x, y in itertools.islice(loop.past_trial(rows=3), 6):
        loop.privacy.backward(losses_of(loop.model, x, y))
        kinds.append({total.dtype for total in loop.privacy._sums.values()})
        loop.optimizer.step()
    assert kinds == 2 * [{torch.float32}, {torch.float32}, {torch.float64}]


def test_a_private_training_learns():
    loop = Loop(dataset=records(600), target_epsilon=8.0, noise_multiplier=None, batch_size=60, epochs=10)
    loop.optimizer.param_groups[0]["lr"] = 2.0
    for _ in range(10):
        loop.epoch(rows=32)
    x, y = loop.dataset.tensors
    assert float((loop.model(x).argmax(dim=1) == y).float().mean()) > 0.7
    assert loop.privacy.steps == 100
    assert loop.privacy.spent().epsilon <= 8.0


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_a_steps_gradient_is_the_clipped_sum_over_the_expected_size(rows, no_noise, drawn):
    loop = Loop(l2_clip_norm=0.4)
    batches = loop.privacy.loader(max_physical_batch_size=rows)
    x_all, y_all = loop.dataset.tensors
    seen = 0
    for x, y in batches:
        loop.privacy.backward(losses_of(loop.model, x, y))
        assert all(p.grad is None for p in loop.model.parameters())
        before = loop.privacy.steps
        if loop.privacy.is_last_microbatch:
            chosen = torch.from_numpy(drawn[loop.privacy.steps])
            rows_of = record_gradients(
                loop.model,
                x_all[chosen],
                y_all[chosen],
                lambda out, t: cross_entropy(out, t, reduction="none"),
            )
            expected = torch.stack(rows_of).double() if rows_of else torch.zeros(1, 83, dtype=torch.float64)
            scale = torch.clamp(0.4 / expected.norm(dim=1), max=1.0).nan_to_num(0.0)
            loop.optimizer.step()
            found = torch.cat([p.grad.flatten() for p in loop.model.parameters()]).double()
            assert torch.allclose(found, (expected * scale.unsqueeze(1)).sum(dim=0) / 10, atol=1e-5)
            seen += 1
        else:
            unchanged = weights(loop.model)
            loop.optimizer.step()
            assert torch.equal(weights(loop.model), unchanged)
        assert loop.privacy.steps - before in (0, 1)
        loop.optimizer.zero_grad()
    assert seen == loop.privacy.steps == 4
    rule = loop.privacy.plan.rule
    assert no_noise == [(rule.l2_sensitivity, 1.0)] * 4
    assert rule.l2_sensitivity > 0.4


def test_gradients_of_a_float64_model_outlive_the_sums_they_are_made_from():
    x, y = records().tensors
    loop = Loop(classifier().double(), dataset=TensorDataset(x.double(), y))
    for x, y in loop.past_trial(rows=64):
        loop.privacy.backward(losses_of(loop.model, x, y))
        loop.optimizer.step()
        assert all(p.grad.dtype == torch.float64 and p.grad.any() for p in loop.model.parameters())


@pytest.mark.usefixtures("no_noise")
def test_nobody_drawn_is_a_step_of_noise_alone(monkeypatch):
    monkeypatch.setattr(sampling, "poisson", lambda *_: np.zeros(0, np.int64))
    loop = Loop()
    before = weights(loop.model)
    loop.epoch()
    assert loop.privacy.steps == 4
    assert torch.equal(weights(loop.model), before)


def test_noise_has_the_planned_size_and_no_seed_decides_it(monkeypatch):
    """400 steps of 83 coordinates, within 7 standard errors. False alarm over keys: 1e-11."""
    monkeypatch.setattr(sampling, "poisson", lambda *_: np.zeros(0, np.int64))
    loop = Loop(epochs=100, noise_multiplier=1.5, l2_clip_norm=2.0)
    found = []
    for _ in range(100):
        for x, y in loop.privacy.loader(4):
            torch.manual_seed(0)
            np.random.seed(0)
            loop.privacy.backward(losses_of(loop.model, x, y))
            loop.optimizer.step()
            if loop.privacy.is_last_microbatch:
                found.append(torch.cat([p.grad.flatten() for p in loop.model.parameters()]))
            loop.optimizer.zero_grad()
    values = torch.stack(found).double() * 10 / (1.5 * loop.privacy.plan.rule.l2_sensitivity)
    error = 7 * math.sqrt(2 / values.numel())
    assert abs(float(values.var()) - 1.0) < error + 2e-3
    assert abs(float(values.mean())) < 7 / math.sqrt(values.numel())
    assert not torch.equal(found[0], found[1])
    assert error < 0.1  # a multiplier off by a twentieth would be seen


def test_continuous_noise_says_what_it_is():
    loop = Loop(noise="continuous")
    loop.epoch()
    assert "no guarantee" in str(loop.privacy.spent())


OPTIMIZERS = sorted(
    (
        kind
        for kind in vars(torch.optim).values()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    ),
    key=lambda kind: kind.__name__,
)
UNFIT = {"Optimizer", "LBFGS", "SparseAdam"}  # no optimizer; refused, tested below


@pytest.mark.parametrize("make", [kind for kind in OPTIMIZERS if kind.__name__ not in UNFIT])
def test_any_optimizer_without_closure_and_schedulers(make):
    model = classifier()
    if make.__name__ == "Muon":  # of matrices alone
        model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))
    loop = Loop(model, make(model.parameters(), lr=0.1))
    scheduler = torch.optim.lr_scheduler.StepLR(loop.optimizer, step_size=2)
    before, rate = weights(model), loop.optimizer.param_groups[0]["lr"]
    for x, y in loop.privacy.loader(4):
        loop.privacy.backward(losses_of(model, x, y))
        loop.optimizer.step()
        if loop.privacy.is_last_microbatch:
            scheduler.step()
        loop.optimizer.zero_grad()
    assert not torch.equal(weights(model), before)
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(rate / 100)


def test_zero_grad_may_come_first():
    loop = Loop()
    before = weights(loop.model)
    for x, y in loop.privacy.loader(4):
        loop.optimizer.zero_grad()
        loop.privacy.backward(losses_of(loop.model, x, y))
        loop.optimizer.step()
    assert not torch.equal(weights(loop.model), before)


def test_names_and_checkpoints_stay_the_users_own():
    model = classifier()
    before = list(model.state_dict())
    loop = Loop(model)
    loop.epoch()
    assert list(model.state_dict()) == before
    assert type(model) is nn.Sequential
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    classifier().load_state_dict(torch.load(file, weights_only=True))
    loop.privacy.detach()
    x, y = loop.dataset.tensors
    cross_entropy(model(x), y).backward()
    loop.optimizer.step()
    with pytest.raises(ProtocolError, match="detached"):
        loop.privacy.loader()


def test_adaptive_clipping_finds_the_median_and_survives_a_resume():
    """Norms of all records lie around 1: from far away on either side the bound comes to them."""
    for start in (0.01, 100.0):
        rule = AdaptiveClipping(start, learning_rate=0.5)
        loop = Loop(dataset=records(400), batch_size=200, epochs=20, clipping=rule, noise_multiplier=0.5)
        loop.optimizer.param_groups[0]["lr"] = 1e-6
        for _ in range(20):
            loop.epoch(rows=64)
        x, y = loop.dataset.tensors
        norms = torch.stack([g.norm() for g in record_gradients(loop.model, x, y, cross_entropy)])
        state = loop.privacy.state_dict()
        assert float(norms.quantile(0.1)) < state["l2_clip_norm"] < float(norms.quantile(0.9))
        other = Loop(dataset=records(400), batch_size=200, epochs=20, clipping=rule, noise_multiplier=0.5)
        other.privacy.load_state_dict(state)
        assert other.privacy.state_dict() == state


def test_adaptive_clipping_pays_for_its_count(no_noise):
    loop = Loop(clipping="adaptive", l2_clip_norm=0.5)
    loop.epoch()
    rule = AdaptiveClipping(0.5)
    (first, count), bounds = rule.multipliers(1.0), [sensitivity for sensitivity, _ in no_noise[::2]]
    assert [z for _, z in no_noise] == [first, count] * 4
    assert [sensitivity for sensitivity, _ in no_noise[1::2]] == [0.5] * 4
    assert bounds[0] == rule.l2_sensitivity
    assert len(set(bounds)) == 4
    event = fedsec.PoissonSampled(fedsec.Gaussian(1.0), 0.25)
    assert loop.privacy.spent().epsilon == fedsec.PLDAccountant().compose(event, 4).epsilon(1e-5)


# ---- reductions


@pytest.mark.usefixtures("no_noise")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_declared_reduction_is_undone(reduction, monkeypatch):
    fixed = np.array([1, 5, 8, 13, 21, 34, 39])
    monkeypatch.setattr(sampling, "poisson", lambda *_: fixed)
    steps = []
    for declared in (None, reduction):
        loop = Loop(loss_reduction=declared, l2_clip_norm=0.5, steps=1, epochs=None)
        for x, y in loop.privacy.loader(4):
            if declared is None:
                loop.privacy.backward(losses_of(loop.model, x, y))
            else:
                cross_entropy(loop.model(x), y, reduction=reduction).backward()
                assert all(p.grad is None for p in loop.model.parameters())
                nn.utils.clip_grad_norm_(loop.model.parameters(), 1.0)
            loop.optimizer.step()
            loop.optimizer.zero_grad()
        steps.append(weights(loop.model))
    assert torch.allclose(*steps, atol=1e-6)
    assert not torch.equal(steps[0], weights(classifier()))


def test_a_plain_backward_that_was_not_declared_is_refused():
    loop = Loop()
    x, y = next(iter(loop.privacy.loader(4)))
    cross_entropy(loop.model(x), y).backward()
    with pytest.raises(ProtocolError, match="declare loss_reduction"):
        loop.optimizer.step()
    loop = Loop(loss_reduction="mean")
    x, y = next(iter(loop.privacy.loader(4)))
    with pytest.raises(ProtocolError, match=r"loss\.backward"):
        loop.privacy.backward(losses_of(loop.model, x, y))


# ---- the trial


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        x = self.layer(x)
        return x - x.mean(dim=0)


def run_reduction(loop, loss):
    for x, y in loop.privacy.loader(8):
        loss(loop.model(x), y).backward()
        loop.optimizer.step()
        loop.optimizer.zero_grad()


@pytest.mark.parametrize(
    "loss",
    [
        lambda out, y: cross_entropy(out, y, weight=torch.tensor([1.0, 2.0, 5.0])),
        lambda out, y: cross_entropy(out, y, ignore_index=1),
        lambda out, y: cross_entropy(out, y) + out.mean(dim=0).square().sum(),
        lambda out, y: cross_entropy(out - out.mean(dim=0), y),
    ],
)
def test_losses_that_mix_records_are_found_before_the_first_step(loss):
    loop = Loop(loss_reduction="mean")
    with pytest.raises(UnsupportedError, match="mixes records"):
        run_reduction(loop, loss)
    assert loop.privacy.steps == 0


def test_models_that_mix_records_are_found_before_the_first_step():
    loop = Loop(model := Centred(), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(UnsupportedError, match="mixes records"):
        loop.epoch(8)
    with pytest.raises(ProtocolError, match="has ended: replacing one record"):
        loop.epoch(8)


def test_records_that_are_mixed_only_later_are_found_by_stand_ins(monkeypatch):
    monkeypatch.setattr(sampling, "poisson", lambda *_: np.arange(3))
    loop = Loop()
    batches = loop.past_trial()
    x, y = next(batches)
    mixed = losses_of(loop.model, x, y) + losses_of(loop.model, x, y).sum()
    with pytest.raises(UnsupportedError, match="stand-in"):
        loop.privacy.backward(mixed)
    assert loop.privacy.steps == 0


def test_dropout_and_dictionaries_pass_the_trial():
    class Words(Dataset):
        def __len__(self):
            return 30

        def __getitem__(self, i):
            return {"x": torch.randn(6, generator=torch.Generator().manual_seed(i)), "y": i % 3}

    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    loop = Loop(model, dataset=Words())
    for batch in loop.privacy.loader(4, num_workers=1):
        loop.privacy.backward(losses_of(model, batch["x"], batch["y"]))
        loop.optimizer.step()
    assert loop.privacy.steps == 3


def test_a_collate_function_makes_the_batches():
    loop = Loop()
    sizes = []

    def collate(rows):
        sizes.append(len(rows))
        return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])

    loop.epoch(5, collate_fn=collate)
    assert sizes[0] == 13  # the trial's rows, and those that may replace one
    assert set(sizes[1:]) == {5}


# ---- out of turn


def test_steps_out_of_turn_are_refused():
    loop = Loop()
    with pytest.raises(ProtocolError, match="without a micro-batch"):
        loop.optimizer.step()
    batches = loop.past_trial(rows=64)
    x, y = next(batches)
    with pytest.raises(ProtocolError, match="no backward"):
        loop.optimizer.step()
    losses = losses_of(loop.model, x, y)
    loop.privacy.backward(losses)
    with pytest.raises(ProtocolError, match="once"):
        loop.privacy.backward(losses)
    with pytest.raises(ProtocolError, match="not called on the last"):
        next(batches)
    loop.optimizer.step()
    with pytest.raises(ProtocolError, match="twice"):
        loop.optimizer.step()
    assert loop.privacy.steps == 1


def test_a_micro_batch_without_backward_is_refused():
    loop = Loop()
    batches = loop.past_trial(rows=1)
    next(batches)
    with pytest.raises(ProtocolError, match="no backward"):
        next(batches)


def test_an_epoch_left_in_the_middle_of_a_step_is_refused(monkeypatch):
    monkeypatch.setattr(sampling, "poisson", lambda *_: np.arange(9))
    loop = Loop()
    batches = loop.past_trial()
    x, y = next(batches)
    loop.privacy.backward(losses_of(loop.model, x, y))
    with pytest.raises(ProtocolError, match="not finished"):
        loop.privacy.loader(4)
    with pytest.raises(ProtocolError, match="under way"):
        loop.privacy.state_dict()


def test_a_trial_may_be_left():
    loop = Loop()
    next(iter(loop.privacy.loader(4)))
    loop.epoch()
    assert loop.privacy.steps == 4


def test_an_older_loader_is_overtaken():
    loop = Loop()
    batches = loop.past_trial(rows=64)
    x, y = next(batches)
    loop.privacy.backward(losses_of(loop.model, x, y))
    loop.optimizer.step()
    loop.epoch(64)
    with pytest.raises(ProtocolError, match="newer loader"):
        next(batches)


@pytest.mark.usefixtures("no_noise")
@pytest.mark.parametrize("named", [True, False])
def test_a_closure_runs_once_before_its_gradient_is_due(named, monkeypatch):
    """As frameworks step: loss, zero_grad and backward within the closure, then the private gradient."""
    monkeypatch.setattr(sampling, "poisson", lambda *_: np.arange(7))
    plain, loop = Loop(), Loop()
    plain.epoch()
    for x, y in loop.privacy.loader(max_physical_batch_size=4):
        ran = []

        def closure(x=x, y=y, ran=ran):
            losses = losses_of(loop.model, x, y)
            loop.optimizer.zero_grad()
            loop.privacy.backward(losses)
            assert all(p.grad is None for p in loop.model.parameters())
            ran.append(losses.sum())
            return ran[-1]

        loss = loop.optimizer.step(closure=closure) if named else loop.optimizer.step(closure)
        assert len(ran) == 1
        assert loss is ran[0]
        assert all((p.grad is not None) is loop.privacy.is_last_microbatch for p in loop.model.parameters())
    assert loop.privacy.steps == 4
    assert torch.allclose(weights(loop.model), weights(plain.model), atol=1e-6)  # in another order


def test_closures_out_of_turn_are_refused_before_they_run():
    loop, ran = Loop(), []
    with pytest.raises(ProtocolError, match="without a micro-batch"):
        loop.optimizer.step(lambda: ran.append(1))
    x, y = next(loop.past_trial(rows=64))
    loop.privacy.backward(losses_of(loop.model, x, y))
    loop.optimizer.step()
    with pytest.raises(ProtocolError, match="twice"):
        loop.optimizer.step(lambda: ran.append(1))
    assert not ran


def test_a_closure_that_steps_itself_or_has_no_backward_is_refused():
    loop = Loop()
    x, y = next(loop.past_trial(rows=64))
    with pytest.raises(ProtocolError, match="no backward"):
        loop.optimizer.step(lambda: losses_of(loop.model, x, y).sum())

    def steps():
        loop.privacy.backward(losses_of(loop.model, x, y))
        loop.optimizer.step()

    with pytest.raises(ProtocolError, match="has itself gone on"):
        loop.optimizer.step(steps)


@pytest.mark.parametrize(
    ("make", "names"), [(torch.optim.LBFGS, "LBFGS"), (torch.optim.SparseAdam, "SparseAdam")]
)
def test_optimizers_that_cannot_be_private(make, names):
    model = classifier()
    with pytest.raises(UnsupportedError, match=names):
        Loop(model, make(model.parameters()))
    Loop(model)  # nothing was left attached


def test_the_optimizer_must_hold_the_models_parameters_and_no_others():
    model = classifier()
    with pytest.raises(InvalidArgumentError, match=r"2\.bias is missing"):
        Loop(model, torch.optim.SGD([*model.parameters()][:-1], lr=0.1))
    foreign = nn.Parameter(torch.zeros(7))
    with pytest.raises(InvalidArgumentError, match=r"shape \(7,\)"):
        Loop(model, torch.optim.SGD([*model.parameters(), foreign], lr=0.1))


def test_a_parameter_that_is_thawed_later_is_refused():
    model = classifier()
    model[0].bias.requires_grad_(requires_grad=False)
    loop = Loop(model)
    batches = loop.past_trial(rows=64)
    x, _ = next(batches)
    model[0].bias.requires_grad_()
    with pytest.raises(UnsupportedError, match=r"0\.bias.*thawed"):
        model(x)
    model.added = nn.Linear(2, 2)
    model[0].bias.requires_grad_(requires_grad=False)
    with pytest.raises(UnsupportedError, match=r"added\.weight"):
        model(x)
    assert loop.privacy.steps == 0
    assert all(p.grad is None for p in model.parameters())


def test_parameters_that_change_between_forward_and_backward_are_seen():
    loop = Loop()
    x, y = next(loop.past_trial(rows=64))
    losses = losses_of(loop.model, x, y)
    with torch.no_grad():
        loop.model[2].bias.add_(1.0)
    with pytest.raises((ProtocolError, RuntimeError), match=r"changed|modified"):
        loop.privacy.backward(losses)
    assert loop.privacy.steps == 0


# ---- bad data


@pytest.mark.parametrize(
    ("spoil", "names"),
    [(lambda losses: losses * math.nan, "losses must be finite"), (lambda losses: losses / 0.0, "finite")],
)
def test_losses_that_are_not_finite_end_the_training_uncharged(spoil, names, tmp_path):
    ledger = fedsec.Ledger(tmp_path / "budget", target_epsilon=9.0, target_delta=1e-5)
    loop = Loop(ledger=ledger)
    before = weights(loop.model)
    x, y = next(loop.past_trial(rows=64))
    with pytest.raises(NonFiniteError, match=names):
        loop.privacy.backward(spoil(losses_of(loop.model, x, y)))
    with pytest.raises(ProtocolError, match="has ended: losses must be finite"):
        loop.optimizer.step()
    assert torch.equal(weights(loop.model), before)
    assert ledger.entries() == ()
    assert loop.privacy.spent().epsilon == 0.0


def test_an_infinite_gradient_ends_the_training_uncharged():
    loop = Loop(loss_reduction="sum")
    spoilt = loop.privacy.loader(64)
    for x, _ in spoilt:
        out = loop.model(x)
        if loop.privacy.on_trial:
            out.sum().backward()
            continue
        torch.sqrt(out - out.detach()).sum().backward()
        with pytest.raises(NonFiniteError, match=r"0\.weight"):
            loop.optimizer.step()
        break
    assert loop.privacy.steps == 0
    assert all(p.grad is None for p in loop.model.parameters())


@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        ({"batch_size": 41}, InvalidArgumentError, "at most the 40 records"),
        ({"batch_size": 0}, InvalidArgumentError, "batch_size"),
        ({"batch_size": None}, InvalidArgumentError, "give batch_size"),
        ({"sampling_probability": 0.1}, InvalidArgumentError, "batch_size=10, sampling_probability=0.1"),
        ({"batch_size": None, "sampling_probability": 1.5}, InvalidArgumentError, r"in \(0, 1\], got 1.5"),
        ({"batch_size": None, "sampling_probability": 0.1}, InvalidArgumentError, "expected_batch_size"),
        ({"expected_batch_size": 3.0}, InvalidArgumentError, "batch_size says it"),
        ({"epochs": None}, InvalidArgumentError, "epochs or steps"),
        ({"steps": 3}, InvalidArgumentError, "not both"),
        ({"epochs": 0}, InvalidArgumentError, "epochs"),
        ({"noise_multiplier": None}, InvalidArgumentError, "target_epsilon or noise_multiplier"),
        ({"noise_multiplier": -1.0}, InvalidArgumentError, "noise_multiplier"),
        ({"target_delta": 0.0}, InvalidArgumentError, "target_delta"),
        ({"target_epsilon": 1e-3}, BudgetExceededError, "above target_epsilon"),
        ({"sampling": "shuffled"}, UnsupportedError, "no valid bound.*poisson"),
        ({"sampling": "random"}, InvalidArgumentError, "sampling"),
        (
            {"sampling": "fixed", "batch_size": None, "sampling_probability": 0.1},
            InvalidArgumentError,
            "batch_size",
        ),
        ({"sampling": "allocation", "epochs": None, "steps": 3}, InvalidArgumentError, "fill epochs of 4"),
        ({"clipping": "none"}, InvalidArgumentError, "clipping"),
        ({"clipping": object()}, InvalidTypeError, "a rule of fedsec.clipping"),
        ({"noise": "none"}, InvalidArgumentError, "noise"),
        ({"loss_reduction": "max"}, InvalidArgumentError, "loss_reduction"),
        ({"when_exhausted": "wait"}, InvalidArgumentError, "when_exhausted"),
        ({"l2_clip_norm": 0.0}, InvalidArgumentError, "l2_clip_norm"),
        ({"dataset": TensorDataset(torch.zeros(0, 6))}, InvalidArgumentError, "at least one record"),
        ({"dataset": iter([1])}, InvalidTypeError, "a length"),
        ({"model": nn.Flatten()}, InvalidArgumentError, "no parameter"),
        ({"ledger": 3}, InvalidTypeError, "ledger"),
        ({"neighboring_relation": "add"}, InvalidTypeError, "neighboring_relation"),
    ],
)
def test_bad_arguments_are_named(options, error, names):
    if isinstance(options.get("model"), nn.Flatten):
        options = options | {"optimizer": torch.optim.SGD(classifier().parameters(), lr=0.1)}
    with pytest.raises(error, match=names):
        Loop(**options)


def test_a_loader_of_the_users_own_is_refused_with_the_reason():
    loader = torch.utils.data.DataLoader(records(), batch_size=10, shuffle=True)
    with pytest.raises(UnsupportedError, match="not a DataLoader"):
        Loop(dataset=loader)


def test_an_optimizer_must_be_one():
    with pytest.raises(InvalidTypeError, match=r"torch\.optim\.Optimizer, got int"):
        Loop(optimizer=3)


# ---- budgets


def test_what_was_spent_is_what_the_accountants_say():
    loop = Loop()
    loop.epoch()
    event = fedsec.PoissonSampled(fedsec.Gaussian(1.0), 0.25)
    spent = loop.privacy.spent()
    assert spent.epsilon == fedsec.PLDAccountant().compose(event, 4).epsilon(1e-5)
    assert spent.epsilon_rdp == fedsec.RDPAccountant().compose(event, 4).epsilon(1e-5)
    assert spent.planned_epsilon == fedsec.PLDAccountant().compose(event, 12).epsilon(1e-5)
    assert 0 < spent.epsilon_lower <= spent.epsilon <= spent.epsilon_rdp
    assert spent.declared_public == ("size of the data set",)
    for said in ("one record", "Poisson, probability 0.25", "4 of 12 steps", "add or remove one", "exact"):
        assert said in str(spent)


def test_the_end_of_the_budget_raises_or_stops():
    loop = Loop(epochs=1)
    loop.epoch()
    with pytest.raises(BudgetExceededError, match="all 4 planned steps"):
        loop.privacy.loader()
    loop = Loop(epochs=1, when_exhausted="stop")
    for _ in range(3):
        loop.epoch()
    assert loop.privacy.steps == 4


def test_steps_follow_from_a_target():
    loop = Loop(epochs=None, target_epsilon=3.0)
    planned = loop.privacy.plan.planned_steps
    event = fedsec.PoissonSampled(fedsec.Gaussian(1.0), 0.25)
    assert fedsec.PLDAccountant().compose(event, planned).epsilon(1e-5) <= 3.0
    assert fedsec.PLDAccountant().compose(event, planned + 1).epsilon(1e-5) > 3.0


def test_the_size_of_the_data_set_may_stay_private():
    loop = Loop(batch_size=None, sampling_probability=0.3, expected_batch_size=12, epochs=None, steps=6)
    loop.epoch()
    loop.epoch()
    assert loop.privacy.steps == 6
    assert loop.privacy.spent().declared_public == ()


def test_a_ledger_is_charged_before_each_release(tmp_path, monkeypatch):
    ledger = fedsec.Ledger(tmp_path / "budget", target_epsilon=9.0, target_delta=1e-5)
    loop, seen = Loop(ledger=ledger), []
    release_parts = privacy_module.noise.release_parts

    def noting(*arguments, **options):
        seen.append(len(ledger.entries()))
        return release_parts(*arguments, **options)

    monkeypatch.setattr(privacy_module.noise, "release_parts", noting)
    loop.epoch()
    assert seen == [1, 2, 3, 4]
    assert ledger.entries()[0].event == loop.privacy.plan.event


def test_a_ledger_without_room_ends_the_training_before_the_release(tmp_path):
    ledger = fedsec.Ledger(tmp_path / "budget", target_epsilon=1.0, target_delta=1e-5)
    loop = Loop(ledger=ledger, noise_multiplier=0.7)
    with pytest.raises(BudgetExceededError):
        loop.epoch()
    held, charged = weights(loop.model), len(ledger.entries())
    assert charged == loop.privacy.steps < 4
    with pytest.raises(ProtocolError, match="has ended"):
        loop.optimizer.step()
    assert torch.equal(weights(loop.model), held)
    relation = fedsec.NeighboringRelation.REPLACE_ONE
    with pytest.raises(InvalidArgumentError, match="of the ledger"):
        Loop(ledger=ledger, neighboring_relation=relation)


# ---- sampling


def test_allocation_gives_each_record_one_step_of_each_epoch():
    loop = Loop(
        dataset=TensorDataset(torch.eye(6).repeat(7, 1)[:40], torch.arange(40) % 3), sampling="allocation"
    )
    taken = []
    for _ in range(3):
        batches = draws.epoch(loop.privacy.plan, 40, 0)
        taken.append([set(step.tolist()) for step in batches])
        assert sorted(i for step in taken[-1] for i in step) == list(range(40))
    assert taken[0] != taken[1]
    loop.epoch()
    event = fedsec.RandomAllocation(fedsec.Gaussian(1.0), 4)
    assert loop.privacy.spent().epsilon == fedsec.PLDAccountant().compose(event, 1).epsilon(1e-5)
    assert "one of 4 steps" in loop.privacy.spent().sampler


def test_an_epoch_of_allocation_is_one_charge_and_is_not_left(tmp_path):
    ledger = fedsec.Ledger(tmp_path / "budget", target_epsilon=50.0, target_delta=1e-5)
    loop = Loop(sampling="allocation", ledger=ledger)
    batches = loop.past_trial(rows=64)
    x, y = next(batches)
    loop.privacy.backward(losses_of(loop.model, x, y))
    loop.optimizer.step()
    assert len(ledger.entries()) == 1
    assert loop.privacy.spent().epsilon == loop.privacy.plan.epsilon(4) > 0.0
    with pytest.raises(ProtocolError, match="save after an epoch"):
        loop.privacy.state_dict()
    with pytest.raises(ProtocolError, match="left before its end"):
        loop.epoch()


def test_samples_of_fixed_size():
    with pytest.raises(UnsupportedError, match="REPLACE_ONE"):
        Loop(sampling="fixed")
    relation = fedsec.NeighboringRelation.REPLACE_ONE
    loop = Loop(sampling="fixed", neighboring_relation=relation)
    sizes = {len(step) for step in draws.epoch(loop.privacy.plan, 40, 0)}
    assert sizes == {10}
    loop.epoch()
    event = fedsec.SampledWithoutReplacement(fedsec.Gaussian(1.0), 40, 10)
    accountant = fedsec.PLDAccountant(neighboring_relation=relation).compose(event, 4)
    assert loop.privacy.spent().epsilon == accountant.epsilon(1e-5)
    assert "10 of 40 records" in loop.privacy.spent().sampler


def test_records_of_a_step_come_in_random_order(monkeypatch):
    monkeypatch.setattr(sampling, "poisson", lambda *_: np.arange(40))
    plan = Loop().privacy.plan
    orders = [tuple(step.tolist()) for step in draws.epoch(plan, 40, 0)]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len(set(orders)) == 4


def test_micro_batches_are_of_one_size():
    for count in (0, 1, 4, 5, 8):
        cut = list(draws.micro_batches(np.arange(10, 10 + count), 4))
        assert all(micro.rows == 4 for micro in cut)
        assert sum(micro.num_records for micro in cut) == count
        assert [micro.is_last for micro in cut] == [False] * (len(cut) - 1) + [True]
        counted = [i for micro in cut for i in micro.indices[: micro.num_records]]
        assert counted == list(range(10, 10 + count))


# ---- saving


def test_a_resumed_training_goes_on_where_it_stopped():
    loop = Loop()
    loop.epoch()
    file = io.BytesIO()
    torch.save({"model": loop.model.state_dict(), "privacy": loop.privacy.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert json.loads(json.dumps(state["privacy"])) == state["privacy"]
    other = Loop(classifier(seed=5))
    other.model.load_state_dict(state["model"])
    other.privacy.load_state_dict(state["privacy"])
    assert other.privacy.spent() == loop.privacy.spent()
    other.epoch()
    other.epoch()
    assert other.privacy.steps == 12
    with pytest.raises(BudgetExceededError):
        other.epoch()


def test_an_epoch_that_was_left_after_a_step_is_finished_when_resumed():
    loop = Loop()
    batches = loop.past_trial(rows=64)
    x, y = next(batches)
    loop.privacy.backward(losses_of(loop.model, x, y))
    loop.optimizer.step()
    other = Loop()
    other.privacy.load_state_dict(loop.privacy.state_dict())
    other.epoch()
    assert other.privacy.steps == 4


def budget(path):
    return fedsec.Ledger(path, target_epsilon=50.0, target_delta=1e-5)


@pytest.mark.parametrize(("sampling", "epochs", "steps"), [("poisson", 1, 8), ("allocation", 2, 12)])
def test_steps_that_a_crash_took_count_as_taken(tmp_path, sampling, epochs, steps):
    """They were charged, and whoever watched has seen their gradients; all planned steps stay affordable."""
    ledger = budget(tmp_path / "budget")
    loop = Loop(sampling=sampling, ledger=ledger)
    loop.epoch()
    saved = loop.privacy.state_dict()
    for _ in range(epochs):
        loop.epoch()
    ledger.charge(fedsec.Gaussian(3.0), purpose="something else")
    other = Loop(sampling=sampling, ledger=budget(tmp_path / "budget"))
    other.privacy.load_state_dict(saved)
    assert other.privacy.steps == loop.privacy.steps == steps
    assert other.privacy.spent() == loop.privacy.spent()
    assert other.privacy.charged()[1] == len(ledger.entries()) - 1
    again = Loop(sampling=sampling, ledger=ledger)
    again.privacy.load_state_dict(other.privacy.state_dict())
    assert again.privacy.steps == steps
    for _ in range(3 - 1 - epochs):
        again.epoch()
    with pytest.raises(BudgetExceededError):
        again.epoch()
    assert again.privacy.spent().epsilon == again.privacy.spent().planned_epsilon


def test_a_ledger_that_does_not_hold_what_was_released_is_refused(tmp_path):
    """An older copy of it, a new one where it was lost, none, or one that was not there before."""
    ledger = budget(tmp_path / "budget")
    loop = Loop(ledger=ledger)
    loop.epoch()
    shutil.copy(ledger.path, tmp_path / "copy")
    alone = Loop()
    alone.epoch()
    loop.epoch()
    saved = loop.privacy.state_dict()
    for name in ("copy", "new"):
        other = Loop(ledger=budget(tmp_path / name))
        with pytest.raises(LedgerError, match=f"{name}: another ledger than the one"):
            other.privacy.load_state_dict(saved)
        assert other.privacy.steps == 0
    with pytest.raises(InvalidArgumentError, match="ledger must be the one that was charged"):
        Loop().privacy.load_state_dict(saved)
    with pytest.raises(InvalidArgumentError, match="ledger must be None, as when the state was saved"):
        Loop(ledger=ledger).privacy.load_state_dict(alone.privacy.state_dict())
    with pytest.raises(LedgerError, match="another ledger"):
        Loop(ledger=ledger).privacy.load_state_dict(saved | {"ledger": 3})


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"l2_clip_norm": 2.0}, "l2_clip_norm of the saved training is 1.0, and 2.0 now"),
        ({"batch_size": 20}, "sampling_probability of the saved training is 0.25, and 0.5 now"),
        ({"clipping": "automatic"}, "clipping of the saved"),
        ({"noise_multiplier": 2.0}, "noise_multiplier"),
        ({"sampling": "allocation"}, "sampling of the saved"),
        ({"neighboring_relation": fedsec.NeighboringRelation.REPLACE_ONE}, "neighboring_relation"),
        ({"epochs": 4}, "planned_steps"),
        ({"noise": "continuous"}, "noise of the saved"),
    ],
)
def test_a_resume_with_other_terms_is_refused(options, names):
    loop = Loop()
    loop.epoch()
    other = Loop(**options)
    with pytest.raises(InvalidArgumentError, match=names):
        other.privacy.load_state_dict(loop.privacy.state_dict())
    assert other.privacy.steps == 0


def test_states_that_are_none_are_refused():
    loop = Loop()
    loop.epoch()
    state = loop.privacy.state_dict()
    with pytest.raises(InvalidTypeError, match="state_dict"):
        loop.privacy.load_state_dict({"steps": 3})
    with pytest.raises(InvalidArgumentError, match="format"):
        loop.privacy.load_state_dict(state | {"format": 2})
    with pytest.raises(InvalidArgumentError, match="at least the 4 taken"):
        loop.privacy.load_state_dict(state | {"steps": 3})
    with pytest.raises(InvalidArgumentError, match="steps"):
        loop.privacy.load_state_dict(state | {"steps": 13})
    with pytest.raises(InvalidArgumentError, match="l2_clip_norm of state"):
        loop.privacy.load_state_dict(state | {"l2_clip_norm": 2.0})


def test_a_rule_may_be_given_as_it_is():
    loop = Loop(clipping=PerLayerClipping(0.3))
    loop.epoch()
    assert loop.privacy.plan.rule == PerLayerClipping(0.3)


def test_a_privacy_is_not_pickled():
    import copy

    loop = Loop()
    with pytest.raises(InvalidTypeError, match="state_dict"):
        copy.deepcopy(loop.privacy)
    assert "0 of 12 steps" in repr(loop.privacy)
    assert copy.deepcopy(loop.model) is not None


# ---- compiling


@pytest.mark.parametrize("where", ["model", "module", "in place"])
def test_a_model_compiled_before_is_refused(where):
    model = classifier()
    given = model
    if where == "model":
        given = torch.compile(model, backend="eager")
    elif where == "module":
        model[0] = torch.compile(model[0], backend="eager")
    else:
        model.compile(backend="eager")
    with pytest.raises(UnsupportedError, match=r"compiled already.*torch\.compile"):
        Loop(given, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.usefixtures("no_noise")
@pytest.mark.parametrize("in_place", [True, False])
def test_a_model_compiled_after_trains_as_it_was_written_and_is_evaluated_compiled(in_place, monkeypatch):
    monkeypatch.setattr(sampling, "poisson", lambda *_: np.array([1, 5, 8]))
    monkeypatch.setattr(draws, "shuffled", lambda indices: indices)
    plain, loop = Loop(), Loop()
    plain.epoch()
    compiled_calls = []

    def backend(graph, _inputs):
        compiled_calls.append(graph)
        return graph

    gc.collect()  # what another test left in the middle of a step holds compiled code back until it is gone
    torch._dynamo.reset()
    if in_place:
        loop.model.compile(backend=backend)
        compiled = loop.model
    else:
        compiled = torch.compile(loop.model, backend=backend)
    for x, y in loop.privacy.loader(max_physical_batch_size=4):
        loop.privacy.backward(losses_of(compiled, x, y))
        loop.optimizer.step()
        loop.optimizer.zero_grad()
    assert torch.equal(weights(loop.model), weights(plain.model))
    assert not compiled_calls
    with torch.no_grad():
        compiled(loop.dataset.tensors[0])
    assert compiled_calls


def test_compiled_code_runs_again_however_captures_end():
    first, second, forgotten = (BookKeeper(classifier()) for _ in range(3))
    gc.collect()
    assert not bookkeeping._stances
    torch.compile(lambda x: x, backend="eager")(torch.ones(1))
    for keeper in (first, second, forgotten):
        keeper.begin(2)
    first.drop()  # not in the order in which they began
    assert bookkeeping._stances
    second.drop()
    assert bookkeeping._stances
    del keeper, forgotten
    gc.collect()
    assert not bookkeeping._stances


# ---- loaders


def test_a_loader_knows_its_length_and_begins_an_epoch_each_time():
    loop = Loop()
    batches = loop.privacy.loader(max_physical_batch_size=4)
    for _ in range(3):
        planned, seen = len(batches), 0
        for x, y in batches:
            assert len(batches) == planned
            loop.privacy.backward(losses_of(loop.model, x, y))
            loop.optimizer.step()
            seen += 1
        assert seen == planned
    assert loop.privacy.steps == 12
    iter(batches)
    with pytest.raises(BudgetExceededError):
        next(iter(batches))


def test_as_many_records_a_step_as_float64_adds_up():
    """Micro-batches times records stay within 2**32: docs/training.md, "Rounding", item 5."""
    assert batches.most_records(64) == batches.most_records(1000) == 2**19
    assert batches.most_records(1) == 2**16
    assert all(batches.most_records(rows) ** 2 / min(rows, 64) <= 2**32 for rows in range(1, 100))


class PoissonBatches:
    """A sampler of a user's own."""

    def __init__(self, counts):
        self.counts = counts

    def __len__(self):
        return len(self.counts)

    def __iter__(self):
        return (list(np.random.permutation(40)[:count]) for count in self.counts)


def collate(rows):
    if not rows:
        return torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)
    return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])


def own_loader(*counts):
    return torch.utils.data.DataLoader(records(), batch_sampler=PoissonBatches(counts), collate_fn=collate)


def declared(*counts, sampling="poisson", population_size=40):
    return DeclaredLoader(own_loader(*counts), sampling, population_size)


def test_a_declared_loader_gives_one_step_a_batch_and_is_said_to_be_declared(no_noise):
    loop = Loop(dataset=declared(9, 0, 13, 4))
    sizes = []
    for x, y in loop.privacy.loader(max_physical_batch_size=4):
        if not loop.privacy.on_trial:
            sizes.append(len(x))
        loop.privacy.backward(losses_of(loop.model, x, y))
        loop.optimizer.step()
    assert sizes == [4] * (3 + 1 + 4 + 1)
    assert loop.privacy.steps == len(no_noise) == 4
    spent = loop.privacy.spent()
    assert spent.epsilon == Loop().privacy.plan.spent(4).epsilon
    assert "as declared for a loader of the user's own" in spent.sampler
    assert "declared, not checked" in str(spent)
    loop.epoch()
    assert loop.privacy.steps == 8
    with pytest.raises(InvalidArgumentError, match="declared of the saved"):
        Loop().privacy.load_state_dict(loop.privacy.state_dict())


@pytest.mark.usefixtures("no_noise")
def test_a_declared_batch_counts_each_of_its_records_once():
    whole = [records()[:]] * 4
    plain, loop = (
        Loop(batch_size=40, epochs=1),
        Loop(dataset=DeclaredLoader(whole, "poisson", 40), batch_size=40, epochs=1),
    )
    plain.epoch()
    loop.epoch(rows=7)
    assert plain.privacy.steps == loop.privacy.steps == 1
    assert torch.allclose(weights(plain.model), weights(loop.model), atol=1e-6)


def test_a_declared_loader_may_keep_the_size_private():
    options = {"batch_size": None, "sampling_probability": 0.25, "expected_batch_size": 10}
    loop = Loop(dataset=declared(9, 8, population_size=None), **options)
    loop.epoch()
    assert loop.privacy.steps == 2
    assert loop.privacy.spent().declared_public == ()
    with pytest.raises(InvalidArgumentError, match="population_size"):
        Loop(dataset=declared(9, population_size=None))


def test_declarations_that_do_not_hold_are_refused():
    with pytest.raises(UnsupportedError, match="batch_size=10 cuts an order"):
        DeclaredLoader(torch.utils.data.DataLoader(records(), batch_size=10, shuffle=True), "poisson", 40)
    with pytest.raises(InvalidTypeError, match="iterable"):
        DeclaredLoader(3, "poisson")
    with pytest.raises(InvalidArgumentError, match="'fixed' in the declaration"):
        Loop(dataset=declared(9, sampling="fixed"))
    with pytest.raises(UnsupportedError, match="no valid bound"):
        Loop(dataset=declared(9, sampling="shuffled"), sampling="shuffled")
    fixed = {"sampling": "fixed", "neighboring_relation": fedsec.NeighboringRelation.REPLACE_ONE}
    for loop, said in (
        (Loop(dataset=declared(10, 9, sampling="fixed"), **fixed), "holds 9 records, not 10 as declared"),
        (Loop(dataset=declared(9, population_size=8), batch_size=2), "holds 9 records, not at most 8"),
        (Loop(dataset=declared(1, 9)), "two records: the trial"),
        (Loop(dataset=DeclaredLoader([(torch.zeros(9, 6), torch.zeros(8))], "poisson", 40)), "first, got"),
        (Loop(dataset=declared(9, 9, sampling="allocation"), sampling="allocation"), "has 2 batches, not 4"),
    ):
        with pytest.raises((UnsupportedError, InvalidArgumentError, ProtocolError), match=said):
            loop.epoch()
    loop = Loop(dataset=declared(9))
    with pytest.raises(InvalidArgumentError, match="declared loader's own"):
        loop.privacy.loader(num_workers=2)
    with pytest.raises(TypeError, match="does not say"):
        len(loop.privacy.loader())
