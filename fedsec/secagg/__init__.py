"""Secure aggregation without input or output: bytes in, bytes out; the caller owns sockets and clocks.

The server learns the sum of the survivors' vectors and nothing else about any of them, even if it lies and
up to `max_corrupt` clients lie with it: double masking on the complete graph [BIK+17] or, for large cohorts,
on a random sparse one [BBG+20], with signed keys and an agreement on the survivors. A vector goes from reals
to integers (`Schema`, `Quantizer`), to residues under masks (`Client`), into the sum (`Server`), and back.
`recommend` says which parameters hold for a cohort, a `Directory` which identities take part. `aggregate`
runs all parties in this process. SPEC.md is the whole protocol.

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
[BBG+20] Bell et al. Secure Single-Server Aggregation with (Poly)Logarithmic Overhead. CCS 2020.
"""

from fedsec.secagg._machine import AFTER_UPLOAD, PHASES, Phase
from fedsec.secagg.client import Budget, Client
from fedsec.secagg.config import Config, Policy
from fedsec.secagg.encoding.quantizer import Quantizer
from fedsec.secagg.encoding.ring import centre, to_residues
from fedsec.secagg.encoding.schema import Schema, model_digest
from fedsec.secagg.identity.directory import Directory
from fedsec.secagg.identity.enrolment import Enrolment, Rotation
from fedsec.secagg.identity.identities import Identity
from fedsec.secagg.local import Outcome, aggregate
from fedsec.secagg.parameters import Parameters, recommend
from fedsec.secagg.participant import Participant
from fedsec.secagg.server import Server
from fedsec.secagg.store import SessionStore

__all__ = [
    "AFTER_UPLOAD",
    "PHASES",
    "Budget",
    "Client",
    "Config",
    "Directory",
    "Enrolment",
    "Identity",
    "Outcome",
    "Parameters",
    "Participant",
    "Phase",
    "Policy",
    "Quantizer",
    "Rotation",
    "Schema",
    "Server",
    "SessionStore",
    "aggregate",
    "centre",
    "model_digest",
    "recommend",
    "to_residues",
]
