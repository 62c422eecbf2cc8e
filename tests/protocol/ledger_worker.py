"""A process whose children charge a ledger until it is exhausted, or until somebody kills them.

Each line on standard input, `NUMBER TIMES NOISE PATH`, starts so many children that charge the ledger so many
times for Gaussian noise. Standard output says `child PID` for each, `charged N` after each charge that has
returned, and `gone CODE...` when all have ended. Children are forked, so that imports are paid for once.
"""

import os
import sys

from fedsec.accounting import Gaussian, Ledger
from fedsec.errors import BudgetExceededError

TERMS = {"target_epsilon": 3.0, "target_delta": 1e-5}
EXHAUSTED = 3


def say(text):
    os.write(1, f"{text}\n".encode())  # whole, whatever other children say


def charge(path, event, times):
    ledger = Ledger(path, **TERMS)
    for _ in range(times):
        entry = ledger.charge(event, purpose=f"process {os.getpid()}")
        say(f"charged {entry.number}")


def child(path, event, times):
    code = 1
    try:
        charge(path, event, times)
        code = 0
    except BudgetExceededError:
        code = EXHAUSTED
    finally:
        os._exit(code)


def main():
    say("ready")
    for line in sys.stdin:
        number, times, noise, path = line.rstrip("\n").split(" ", 3)
        children = []
        for _ in range(int(number)):
            children.append(os.fork())
            if children[-1] == 0:
                child(path, Gaussian(float(noise)), int(times))
            say(f"child {children[-1]}")
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        say("gone " + " ".join(map(str, codes)))


if __name__ == "__main__":
    main()
