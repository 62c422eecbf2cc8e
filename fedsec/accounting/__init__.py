"""What a mechanism costs: events, the PLD and RDP accountants, calibration.

Events describe what was done, an accountant adds up what it cost, and `calibrate_noise_multiplier` finds
the noise for a target. Nothing here draws noise or touches data.
"""

from fedsec.accounting.accountant import RDPAccountant
from fedsec.accounting.calibration import calibrate_noise_multiplier
from fedsec.accounting.events import (
    ApproximateDP,
    Composed,
    DiscreteGaussian,
    DiscreteGaussianSum,
    DiscreteLaplace,
    Event,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PoissonSampled,
    RandomAllocation,
    RandomizedResponse,
    Repeated,
    SampledWithoutReplacement,
    Skellam,
)
from fedsec.accounting.pld_accountant import PLDAccountant

__all__ = [
    "ApproximateDP",
    "Composed",
    "DiscreteGaussian",
    "DiscreteGaussianSum",
    "DiscreteLaplace",
    "Event",
    "Gaussian",
    "Laplace",
    "NeighboringRelation",
    "NonPrivate",
    "PLDAccountant",
    "PoissonSampled",
    "RDPAccountant",
    "RandomAllocation",
    "RandomizedResponse",
    "Repeated",
    "SampledWithoutReplacement",
    "Skellam",
    "calibrate_noise_multiplier",
]
