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

from fedsec.errors import ProtocolError
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
        answer = _answer(message, context, call_next)
    except Exception as error:
        _log.exception("fedsec: no answer")
        code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return Message(Error(code, f"fedsec: {type(error).__name__}"), reply_to=message)
    return Message(answer, reply_to=message)


def _answer(message: Message, context: Context, call_next: App) -> RecordDict:
    asked = records.asked(message)
    node = Node.load(_folder(context))
    if asked.step == records.HELLO:
        return records.hello(node.client_id, node.introduce(asked.payload))
    if asked.step == records.JOIN:
        return records.reply(node.participant.join(node.accept(asked.payload)))

    def vector(config: Config) -> npt.NDArray[np.integer[Any]]:
        return _asked_of_the_app(config, asked, message, context, call_next)

    return records.reply(node.participant.answer(asked.session_id, asked.payload, vector))


def _asked_of_the_app(
    config: Config, asked: records.Asked, message: Message, context: Context, call_next: App
) -> npt.NDArray[np.integer[Any]]:
    """What this client adds to the sum, if the model, the terms and the task are those of the session."""
    # A fresh process may answer each message, and only this one needs torch.
    from fedsec.integrations.terms import Terms

    terms, name = Terms.from_bytes(asked.terms), message.metadata.message_type.partition(".")[0]
    before = records.arrays_of(message)
    if config.model_digest != terms.digest(name, before):
        raise ProtocolError("the model, the terms, or what is asked for are not those of the session")
    task = terms.task(name, before)
    if (config.vector_length, config.modulus_bits) != task.ring:
        raise ProtocolError(
            f"the session must have vector_length and modulus_bits {task.ring}, "
            f"got {config.vector_length} and {config.modulus_bits}"
        )
    if not task.allows(config.parameters):
        raise ProtocolError(f"noise in shares needs {task.plan.secagg_parameters}, got {config.parameters}")
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
