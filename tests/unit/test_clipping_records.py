"""Per-record clipping against the loop that defines it, and the sensitivity that it declares."""

import math

import numpy as np
import pytest
import torch
from reference import clipping_reference

from fedsec.clipping import RecordClipper
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError, UnsupportedError


def cross_entropy(output, target):
    return torch.nn.functional.cross_entropy(output, target, reduction="none")


def convolutional():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.Tanh(),
        torch.nn.GroupNorm(2, 4),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 3),
    )


def records(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 1, 8, 8, generator=generator)
    return inputs, torch.randint(0, 3, (count,), generator=generator)


@pytest.mark.parametrize("clip_norm", [0.05, 1.0, 1e3])
def test_equals_the_loop(clip_norm):
    model, (inputs, targets) = convolutional(), records(11)
    clipper = RecordClipper(clip_norm, clip_norm / 4096, max_physical_batch_size=4)
    result = clipper.sum(model, inputs, targets, cross_entropy)
    expected, _ = clipping_reference.rounded_sum(
        model, inputs, targets, cross_entropy, clip_norm, clip_norm / 4096
    )
    # A float32 gradient that falls on the other side of a rounding boundary moves a record by one step.
    assert (result.integers - expected).abs().max() <= 2
    assert (result.integers - expected).abs().float().mean() < 0.05
    norms = [
        float(g.norm()) for g in clipping_reference.record_gradients(model, inputs, targets, cross_entropy)
    ]
    assert result.num_clipped == sum(norm > clip_norm for norm in norms)
    assert result.num_records == 11


def test_on_a_fine_grid_clipping_is_exact_on_both_sides_of_the_bound():
    """A gradient within the bound is left alone, one beyond ends up at it, to float32's rounding."""
    model, (inputs, targets) = convolutional(), records(1)
    (gradient,) = clipping_reference.record_gradients(model, inputs, targets, cross_entropy)
    norm, granularity = float(gradient.double().norm()), 2.0**-30
    for clip_norm in (norm / 3, norm * 0.9999, norm * 1.0001, norm * 3):
        clipper = RecordClipper(clip_norm, granularity)
        integers = clipper.sum(model, inputs, targets, cross_entropy).integers
        reached = math.sqrt(sum(int(x) ** 2 for x in integers)) * granularity
        assert reached == pytest.approx(min(norm, clip_norm), rel=1e-6)


def test_micro_batches_do_not_change_the_sum():
    """Within float32's rounding of gradients, which may differ with the shape of a batch."""
    model, (inputs, targets) = convolutional(), records(13)
    sums = [
        RecordClipper(1.0, 2.0**-8, size).sum(model, inputs, targets, cross_entropy).integers
        for size in (1, 5, 64)
    ]
    assert max(float((s - sums[0]).abs().max()) for s in sums) <= 1


@pytest.mark.parametrize("granularity", [2.0**-4, 2.0**-12])
def test_one_record_more_stays_within_the_declared_sensitivity(granularity):
    """Exactly so: integer sums of the same micro-batches differ by one rounded gradient."""
    model, (inputs, targets) = convolutional(), records(9)
    inputs = inputs * torch.logspace(-6, 6, 9).view(-1, 1, 1, 1)
    clipper = RecordClipper(1.0, granularity, max_physical_batch_size=1)
    dimension = sum(p.numel() for p in model.parameters())
    whole = clipper.sum(model, inputs, targets, cross_entropy).integers
    for left_out in range(9):
        keep = [i for i in range(9) if i != left_out]
        part = clipper.sum(model, inputs[keep], targets[keep], cross_entropy).integers
        distance = math.sqrt(sum(int(x) ** 2 for x in whole - part))
        assert distance <= clipper.integer_l2_sensitivity(dimension)


def test_the_empty_batch_sums_to_zero():
    model, (inputs, targets) = convolutional(), records(3)
    result = RecordClipper(1.0, 0.01).sum(model, inputs[:0], targets[:0], cross_entropy)
    assert result.num_records == 0
    assert not result.integers.any()


def test_a_zero_gradient_is_not_divided_by_its_norm():
    model = torch.nn.Linear(2, 1)
    result = RecordClipper(1.0, 0.5).sum(
        model, torch.zeros(2, 2), torch.zeros(2), lambda out, y: 0.0 * out.sum()
    )
    assert not result.integers.any()


def test_frozen_parameters_and_buffers_take_no_part():
    model = convolutional()
    model[0].weight.requires_grad_(requires_grad=False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    result = RecordClipper(1.0, 0.01).sum(model, *records(3), cross_entropy)
    assert len(result.integers) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_tied_weights_count_once():
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 3, bias=False), torch.nn.Tanh(), torch.nn.Linear(3, 3, bias=False)
    )
    model[2].weight = model[0].weight
    inputs, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    result = RecordClipper(0.1, 1e-5).sum(model, inputs, targets, cross_entropy)
    expected, _ = clipping_reference.rounded_sum(model, inputs, targets, cross_entropy, 0.1, 1e-5)
    assert len(result.integers) == 9
    assert (result.integers - expected).abs().max() <= 4


