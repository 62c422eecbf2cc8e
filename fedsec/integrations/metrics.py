"""Numbers that clients report beside a model, such as an accuracy or a loss: bounded, seen as means alone.

Each metric lies between two public bounds, to which a client clips what it has. In a sum it stands as a
number between -1 and 1, so that all metrics of one client together are of bounded norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsec._checks import real
from fedsec.errors import InvalidArgumentError, InvalidTypeError, NonFiniteError

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metrics:
    """Names, each with the least and the largest value that counts.

    Attributes
    ----------
    bounds : tuple of (name, low, high)
        Finite, low below high, each name once.
    """

    bounds: tuple[tuple[str, float, float], ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in self.bounds:
            if not isinstance(name, str):
                raise InvalidTypeError(f"the name of a metric must be a string, got {name!r}")
            if not -math.inf < real(f"{name} low", low) < real(f"{name} high", high) < math.inf:
                raise InvalidArgumentError(
                    f"bounds of {name} must be finite, the first below the second, got {low!r} and {high!r}"
                )
        if len(set(self)) < len(self.bounds):
            raise InvalidArgumentError(f"metrics must be named once each, got {list(self)}")

    @classmethod
    def of(cls, argument: str, bounds: Mapping[str, tuple[float, float]]) -> Metrics:
        """From {name: (low, high)}."""
        try:
            return cls(tuple((name, float(low), float(high)) for name, (low, high) in bounds.items()))
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidArgumentError(f"{argument} must be {{name: (low, high)}}: {error}") from None

    def __iter__(self) -> Iterator[str]:
        return (name for name, _, _ in self.bounds)

    def __len__(self) -> int:
        return len(self.bounds)

    def scaled(self, values: Sequence[float]) -> Numbers:
        """A client's values, in the order of the names, as numbers in [-1, 1].

        Raises
        ------
        NonFiniteError
            Names the metric and not its value, which is the client's own.
        """
        for name, value in zip(self, values, strict=True):
            if not math.isfinite(value):
                raise NonFiniteError(f"the metric {name!r} must be finite")
        centers, halves = self._scale
        return np.clip((np.array(values, np.float64) - centers) / halves, -1.0, 1.0)

    def unscaled(self, means: npt.NDArray[np.float64]) -> dict[str, float]:
        """Means of such numbers as values of the metrics, within their bounds whatever noise was added."""
        centers, halves = self._scale
        return dict(zip(self, (centers + halves * np.clip(means, -1.0, 1.0)).tolist(), strict=True))

    @property
    def _scale(self) -> tuple[Numbers, Numbers]:
        low, high = np.array([(low, high) for _, low, high in self.bounds]).reshape(-1, 2).T / 2.0
        return low + high, high - low
