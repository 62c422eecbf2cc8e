"""A process whose children charge a ledger until it is exhausted, or until somebody kills them."""

import os

from protocol.workers import say, serve

from fedsec.accounting import Gaussian, Ledger
from fedsec.errors import BudgetExceededError

TERMS = {"target_epsilon": 3.0, "target_delta": 1e-5}
EXHAUSTED = 3


def charge(path, noise_multiplier, times):
    ledger = Ledger(path, **TERMS)
    for _ in range(times):
        try:
            entry = ledger.charge(Gaussian(noise_multiplier), purpose=f"process {os.getpid()}")
        except BudgetExceededError:
            return EXHAUSTED
        say("charged", entry.number)
    return 0


if __name__ == "__main__":
    serve({"charge": charge})
