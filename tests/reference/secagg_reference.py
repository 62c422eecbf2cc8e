"""The protocol of docs/secure_aggregation.md once more, from the page: slow, and apart from the package.

HKDF from hmac, X25519 as RFC 7748 writes it, Shamir with log tables, masks as Python integers. Only the
AEAD and the raw ChaCha20 keystream come from a library. `python tests/reference/secagg_reference.py` (with
tests/ on PYTHONPATH) writes tests/vectors/secagg_transcripts.json.
"""

import hashlib
import hmac
import json
import struct
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from reference import masks_reference, shamir_reference

ADVERTISE, ROSTER, SHARE, DELIVERY, UPLOAD, SURVIVORS, UNMASK = range(1, 8)
PHASES = ("advertise", "share", "upload", "unmask")

# --- RFC 7748 ---

P = 2**255 - 19


def x25519(scalar: bytes, point: bytes) -> bytes:
    k = bytearray(scalar)
    k[0] &= 248
    k[31] = k[31] & 127 | 64
    n, x1 = int.from_bytes(k, "little"), int.from_bytes(point, "little") % 2**255
    x2, z2, x3, z3 = 1, 0, x1, 1
    for bit in range(254, -1, -1):
        if n >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
        if n >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def public_key(scalar: bytes) -> bytes:
    return x25519(scalar, (9).to_bytes(32, "little"))


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of SHA-256."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


# --- configuration and key schedule ---


def config_bytes(c: dict) -> bytes:
    fixed = b"\x01" + bytes.fromhex(c["session_id"]) + struct.pack("<QI", c["round_id"], c["vector_length"])
    fixed += bytes([c["modulus_bits"], c["threshold"], 0, len(c["participants"])])
    return fixed + b"".join(struct.pack("<I", i) for i in c["participants"])


def digest(c: dict) -> bytes:
    return hashlib.sha256(b"fedsec secagg 1 config" + config_bytes(c)).digest()


def context(c: dict, purpose: str, first: tuple, second: tuple) -> bytes:
    parties = struct.pack("<QII", c["round_id"], first[0], second[0]) + first[1] + second[1]
    return b"fedsec secagg 1 " + purpose.encode() + b"\0" + bytes.fromhex(c["session_id"]) + parties


def frame(c: dict, kind: int, client: int, body: bytes) -> str:
    return (bytes([1, kind]) + struct.pack("<I", client) + digest(c) + body).hex()


def table(rows: dict) -> bytes:
    return struct.pack("<H", len(rows)) + b"".join(struct.pack("<I", i) + rows[i] for i in sorted(rows))


def randomness(name: str, length: int) -> bytes:
    return hashlib.shake_256(name.encode()).digest(length)


# --- a whole session ---


