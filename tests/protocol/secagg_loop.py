"""A session of the real server and the real clients over real bytes, one phase at a time.

Tests play phases honestly up to the one that they are about, and then send what they like.
"""

import hashlib
from collections import defaultdict

import numpy as np

from fedsec.secagg import Client, Config, Server
from fedsec.secagg._machine import PHASES
from fedsec.secagg.messages import Kind

PHASE_NAMES = tuple(phase.value for phase in PHASES)
HEADER = 38


def explicit_randomness(name):
    """A function from a length to bytes, the same each time for the same name."""
    position = 0

    def read(length):
        nonlocal position
        position += length
        return hashlib.shake_256(name.encode()).digest(position)[-length:]

    return read


class Loop:
    """`inbox` holds the server's last answers; `sent` every message that a client let out, by client."""

    def __init__(self, n=4, d=3, *, threshold=None, modulus_bits=32, silent=None, session=b"s", seeded=True):
        self.config = Config(
            session.ljust(32, b"\0"),
            7,
            [10 * (i + 1) for i in range(n)],
            d,
            modulus_bits=modulus_bits,
            threshold=threshold,
        )
        self.ids = self.config.participants
        rng = np.random.default_rng(n * 1000 + d)
        high = min(2**modulus_bits, 2**63 - 1)
        dtype = np.uint64 if modulus_bits == 64 else np.int64
        signed_half = max(1, high // 2)
        self.vectors = {
            i: rng.integers(0 if dtype is np.uint64 else -signed_half, signed_half, d).astype(dtype)
            for i in self.ids
        }
        self.silent = silent or {}
        self.server = Server(self.config)
        randomness = {i: explicit_randomness(f"{session} {i}") if seeded else None for i in self.ids}
        self.clients = {i: Client(self.config, i, insecure_randomness=randomness[i]) for i in self.ids}
        self.inbox = dict.fromkeys(self.ids)
        self.sent = defaultdict(list)

    def answer(self, client_id):
        """What the client makes of its inbox; it submits its vector when that is due."""
        client = self.clients[client_id]
        if client.phase == "advertise":
            message = client.start()
        else:
            if client.phase == "upload":
                client.submit(self.vectors[client_id])
            message = client.receive(self.inbox[client_id])
        self.sent[client_id].append(message)
        return message

    def play(self, phase):
        """One honest phase."""
        for client_id in self.inbox:
            if self.silent.get(client_id) != phase:
                self.server.receive(client_id, self.answer(client_id))
        self.inbox = self.server.close_phase()

    def until(self, phase):
        """All phases before this one."""
        for before in PHASE_NAMES[: PHASE_NAMES.index(phase)]:
            self.play(before)
        return self

    def finish(self):
        """The phases that are left, and the sum."""
        while self.server.phase in PHASE_NAMES:
            self.play(self.server.phase)
        return self.server.result()

    def expected_sum(self, survivors):
        total = sum(self.vectors[i].astype(object) for i in survivors) % 2**self.config.modulus_bits
        return [int(value) for value in total]


def shares_let_out(loop):
    """(owner, holder) -> the kinds of share in the holder's messages, read from the bytes."""
    kinds = defaultdict(list)
    for holder, sent in loop.sent.items():
        for message in sent:
            if message[1] == Kind.UNMASK:
                rows = message[HEADER + 2 :]
                for start in range(0, len(rows), 37):
                    owner = int.from_bytes(rows[start : start + 4], "little")
                    kinds[owner, holder].append(rows[start + 4])
    return kinds
