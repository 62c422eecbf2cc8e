"""What a server and corrupt clients can work out of all that they hold, by linear algebra over the masks.

The attacker has every message that a client let out, everything that clients were told, and all that its own
clients drew. It opens the shares that were sealed for these, takes the shares that were let out, combines
what it can, takes every mask off that it can make again, and solves for what it wants: a sum of uploads in
which no unknown mask is left. It knows no more than that; honest clients' objects are never looked into.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from protocol.secagg_loop import HEADER, explicit_randomness

from fedsec import masks
from fedsec.secagg import graph, keys, masking, messages
from fedsec.secagg.keys import KeyPair, Party
from fedsec.secagg.messages import Kind, ShareOf
from fedsec.secagg.primitives import shamir

PRIME = 2**31 - 1


def bodies(sent, kind):
    return [message[HEADER:] for message in sent if message[1] == kind]


def drawn_by(loop, client):
    """What a seeded client drew: its sealing key, mask key and self mask."""
    size = 128 if client in graph.committee(loop.config) else 96
    drawn = explicit_randomness(f"{loop.config.session_id} {client}")(size)
    return drawn[:32], drawn[32:64], drawn[-32:]


@dataclass
class View:
    """What one client was told of keys and graph, and what it sent: all of it went over the wire."""

    client: int
    root: bytes
    binding: bytes
    h1: bytes
    neighbors: tuple
    adverts: dict
    sealed: dict
    mask_commitment: bytes
    uploads: list = field(default_factory=list)  # (accepted peers, packed elements)

    @property
    def sealing(self):
        return Party(self.client, self.adverts[self.client].sealing)

    @property
    def masking(self):
        return Party(self.client, self.adverts[self.client].masking)

    def abscissa(self, holder):
        return 1 + self.neighbors.index(holder)


class Attacker:
    """`corrupt` clients' secrets are known, and those behind the public keys that the server made itself."""

    def __init__(self, loop, corrupt=(), own_secrets=()):
        self.loop, self.corrupt = loop, set(corrupt)
        self.secrets = {KeyPair(secret).public: secret for secret in own_secrets}
        self.self_masks = {}
        self.views = {client: view for client in loop.ids if (view := self._view(client))}
        for client in self.corrupt & self.views.keys():
            sealing, mask_key, self_mask = drawn_by(loop, client)
            self.secrets |= {KeyPair(secret).public: secret for secret in (sealing, mask_key)}
            self.self_masks[client] = self_mask
        self._rebuild()

    # --- reading the wire ---

    def _view(self, client):
        config = self.loop.clients[client]._me.config  # public; it may be another one than the others'
        given, sent = self.loop.given[client], self.loop.sent[client]
        rosters, shares = bodies(given, Kind.ROSTER), bodies(sent, Kind.SHARE)
        if not rosters or not shares:
            return None
        roster = messages.decode_roster(config, rosters[0])
        nonces = b"".join(reveal.nonce for _, reveal in roster.committee.values())
        seed = graph.seed(config, roster.root, nonces)
        binding = keys.binding(config.h0, roster.root, seed)
        commitment, sealed = messages.decode_share(shares[0])
        return View(
            client,
            roster.root,
            binding,
            keys.session_digest(binding, config.model_digest),
            graph.neighbors(config, seed, client),
            {peer: proven.advertisement for peer, proven in roster.peers.items()},
            sealed,
            commitment,
            list(self._uploads(given, sent)),
        )

    @staticmethod
    def _uploads(given, sent):
        """Each with the peers of the delivery before it; the parts of an upload in one piece."""
        deliveries = [set(messages.decode_delivery(body)) for body in bodies(given, Kind.DELIVERY)]
        parts = [messages.decode_upload(body) for body in bodies(sent, Kind.UPLOAD)]
        whole = []
        for first, packed in parts:
            if first == 0:
                whole.append(b"")
            whole[-1] += packed
        yield from zip(deliveries, whole, strict=True)

    # --- secrets ---

    def _rebuild(self):
        """Shares of every honest client's secrets, by kind: those of corrupt holders, those let out."""
        for owner, view in self.views.items():
            shares = {of: dict(self._leaked(view, of)) for of in ShareOf}
            for of, secret in ((of, self._combined(shares[of])) for of in ShareOf):
                if secret is None:
                    continue
                if of is ShareOf.MASK_KEY and KeyPair(secret).public == view.masking.public_key:
                    self.secrets[view.masking.public_key] = secret
                if of is ShareOf.SELF_MASK and view.mask_commitment == keys.mask_commitment(
                    view.binding, owner, secret
                ):
                    self.self_masks[owner] = secret

    def _combined(self, shares):
        threshold = self.loop.config.parameters.threshold
        return bytes(shamir.combine(shares, max(2, threshold))) if len(shares) >= threshold else None

    def _leaked(self, view, of):
        for holder, pair in view.sealed.items():
            secret = self.secrets.get(view.adverts[holder].sealing)
            if secret is not None:
                yield view.abscissa(holder), self._opened(view, holder, pair, secret)[of]
        for holder in view.neighbors:
            for body in bodies(self.loop.sent[holder], Kind.UNMASK):
                given = messages.decode_unmask(body).get(view.client)
                if given is not None and given.of is of:
                    yield view.abscissa(holder), bytes(given.share)

    def _opened(self, view, holder, pair, secret):
        own = Party(holder, view.adverts[holder].sealing)
        key = keys.sealing_key(KeyPair(secret).agree(view.sealing), view.binding, view.sealing, own)
        joined = bytes(keys.unseal(key, view.binding, pair.sealed, pair.commitments, view.sealing, own))
        return {ShareOf.SELF_MASK: joined[:32], ShareOf.MASK_KEY: joined[32:]}

    # --- masks ---

    def _terms(self, view, accepted):
        """(name, sign, seed or None if unknown) of each mask in an upload.

        Two clients' unknown masks have one name if both made them of the same keys and the same h1.
        """
        b = self.self_masks.get(view.client)
        seed = None if b is None else keys.self_seed(b, view.h1, view.masking)
        yield ("self", view.client), 1, seed
        for peer in accepted:
            yield self._pair(view, Party(peer, view.adverts[peer].masking))

    def _pair(self, view, other):
        own = view.masking
        sign = 1 if own.client_id > other.client_id else -1
        for holder, one in ((own, other), (other, own)):
            secret = self.secrets.get(holder.public_key)
            if secret is not None:
                term = masking.pair_term(view.h1, KeyPair(secret), holder, one, uploader=own)
                return None, sign, term.seed
        return self._name(view, own, other), sign, None

    def _name(self, view, own, other):
        return (view.h1, *sorted((own, other)))

    # --- solving ---

    def _rows(self):
        """By upload of an honest client: its owner, what is left of it, and its unknown masks by name."""
        for client, view in self.views.items():
            for accepted, packed in view.uploads if client not in self.corrupt else ():
                known, unknown = [], {}
                for name, sign, seed in self._terms(view, accepted):
                    if seed is not None:
                        known.append(masking.Term(bytearray(seed), sign))
                    else:
                        unknown[name] = unknown.get(name, 0) + sign
                yield client, self._without(packed, known), {n: c for n, c in unknown.items() if c}

    def _without(self, packed, known):
        config = self.loop.config
        length = min(config.vector_length, 8 * len(packed) // config.modulus_bits)
        vector = masks.unpack(
            packed[: masks.packed_bytes(length, config.modulus_bits)], length, config.modulus_bits
        )
        if known:
            with masking.collected(config, known) as taken:
                taken.subtract(vector)
        return vector

    @cached_property
    def _system(self):
        """Rows of uploads over columns of unknown masks, and over columns of clients."""
        rows = list(self._rows())
        names = sorted({name for _, _, unknown in rows for name in unknown}, key=repr)
        clients = sorted({client for client, _, _ in rows})
        unknown = np.zeros((len(rows), len(names)), np.int64)
        owners = np.zeros((len(rows), len(clients)), np.int64)
        for at, (client, _, found) in enumerate(rows):
            owners[at, clients.index(client)] = 1
            for name, sign in found.items():
                unknown[at, names.index(name)] = sign
        return clients, [left for _, left, _ in rows], unknown, owners

    def sums_learned(self):
        """How many independent sums of honest vectors can be solved for."""
        _, _, unknown, owners = self._system
        return rank(np.hstack([unknown, owners])) - rank(unknown)

    def sums(self):
        """Whose vectors are in each sum that can be solved for, one set for each independent one."""
        clients, _, unknown, owners = self._system
        found = (owners.T @ weights % PRIME for weights in null_space(unknown.T))
        return [{clients[at] for at in np.flatnonzero(weights)} for weights in found if weights.any()]

    def solve(self, wanted):
        """The sum of these honest clients' vectors, if it follows from what is known; else None."""
        clients, left, unknown, owners = self._system
        if not set(wanted) <= set(clients):
            return None
        goal = np.concatenate([np.zeros(unknown.shape[1], np.int64), np.isin(clients, list(wanted))])
        weights = solution(np.hstack([unknown, owners]).T, goal)
        if weights is None:
            return None
        bits = self.loop.config.modulus_bits
        total = sum(int(w) * row.astype(object) for w, row in zip(weights, left, strict=True))
        return [int(value) % 2**bits for value in total]


def eliminated(matrix):
    """Row echelon form mod PRIME, and the pivots' columns."""
    m, pivots, at = matrix.copy() % PRIME, [], 0
    for column in range(m.shape[1]):
        found = np.flatnonzero(m[at:, column])
        if not len(found):
            continue
        m[[at, at + found[0]]] = m[[at + found[0], at]]
        m[at] = m[at] * pow(int(m[at, column]), -1, PRIME) % PRIME
        others = np.flatnonzero(m[:, column])
        others = others[others != at]
        m[others] = (m[others] - m[others, column][:, None] * m[at]) % PRIME
        pivots.append(column)
        at += 1
        if at == len(m):
            break
    return m, pivots


def rank(matrix):
    return len(eliminated(matrix)[1])


def null_space(matrix):
    """A basis of the weights w with matrix @ w = 0 mod PRIME."""
    m, pivots = eliminated(matrix)
    for free in sorted(set(range(matrix.shape[1])) - set(pivots)):
        weights = np.zeros(matrix.shape[1], np.int64)
        weights[free] = 1
        weights[pivots] = -m[: len(pivots), free] % PRIME
        yield weights


def solution(matrix, goal):
    """Weights w with matrix @ w = goal, as small integers; None if there are none."""
    m, pivots = eliminated(np.column_stack([matrix, goal]))
    if matrix.shape[1] in pivots:
        return None
    weights = np.zeros(matrix.shape[1], np.int64)
    for row, column in enumerate(pivots):
        weights[column] = m[row, -1]
    return np.where(weights > PRIME // 2, weights - PRIME, weights)
