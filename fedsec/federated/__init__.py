"""Private federated averaging around any local training function. Needs torch.

`Federation` draws cohorts, hands out models, takes updates in, aggregates them securely, adds noise,
charges the budget and steps the model. `FedAvg` and its kin say how the mean update moves the model;
`simulate` runs all of it in one process, on data that `partition` has spread over clients.
"""

from fedsec import clipping as _clipping  # noqa: F401 (first: it says what to install where torch is missing)
from fedsec.federated import partition
from fedsec.federated.federation import Federation
from fedsec.federated.plan import Guarantee, Plan
from fedsec.federated.round import Round, RoundReport
from fedsec.federated.simulation import Losses, RoundMetrics, Simulation, simulate
from fedsec.federated.strategies import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    Strategy,
    proximal_term,
)
from fedsec.federated.tensorboard import TensorBoard

__all__ = [
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "Federation",
    "Guarantee",
    "Losses",
    "Plan",
    "Round",
    "RoundMetrics",
    "RoundReport",
    "Simulation",
    "Strategy",
    "TensorBoard",
    "partition",
    "proximal_term",
    "simulate",
]
