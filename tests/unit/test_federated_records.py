"""Sums of clients' clipped records in a federation: against the loop that defines them, and neighbours."""

import copy
import math

import numpy as np
import pytest
import torch
from reference import clipping_reference
from torch import nn
from torch.utils.data import TensorDataset

import fedsec
from fedsec.clipping import BookKeeper, FlatClipping
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError, UnsupportedError
from fedsec.federated.parameters import ParameterSpace
from fedsec.federated.records import RecordSums


def cross_entropy(output, target):
    return nn.functional.cross_entropy(output, target, reduction="none")


def convolutional():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(7, 5)
        self.gru = nn.GRU(5, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, words):
        return self.head(self.gru(self.embedding(words))[0][:, -1])


def records(count, model=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (count,), generator=generator)
    if isinstance(model, Recurrent):
        return TensorDataset(torch.randint(0, 7, (count, 4), generator=generator), targets)
    return TensorDataset(torch.randn(count, 1, 8, 8, generator=generator), targets)


def sums(model, q=1.0, expected=8):
    return RecordSums(ParameterSpace.of_trainable(model), q, expected)


def reference_sum(model, dataset, loss, bound):
    rows = clipping_reference.record_gradients(model, *dataset.tensors, loss)
    return sum(g.double() * min(1.0, bound / float(g.double().norm())) for g in rows).numpy()


@pytest.mark.parametrize("make", [convolutional, Recurrent])
@pytest.mark.parametrize("bound", [0.05, 1e3])
def test_equals_the_loop(make, bound):
    model = make()
    dataset = records(21, model)
    drawn = sums(model).draw(model, dataset, cross_entropy, FlatClipping(bound))
    expected = reference_sum(model, dataset, cross_entropy, bound)
    assert np.linalg.norm(drawn.vector - expected) <= 1e-5 * np.linalg.norm(expected)
    norms = [float(g.norm()) for g in
             clipping_reference.record_gradients(model, *dataset.tensors, cross_entropy)]  # fmt: skip
    assert (drawn.num_records, drawn.num_clipped) == (21, sum(norm > bound for norm in norms))


@pytest.mark.parametrize("rows", [1, 3, 8, 64])
def test_micro_batches_do_not_change_the_sum(rows):
    model, dataset = convolutional(), records(30)
    drawn = sums(model, expected=rows).draw(model, dataset, cross_entropy, FlatClipping(1.0))
    expected = reference_sum(model, dataset, cross_entropy, 1.0)
    assert np.linalg.norm(drawn.vector - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("make", [convolutional, Recurrent])
def test_one_record_more_moves_the_integers_by_the_declared_sensitivity_at_most(make, monkeypatch):
    """With the orders of the proof in docs/training.md, and one uniform number a coordinate for both."""
    model, bound, count = make(), 1.0, 9
    dataset = records(count, model)
    if make is convolutional:  # records from tiny to huge
        dataset.tensors[0].mul_(torch.logspace(-6, 6, count).view(-1, 1, 1, 1))
    federation = fedsec.Federation(
        model, num_clients=3, num_rounds=1, unit="record", l2_clip_norm=bound, noise_multiplier=1.0,
        target_delta=1e-5, sampling_probability=1.0, num_records=30,
    )  # fmt: skip
    quantizer, made = federation.plan.mechanism.quantizer, sums(model, expected=4)
    allowed = federation.plan.mechanism.integer_stddev / federation.plan.noise_multiplier

    def integers(rows):
        part = TensorDataset(*(t[rows] for t in dataset.tensors))
        drawn = made.draw(model, part, cross_entropy, FlatClipping(bound))
        return quantizer.quantize(drawn.vector, insecure_key=bytes(32))

    monkeypatch.setattr("fedsec.training.draws.shuffled", lambda indices: indices)
    whole = integers(list(range(count)))
    for extra in range(count):
        keep = [i for i in range(count - 1) if i != extra]  # the last one takes the extra one's place
        order = keep if extra == count - 1 else [*keep[:extra], count - 1, *keep[extra:]]
        distance = math.sqrt(sum(int(x) ** 2 for x in whole - integers(order)))
        assert 0 < distance <= allowed


def test_records_are_taken_in_random_order_from_the_operating_system(monkeypatch):
    seen, model, dataset = [], convolutional(), records(40)
    made = sums(model)
    original = fedsec.training.draws.micro_batches
    monkeypatch.setattr(
        "fedsec.training.draws.micro_batches", lambda drawn, rows: seen.append(drawn) or original(drawn, rows)
    )
    for _ in range(2):
        np.random.seed(0)
        torch.manual_seed(0)
        made.draw(model, dataset, cross_entropy, FlatClipping(1.0))
    assert not np.array_equal(*seen)
    assert all(sorted(order) == list(range(40)) for order in seen)


def test_an_empty_draw_sums_to_zero():
    model = convolutional()
    drawn = sums(model, q=1e-12).draw(model, records(3), cross_entropy, FlatClipping(1.0))
    assert drawn.num_records == 0
    assert not drawn.vector.any()


def test_the_global_model_gets_neither_gradients_nor_hooks():
    model = convolutional()
    before = copy.deepcopy(model.state_dict())
    model[0].weight.grad = torch.ones_like(model[0].weight)
    sums(model).draw(model, records(5), cross_entropy, FlatClipping(1.0))
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    BookKeeper(model).close()  # it is free to be attached


def test_frozen_parameters_take_no_part_and_tied_ones_count_once():
    model = nn.Sequential(
        nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
    )
    model[2].weight = model[0].weight
    model[3].requires_grad_(requires_grad=False)
    dataset = TensorDataset(torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2]))
    drawn = sums(model).draw(model, dataset, cross_entropy, FlatClipping(0.1))
    expected = reference_sum(model, dataset, cross_entropy, 0.1)
    assert drawn.vector.size == 9
    assert np.allclose(drawn.vector, expected, atol=1e-6)


