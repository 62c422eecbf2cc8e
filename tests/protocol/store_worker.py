"""A process whose children claim steps of sessions, until they are done or somebody kills them."""

import contextlib
import itertools

from protocol.workers import say, serve

from fedsec.errors import ProtocolError
from fedsec.secagg.store import SessionStore

ME = b"i" * 32
STEPS = ("advertise", "share", "upload")


def session(number):
    return number.to_bytes(32, "little")


def walk(path, first):
    """Starts the sessions `first`, ... (each a round of its own), and claims three steps in each."""
    store = SessionStore(path)
    for number in itertools.count(first):
        store.open_session(ME, session(number), number, 1)
        say("open", number)
        for step in STEPS:
            store.claim(ME, session(number), step)
            say("claim", number, step)


def race(path, steps):
    """All try to claim the same steps of session 0."""
    store = SessionStore(path)
    with contextlib.suppress(ProtocolError):
        store.open_session(ME, session(0), 0, 1)
        say("open", 0)
    for number in range(steps):
        with contextlib.suppress(ProtocolError):
            store.claim(ME, session(0), f"s{number}")
            say("claim", 0, f"s{number}")


if __name__ == "__main__":
    serve({"walk": walk, "race": race})
