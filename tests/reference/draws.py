"""What is drawn, the same in every run: in the place of the operating system's generator, bytes from a name.

All randomness of fedsec comes from `os.urandom`; that it does, and what happens where that fails, is for
test_entropy.py. HYPOTHESIS_PROFILE=explore draws anew: both examples, and from the operating system.
"""

import hashlib
import itertools
import os

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "repeatable")
SYSTEM = os.urandom


class Draws:
    """Bytes that follow from a name and the calls before; a process forked from this one has the system's."""

    def __init__(self, name):
        self._name, self._numbers, self._process = name, itertools.count(), os.getpid()

    def __call__(self, length):
        if os.getpid() != self._process:
            return SYSTEM(length)
        return hashlib.shake_256(f"{self._name} {next(self._numbers)}".encode()).digest(length)


def repeat(name):
    """For the rest of a process that a test has started, and that nothing follows."""
    if PROFILE == "repeatable":
        os.urandom = Draws(name)