def test_the_loss_is_each_records_own_whatever_it_does_with_a_batch():
    """A mean weighted by class mixes the records of a batch; here a batch is one record."""
    model, dataset = convolutional(), records(12)
    weights = torch.tensor([1.0, 5.0, 0.1])

    def loss(output, target):
        return nn.functional.cross_entropy(output, target, weight=weights)

    drawn = sums(model).draw(model, dataset, loss, FlatClipping(1e3))
    assert np.allclose(drawn.vector, reference_sum(model, dataset, loss, 1e3), atol=1e-5)


def test_dropout_takes_part_with_masks_of_its_own():
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 2))
    dataset = TensorDataset(torch.ones(6, 4), torch.zeros(6, dtype=torch.long))
    made, vectors = sums(model), []
    for _ in range(2):
        torch.manual_seed(0)
        vectors.append(made.draw(model, dataset, cross_entropy, FlatClipping(1.0)).vector)
    assert not np.allclose(*vectors)


class Mixing(nn.Module):
    def __init__(self, *, detached):
        super().__init__()
        self.linear, self.detached = nn.Linear(4, 2), detached

    def forward(self, x):
        mean = x.mean(dim=0)
        return self.linear(x - (mean.detach() if self.detached else mean))


@pytest.mark.parametrize("detached", [False, True])
def test_a_model_that_mixes_records_is_refused_before_anything_is_submitted(detached):
    model = Mixing(detached=detached)
    dataset = TensorDataset(torch.randn(20, 4), torch.randint(0, 2, (20,)))
    federation = fedsec.Federation(
        model, num_clients=3, num_rounds=1, unit="record", l2_clip_norm=1.0, noise_multiplier=1.0,
        target_delta=1e-5, sampling_probability=0.5, num_records=60,
    )  # fmt: skip
    rnd = next(federation.rounds())
    with pytest.raises(UnsupportedError, match=r"mixes records|no input"):
        rnd.submit_records(0, dataset, cross_entropy)
    assert not rnd._contributions


def test_a_client_with_one_record_does_not_stand_for_the_others_in_the_trial():
    model = Mixing(detached=True)
    made = sums(model, expected=4)
    x, y = torch.randn(20, 4), torch.randint(0, 2, (20,))
    made.draw(model, TensorDataset(x[:1], y[:1]), cross_entropy, FlatClipping(1.0))
    with pytest.raises(UnsupportedError, match="mixes records"):
        made.draw(model, TensorDataset(x, y), cross_entropy, FlatClipping(1.0))


def test_batch_norm_is_refused_by_name_in_training_mode():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    dataset = TensorDataset(torch.randn(4, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(UnsupportedError, match=r"1 \(BatchNorm1d\).*GroupNorm"):
        sums(model).draw(model, dataset, cross_entropy, FlatClipping(1.0))
    assert sums(model).draw(model.eval(), dataset, cross_entropy, FlatClipping(1.0)).num_records == 4


def test_more_records_than_float64_adds_up_are_refused():
    """2**16 in micro-batches of one: docs/training.md, "Rounding", item 5."""
    count = 2**16 + 1
    dataset = TensorDataset(torch.zeros(count, 2), torch.zeros(count, dtype=torch.long))
    with pytest.raises(InvalidArgumentError, match="65536"):
        sums(nn.Linear(2, 3), expected=1).draw(nn.Linear(2, 3), dataset, cross_entropy, FlatClipping(1.0))


def test_a_record_that_is_not_finite_is_refused():
    model, dataset = convolutional(), records(3)
    dataset.tensors[0][1] = math.nan
    with pytest.raises(NonFiniteError):
        sums(model).draw(model, dataset, cross_entropy, FlatClipping(1.0))


@pytest.mark.parametrize(
    ("dataset", "loss", "error", "names"),
    [
        (records(3), lambda out, y: out, InvalidArgumentError, r"one number, got shape \(1, 3\)"),
        ([(torch.zeros(1, 8, 8),)] * 3, cross_entropy, InvalidTypeError, "pairs, got 1 values"),
    ],
)
def test_bad_input_is_named(dataset, loss, error, names):
    with pytest.raises(error, match=names):
        sums(convolutional()).draw(convolutional(), dataset, loss, FlatClipping(1.0))


def test_a_model_that_is_not_of_singles_or_doubles_is_refused():
    model = convolutional().half()
    with pytest.raises(InvalidTypeError, match="float16"):
        sums(model).draw(model, records(3), cross_entropy, FlatClipping(1.0))
