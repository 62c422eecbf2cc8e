"""What a mechanism costs: events, the PLD and RDP accountants, calibration.

Events describe what was done, an accountant adds up what it cost, and `calibrate_noise_multiplier` finds
the noise for a target. Nothing here draws noise or touches data.
"""

from fedsec.accounting.accountant import RDPAccountant
from fedsec.accounting.calibration import calibrate_noise_multiplier
from fedsec.accounting.events import (
    Composed,
    Event,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PoissonSampled,
    Repeated,
)
from fedsec.accounting.pld_accountant import PLDAccountant

__all__ = [
    "Composed",
    "Event",
    "Gaussian",
    "Laplace",
    "NeighboringRelation",
    "NonPrivate",
    "PLDAccountant",
    "PoissonSampled",
    "RDPAccountant",
    "Repeated",
    "calibrate_noise_multiplier",
]
