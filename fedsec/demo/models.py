"""The demo's models, and the recipe with which each is trained privately (torch).

After `data`, before `run`. How the recipes were tuned, and on what: docs/demo.md.

References
----------
[PTS+21] Papernot, Thakurta, Song, Chien, Erlingsson. Tempered Sigmoid Activations for Deep Learning with
    Differential Privacy. AAAI 2021 (the tanh network for MNIST).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fedsec.demo.data import DataSet
from fedsec.errors import InvalidArgumentError


@dataclass(frozen=True)
class Recipe:
    """How to train: what a round samples and clips, and how the server steps.

    `learning_rate` steps by the mean clipped gradient of a private round, `plain_learning_rate` by the
    mean gradient of the same training without privacy; both with the same `momentum`.
    """

    sampling_probability: float
    l2_clip_norm: float
    learning_rate: float
    momentum: float
    plain_learning_rate: float


# By height and width of the images. Rounds are clipped so hard that nearly every gradient is at the bound at
# first: then learning_rate * l2_clip_norm alone matters, and noise is small beside the steps.
_RECIPES = {
    (8, 8): Recipe(0.25, 0.1, 15.0, 0.5, 1.0),
    (28, 28): Recipe(2560 / 60_000, 0.1, 30.0, 0.5, 0.5),
}


def recipe(data: DataSet) -> Recipe:
    """The tuned recipe for a data set's shape; InvalidArgumentError for any other shape."""
    return _RECIPES[_side(data.train_inputs.shape[1:])]


def small_cnn(input_shape: Sequence[int], num_classes: int) -> nn.Sequential:
    """A small convolutional network of tanh units, which suffer less from clipping and noise than ReLU.

    Parameters
    ----------
    input_shape : (channels, height, width)
        28 x 28, the network of [PTS+21] with 26,010 parameters for one channel and ten classes; or
        8 x 8, one of a single convolution with 1,610.
    num_classes : int

    Initial weights are torch's own, from its global generator: seed it for a reproducible start.

    Raises
    ------
    InvalidArgumentError
        Another height or width.
    """
    channels = input_shape[0]
    if _side(input_shape) == (28, 28):
        return nn.Sequential(
            nn.Conv2d(channels, 16, 8, stride=2, padding=3),
            nn.Tanh(),
            nn.MaxPool2d(2, stride=1),
            nn.Conv2d(16, 32, 4, stride=2),
            nn.Tanh(),
            nn.MaxPool2d(2, stride=1),
            nn.Flatten(),
            nn.Linear(512, 32),
            nn.Tanh(),
            nn.Linear(32, num_classes),
        )
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(144, num_classes),
    )


def _side(input_shape: Sequence[int]) -> tuple[int, int]:
    if len(input_shape) != 3 or tuple(input_shape[1:]) not in _RECIPES:
        raise InvalidArgumentError(
            f"input_shape must be (channels, 8, 8) or (channels, 28, 28), got {tuple(input_shape)}"
        )
    return input_shape[1], input_shape[2]
