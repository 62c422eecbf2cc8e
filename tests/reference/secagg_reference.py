"""The protocol of SPEC.md once more, from the page: slow, and apart from the package.

A `Session` plays all parties in one process. Nothing is drawn: client i of the session "name" reads
SHAKE-256 of "name i" from the start, its identity comes from "name identity i", its vector from "name
vector i". Secrets are opened from shares and masks are taken off again, so a session that does not end in
the plain sum fails here.

Primitives come from hashlib and `cryptography`; masks and sums are Python integers. The sessions that are
written to tests/vectors/secagg, and those that must fail among them, stand in `secagg_cases`.
"""

import hashlib
import struct
from collections import defaultdict
from math import comb

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from reference import shamir_reference

PHASES = ("advertise", "reveal", "share", "upload", "agree", "unmask")
PROFILES = ("semi_honest", "authenticated")
GENERATORS = ("chacha20", "aes128ctr", "aes256ctr")
(ADVERTISE, COMMITTEE, REVEAL, ROSTER, SHARE, DELIVERY, UPLOAD, SURVIVORS, AGREE, QUORUM, UNMASK) = range(
    1, 12
)
SELF_MASK, MASK_KEY = 1, 2
HEADER = 38

# --- 2. notation ---


def u8(value: int) -> bytes:
    return struct.pack("<B", value)


def u16(value: int) -> bytes:
    return struct.pack("<H", value)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def f64(value: float) -> bytes:
    return struct.pack("<d", value)


def tag(word: str) -> bytes:
    return b"fedsec secagg 2 " + word.encode() + b"\0"


def H(data: bytes) -> bytes:  # noqa: N802 (as in SPEC.md)
    return hashlib.sha256(data).digest()


def tagged_hash(word: str, *parts: bytes) -> bytes:
    return H(tag(word) + b"".join(parts))


def kdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, info).derive(secret)


def x25519(scalar: bytes, point: bytes) -> bytes:
    """Raises ValueError if the result is all zero."""
    return X25519PrivateKey.from_private_bytes(scalar).exchange(X25519PublicKey.from_public_bytes(point))


def public_key(scalar: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()


def sign(identity: bytes, word: str, *parts: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity).sign(tag(word) + b"".join(parts))


def verification_key(identity: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()


def table(rows: dict[int, bytes]) -> bytes:
    return u16(len(rows)) + b"".join(u32(client) + rows[client] for client in sorted(rows))


def bitmap(positions, n: int) -> bytes:
    return sum(1 << i for i in positions).to_bytes((n + 7) // 8, "little")


def keystream(generator: str, seed: bytes, length: int) -> bytes:
    if generator == "chacha20":  # OpenSSL's nonce is the counter and the nonce
        cipher = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None)
    elif generator == "aes128ctr":
        cipher = Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:28] + bytes(4)))
    else:
        cipher = Cipher(algorithms.AES(seed), modes.CTR(bytes(16)))
    return cipher.encryptor().update(bytes(length))


def mask(generator: str, seed: bytes, d: int, bits: int) -> list[int]:
    size = next(lane for lane in (16, 32, 64) if lane >= bits) // 8
    stream = keystream(generator, seed, d * size)
    return [int.from_bytes(stream[j * size : (j + 1) * size], "little") % 2**bits for j in range(d)]


