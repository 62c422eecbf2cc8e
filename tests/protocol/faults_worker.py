"""A process under `faults.c`, whose children each do one thing on a disk that fails at a given call.

A child is told what to do, in which folder, and which call fails how. It says `first OUTCOME` for the attempt
on the failing disk, `faults CALLS FIRED`, `second OUTCOME` for the same attempt once the disk is well again,
and `there OUTCOME` for what there is in the end. An outcome is `value WHAT`, or `refused NAME TEXT` for an
error of the package, or `raw TEXT` for any other.
"""

import ctypes
import os
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from protocol.kills_worker import (
    CLIENT,
    SURVIVORS,
    budget_of,
    config_of_round,
    load_torch,
    planned_session,
    play_epoch,
    save,
    training_in,
)
from protocol.secagg_loop import Loop, identity_of, policy_of
from protocol.store_worker import ME, session
from protocol.workers import say, serve

from fedsec.accounting import Gaussian, Ledger
from fedsec.errors import FedsecError, StoreError
from fedsec.secagg import Directory, Enrolment, Identity, Participant, SessionStore

FAULTS = ctypes.CDLL(None)


class Charge:
    """A ledger is made and charged once; again, it is charged once more."""

    def __init__(self, folder):
        self.path = folder / "study.ledger"

    def attempt(self):
        return Ledger(self.path, target_epsilon=3.0, target_delta=1e-5).charge(Gaussian(50.0)).number

    def there(self):
        return Ledger(self.path, target_epsilon=3.0, target_delta=1e-5).verify()


class Claim:
    """A store is made, a session started in it, and a step of it claimed."""

    def __init__(self, folder):
        self.path, self.started = folder / "sessions", 0

    def attempt(self):
        store = SessionStore(self.path)
        store.open_session(ME, session(self.started), self.started, 1)
        store.claim(ME, session(self.started), "upload")
        return "granted"

    def again(self):
        """The claim of the session that failed, as a client that was restarted might."""
        store = SessionStore(self.path)
        store.claim(ME, session(self.started), "upload")
        return "granted"

    def there(self):
        self.started += 1
        return self.attempt()


class Join:
    """A client's folder is made and a session joined; what is there in the end is the next session."""

    def __init__(self, folder):
        self.folder = folder / "client"

    def join(self, number):
        config = config_of_round(number)
        one = Participant(self.folder, CLIENT, identity_of(CLIENT), policy=policy_of(config))
        return one.join(config).hex()

    def attempt(self):
        return self.join(1)

    def there(self):
        return self.join(2)


class Settle:
    """A budget is made, a round reserved and settled."""

    def __init__(self, folder):
        self.path, self.rounds = folder / "own.ledger", 0

    def attempt(self):
        self.rounds += 1
        budget, _ = budget_of(self.path)
        budget.reserve(planned_session(self.rounds))
        budget.settle(planned_session(self.rounds), SURVIVORS)
        return self.rounds

    def there(self):
        budget, ledger = budget_of(self.path)
        return [ledger.verify(), len(budget.reserved())]


class Key:
    """An identity is saved in a file of its own."""

    def __init__(self, folder):
        self.path = folder / "identity.pem"

    def attempt(self):
        identity_of(CLIENT).save(self.path)
        return "saved"

    def there(self):
        drafts = [one for one in os.listdir(self.path.parent) if one != self.path.name]
        return [drafts, Identity.load(self.path).public_key.hex()]


class Publish:
    """A directory takes the place of an older one."""

    def __init__(self, folder):
        self.path, self.authority = folder / "clients.directory", identity_of(1)
        if not self.path.exists():
            Directory.new(self.authority.public_key).save(self.path, self.authority)

    def attempt(self):
        old = Directory.load(self.path, self.authority.public_key)
        request = Enrolment.new(identity_of(CLIENT), CLIENT, "Clinic", self.authority.public_key)
        if CLIENT not in old:
            old.add(request).save(self.path, self.authority)
        return "saved"

    def there(self):
        Directory.load(self.path, self.authority.public_key).revoke(CLIENT, "closed").save(
            self.path, self.authority
        )
        return [os.listdir(self.path.parent), Directory.load(self.path, self.authority.public_key).serial]


class Upload:
    """A server keeps an upload in a temporary file; parts that were refused come again."""

    LENGTH = 3 * 2**16 + 5

    def __init__(self, folder):
        tempfile.tempdir = str(folder)
        self.loop = Loop(4, self.LENGTH, modulus_bits=32)
        self.loop.until("upload")
        client = self.loop.clients[10]
        client.receive(self.loop.inbox[10])
        self.chunks = list(client.upload(self.loop.vectors[10]))

    def attempt(self):
        while self.chunks:
            self.loop.server.receive_chunk(10, self.chunks[0])
            self.chunks.pop(0)
        return "taken"

    def there(self):
        if self.loop.server.phase == "aborted":
            return "aborted"
        self.loop.play_others([10])
        while self.loop.server.phase != "done":
            self.loop.inbox.pop(10, None)  # it uploaded, and is lost after that
            self.loop.play_others(())
        total = self.loop.server.result()
        return [int(one) for one in total] == self.loop.expected_sum(self.loop.server.survivors)


class Step:
    """A training goes on from its checkpoint by an epoch, which a ledger pays for, and is saved."""

    def __init__(self, folder):
        self.folder = folder
        if not (folder / "checkpoint").exists():
            model, _, privacy, _ = training_in(folder, "poisson")
            save(folder, model=model, privacy=privacy)

    def attempt(self):
        try:
            model, optimizer, privacy, _ = training_in(self.folder, "poisson")
            play_epoch(model, optimizer, privacy)
            save(self.folder, model=model, privacy=privacy)
        except OSError as error:  # of the checkpoint, which is the user's own; a ledger names its errors
            raise StoreError(str(error)) from error
        return privacy.steps

    def there(self):
        _, _, privacy, ledger = training_in(self.folder, "poisson")
        return [privacy.steps, ledger.verify()]


WORK = {kind.__name__: kind for kind in (Charge, Claim, Join, Settle, Key, Publish, Upload)}
if find_spec("torch"):
    WORK["Step"] = Step
# What an attempt does not read.
UNREAD = ("Key", "Upload")


def outcome(attempt):
    try:
        return ["value", attempt()]
    except FedsecError as error:
        return ["refused", type(error).__name__, str(error)]
    except BaseException as error:
        return ["raw", repr(error)]


def play(kind, folder, call, error, sticky, reads):
    place = Path(folder)
    work = WORK[kind](place)
    FAULTS.faults_arm(os.fsencode(folder), ctypes.c_long(call), error, int(sticky), int(reads))
    first = outcome(work.attempt)
    calls, fired = FAULTS.faults_calls(), FAULTS.faults_fired()
    FAULTS.faults_arm(b"", ctypes.c_long(-1), 0, 0, 0)
    say("first", *first)
    say("faults", calls, fired)
    say("second", *outcome(getattr(work, "again", work.attempt)))
    say("there", *outcome(work.there))


if __name__ == "__main__":
    if "Step" in WORK:
        load_torch()
    serve({kind: partial(play, kind) for kind in WORK})
