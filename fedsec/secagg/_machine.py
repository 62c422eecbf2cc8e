"""The transition tables: which message each side takes in each phase, and what follows.

A phase is named after the message that clients send in it [BIK+17, Fig. 4]. A client in a phase still
owes that message; a server in a phase is collecting it.

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from fedsec.secagg.messages import Kind


class Phase(str, enum.Enum):
    """Where a session stands; equal to its value, so that `server.phase == "upload"` reads well."""

    ADVERTISE = "advertise"
    SHARE = "share"
    UPLOAD = "upload"
    UNMASK = "unmask"
    DONE = "done"
    ABORTED = "aborted"


class Transition(NamedTuple):
    """Takes messages of one kind, and moves on."""

    takes: Kind
    then: Phase


# A client answers each message that it takes and moves. ADVERTISE is left by `start`, which takes nothing.
CLIENT = {
    Phase.SHARE: Transition(Kind.ROSTER, Phase.UPLOAD),
    Phase.UPLOAD: Transition(Kind.DELIVERY, Phase.UNMASK),
    Phase.UNMASK: Transition(Kind.SURVIVORS, Phase.DONE),
}

# The server takes one message a client, and answers all and moves when the caller closes the phase.
SERVER = {
    Phase.ADVERTISE: Transition(Kind.ADVERTISE, Phase.SHARE),
    Phase.SHARE: Transition(Kind.SHARE, Phase.UPLOAD),
    Phase.UPLOAD: Transition(Kind.UPLOAD, Phase.UNMASK),
    Phase.UNMASK: Transition(Kind.UNMASK, Phase.DONE),
}

# The phases in which clients owe a message, in order.
PHASES = tuple(SERVER)