def pack(residues: list[int], bits: int) -> bytes:
    joined = sum(value << (j * bits) for j, value in enumerate(residues))
    return joined.to_bytes((len(residues) * bits + 7) // 8, "little")


# --- 3. configuration ---


def config_bytes(c: dict) -> bytes:
    quantizer = c.get("quantizer") or {"granularity": 0.0, "max_abs": 0.0, "num_clients": 0}
    out = u8(2) + u8(PROFILES.index(c["profile"])) + bytes.fromhex(c["session_id"]) + u64(c["round_id"])
    out += u32(c["vector_length"]) + u8(c["modulus_bits"]) + u8(GENERATORS.index(c["prg"]))
    out += u32(c["max_corrupt"]) + u32(c["max_dropped"]) + u32(c["num_neighbors"])
    out += u32(c["threshold"]) + u32(c["min_survivors"])
    out += u16(c["privacy_bits"]) + u16(c["correctness_bits"])
    out += f64(quantizer["granularity"]) + f64(quantizer["max_abs"]) + u32(quantizer["num_clients"])
    out += u32(len(c["participants"]))
    for client in c["participants"]:
        out += u32(client)
        if c["profile"] == "authenticated":
            out += bytes.fromhex(c["verification_keys"][client])
    return out


# --- 5.2 the tree ---


def levels(leaves: list[bytes]) -> list[list[bytes]]:
    out = [leaves]
    while len(out[-1]) > 1:
        below = out[-1]
        out.append([H(b"\x01" + below[i] + below[i + 1]) for i in range(0, len(below), 2)])
    return out


def path_of(tree: list[list[bytes]], position: int) -> bytes:
    return b"".join(level[(position >> depth) ^ 1] for depth, level in enumerate(tree[:-1]))


def committee_size(c: dict) -> int:
    """docs/secagg_parameters.md: 2^80 C(C, m)/C(n, m) <= 2^-(privacy_bits + 1), and at least 8."""
    n, m = len(c["participants"]), 8
    if c["profile"] != "authenticated" or c["num_neighbors"] == n - 1:
        return 0
    while comb(c["max_corrupt"], m) << (80 + c["privacy_bits"] + 1) > comb(n, m):
        m += 1
    return m


def committee(c: dict, h0: bytes) -> list[int]:
    """The members, ascending; none on the complete graph."""
    ranked = sorted(c["participants"], key=lambda i: tagged_hash("committee", h0, u32(i)))
    return sorted(ranked[: committee_size(c)])


def explicit_bytes(name: str, length: int) -> bytes:
    return hashlib.shake_256(name.encode()).digest(length)


class Session:
    """All parties of one session, who follow the protocol; `silent` clients say nothing from a phase on.

    `to_client[phase][client]` is the message that opens a phase for a client and `to_server[phase][client]`
    its answer; an upload is a list.
    """

    def __init__(self, c: dict, *, name: str, silent=None, chunk=None, partial=None):
        self.c, self.name = c, name
        self.silent, self.chunk, self.partial = silent or {}, chunk, partial or {}
        self.ids, self.n = c["participants"], len(c["participants"])
        self.t, self.T, self.k = c["threshold"], c["min_survivors"], c["num_neighbors"]
        self.bits, self.d = c["modulus_bits"], c["vector_length"]
        self.authenticated = c["profile"] == "authenticated"
        self.sparse = self.k < self.n - 1
        self.position = {client: i for i, client in enumerate(self.ids)}
        self.config = config_bytes(c)
        self.h0 = tagged_hash("configuration", self.config)
        self.model = bytes.fromhex(c["model_digest"])
        self.phases = [
            phase
            for phase in PHASES
            if not (phase == "reveal" and not (self.sparse and self.authenticated))
            and not (phase == "agree" and not self.authenticated)
        ]
        self.vectors = {i: self._vector(i) for i in self.ids}
        self.to_server, self.to_client = defaultdict(dict), defaultdict(dict)
        self.root = self.graph_seed = self.binding = self.h1 = None
        self.survivors, self.sum, self.aborted = [], None, None

    def _vector(self, client: int) -> list[int]:
        drawn = explicit_bytes(f"{self.name} vector {client}", 8 * self.d)
        return [int.from_bytes(drawn[8 * j : 8 * j + 8], "little") % 2**self.bits for j in range(self.d)]

    def present(self, phase: str) -> list[int]:
        """Clients that still answer in this phase."""
        gone = self.phases[: self.phases.index(phase) + 1]
        return [i for i in self.ids if self.silent.get(i) not in gone]

    def frame(self, kind: int, client: int, body: bytes) -> bytes:
        digest = self.h0 if kind <= DELIVERY else self.h1
        return u8(2) + u8(kind) + u32(client) + digest + body

    def run(self) -> "Session":
        for phase in self.phases:
            getattr(self, phase)()
            if self.aborted:
                break
        return self

    def _abort(self, phase: str, outcome: str) -> None:
        self.aborted = {"phase": phase, "outcome": outcome}

    # --- 5. advertise and reveal ---

    def draw(self) -> None:
        """Everything random, in the order in which clients draw it."""
        self.members = committee(self.c, self.h0)
        self.identity, self.seal_key, self.mask_key, self.nonce = {}, {}, {}, {}
        self.self_seed, self.seed_rows, self.key_rows = {}, {}, {}
        for i in self.ids:
            stream = explicit_bytes(f"{self.name} {i}", 128 + 2 * 32 * (self.t - 1))
            at = 0

            def take(length, stream=stream):
                nonlocal at
                at += length
                return stream[at - length : at]

            self.identity[i] = identity_seed(self.name, i)
            self.seal_key[i], self.mask_key[i] = take(32), take(32)
            if i in self.members:
                self.nonce[i] = take(32)
            self.self_seed[i] = take(32)
            self.seed_rows[i] = take(32 * (self.t - 1))
            self.key_rows[i] = take(32 * (self.t - 1))
        self.seal_public = {i: public_key(self.seal_key[i]) for i in self.ids}
        self.mask_public = {i: public_key(self.mask_key[i]) for i in self.ids}

    def advertisement(self, i: int) -> bytes:
        commitment = tagged_hash("nonce", self.h0, u32(i), self.nonce[i]) if i in self.nonce else bytes(32)
        keys = self.seal_public[i] + self.mask_public[i] + commitment
        signature = bytes(64)
        if self.authenticated:
            signature = sign(self.identity[i], "advertise", self.h0, u32(i), keys)
        return keys + signature

    def path(self, client: int) -> bytes:
        return path_of(self.tree, self.position[client]) if self.sparse else b""

    def advertise(self) -> None:
        self.draw()
        self.advertised = self.present("advertise")
        self.advertisements = {i: self.advertisement(i) for i in self.advertised}
        for i in self.advertised:
            self.to_server["advertise"][i] = self.frame(ADVERTISE, i, self.advertisements[i])
        if any(i not in self.advertised for i in self.members):
            return self._abort("advertise", "CommitteeLostError")
        if len(self.advertised) < self.T:
            return self._abort("advertise", "AggregationAborted")
        leaves = [
            H(b"\0" + u32(i) + (self.advertisements.get(self.ids[i], b"") if i < self.n else b""))
            for i in range(1 << (self.n - 1).bit_length())
        ]
        self.tree = levels(leaves)
        self.root = self.tree[-1][0]
        if self.members:
            rows = {i: self.advertisements[i] + self.path(i) for i in self.members}
            for i in self.members:
                self.to_client["reveal"][i] = self.frame(COMMITTEE, i, self.root + table(rows))
        else:
            self._rosters()
        return None

    def reveal(self) -> None:
        self.reveal_signatures = {
            i: sign(self.identity[i], "reveal", self.h0, self.root, u32(i), self.nonce[i])
            for i in self.members
        }
        revealed = [i for i in self.present("reveal") if i in self.members]
        for i in revealed:
            body = self.nonce[i] + self.reveal_signatures[i]
            self.to_server["reveal"][i] = self.frame(REVEAL, i, body)
        if revealed != self.members:
            return self._abort("reveal", "CommitteeLostError")
        return self._rosters()

    def ring(self) -> list[int]:
        stream = keystream("chacha20", self.graph_seed, 8 * self.n)
        words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(self.n)]
        return [self.ids[i] for i in sorted(range(self.n), key=lambda i: (words[i], i))]

    def draw_graph(self) -> None:
        if not self.sparse:
            self.graph_seed = bytes(32)
            self.neighbors = {i: [j for j in self.ids if j != i] for i in self.ids}
            return
        nonces = b"".join(self.nonce[i] for i in self.members)
        self.graph_seed = tagged_hash("graph", self.h0, self.root, nonces)
        ring = self.ring()
        self.neighbors = {}
        for place, client in enumerate(ring):
            steps = range(1, self.k // 2 + 1)
            around = [ring[(place + s) % self.n] for s in steps] + [ring[(place - s) % self.n] for s in steps]
            self.neighbors[client] = sorted(around)

    # --- 6. share ---

    def roster_body(self, client: int) -> bytes:
        members = b""
        if self.members:
            members = table(
                {
                    i: self.advertisements[i] + self.path(i) + self.nonce[i] + self.reveal_signatures[i]
                    for i in self.members
                }
            )
        listed = [j for j in self.advertised if j == client or j in self.neighbors[client]]
        return self.root + members + table({j: self.advertisements[j] + self.path(j) for j in listed})

    def _rosters(self) -> None:
        self.draw_graph()
        for i in self.advertised:
            self.to_client["share"][i] = self.frame(ROSTER, i, self.roster_body(i))
        self.require_t("advertised", self.advertised, self.advertised)
        self.binding = tagged_hash("binding", self.h0, self.root, self.graph_seed)
        self.h1 = tagged_hash("session", self.binding, self.model)

    def require_t(self, did: str, clients, here) -> None:
        """Clients end the session below t; schedules that lead there say nothing about the rest of it."""
        for client in clients:
            neighbors = [j for j in self.neighbors[client] if j in here]
            if len(neighbors) < self.t:
                raise ValueError(f"of client {client}, {len(neighbors)} neighbors {did}")

    def shares_of(self, dealer: int) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Of the self-mask seed and of the mask key, by holder."""
        out = []
        for secret, rows in ((self.self_seed, self.seed_rows), (self.mask_key, self.key_rows)):
            shares = shamir_reference.split(secret[dealer], rows[dealer], self.t, self.k)
            out.append({v: shares[1 + place] for place, v in enumerate(self.neighbors[dealer])})
        return out[0], out[1]

    def seal(self, u: int, v: int, of_seed: bytes, of_key: bytes, committed=None) -> bytes:
        """u's sealed pair for v; a liar commits to other shares."""
        commitments = b"".join(
            tagged_hash("share", self.binding, u8(kind), u32(u), u32(v), share)
            for kind, share in zip((SELF_MASK, MASK_KEY), committed or (of_seed, of_key), strict=True)
        )
        ends = u32(u) + u32(v) + self.seal_public[u] + self.seal_public[v]
        secret = x25519(self.seal_key[u], self.seal_public[v])
        key = kdf(secret, self.binding, tag("seal") + ends)
        data = tag("sealed pair") + ends + self.binding + commitments
        return commitments + ChaCha20Poly1305(key).encrypt(bytes(12), of_seed + of_key, data)

    def commitment(self, u: int) -> bytes:
        return tagged_hash("self mask", self.binding, u32(u), self.self_seed[u])

    def share_body(self, u: int) -> bytes:
        return self.commitment(u) + table(
            {v: self.sealed[u, v] for v in self.neighbors[u] if v in self.advertised}
        )

    def share(self) -> None:
        self.shared = self.present("share")
        self.shares, self.sealed = {}, {}
        for u in self.shared:
            self.shares[u] = self.shares_of(u)
            for v in self.neighbors[u]:
                if v in self.advertised:
                    self.sealed[u, v] = self.seal(u, v, self.shares[u][0][v], self.shares[u][1][v])
            self.to_server["share"][u] = self.frame(SHARE, u, self.share_body(u))
        if len(self.shared) < self.T:
            return self._abort("share", "AggregationAborted")
        self.require_t("shared", self.shared, self.shared)
        self.accepted = {v: [u for u in self.neighbors[v] if u in self.shared] for v in self.shared}
        for v in self.shared:
            body = table({u: self.sealed[u, v] for u in self.accepted[v]})
            self.to_client["upload"][v] = self.frame(DELIVERY, v, body)
        return None

    # --- 7. upload ---

    def self_mask(self, u: int, seed: bytes) -> list[int]:
        ends = u32(u) + u32(u) + self.mask_public[u] + self.mask_public[u]
        return self._expand(kdf(seed, self.h1, tag("self mask") + ends))

    def pair_mask(self, secret: bytes, owner: int, peer: int) -> list[int]:
        """From the owner's mask key and the peer's public one."""
        u, v = sorted((owner, peer))
        ends = u32(u) + u32(v) + self.mask_public[u] + self.mask_public[v]
        return self._expand(kdf(x25519(secret, self.mask_public[peer]), self.h1, tag("pair mask") + ends))

    def _expand(self, seed: bytes) -> list[int]:
        return mask(self.c["prg"], seed, self.d, self.bits)

    def added(self, total: list[int], other: list[int], sign_: int) -> list[int]:
        return [(a + sign_ * b) % 2**self.bits for a, b in zip(total, other, strict=True)]

    def masked(self, u: int) -> list[int]:
        y = self.added(self.vectors[u], self.self_mask(u, self.self_seed[u]), 1)
        for v in self.accepted[u]:
            y = self.added(y, self.pair_mask(self.mask_key[u], u, v), 1 if v < u else -1)
        return y

    def uploads(self, u: int) -> list[bytes]:
        chunk, y = self.chunk or self.d, self.masked(u)
        starts = range(0, self.d, chunk)
        return [self.frame(UPLOAD, u, u64(j) + pack(y[j : j + chunk], self.bits)) for j in starts]

    def upload(self) -> None:
        self.survivors = self.present("upload")
        for u in self.shared:
            sent = self.uploads(u)
            if u not in self.survivors:
                sent = sent[: self.partial.get(u, 0)]
            if sent:
                self.to_server["upload"][u] = sent
        if len(self.survivors) < self.T:
            return self._abort("upload", "AggregationAborted")
        self.require_t("survive", self.survivors, self.survivors)
        for u in self.survivors:
            self.to_client["agree" if self.authenticated else "unmask"][u] = self.frame(
                SURVIVORS, u, self.set_of(self.survivors)
            )
        return None

    def set_of(self, clients) -> bytes:
        return bitmap([self.position[i] for i in clients], self.n)

    # --- 8. agree ---

    def agreement(self, u: int, survivors: bytes) -> bytes:
        return sign(self.identity[u], "agree", self.h1, self.root, H(survivors))

    def quorum_body(self, signers, survivors: bytes) -> bytes:
        return self.set_of(signers) + b"".join(self.agreement(u, survivors) for u in sorted(signers))

    def agree(self) -> None:
        agreed = self.set_of(self.survivors)
        signers = self.present("agree")
        for u in signers:
            self.to_server["agree"][u] = self.frame(AGREE, u, self.agreement(u, agreed))
        if len(signers) < self.T:
            return self._abort("agree", "AggregationAborted")
        for u in signers:
            self.to_client["unmask"][u] = self.frame(QUORUM, u, self.quorum_body(signers[: self.T], agreed))
        return None

    # --- 9. unmask ---

    def unmask_rows(self, holder: int) -> dict[int, bytes]:
        return {
            u: u8(SELF_MASK) + self.shares[u][0][holder]
            if u in self.survivors
            else u8(MASK_KEY) + self.shares[u][1][holder]
            for u in self.accepted[holder]
        }

    def unmask(self) -> None:
        holders = self.present("unmask")
        for holder in holders:
            body = table(self.unmask_rows(holder))
            self.to_server["unmask"][holder] = self.frame(UNMASK, holder, body)
        self._open(holders)

    def _open(self, holders) -> None:
        """The server's half of the last phase, from what the holders sent and nothing else."""
        gathered = defaultdict(dict)
        for holder in holders:
            for u, row in self.unmask_rows(holder).items():
                gathered[u][1 + self.neighbors[u].index(holder)] = row[1:]
        total = [0] * self.d
        for u in self.survivors:
            total = self.added(total, self.masked(u), 1)
        for u in self.shared:
            survivors = [v for v in self.survivors if u in self.accepted[v]]
            if u not in self.survivors and not survivors:
                continue
            if len(gathered[u]) < self.t:
                return self._abort("unmask", "AggregationAborted")
            secret = shamir_reference.combine(dict(list(gathered[u].items())[: self.t]))
            if u in self.survivors:
                if tagged_hash("self mask", self.binding, u32(u), secret) != self.commitment(u):
                    return self._abort("unmask", "AggregationAborted")
                total = self.added(total, self.self_mask(u, secret), -1)
                continue
            if public_key(secret) != self.mask_public[u]:
                return self._abort("unmask", "AggregationAborted")
            for v in survivors:  # v added the mask if u < v
                total = self.added(total, self.pair_mask(secret, u, v), -1 if u < v else 1)
        plain = [0] * self.d
        for u in self.survivors:
            plain = self.added(plain, self.vectors[u], 1)
        if total != plain:
            raise AssertionError((total, plain))
        self.sum = total
        return None


def identity_seed(name: str, client: int) -> bytes:
    return explicit_bytes(f"{name} identity {client}", 32)
