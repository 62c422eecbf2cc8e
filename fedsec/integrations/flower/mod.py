"""The client's side: a mod that answers the protocol, and lets the app work when the upload is due.

With this mod an app lets out nothing but the protocol's messages. A training or evaluation message without
them is refused, for its reply would be this client's own update or metrics. An error goes to the server by
the name of its class alone: what it says may hold a value of this client's data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedsec.errors import BudgetExceededError, PolicyError, ProtocolError
from fedsec.integrations.flower import records
from fedsec.integrations.node import Node
from fedsec.secagg import Config

App = Callable[[Message, Context], Message]

_log = logging.getLogger("flwr")


def secure_aggregation_mod(message: Message, context: Context, call_next: App) -> Message:
    """Answers one message of `SecureAggregation`.

    The node's folder is `fedsec` in the SuperNode's `--node-config`. In a simulation it is the folder named
    by the partition id in the `fedsec-nodes` of the run's configuration.
    """
    try:
        return Message(_answer(message, context, call_next), reply_to=message)
    except (PolicyError, BudgetExceededError) as error:
        _log.error("fedsec: refused by [policy] of %s: %s", _folder(context) / "node.toml", error)
        return _error(message, error)
    except Exception as error:
        _log.exception("fedsec: no answer")
        return _error(message, error)


def _error(message: Message, error: Exception) -> Message:
    code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    return Message(Error(code, f"fedsec: {type(error).__name__}"), reply_to=message)


def _answer(message: Message, context: Context, call_next: App) -> RecordDict:
    asked = records.asked(message)
    node = Node.load(_folder(context))
    if asked.step == records.HELLO:
        return records.hello(node.client_id, node.introduce(asked.payload))
    if asked.step == records.JOIN:
        return records.reply(node.participant.join(node.accept(asked.payload)))

    def vector(config: Config) -> npt.NDArray[np.integer[Any]]:
        return _asked_of_the_app(node, config, asked, message, context, call_next)

    return records.reply(node.participant.answer(asked.session_id, asked.payload, vector))


def _asked_of_the_app(
    node: Node, config: Config, asked: records.Asked, message: Message, context: Context, call_next: App
) -> npt.NDArray[np.integer[Any]]:
    """What this client adds to the sum, if the session and the node's own policy allow it."""
    before = records.arrays_of(message)
    terms, task = node.undertake(config, asked.terms, message.metadata.message_type.partition(".")[0], before)
    reply = call_next(records.without(message), context)
    if reply.has_error():
        raise ProtocolError("the app answered with an error")
    weight = 1.0 if task.plan.private else records.metric_of(reply, terms.weighted_by)
    values = [records.metric_of(reply, metric) for metric in task.metrics]
    after = records.arrays_of(reply) if task.schema else before
    return task.contribution(before, after, values, weight, config.session_id)


def _folder(context: Context) -> Path:
    if "fedsec" in context.node_config:
        return Path(str(context.node_config["fedsec"]))
    if "partition-id" in context.node_config and "fedsec-nodes" in context.run_config:
        return Path(str(context.run_config["fedsec-nodes"])) / str(context.node_config["partition-id"])
    raise ProtocolError(
        "where is this node's folder? Start its SuperNode with --node-config 'fedsec=\"FOLDER\"', or a "
        "simulation with fedsec-nodes in the run's configuration"
    )
