"""Secure aggregation, differential privacy and a budget for an app of Flower (flwr 1.41 or newer).

    strategy = SecureAggregation(FedAvg(), directory="clients.directory", authority=..., max_clients=10)
    app = ClientApp(mods=[secure_aggregation_mod])

The phases of the protocol ride on Flower's messages, each of which a fresh process of the client may answer;
the session in between rests in the node's folder, sealed (`fedsec.integrations.node`). The strategy inside
sees one reply a round, the mean of all; `num_examples` and metrics never travel in clear. docs/flower.md.
"""

try:
    import flwr as _flwr  # noqa: F401
except ImportError:
    from fedsec.errors import MissingExtraError

    raise MissingExtraError(
        "secure aggregation in Flower needs flwr, on Python 3.11 or newer: pip install 'fedsec[flower]'"
    ) from None

from typing import TYPE_CHECKING, Any

from fedsec.integrations.flower.mod import secure_aggregation_mod

if TYPE_CHECKING:
    from fedsec.integrations.flower.strategy import SecureAggregation

__all__ = ["SecureAggregation", "secure_aggregation_mod"]


def __getattr__(name: str) -> Any:
    """The server's side when it is asked for: a client's processes, one a message, do without torch."""
    if name != "SecureAggregation":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fedsec.integrations.flower import strategy

    return strategy.SecureAggregation
