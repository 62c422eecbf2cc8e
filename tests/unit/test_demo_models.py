"""The demo's models and recipes: their sizes, shapes, gradients, and what they learn."""

import math

import numpy as np
import pytest
import torch

from fedsec.clipping.layers import refuse_mixing_layers
from fedsec.demo.data import DataSet
from fedsec.demo.models import recipe, small_cnn
from fedsec.errors import InvalidArgumentError

SHAPES = [(1, 8, 8), (1, 28, 28)]


def size(model):
    return sum(p.numel() for p in model.parameters())


def empty(shape):
    inputs, targets = np.zeros((0, *shape), np.float32), np.zeros(0, np.int64)
    return DataSet("empty", inputs, targets, inputs, targets, 10)


def test_sizes():
    assert size(small_cnn((1, 28, 28), 10)) == 26_010
    assert size(small_cnn((1, 8, 8), 10)) == 1610


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_a_class_for_each_record_apart(shape):
    torch.manual_seed(0)
    model = small_cnn(shape, 10)
    batch = torch.rand(5, *shape)
    scores = model(batch)
    assert scores.shape == (5, 10)
    torch.testing.assert_close(scores[2:3], model(batch[2:3]))
    refuse_mixing_layers(model)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_parameter_takes_part(shape):
    torch.manual_seed(0)
    model = small_cnn(shape, 10)
    torch.nn.functional.cross_entropy(model(torch.rand(20, *shape)), torch.arange(20) % 10).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28)])
def test_other_numbers_of_channels_and_classes(shape):
    assert small_cnn((3, *shape[1:]), 4)(torch.zeros(2, 3, *shape[1:])).shape == (2, 4)


@pytest.mark.parametrize("shape", SHAPES)
def test_torch_seed_decides_the_start(shape):
    def first(seed):
        torch.manual_seed(seed)
        return next(small_cnn(shape, 10).parameters())

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 8, 28), (8, 8), (1, 1, 8, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InvalidArgumentError, match=r"input_shape must be .* got"):
        small_cnn(shape, 10)
    with pytest.raises(InvalidArgumentError, match=r"input_shape must be .* got"):
        recipe(empty(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_recipes_are_usable(shape):
    chosen = recipe(empty(shape))
    assert 0 < chosen.sampling_probability <= 1
    assert 0 <= chosen.momentum < 1
    for value in (chosen.l2_clip_norm, chosen.learning_rate, chosen.plain_learning_rate):
        assert 0 < value < math.inf


def test_the_recipe_for_mnist_samples_2560_of_60000():
    assert recipe(empty((1, 28, 28))).sampling_probability == 2560 / 60_000
