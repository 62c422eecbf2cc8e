"""Private federated averaging around any local training function. Needs torch.

`Federation` draws cohorts, hands out models, takes updates in, aggregates them securely, adds noise,
charges the budget and steps the model. `FedAvg` says how the mean update moves the model.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError:
    from fedsec.errors import MissingExtraError

    raise MissingExtraError("fedsec.federated needs torch: pip install 'fedsec[torch]'") from None

from fedsec.federated.federation import Federation
from fedsec.federated.plan import Guarantee, Plan
from fedsec.federated.round import Round, RoundReport
from fedsec.federated.strategies import FedAvg

__all__ = ["FedAvg", "Federation", "Guarantee", "Plan", "Round", "RoundReport"]
