"""Every exception that fedsec raises on purpose. All derive from `FedsecError`.

An error names the value that was given and the range that is allowed; nothing is released and nothing
is charged when one is raised, unless its class says otherwise.
"""

from __future__ import annotations


class FedsecError(Exception):
    """Base of all errors of this package."""


class InvalidArgumentError(FedsecError, ValueError):
    """An argument outside its domain: the message names the argument, the value and what is allowed."""


class InvalidTypeError(FedsecError, TypeError):
    """An argument of the wrong type, dtype, shape or memory layout; nothing is converted silently."""


class NonFiniteError(InvalidArgumentError):
    """NaN or infinity in data that would be clipped, quantised or released; names the tensor."""


class UnsupportedError(FedsecError):
    """A combination that has no valid analysis or no implementation; refused rather than approximated."""


class CalibrationError(FedsecError):
    """No parameter reaches the target."""


class BudgetExceededError(FedsecError):
    """The next step would spend more than the budget; raised before anything happens."""


class EntropyError(FedsecError):
    """The operating system gives no randomness, too little, or what cannot be any; nothing leaves."""


class LedgerError(FedsecError):
    """A ledger's file or export that is missing, foreign, damaged, or not what it was; nothing is charged."""


class IdentityError(FedsecError):
    """A key file, request or directory that is malformed, not authentic, or too old; nothing is trusted."""


class StoreError(FedsecError):
    """A client's session store that is foreign, damaged, gone, or cannot be written; nothing may be sent.

    At a server: the temporary file of an upload; what it could not take may be sent again.
    """


class ProtocolError(FedsecError):
    """A message or a call that the protocol does not allow at this point."""


class PolicyError(ProtocolError):
    """What a server asks for is below what this client insists on; nothing leaves."""


class AggregationAborted(FedsecError):  # noqa: N818 (the word of the protocol's literature)
    """Too few participants are left: the round ends without a sum."""


class CommitteeLostError(AggregationAborted):
    """A client that was to reveal its part of the graph is gone: a fresh session may go better."""


class WorkerLostError(FedsecError):
    """A process of a simulation ended before its time: the round it worked for releases nothing."""


class DataFormatError(FedsecError, ValueError):
    """A data file that is missing, unreadable, or not of a known format."""


class MissingExtraError(FedsecError, ImportError):
    """A feature needs an optional dependency; the message names the extra to install."""
