"""One epsilon and one calibration, as asked again and again while a training is planned."""

from __future__ import annotations

from typing import Any

from fedsec.accounting import Gaussian, PoissonSampled, RDPAccountant, calibrate_noise_multiplier
from fedsec.measure.timing import medians


def accountant(repeats: int = 7) -> dict[str, Any]:
    """Seconds for DP-SGD on 60,000 records: batches of 256, noise 1.1, 3510 steps, delta 1e-5."""
    q, steps, delta = 256 / 60_000, 3510, 1e-5
    epsilon = RDPAccountant().compose(PoissonSampled(Gaussian(1.1), q), steps).epsilon(delta)

    def calibrate() -> float:
        return calibrate_noise_multiplier(
            lambda z: PoissonSampled(Gaussian(z), q), count=steps, target_epsilon=3.0, target_delta=delta
        )

    seconds = medians(
        {
            "epsilon by RDP": lambda: (
                RDPAccountant().compose(PoissonSampled(Gaussian(1.1), q), steps).epsilon(delta)
            ),
            "calibration to epsilon 3 by RDP": calibrate,
        },
        repeats,
    )
    return {"what": "DP-SGD, 256 of 60,000 records, 3510 steps", "epsilon": epsilon, "seconds": seconds}


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    lines = [f"{result['what']}: epsilon {result['epsilon']:.4f}"]
    return lines + [f"  {name}: {1e3 * seconds:.1f} ms" for name, seconds in result["seconds"].items()]
