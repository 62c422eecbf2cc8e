"""What travels in Flower's messages: one record of ours, beside the app's own when the upload is due.

to a client     step "hello"                                    what is your id in the directory?
                step "join", payload                            a configuration
                step "answer", session, payload                 a message of the protocol
                  and terms, and the app's records, where the upload is due
to the server   client-id, or payload
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy.typing as npt
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedsec.errors import InvalidArgumentError, ProtocolError

RECORD = "fedsec"
HELLO, JOIN, ANSWER = "hello", "join", "answer"


@dataclass(frozen=True)
class Asked:
    """What a message of the server asks of a client."""

    step: str
    session_id: bytes = b""
    payload: bytes = b""
    terms: bytes = b""

    def to_record(self) -> ConfigRecord:
        """As Flower carries it."""
        values: dict[str, Any] = vars(self)
        return ConfigRecord(dict(values))


def asked(message: Message) -> Asked:
    """What a message asks; `ProtocolError` if it is none of ours."""
    record = message.content.config_records.get(RECORD)
    if record is None:
        raise ProtocolError("with this mod a client answers what SecureAggregation asks, and nothing else")
    try:
        found = Asked(**cast(dict[str, Any], dict(record)))
    except TypeError:
        raise ProtocolError(f"a message must hold {', '.join(vars(Asked(HELLO)))}") from None
    for name, value in vars(found).items():
        if type(value) is not type(getattr(Asked(HELLO), name)):
            raise ProtocolError(f"{name} of a message has the wrong type, {type(value).__name__}")
    if found.step not in (HELLO, JOIN, ANSWER):
        raise ProtocolError(f"the step of a message must be {HELLO}, {JOIN} or {ANSWER}, got {found.step!r}")
    return found


def request(original: Message, asking: Asked, *, with_content: bool = False) -> Message:
    """A message to the client that `original` goes to, of the same type."""
    content = RecordDict({**original.content}) if with_content else RecordDict()
    content[RECORD] = asking.to_record()
    where = original.metadata
    return Message(content, where.dst_node_id, where.message_type, group_id=where.group_id)


def hello(client_id: int, signature: bytes) -> RecordDict:
    """A client's answer to who it is."""
    return RecordDict({RECORD: ConfigRecord({"client-id": client_id, "payload": signature})})


def reply(payload: bytes) -> RecordDict:
    """A client's message of the protocol."""
    return RecordDict({RECORD: ConfigRecord({"payload": payload})})


def answered(message: Message, name: str, kind: type) -> Any:
    """One value of a client's reply, or None if there is none of that type."""
    record = message.content.config_records.get(RECORD) if message.has_content() else None
    value = record.get(name) if record else None
    return value if type(value) is kind else None


def without(message: Message) -> Message:
    """The message as the app knows it."""
    message.content.pop(RECORD)
    return message


def arrays_of(message: Message) -> dict[str, npt.NDArray[Any]]:
    """The one record of arrays of a message."""
    found = list(message.content.array_records.values())
    if len(found) != 1:
        raise InvalidArgumentError(f"a message must hold one record of arrays, got {len(found)}")
    return {name: array.numpy() for name, array in found[0].items()}


def metric_of(message: Message, name: str) -> float:
    """One number of a client's metrics."""
    found = [metrics[name] for metrics in message.content.metric_records.values() if name in metrics]
    if len(found) != 1 or not isinstance(found[0], (int, float)):
        raise InvalidArgumentError(f"the metrics of a reply must hold {name!r}, once, as a number")
    return float(found[0])


def mean_reply(carrier: Message, metrics: Mapping[str, float]) -> Message:
    """The one reply that the strategy inside sees: the mean of all, with their weight among the metrics."""
    reply = copy.copy(carrier)
    reply.content = RecordDict({"metrics": MetricRecord(dict(metrics))})
    return reply
