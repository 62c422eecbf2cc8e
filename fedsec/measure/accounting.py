"""One epsilon and one calibration, as asked again and again while a training is planned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fedsec.accounting import (
    Gaussian,
    PLDAccountant,
    PoissonSampled,
    RDPAccountant,
    calibrate_noise_multiplier,
)
from fedsec.measure.timing import medians


def accountant(repeats: int = 7) -> dict[str, Any]:
    """Seconds for DP-SGD on 60,000 records: batches of 256, noise 1.1, 3510 steps, delta 1e-5."""
    calls: dict[str, Callable[[], float]] = {}
    for kind in (RDPAccountant, PLDAccountant):
        name = kind.__name__
        calls[f"epsilon, {name}"] = partial(_epsilon, kind)
        calls[f"calibration to epsilon 3, {name}"] = partial(_calibration, kind)
    return {
        "what": "DP-SGD, 256 of 60,000 records, 3510 steps",
        "answers": {name: call() for name, call in calls.items()},
        "seconds": medians(calls, repeats),
    }


def _step(noise_multiplier: float) -> PoissonSampled:
    return PoissonSampled(Gaussian(noise_multiplier), 256 / 60_000)


def _epsilon(kind: type[RDPAccountant] | type[PLDAccountant]) -> float:
    return kind().compose(_step(1.1), 3510).epsilon(1e-5)


def _calibration(kind: type[RDPAccountant] | type[PLDAccountant]) -> float:
    return calibrate_noise_multiplier(
        _step, count=3510, target_epsilon=3.0, target_delta=1e-5, accountant=kind
    )


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    answers, seconds = result["answers"], result["seconds"]
    return [
        result["what"],
        *(f"  {name}: {answers[name]:.4f} in {1e3 * seconds[name]:.1f} ms" for name in answers),
    ]