def test_layers_that_draw_for_each_record_are_refused():
    """One record more would shift the draws of all others, and torch.manual_seed would decide them."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 2))
    inputs, targets = torch.ones(6, 4), torch.zeros(6, dtype=torch.long)
    with pytest.raises(UnsupportedError, match="Dropout"):
        RecordClipper(1.0, 0.01).sum(model, inputs, targets, cross_entropy)
    assert RecordClipper(1.0, 0.01).sum(model.eval(), inputs, targets, cross_entropy).num_records == 6


def cancelling():
    """A network whose output cancels almost wholly: float32's rounding is all that is left."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.Linear(200, 2, bias=False))
    with torch.no_grad():
        model[0].weight.mul_(1e6)
        model[0].weight[100:] = model[0].weight[:100] * (1 + 1e-7)
        model[1].weight[:, 100:] = -model[1].weight[:, :100]
    return model, 300


def perceptron():
    torch.manual_seed(4)
    return torch.nn.Sequential(torch.nn.Linear(784, 100), torch.nn.Tanh(), torch.nn.Linear(100, 10)), 784


@pytest.mark.parametrize("make", [cancelling, perceptron])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 63, 65, 130])
def test_a_records_gradient_does_not_depend_on_the_others(make, count):
    """Bit for bit, whatever their number: sums over disjoint parts add up to the sum over all."""
    model, size = make()
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, size, generator=generator) * 10.0 ** torch.randint(-3, 4, (count, 1))
    targets = torch.randint(0, 2, (count,), generator=generator)
    clipper = RecordClipper(1.0, 2.0**-20)
    whole = clipper.sum(model, inputs, targets, cross_entropy).integers
    for cut in {1, count // 2, count - 1}:
        parts = [
            clipper.sum(model, x, y, cross_entropy).integers
            for x, y in [(inputs[:cut], targets[:cut]), (inputs[cut:], targets[cut:])]
        ]
        assert torch.equal(parts[0] + parts[1], whole)


def test_a_parameter_without_dimensions_takes_part():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.scale * x

    result = RecordClipper(1.0, 0.5).sum(Scaled(), torch.ones(3, 1), torch.zeros(3), lambda out, y: out.sum())
    assert result.integers.tolist() == [6]


def test_a_record_with_an_infinite_gradient_is_refused_by_parameter():
    model, (inputs, targets) = convolutional(), records(3)
    inputs[1] = math.nan
    with pytest.raises(NonFiniteError, match=r"0\.weight"):
        RecordClipper(1.0, 0.01).sum(model, inputs, targets, cross_entropy)


def test_batch_norm_is_refused_by_name_in_training_mode():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    inputs, targets = torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    clipper = RecordClipper(1.0, 0.01)
    with pytest.raises(UnsupportedError, match=r"1 \(BatchNorm1d\).*GroupNorm"):
        clipper.sum(model, inputs, targets, cross_entropy)
    assert clipper.sum(model.eval(), inputs, targets, cross_entropy).num_records == 4


@pytest.mark.parametrize(
    ("change", "error", "names"),
    [
        ({"targets": torch.zeros(2, dtype=torch.long)}, InvalidArgumentError, "3 inputs, 2 targets"),
        ({"loss": lambda out, y: out}, InvalidArgumentError, r"one number, got shape \(1, 3\)"),
        ({"model": torch.nn.Flatten()}, InvalidArgumentError, "no parameter"),
        ({"model": convolutional().half()}, InvalidTypeError, "float16"),
    ],
)
def test_bad_input_is_named(change, error, names):
    inputs, targets = records(3)
    arguments = {
        "model": convolutional(),
        "inputs": inputs,
        "targets": targets,
        "loss": cross_entropy,
    } | change
    with pytest.raises(error, match=names):
        RecordClipper(1.0, 0.01).sum(**arguments)


@pytest.mark.parametrize(
    "arguments", [(0.0, 1.0), (1.0, math.nan), (1.0, 1.0, 0), (-1.0, 1.0), (1e-36, 1e-40), (1e31, 1.0)]
)
def test_clippers_validate_at_construction(arguments):
    with pytest.raises(InvalidArgumentError):
        RecordClipper(*arguments)


def test_a_sum_beyond_exact_integers_is_refused():
    model, (inputs, targets) = convolutional(), records(3)
    with pytest.raises(InvalidArgumentError, match=r"2\*\*53"):
        RecordClipper(1.0, np.finfo(np.float64).eps / 4).sum(model, inputs, targets, cross_entropy)
