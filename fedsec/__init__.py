"""fedsec: the privacy layer for federated learning.

Budgets (`Gaussian`, `RDPAccountant`, `calibrate_noise_multiplier`), exact noise (`noise`), masked sums
(`masks`), secure aggregation (`secagg`), noise inside the sum (`distributed`), private federated averaging
(`Federation`), and private training of any PyTorch loop (`attach`). Names load on first use, so that
`import fedsec` needs neither torch nor time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOM_OF = {
    name: room
    for room, names in {
        "fedsec.accounting": (
            "ApproximateDP",
            "Composed",
            "DiscreteGaussian",
            "DiscreteGaussianSum",
            "DiscreteLaplace",
            "GDPFilter",
            "Gaussian",
            "Laplace",
            "Ledger",
            "NeighboringRelation",
            "NonPrivate",
            "PLDAccountant",
            "PoissonSampled",
            "PrivacySpent",
            "RDPAccountant",
            "RDPFilter",
            "RDPOdometer",
            "RandomAllocation",
            "RandomizedResponse",
            "Repeated",
            "SampledWithoutReplacement",
            "Skellam",
            "calibrate_batch_size",
            "calibrate_noise_multiplier",
            "calibrate_sampling_probability",
            "calibrate_steps",
        ),
        "fedsec.errors": (
            "AggregationAborted",
            "BudgetExceededError",
            "CalibrationError",
            "FedsecError",
            "LedgerError",
        ),
        "fedsec.federated": ("FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedYogi", "Federation"),
        "fedsec.training": ("Privacy", "attach"),
    }.items()
    for name in names
}
_ROOMS = (
    "accounting",
    "clipping",
    "distributed",
    "errors",
    "federated",
    "masks",
    "noise",
    "sampling",
    "secagg",
    "training",
)

__all__ = [
    "AggregationAborted",
    "ApproximateDP",
    "BudgetExceededError",
    "CalibrationError",
    "Composed",
    "DiscreteGaussian",
    "DiscreteGaussianSum",
    "DiscreteLaplace",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "Federation",
    "FedsecError",
    "GDPFilter",
    "Gaussian",
    "Laplace",
    "Ledger",
    "LedgerError",
    "NeighboringRelation",
    "NonPrivate",
    "PLDAccountant",
    "PoissonSampled",
    "Privacy",
    "PrivacySpent",
    "RDPAccountant",
    "RDPFilter",
    "RDPOdometer",
    "RandomAllocation",
    "RandomizedResponse",
    "Repeated",
    "SampledWithoutReplacement",
    "Skellam",
    "accounting",
    "attach",
    "calibrate_batch_size",
    "calibrate_noise_multiplier",
    "calibrate_sampling_probability",
    "calibrate_steps",
    "clipping",
    "distributed",
    "errors",
    "federated",
    "masks",
    "noise",
    "sampling",
    "secagg",
    "training",
]

if TYPE_CHECKING:
    from fedsec import (
        accounting,
        clipping,
        distributed,
        errors,
        federated,
        masks,
        noise,
        sampling,
        secagg,
        training,
    )
    from fedsec.accounting import (
        ApproximateDP,
        Composed,
        DiscreteGaussian,
        DiscreteGaussianSum,
        DiscreteLaplace,
        Gaussian,
        GDPFilter,
        Laplace,
        Ledger,
        NeighboringRelation,
        NonPrivate,
        PLDAccountant,
        PoissonSampled,
        PrivacySpent,
        RandomAllocation,
        RandomizedResponse,
        RDPAccountant,
        RDPFilter,
        RDPOdometer,
        Repeated,
        SampledWithoutReplacement,
        Skellam,
        calibrate_batch_size,
        calibrate_noise_multiplier,
        calibrate_sampling_probability,
        calibrate_steps,
    )
    from fedsec.errors import (
        AggregationAborted,
        BudgetExceededError,
        CalibrationError,
        FedsecError,
        LedgerError,
    )
    from fedsec.federated import FedAdagrad, FedAdam, FedAvg, FedAvgM, Federation, FedYogi
    from fedsec.training import Privacy, attach


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"fedsec.{name}")
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'fedsec' has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOM_OF[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
