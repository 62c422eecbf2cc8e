"""Secure aggregation without input or output: bytes in, bytes out; the caller owns sockets and clocks.

The server learns the sum of the survivors' vectors and nothing else about any of them, as long as it
follows the protocol and fewer than `threshold` clients tell it their secrets: double masking on the
complete graph [BIK+17]. A vector goes from reals to integers (`Quantizer`), to residues and under masks
(`Client`), into the sum (`Server`), and back. `aggregate` runs all parties in this process.

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
"""

from fedsec.secagg._machine import PHASES, Phase
from fedsec.secagg.client import Client
from fedsec.secagg.config import Config
from fedsec.secagg.local import Outcome, aggregate
from fedsec.secagg.quantizer import Quantizer
from fedsec.secagg.ring import centre, to_residues
from fedsec.secagg.server import Server

__all__ = [
    "PHASES",
    "Client",
    "Config",
    "Outcome",
    "Phase",
    "Quantizer",
    "Server",
    "aggregate",
    "centre",
    "to_residues",
]
