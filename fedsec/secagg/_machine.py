"""The transition tables: which message each side takes in each phase, and what follows [SPEC 4].

A phase is named after the message that clients send in it. A client in a phase still owes that message; a
server in a phase is collecting it. Which phases a session has depends on its configuration: `reveal` is
for sparse graphs, and neither `reveal` nor `agree` exists where the server is trusted to follow the
protocol.
"""

from __future__ import annotations

import enum

from fedsec.secagg.config import Config
from fedsec.secagg.messages import Kind


class Phase(str, enum.Enum):
    """Where a session stands; equal to its value, so that `server.phase == "upload"` reads well."""

    ADVERTISE = "advertise"
    REVEAL = "reveal"
    SHARE = "share"
    UPLOAD = "upload"
    AGREE = "agree"
    UNMASK = "unmask"
    DONE = "done"
    ABORTED = "aborted"


# The phases in which clients owe a message, in order.
PHASES = tuple(Phase)[:-2]

# Whoever is lost in one of these has uploaded, and is in the sum.
AFTER_UPLOAD = PHASES[PHASES.index(Phase.UPLOAD) + 1 :]

# What a client answers in each phase; `start`, which takes nothing, makes the first message.
CLIENT_TAKES = {
    Phase.REVEAL: Kind.COMMITTEE,
    Phase.SHARE: Kind.ROSTER,
    Phase.UPLOAD: Kind.DELIVERY,
    Phase.AGREE: Kind.SURVIVORS,
    Phase.UNMASK: Kind.QUORUM,
}

# What a server collects in each phase; it answers all and moves when the caller closes the phase.
SERVER_TAKES = {
    Phase.ADVERTISE: Kind.ADVERTISE,
    Phase.REVEAL: Kind.REVEAL,
    Phase.SHARE: Kind.SHARE,
    Phase.UPLOAD: Kind.UPLOAD,
    Phase.AGREE: Kind.AGREE,
    Phase.UNMASK: Kind.UNMASK,
}


def phases(config: Config) -> tuple[Phase, ...]:
    """The phases of a session, in order."""
    left_out = {
        phase for phase, has in ((Phase.REVEAL, config.reveals), (Phase.AGREE, config.agrees)) if not has
    }
    return tuple(phase for phase in PHASES if phase not in left_out)


def client_takes(config: Config, phase: Phase) -> Kind:
    """The kind of message that a client answers in a phase."""
    if phase is Phase.UNMASK and not config.agrees:
        return Kind.SURVIVORS
    return CLIENT_TAKES[phase]


def after(config: Config, phase: Phase) -> Phase:
    """The phase that follows."""
    following = phases(config)[phases(config).index(phase) + 1 :]
    return following[0] if following else Phase.DONE
