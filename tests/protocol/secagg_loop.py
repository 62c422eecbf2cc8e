"""A session of the real server and the real clients over real bytes, one phase at a time.

Tests play phases honestly up to the one that they are about, and then send what they like.
"""

import hashlib
from collections import defaultdict
from functools import cache

import numpy as np

from fedsec.errors import FedsecError
from fedsec.secagg import Client, Config, Identity, Parameters, Policy, Server, SessionStore, graph
from fedsec.secagg._machine import PHASES, phases
from fedsec.secagg.local import default_parameters
from fedsec.secagg.messages import Kind, frame

PHASE_NAMES = tuple(phase.value for phase in PHASES)
# On the complete graph nobody reveals nonces.
COMPLETE_PHASES = tuple(name for name in PHASE_NAMES if name != "reveal")
HEADER = 38
MODEL = b"m" * 32
SAVING_KEY = b"k" * 32

# Ten clients on a ring, each with two on either side; few bits, as no small graph has many.
SPARSE = Parameters(
    num_clients=10,
    max_corrupt=1,
    max_dropped=1,
    num_neighbors=4,
    threshold=3,
    min_survivors=9,
    privacy_bits=1,
    correctness_bits=1,
)


def complete(n, *, corrupt=1, lost=1, threshold=None):
    """Parameters of the complete graph; the threshold is the one that is recommended if none is given."""
    T = n - lost
    wanted = threshold or -(-(corrupt + n - T + n - 1 - lost) // 2)
    return Parameters(n, corrupt, lost, n - 1, max(2, wanted), T)


def explicit_randomness(name):
    """A function from a length to bytes, the same each time for the same name."""
    position = 0

    def read(length):
        nonlocal position
        position += length
        return hashlib.shake_256(name.encode()).digest(position)[-length:]

    return read


@cache
def identity_of(client_id):
    """The same long-term key in every session of the tests."""
    return Identity.new(insecure_randomness=explicit_randomness(f"identity {client_id}"))


def ids_of(n):
    """The clients of a session of n: 10, 20, ..."""
    return tuple(10 * (i + 1) for i in range(n))


def config_of(parameters, d=3, *, session=b"s", model_digest=MODEL, profile="authenticated", **settings):
    """A configuration for the clients 10, 20, ..."""
    ids = ids_of(parameters.num_clients)
    return Config(
        session_id=session.ljust(32, b"\0"),
        round_id=settings.pop("round_id", 7),
        participants={i: identity_of(i).public_key for i in ids} if profile == "authenticated" else ids,
        vector_length=d,
        parameters=parameters,
        model_digest=model_digest,
        profile=profile,
        **settings,
    )


def policy_of(config):
    """The strictest policy that accepts a configuration."""
    p = config.parameters
    return Policy(p.max_corrupt, p.min_survivors, p.privacy_bits) if config.authenticated else None


def client_of(config, client_id, store, *, kind=Client, randomness=None):
    """A client with its identity and a policy that accepts the configuration."""
    identity = identity_of(client_id) if config.authenticated else None
    return kind(
        config,
        client_id,
        identity,
        policy=policy_of(config),
        store=store,
        insecure_randomness=randomness,
    )


def random_vector(rng, d, modulus_bits):
    """Anything that the ring holds."""
    if modulus_bits == 64:
        return rng.integers(0, 2**64, d, dtype=np.uint64)
    half = 2 ** (modulus_bits - 1)
    return rng.integers(-half, half, d)


class Loop:
    """`inbox` holds the server's last answers.

    By client, `given` are the messages that it took and `sent` those that it let out.
    """

    def __init__(
        self,
        n=4,
        d=3,
        *,
        parameters=None,
        silent=None,
        seeded=True,
        kind=Client,
        store=None,
        **settings,
    ):
        self.config = config_of(parameters or default_parameters(n), d, **settings)
        self.ids = self.config.ids
        rng = np.random.default_rng(len(self.ids) * 1000 + d)
        self.vectors = {i: random_vector(rng, d, self.config.modulus_bits) for i in self.ids}
        self.silent = silent or {}
        self.store = store or SessionStore.in_memory()
        self.server = Server(self.config)
        session = self.config.session_id
        randomness = {i: explicit_randomness(f"{session} {i}") if seeded else None for i in self.ids}
        self.clients = {
            i: client_of(self.config, i, self.store, kind=kind, randomness=randomness[i]) for i in self.ids
        }
        self.inbox = dict.fromkeys(self.ids)
        self.given = defaultdict(list)
        self.sent = defaultdict(list)

    @property
    def phases(self):
        """The names of the phases that this session has."""
        return tuple(phase.value for phase in phases(self.config))

    @property
    def graph_seed(self):
        """What the ring follows from, once all nonces are revealed."""
        reveals = sorted(self.server._collected.reveals.items())
        nonces = b"".join(reveal.nonce for _, reveal in reveals)
        return graph.seed(self.config, self.server._graph.root, nonces)

    def is_silent(self, client_id, phase):
        """Whether the client was lost in this phase, or before."""
        last = self.silent.get(client_id)
        return last is not None and PHASE_NAMES.index(phase) >= PHASE_NAMES.index(last)

    def answer(self, client_id):
        """What the client makes of its inbox; it submits its vector when that is due."""
        client = self.clients[client_id]
        if client.phase == "advertise":
            message = client.start()
        else:
            if client.phase == "upload":
                client.submit(self.vectors[client_id])
            message = client.receive(self.inbox[client_id])
            self.given[client_id].append(self.inbox[client_id])
        self.sent[client_id].append(message)
        return message

    def close(self):
        """Ends the phase; the answers go to the inbox."""
        self.inbox = self.server.close_phase()

    def play(self, phase):
        """One honest phase."""
        assert self.server.phase == phase
        self.play_others(())

    def play_others(self, but):
        """The rest of an honest phase, in which some have played already."""
        for client_id in self.inbox:
            if client_id not in but and not self.is_silent(client_id, self.server.phase.value):
                self.server.receive(client_id, self.answer(client_id))
        self.close()

    def until(self, phase):
        """All phases before this one."""
        while self.server.phase != phase:
            self.play(self.server.phase.value)
        return self

    def finish(self):
        """The phases that are left, and the sum."""
        while self.server.phase in PHASE_NAMES:
            self.play(self.server.phase.value)
        return self.server.result()

    def forge(self, kind, client_id, body):
        """A frame that the server would send this client, with any body."""
        return frame(kind, self.clients[client_id]._digest(), client_id, body)

    def ask(self, client_id):
        """What the client makes of its inbox; None if it refuses."""
        try:
            return self.answer(client_id)
        except FedsecError:
            return None

    def tell(self, client_id, kind, body):
        """What the client answers to a forged message; None if it refuses."""
        self.inbox[client_id] = self.forge(kind, client_id, body)
        return self.ask(client_id)

    def copy_of(self, client_id):
        """What another process makes of the client's saved session; both share the store."""
        config = self.config
        return Client.from_bytes(
            self.clients[client_id].to_bytes(SAVING_KEY),
            SAVING_KEY,
            identity_of(client_id) if config.authenticated else None,
            policy=policy_of(config),
            store=self.store,
        )

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