def session(c: dict, vectors: dict, silent: dict, name: str) -> dict:
    """All messages to and from every client, and the sum; client i draws from SHAKE-256 of "name i"."""
    t, n = c["threshold"], len(c["participants"])
    x_of = {client: x for x, client in enumerate(c["participants"], start=1)}
    to_server, to_client = {p: {} for p in PHASES}, {p: {} for p in PHASES}

    def present(phase):
        gone = PHASES[: PHASES.index(phase) + 1]
        return [i for i in c["participants"] if silent.get(i) not in gone]

    secrets = {}
    for i in c["participants"]:
        drawn = randomness(f"{name} {i}", 96 + 2 * 32 * (t - 1))
        secrets[i] = {
            "sealing": drawn[:32],
            "masking": drawn[32:64],
            "self": drawn[64:96],
            "self_rows": drawn[96 : 96 + 32 * (t - 1)],
            "key_rows": drawn[96 + 32 * (t - 1) :],
        }
    public = {i: (public_key(s["sealing"]), public_key(s["masking"])) for i, s in secrets.items()}

    u1 = present("advertise")
    roster = table({j: b"".join(public[j]) for j in u1})
    salt = hashlib.sha256(b"fedsec secagg 1 roster\0" + digest(c) + roster).digest()
    for i in u1:
        to_server["advertise"][i] = frame(c, ADVERTISE, i, b"".join(public[i]))
        to_client["advertise"][i] = frame(c, ROSTER, i, roster)

    u2 = present("share")
    self_shares = {i: shamir_reference.split(s["self"], s["self_rows"], t, n) for i, s in secrets.items()}
    key_shares = {i: shamir_reference.split(s["masking"], s["key_rows"], t, n) for i, s in secrets.items()}

    def seal(i, j):
        me, other = (i, public[i][0]), (j, public[j][0])
        key = hkdf(x25519(secrets[i]["sealing"], public[j][0]), salt, context(c, "sealing", me, other))
        pair = self_shares[i][x_of[j]] + key_shares[i][x_of[j]]
        return ChaCha20Poly1305(key).encrypt(bytes(12), pair, salt + context(c, "sealed shares", me, other))

    for i in u2:
        owner = (i, public[i][1])
        commitment = hashlib.sha256(
            context(c, "commitment", owner, owner) + salt + secrets[i]["self"]
        ).digest()
        sealed = table({j: seal(i, j) for j in u1 if j != i})
        to_server["share"][i] = frame(c, SHARE, i, commitment + sealed)
        to_client["share"][i] = frame(c, DELIVERY, i, table({j: seal(j, i) for j in u2 if j != i}))

    u3 = present("upload")
    lane = next(lane for lane in (16, 32, 64) if lane >= c["modulus_bits"])
    modulus, width = 2 ** c["modulus_bits"], -(-c["modulus_bits"] // 8)

    def prg(seed):
        return masks_reference.mask(seed, 0, c["vector_length"], lane, c["modulus_bits"])

    for i in u3:
        owner = (i, public[i][1])
        total = list(vectors[i])
        terms = [(prg(hkdf(secrets[i]["self"], salt, context(c, "self mask", owner, owner))), 1)]
        for j in u2:
            if j == i:
                continue
            first, second = sorted((owner, (j, public[j][1])))
            shared = x25519(secrets[i]["masking"], public[j][1])
            seed = hkdf(shared, salt, context(c, "pairwise mask", first, second))
            terms.append((prg(seed), 1 if i > j else -1))
        for mask, sign in terms:
            total = [(a + sign * b) % modulus for a, b in zip(total, mask, strict=True)]
        body = b"".join(value.to_bytes(width, "little") for value in total)
        to_server["upload"][i] = frame(c, UPLOAD, i, body)
        to_client["upload"][i] = frame(c, SURVIVORS, i, table(dict.fromkeys(u3, b"")))

    for i in present("unmask"):
        rows = {
            j: (b"\x01" + self_shares[j][x_of[i]]) if j in u3 else (b"\x02" + key_shares[j][x_of[i]])
            for j in u2
        }
        to_server["unmask"][i] = frame(c, UNMASK, i, table(rows))

    total = [sum(column) % modulus for column in zip(*(vectors[i] for i in u3), strict=True)]
    return {"to_server": to_server, "to_client": to_client, "survivors": u3, "sum": total}


# --- vectors ---


def config(participants, threshold, bits, length, name):
    return {
        "session_id": hashlib.sha256(name.encode()).hexdigest(),
        "round_id": len(name),
        "participants": participants,
        "vector_length": length,
        "modulus_bits": bits,
        "threshold": threshold,
    }


def transcript(name, participants, threshold, bits, length, silent):
    c = config(participants, threshold, bits, length, name)
    vectors = {
        i: [
            int.from_bytes(randomness(f"{name} vector {i} {k}", 8), "little") % 2**bits for k in range(length)
        ]
        for i in participants
    }
    return {
        "name": name,
        "config": c,
        "config_bytes": config_bytes(c).hex(),
        "config_digest": digest(c).hex(),
        "randomness": f"SHAKE-256 of '{name} ' and the client id",
        "vectors": vectors,
        "silent": silent,
        **session(c, vectors, silent, name),
    }


def changed(message: str, position: int, value: int) -> str:
    raw = bytearray(bytes.fromhex(message))
    raw[position] ^= value
    return raw.hex()


def negatives(base: dict) -> list[dict]:
    """Messages that must not be taken, in the session of `base`: by whom, when, and why."""
    to_server, to_client = base["to_server"], base["to_client"]
    me, peer = base["config"]["participants"][:2]
    cases = []

    def add(why, receiver, phase, message, outcome):
        case = {"why": why, "receiver": receiver, "client": me, "phase": phase}
        cases.append(case | {"message": message, "outcome": outcome})

    roster, delivery, survivors = (to_client[p][me] for p in PHASES[:3])
    add("another version", "client", "share", changed(roster, 0, 3), "ProtocolError")
    add("another kind", "client", "share", changed(roster, 1, 4), "ProtocolError")
    add("for another client", "client", "share", to_client["advertise"][peer], "ProtocolError")
    add("another configuration", "client", "share", changed(roster, 20, 1), "ProtocolError")
    add("a trailing byte", "client", "share", roster + "00", "ProtocolError")
    add("own key replaced", "client", "share", changed(roster, 38 + 2 + 4, 1), "ProtocolError")
    add("sealed share changed", "client", "upload", changed(delivery, -1, 128), "ProtocolError")
    add("the roster once more", "client", "upload", roster, "ProtocolError")
    too_few = frame(base["config"], SURVIVORS, me, table({me: b""}))
    add("survivors below the threshold", "client", "unmask", too_few, "AggregationAborted")
    add("survivors cut short", "client", "unmask", survivors[:-2], "ProtocolError")
    add("advertisement cut short", "server", "advertise", to_server["advertise"][me][:-2], "ProtocolError")
    add("an upload before its phase", "server", "share", to_server["upload"][me], "ProtocolError")
    add("an upload of another length", "server", "upload", to_server["upload"][me] + "00", "ProtocolError")
    other_kind = changed(to_server["unmask"][me], 38 + 2 + 4, 3)
    add("the other kind of share", "server", "unmask", other_kind, "ProtocolError")
    return cases


def document() -> dict:
    transcripts = [
        transcript("nobody lost", [1, 2, 3], 2, 32, 5, {}),
        transcript(
            "lost while sharing and uploading",
            [3, 5, 9, 70000, 2**32 - 1],
            3,
            20,
            4,
            {5: "share", 70000: "upload"},
        ),
        transcript("lost at both ends", [0, 7, 8, 200, 300], 3, 64, 3, {0: "advertise", 300: "unmask"}),
        transcript("two clients, bits", [6, 17], 2, 1, 9, {}),
    ]
    return {
        "source": "tests/reference/secagg_reference.py, which shares no code with the package",
        "transcripts": transcripts,
        "negative": negatives(transcripts[0]),
    }


if __name__ == "__main__":
    path = Path(__file__).parents[1] / "vectors" / "secagg_transcripts.json"
    path.write_text(json.dumps(document(), indent=1) + "\n")
