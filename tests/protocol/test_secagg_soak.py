"""Round after round on one wire that lies and with clients that fall out, as a deployment has them.

Every round gives the exact sum over its survivors or an abort by name; no client lets out both kinds of share
about one peer; the server's ledger has one charge for each sum; a client's own budget has charged every set
of survivors that it opened and keeps a reservation for every other upload; memory does not grow. `make soak`
plays 1,000 rounds, the suite a few.
"""

import contextlib
import gc
import os
import resource
from collections import Counter, deque

import numpy as np
import pytest
from protocol.secagg_loop import HEADER, PHASE_NAMES, SPARSE, Loop, complete, shares_let_out
from protocol.test_secagg_tampering import IN_UPLOAD, flipped

from fedsec import distributed
from fedsec.accounting import Gaussian, Ledger, NeighboringRelation
from fedsec.errors import FedsecError
from fedsec.secagg import Phase, SessionStore
from fedsec.secagg.messages import Kind

ROUNDS = 1000 if os.environ.get("FEDSEC_LONG") == "1" else 15
REMEMBERED = 400  # messages of this and earlier rounds that may come again
OWNER = 10  # the client that keeps a budget
RELATION = NeighboringRelation.REPLACE_SPECIAL
PLANNED = complete(5, corrupt=1, lost=1)
PLAN = distributed.plan_clients(
    distributed.Cohort(5, PLANNED.min_survivors, PLANNED.max_corrupt),
    dimension=3,
    l2_clip_norm=1.0,
    noise_multiplier=1.0,
)


class Wire:
    """Changes, loses, repeats and swaps messages, among them those of earlier rounds."""

    def __init__(self, rng):
        self.rng, self.rate = rng, 0.0
        self.seen = deque(maxlen=REMEMBERED)
        self.faults = Counter()

    def carry(self, message):
        """What arrives, one after the other."""
        self.seen.append(message)
        if self.rng.random() >= self.rate:
            return [message]
        other = self.seen[self.rng.integers(len(self.seen))]
        # The elements of uploads are the transport's to vouch for [SPEC 1.4].
        reach = IN_UPLOAD if message[1] == Kind.UPLOAD else len(message)
        at = int(self.rng.integers(reach))
        swapped = message[:HEADER] + other[HEADER:]
        faults = {
            "bit flipped": [flipped(message, at)],
            "cut short": [message[:at]],
            "drawn out": [message + b"\0"],
            "replaced by another": [other],
            "another's body": [] if Kind.UPLOAD in (message[1], other[1]) else [swapped],
            "delivered twice": [message, message],
            "another before it": [other, message],
            "lost": [],
        }
        name = list(faults)[self.rng.integers(len(faults))]
        self.faults[name] += 1
        return faults[name]


class Soak:
    """What goes on from round to round: the files, the wire, and what has to add up in the end."""

    def __init__(self, folder, seed):
        self.rng = np.random.default_rng(seed)
        self.wire = Wire(self.rng)
        self.store = SessionStore(folder / "sessions")
        self.ledger = Ledger(folder / "server.ledger", target_epsilon=1e4, target_delta=1e-5)
        own = Ledger(
            folder / "own.ledger", target_epsilon=1e6, target_delta=1e-5, neighboring_relation=RELATION
        )
        self.budget = distributed.ClientBudget(PLAN, own)
        self.own = own
        self.outcomes, self.uploaded, self.opened = Counter(), 0, 0

    def play(self, number):
        """One round: its cohort, ring, losses and faults at random."""
        planned = number % 3 == 0
        parameters = PLANNED if planned else SPARSE if number % 3 == 1 else complete(4)
        loop = Loop(
            d=PLAN.encoding.length if planned else int(self.rng.integers(1, 200)),
            parameters=parameters,
            modulus_bits=PLAN.modulus_bits if planned else int(self.rng.integers(1, 65)),
            silent=self.losses(parameters.num_clients),
            seeded=False,
            store=self.store,
            session=number.to_bytes(8, "little"),
            round_id=number,
        )
        if planned:
            loop.clients[OWNER]._budget = self.budget
        self.wire.rate = (0.0, 0.01, 0.05, 0.2)[self.rng.integers(4)]
        try:
            while loop.server.phase in PHASE_NAMES:
                self.play_phase(loop)
        except FedsecError as error:
            self.outcomes[type(error).__name__] += 1
            self.require_aborted(loop)
        else:
            self.ledger.charge(Gaussian(100.0), purpose=f"round {number}")
            assert loop.server.result().tolist() == loop.expected_sum(loop.server.survivors)
            assert len(loop.server.survivors) >= parameters.min_survivors
            self.outcomes["exact sum"] += 1
        assert all(len(kinds) == 1 for kinds in shares_let_out(loop).values())
        if planned:
            kinds = [message[1] for message in loop.sent[OWNER]]
            self.uploaded += Kind.UPLOAD in kinds
            self.opened += Kind.UNMASK in kinds

    def require_aborted(self, loop):
        assert loop.server.phase is Phase.ABORTED
        with pytest.raises(FedsecError):
            loop.server.result()

    def losses(self, n):
        """Who is lost in which phase; in most rounds few."""
        chance = (0.0, 0.0, 0.05, 0.3)[self.rng.integers(4)]
        return {
            10 * (i + 1): PHASE_NAMES[self.rng.integers(len(PHASE_NAMES))]
            for i in range(n)
            if self.rng.random() < chance
        }

    def play_phase(self, loop):
        phase = loop.server.phase.value
        for client in [one for one in loop.inbox if not loop.is_silent(one, phase)]:
            first = phase == "advertise"
            for given in [None] if first else self.wire.carry(loop.inbox[client]):
                loop.inbox[client] = given
                if answer := loop.ask(client):
                    for message in self.wire.carry(answer):
                        with contextlib.suppress(FedsecError):
                            loop.server.receive(client, message)
        loop.close()

    def require_books(self):
        """What was recorded is what happened."""
        assert self.ledger.verify() == self.outcomes["exact sum"]
        purposes = [entry.purpose for entry in self.own.entries()]
        assert self.own.verify() == len(set(purposes)) == self.opened
        assert len(self.budget.reserved()) == self.uploaded - self.opened


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_round_after_round(tmp_path):
    soak, peak, objects = Soak(tmp_path, seed=9), 0.0, 0
    for number in range(ROUNDS):
        if number == ROUNDS // 4:
            gc.collect()
            peak, objects = megabytes(), len(gc.get_objects())
        soak.play(number)
    gc.collect()
    grown = megabytes() - peak
    print(  # with -s, for whoever plays the long form
        f"\n{ROUNDS} rounds: {dict(soak.outcomes)}; faults on the wire: {dict(soak.wire.faults)}; "
        f"own budget: {soak.uploaded} uploads, {soak.opened} settled; peak memory {peak:.0f} MB after a "
        f"quarter of the rounds, {grown:.1f} MB more at the end, {len(gc.get_objects()) - objects} objects"
    )
    soak.require_books()
    assert soak.outcomes["exact sum"] >= ROUNDS // 4
    assert len(soak.outcomes) > 1
    assert sum(soak.wire.faults.values()) > ROUNDS // 2
    if ROUNDS > 100:  # a few say nothing of memory
        assert grown < 32.0
