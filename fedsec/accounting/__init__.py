"""What a mechanism costs: events, the PLD and RDP accountants, calibration.

Events describe what was done, an accountant adds up what it cost, and `calibrate_noise_multiplier` finds
the noise for a target. Nothing here draws noise or touches data.
"""

from fedsec.accounting.accountant import RDPAccountant
from fedsec.accounting.adaptive import GDPFilter, RDPFilter, RDPOdometer
from fedsec.accounting.calibration import (
    calibrate_batch_size,
    calibrate_noise_multiplier,
    calibrate_sampling_probability,
    calibrate_steps,
)
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
from fedsec.accounting.ledger import Ledger
from fedsec.accounting.pld_accountant import PLDAccountant
from fedsec.accounting.summary import PrivacySpent

__all__ = [
    "ApproximateDP",
    "Composed",
    "DiscreteGaussian",
    "DiscreteGaussianSum",
    "DiscreteLaplace",
    "Event",
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
]
