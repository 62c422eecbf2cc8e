"""A process whose children claim steps of sessions, until they are done or somebody kills them.

Each line on standard input starts children: `walk FIRST PATH` one that starts the sessions FIRST, FIRST + 1,
... (each a round of its own) and claims three steps in each, as long as it lives; `race NUMBER STEPS PATH` so
many that all try to claim the same steps of session 0. Standard output says `child PID` for each, `open N`
and `claim N STEP` after each call that has returned, and `gone CODE...` when all have ended. Children are
forked, so that imports are paid for once.
"""

import contextlib
import itertools
import os
import sys

from fedsec.errors import ProtocolError
from fedsec.secagg.store import SessionStore

ME = b"i" * 32
STEPS = ("advertise", "share", "upload")


def session(number):
    return number.to_bytes(32, "little")


def say(text):
    os.write(1, f"{text}\n".encode())  # whole, whatever other children say


def walk(first, path):
    store = SessionStore(path)
    for number in itertools.count(int(first)):
        store.open_session(ME, session(number), number, 1)
        say(f"open {number}")
        for step in STEPS:
            store.claim(ME, session(number), step)
            say(f"claim {number} {step}")


def race(steps, path):
    store = SessionStore(path)
    with contextlib.suppress(ProtocolError):
        store.open_session(ME, session(0), 0, 1)
        say("open 0")
    for number in range(int(steps)):
        with contextlib.suppress(ProtocolError):
            store.claim(ME, session(0), f"s{number}")
            say(f"claim 0 s{number}")


def child(work, *arguments):
    code = 1
    try:
        work(*arguments)
        code = 0
    finally:
        os._exit(code)


def main():
    say("ready")
    for line in sys.stdin:
        kind, first, rest = line.rstrip("\n").split(" ", 2)
        number, arguments = (
            (1, (walk, first, rest)) if kind == "walk" else (int(first), (race, *rest.split(" ", 1)))
        )
        children = []
        for _ in range(number):
            children.append(os.fork())
            if children[-1] == 0:
                child(*arguments)
            say(f"child {children[-1]}")
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        say("gone " + " ".join(map(str, codes)))


if __name__ == "__main__":
    main()
