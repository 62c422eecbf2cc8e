"""Sessions and forgeries for tests/vectors/secagg, played by `secagg_reference`.

From tests/, `python -m reference.secagg_cases` writes the files; tests/vectors/secagg/README.md says what is
in them.
"""

import hashlib
import json
import re
import struct
from pathlib import Path

from reference import secagg_reference as ref
from reference.secagg_reference import HEADER, Session, tagged_hash, u8, u16, u32, u64

FOLDER = Path(__file__).parents[1] / "vectors" / "secagg"
REFUSED, ABORTED = "ProtocolError", "AggregationAborted"
LONGEST = 64  # longer messages are given as their SHA-256, but for those of clients that are `in_full`


def configuration(name, participants, d, bits, numbers, **changes):
    """`numbers`: C, D, k, t, T."""
    C, D, k, t, T = numbers
    c = {
        "profile": "authenticated",
        "session_id": hashlib.sha256(name.encode()).hexdigest(),
        "round_id": len(name),
        "vector_length": d,
        "modulus_bits": bits,
        "prg": "chacha20",
        "max_corrupt": C,
        "max_dropped": D,
        "num_neighbors": k,
        "threshold": t,
        "min_survivors": T,
        "privacy_bits": 1,
        "correctness_bits": 1,
        "quantizer": None,
        "participants": participants,
        "verification_keys": {
            i: ref.verification_key(ref.identity_seed(name, i)).hex() for i in participants
        },
        "model_digest": hashlib.sha256(b"a model").hexdigest(),
    } | changes
    if c["profile"] == "semi_honest":
        c["verification_keys"] = {}
    return c


def play(name, participants, d, bits, numbers, *, kind=Session, silent=None, chunk=None, partial=None, **c):
    session = kind(
        configuration(name, participants, d, bits, numbers, **c),
        name=name,
        silent=silent,
        chunk=chunk,
        partial=partial,
    )
    return session.run()


# --- sessions ---


def complete_sessions():
    other_model = hashlib.sha256(b"another model").hexdigest()
    quantizer = {"granularity": 2.0**-10, "max_abs": 4.0, "num_clients": 4}
    far = [3, 5, 9, 70000, 2**31, 2**32 - 2, 2**32 - 1]
    losses = {5: "share", 70000: "upload", 2**31: "agree"}
    return [
        play("nobody lost", [1, 2, 3], 5, 32, (1, 0, 2, 2, 3)),
        play("lost in the middle", far, 19, 20, (0, 2, 6, 4, 4), silent=losses, chunk=8, partial={70000: 2}),
        play(
            "lost at both ends",
            [0, 7, 8, 200, 300, 301],
            3,
            64,
            (0, 1, 5, 2, 4),
            silent={0: "advertise", 300: "unmask", 301: "unmask"},
            model_digest=other_model,
        ),
        play(
            "AES-128, 17 bits",
            [4, 6, 10, 12],
            11,
            17,
            (1, 1, 3, 2, 3),
            prg="aes128ctr",
            silent={6: "upload"},
            quantizer=quantizer,
        ),
        play("AES-256, one bit", [4, 6, 10], 19, 1, (0, 0, 2, 2, 3), prg="aes256ctr", chunk=16),
        play(
            "semi_honest",
            [2, 4, 6, 8, 10],
            7,
            33,
            (1, 1, 4, 3, 4),
            profile="semi_honest",
            silent={4: "upload"},
            chunk=8,
        ),
        play(
            "semi_honest, lost early",
            [2, 4, 6, 8, 10],
            2,
            16,
            (0, 1, 4, 2, 3),
            profile="semi_honest",
            silent={2: "advertise", 6: "share"},
        ),
    ]


NINE = [11, 12, 13, 20, 21, 500, 501, 502, 503]


def sparse_sessions():
    cohort = list(range(1000, 1024))
    return [
        play(
            "sparse",
            NINE,
            6,
            24,
            (1, 1, 6, 3, 7),
            silent={21: "upload"},
        ),
        play(
            "sparse, two dozen",
            cohort,
            20,
            50,
            (1, 3, 10, 5, 20),
            silent={1003: "share", 1010: "upload", 1011: "agree"},
            chunk=16,
            partial={1010: 1},
        ),
        play(
            "sparse, semi_honest",
            NINE,
            4,
            12,
            (1, 1, 6, 3, 7),
            profile="semi_honest",
            silent={502: "share", 20: "upload"},
        ),
    ]


class WrongMaskCommitment(Session):
    """The first client commits to another self-mask seed than it shares out."""

    def commitment(self, u):
        return super().commitment(u) if u != self.ids[0] else bytes(32)


class WrongKeyShared(Session):
    """The first client, lost before its upload, shares out another mask key than it advertised."""

    def shares_of(self, dealer):
        if dealer != self.ids[0]:
            return super().shares_of(dealer)
        self.mask_key[dealer] = bytes(32)
        return super().shares_of(dealer)


def aborted_sessions():
    four, numbers = [1, 2, 3, 4], (1, 1, 3, 2, 3)
    sessions = [
        play(f"below T in {phase}", four, 2, 8, numbers, silent={2: "advertise", 4: phase})
        for phase in ("advertise", "share", "upload", "agree")
    ]
    sessions.append(
        play("too few shares", four, 2, 8, numbers, silent={2: "advertise", 4: "unmask"}),
    )
    sessions.append(
        play(
            "too few shares, semi_honest",
            four,
            2,
            8,
            numbers,
            silent={1: "share", 2: "unmask"},
            profile="semi_honest",
        )
    )
    for phase in ("advertise", "reveal"):
        name = f"a member of the committee lost in {phase}"
        member = play(name, NINE, 2, 8, (1, 1, 6, 3, 7)).members[3]
        sessions.append(play(name, NINE, 2, 8, (1, 1, 6, 3, 7), silent={member: phase}))
    sessions += [
        play("wrong mask commitment", four, 2, 8, numbers, kind=WrongMaskCommitment),
        play("wrong key shared", four, 2, 8, numbers, kind=WrongKeyShared, silent={1: "upload"}),
    ]
    return sessions


def described(session, *, in_full, to_server_in_full=False):
    """A session as it stands in a file; messages of clients that are not `in_full` may be hashes."""
    c = {key: value for key, value in session.c.items() if key != "verification_keys"}
    corrupt = [session.ids[0]] if type(session) is not Session else []

    def written(client, message, full):
        if len(message) <= LONGEST or full or client in in_full or client in corrupt:
            return message.hex()
        return "sha256:" + hashlib.sha256(message).hexdigest()

    def hex_or_none(value):
        return None if value is None else value.hex()

    return {
        "name": session.name,
        "config": c,
        "config_bytes": session.config.hex(),
        "h0": session.h0.hex(),
        "committee_size": len(session.members),
        "committee": session.members,
        "root": hex_or_none(session.root),
        "graph_seed": hex_or_none(session.graph_seed),
        "neighbors": session.neighbors if session.sparse and session.graph_seed else None,
        "h1": hex_or_none(session.h1),
        "identities": f"SHAKE-256 of '{session.name} identity ' and the client id",
        "randomness": f"SHAKE-256 of '{session.name} ' and the client id",
        "vectors": session.vectors,
        "silent": session.silent,
        "corrupt": corrupt,
        "chunk_elements": session.chunk,
        "phases": session.phases,
        "to_client": {
            phase: {i: written(i, message, False) for i, message in session.to_client[phase].items()}
            for phase in session.phases[1:]
        },
        "to_server": {
            phase: {
                i: [written(i, message, to_server_in_full) for message in as_list(sent)]
                for i, sent in session.to_server[phase].items()
            }
            for phase in session.phases
        },
        "survivors": session.survivors,
        "sum": session.sum,
        "aborted": session.aborted,
    }


def as_list(sent):
    return sent if isinstance(sent, list) else [sent]


# --- forgeries ---


class Forgeries:
    """Messages that must be refused in `session`; `me` is the client that gets or sends them."""

    def __init__(self, session, me):
        self.session, self.me, self.cases = session, me, []

    def to_client(self, phase, clause, why, message, outcome=REFUSED):
        """`message` comes instead of the one that opens `phase`."""
        due = self.session.to_client[phase].get(self.me, b"")
        self._add("client", self.me, phase, clause, why, due, message, outcome, 0)

    def to_server(self, phase, clause, why, message, *, sender=None, before=0):
        """`before`: so many of the sender's own messages of this phase have been taken."""
        sender = sender or self.me
        sent = as_list(self.session.to_server[phase].get(sender, []))
        due = sent[min(before, len(sent) - 1)] if sent else b""
        self._add("server", sender, phase, clause, why, due, message, REFUSED, before)

    def _add(self, receiver, client, phase, clause, why, due, message, outcome, before):
        case = {"session": self.session.name, "receiver": receiver, "client": client, "phase": phase}
        case |= {"clause": clause, "why": why, "outcome": outcome}
        if receiver == "server":
            case["taken_before"] = before
        self.cases.append(case | edit_or_message(due, message))


def edit_or_message(due, message):
    """The message, or where it departs from the one that is due, if that is shorter."""
    limit = min(len(due), len(message))
    start = next((j for j in range(limit) if due[j] != message[j]), limit)
    tail = next((j for j in range(limit - start) if due[-1 - j] != message[-1 - j]), limit - start)
    insert = message[start : len(message) - tail]
    edit = {"at": start, "remove": len(due) - tail - start, "insert": insert.hex()}
    return {"edit": edit} if len(insert) < len(message) // 2 else {"message": message.hex()}


def flipped(message, position, value=1):
    raw = bytearray(message)
    raw[position] ^= value
    return bytes(raw)


def rows_of(body, size):
    """(client id, record) of a table, in order."""
    rows = body[2:]
    return [
        (struct.unpack("<I", rows[at : at + 4])[0], rows[at + 4 : at + 4 + size])
        for at in range(0, len(rows), 4 + size)
    ]


def rows(pairs):
    """A table of any pairs in any order."""
    return u16(len(pairs)) + b"".join(u32(client) + record for client, record in pairs)


def envelope(add, message, clause="4.1"):
    """What can be wrong with any message; `add` takes clause, why and message."""
    add(clause, "another version", flipped(message, 0, 3))
    add(clause, "another kind", flipped(message, 1, 64))
    add(clause, "for another client", flipped(message, 2, 1))
    add(clause, "another digest", flipped(message, 20))
    add("2.1", "a byte too many", message + b"\0")
    add("2.1", "a byte short", message[:-1])


def client_forgeries(session, stranger):
    f = Forgeries(session, session.ids[0])
    roster_forgeries(f, stranger)
    delivery_forgeries(f)
    survivors_forgeries(f)
    quorum_forgeries(f)
    return f.cases


def roster_forgeries(f, stranger):
    s, me = f.session, f.me
    due = s.to_client["share"][me]
    listed = rows_of(due[HEADER + 32 :], 160)
    others = [row for row in listed if row[0] != me]

    def add(clause, why, message, outcome=REFUSED):
        f.to_client("share", clause, why, message, outcome)

    def roster(pairs, root=None):
        return s.frame(ref.ROSTER, me, (root or s.root) + rows(pairs))

    def consistent(advertisements, outcome=REFUSED):
        """With the root of these."""
        return roster(sorted(advertisements.items()), root_of(s, advertisements))

    envelope(add, due)
    add("2.1", "nothing", b"")
    add("2.1", "the header alone", due[:HEADER])
    add("2.1", "more rows claimed than follow", flipped(due, HEADER + 33, 255))
    add("2", "two rows swapped", roster([listed[1], listed[0], *listed[2:]]))
    add("2", "a row twice", roster([*listed[:2], *listed[1:]]))
    add("6.1", "another root", flipped(due, HEADER))
    add("6.1", "a client missing under the root of all", roster(listed[:-1]))
    known = dict(listed)
    add("6.1", "its own advertisement missing", consistent(dict(others)))
    own = known[me]
    add("6.1", "its own mask key replaced", consistent(known | {me: flipped(own, 40)}))
    peer, record = others[0]
    add("6.1", "a peer's sealing key replaced", consistent(known | {peer: flipped(record, 3)}))
    add("6.1", "a peer's signature changed", consistent(known | {peer: flipped(record, 100)}))
    add("6.1", "another peer's advertisement", consistent(known | {peer: others[1][1]}))
    add("6.1", "a stranger", consistent_with_stranger(s, me, known))
    add("6.1", "a peer's advertisement from another session", consistent(known | {peer: stranger}))
    zero = signed_advertisement(s, peer, bytes(32) + record[32:64])
    add("2", "a peer's sealing key that agrees on zero, signed", consistent(known | {peer: zero}))
    committed = signed_advertisement(s, peer, record[:64], bytes(31) + b"\1")
    add("4.1", "a nonce commitment of a client that is no member", consistent(known | {peer: committed}))
    few = dict([(me, own), *others[: s.t - 1]])
    add("6.1", "fewer than t neighbours", consistent(few), ABORTED)


def root_of(s, advertisements):
    leaves = [
        ref.H(b"\0" + u32(i) + (advertisements.get(s.ids[i], b"") if i < s.n else b""))
        for i in range(1 << (s.n - 1).bit_length())
    ]
    return ref.levels(leaves)[-1][0]


def consistent_with_stranger(s, me, known):
    pairs = sorted((known | {77: signed_advertisement(s, s.ids[1], known[s.ids[1]][:64])}).items())
    return s.frame(ref.ROSTER, me, s.root + rows(pairs))


def signed_advertisement(s, client, keys, commitment=bytes(32)):
    signature = ref.sign(s.identity[client], "advertise", s.h0, u32(client), keys, commitment)
    return keys + commitment + signature


def delivery_forgeries(f):
    s, me = f.session, f.me
    due = s.to_client["upload"][me]
    listed = rows_of(due[HEADER:], 144)
    (first, record), (_second, other) = listed[:2]

    def add(clause, why, message, outcome=REFUSED):
        f.to_client("upload", clause, why, message, outcome)

    def delivery(pairs):
        return s.frame(ref.DELIVERY, me, rows(pairs))

    envelope(add, due)
    add("4.2", "the roster once more", s.to_client["share"][me])
    add("2", "two rows swapped", delivery([listed[1], listed[0], *listed[2:]]))
    add("2", "a row twice", delivery([listed[0], *listed]))
    add("7.1", "a ciphertext changed", flipped(due, HEADER + 2 + 4 + 70))
    add("7.1", "a tag changed", flipped(due, HEADER + 2 + 4 + 143))
    add("7.1", "a commitment changed", flipped(due, HEADER + 2 + 4))
    add("7.1", "one dealer's pair under another's name", delivery([(first, other), *listed[1:]]))
    add("7.1", "its own pair sent back", delivery([(first, s.sealed[me, first]), *listed[1:]]))
    add("7.1", "a pair for another client", delivery([(first, s.sealed[first, s.ids[2]]), *listed[1:]]))
    add("7.1", "a pair from itself", delivery([(me, record), *listed]))
    add("7.1", "a client that is no participant", delivery([*listed, (2**32 - 1, record)]))
    shares = [s.shares[first][kind][me] for kind in (0, 1)]
    misfit = s.seal(first, me, *shares, committed=(shares[0], flipped(shares[1], 5)))
    add("7.1", "a share that does not fit its commitment", delivery([(first, misfit), *listed[1:]]))
    add("7.1", "fewer than t peers", delivery(listed[: s.t - 1]), ABORTED)
    add("7.1", "nobody", delivery([]), ABORTED)


def survivors_forgeries(f):
    s, me = f.session, f.me
    due = s.to_client["agree"][me]
    mute = next(i for i, phase in s.silent.items() if phase == "share")

    def add(clause, why, message, outcome=REFUSED):
        f.to_client("agree", clause, why, message, outcome)

    def survivors(clients):
        return s.frame(ref.SURVIVORS, me, s.set_of(clients))

    envelope(add, due)
    add("4.1", "the digest h0", due[:6] + s.h0 + due[HEADER:])
    add("4.2", "the delivery once more", s.to_client["upload"][me])
    add("2", "a bit beyond n", flipped(due, -1, 1 << s.n % 8))
    add("8.1", "without the client", survivors([i for i in s.shared if i != me]))
    add("8.1", "with a peer that shared nothing", survivors([*s.survivors, mute]))
    add("8.1", "fewer than T", survivors(s.survivors[: s.T - 1]), ABORTED)
    add("8.1", "nobody", survivors([]))


def quorum_forgeries(f):
    s, me = f.session, f.me
    due = s.to_client["unmask"][me]
    agreed = s.set_of(s.survivors)
    size = len(agreed)
    lost = next(i for i in s.shared if i not in s.survivors)
    everybody = s.set_of(s.shared)

    def add(clause, why, message, outcome=REFUSED):
        f.to_client("unmask", clause, why, message, outcome)

    def quorum(signers, signatures):
        return s.frame(ref.QUORUM, me, s.set_of(signers) + b"".join(signatures))

    def signed(signers, survivors=agreed):
        return [s.agreement(u, survivors) for u in signers]

    envelope(add, due)
    add("4.2", "the survivors once more", s.to_client["agree"][me])
    add("2", "a bit beyond n", flipped(due, HEADER + size - 1, 1 << s.n % 8))
    add("9.1", "a signature changed", flipped(due, HEADER + size + 64 + 9))
    few = s.survivors[: s.T - 1]
    add("9.1", "fewer than T signers", quorum(few, signed(few)), ABORTED)
    wrong = [*s.survivors[:-1], lost]
    add("9.1", "a signer that is no survivor", quorum(wrong, signed(sorted(wrong))))
    everyone = s.survivors
    mixed = [*signed(everyone[:-1]), *signed(everyone[-1:], everybody)]
    add("9.1", "a signature over another set", quorum(everyone, mixed))
    add("9.1", "all signatures over another set", quorum(everyone, signed(everyone, everybody)))
    signatures = signed(everyone)
    add("9.1", "two signatures swapped", quorum(everyone, [signatures[1], signatures[0], *signatures[2:]]))
    add("9.1", "a signature twice", quorum(everyone, [signatures[0], *signatures[:-1]]))
    other = [ref.sign(s.identity[u], "agree", s.h0, s.root, ref.H(agreed)) for u in everyone]
    add("9.1", "signatures under h0", quorum(everyone, other))
    f.to_client("done", "4.2", "the quorum once more", due)
    f.to_client("done", "4.2", "the survivors after the end", s.to_client["agree"][me])


def server_forgeries(session, stranger):
    f = Forgeries(session, session.ids[0])
    s, me = session, f.me
    own = {phase: as_list(sent[me]) for phase, sent in s.to_server.items()}

    def adder(phase, **more):
        def add(clause, why, message):
            f.to_server(phase, clause, why, message, **more)

        return add

    for phase in s.phases:
        envelope(adder(phase), own[phase][0])
        after = adder(phase, before=len(own[phase]))
        after("4.2", "once more", own[phase][-1])
    add = adder("advertise")
    record = own["advertise"][0][HEADER:]
    add("2.1", "nothing", b"")
    add("5.1", "a signature changed", flipped(own["advertise"][0], -1))
    for offset, which in ((0, "sealing"), (32, "mask")):
        weak = signed_advertisement(s, me, record[:offset] + bytes(32) + record[offset + 32 : 64])
        add("5.1", f"a {which} key of small order, signed", s.frame(ref.ADVERTISE, me, weak))
    add("5.1", "a key replaced", flipped(own["advertise"][0], HEADER + 33))
    add("5.1", "an advertisement of another session", s.frame(ref.ADVERTISE, me, stranger))
    committed = signed_advertisement(s, me, record[:64], bytes(31) + b"\1")
    add("4.1", "a nonce commitment of a client that is no member", s.frame(ref.ADVERTISE, me, committed))
    add("4.3", "the share before its phase", own["share"][0])
    spoofed = s.frame(ref.ADVERTISE, 77, record)
    f.to_server("advertise", "4.1", "a client that is no participant", spoofed, sender=77)

    share_forgeries(f, own, adder("share"))
    upload_forgeries(f, own)

    add = adder("agree")
    everybody = s.set_of(s.shared)
    add("8.1", "a signature changed", flipped(own["agree"][0], -1))
    add("8.1", "a signature over another set", s.frame(ref.AGREE, me, s.agreement(me, everybody)))
    other = s.to_server["agree"][s.ids[1]][HEADER:]
    add("8.1", "another client's signature", s.frame(ref.AGREE, me, other))
    lost = next(i for i in s.shared if i not in s.survivors)
    late = s.frame(ref.AGREE, lost, s.agreement(lost, s.set_of(s.survivors)))
    f.to_server("agree", "4.3", "a client that is no survivor", late, sender=lost)
    f.to_server("agree", "4.3", "an upload too late", s.uploads(lost)[0], sender=lost)

    unmask_forgeries(f, own, adder("unmask"))
    add = adder("done")
    add("4.3", "its shares once more", own["unmask"][0])
    add("4.3", "its upload once more", own["upload"][0])
    return f.cases


def share_forgeries(f, own, add):
    s, me = f.session, f.me
    commitment = own["share"][0][HEADER : HEADER + 32]
    listed = rows_of(own["share"][0][HEADER + 32 :], 144)

    def share(pairs):
        return s.frame(ref.SHARE, me, commitment + rows(pairs))

    add("2", "two rows swapped", share([listed[1], listed[0], *listed[2:]]))
    add("2", "a row twice", share([listed[0], *listed]))
    add("6.4", "a peer left out", share(listed[:-1]))
    add("6.4", "a pair for itself", share([(me, listed[0][1]), *listed]))
    add("6.4", "a pair for nobody", share([*listed, (2**32 - 1, listed[0][1])]))
    add("4.3", "an upload before its phase", own["upload"][0])


def upload_forgeries(f, own):
    s, me = f.session, f.me
    first, second, last = own["upload"]

    def add(why, message, before=0, clause="7.4"):
        f.to_server("upload", clause, why, message, before=before)

    def upload(position, packed):
        return s.frame(ref.UPLOAD, me, u64(position) + packed)

    body = HEADER + 8
    add("the digest h0", first[:6] + s.h0 + first[HEADER:], clause="4.1")
    add("a gap", second)
    add("an overlap", second, 2)
    add("the same chunk twice", first, 1)
    add("a position that is off by one", upload(9, second[body:]), 1)
    add("a huge position", upload(2**64 - 8, second[body:]), 1)
    add("no elements", upload(0, b""))
    add("no multiple of 8 elements", upload(0, first[body:-3]))
    add("elements beyond the end", upload(16, second[body:]), 2)
    add("padding that is not zero", flipped(last, -1, 128), 2)
    add("more than the whole vector", upload(0, bytes((s.d * s.bits + 7) // 8 + s.bits)))
    mute = next(i for i, phase in s.silent.items() if phase == "share")
    foreign = s.frame(ref.UPLOAD, mute, first[HEADER:])
    f.to_server("upload", "4.3", "a client that shared nothing", foreign, sender=mute)


def unmask_forgeries(f, own, add):
    s, me = f.session, f.me
    due = own["unmask"][0]
    listed = rows_of(due[HEADER:], 33)
    lost = next(i for i in s.shared if i not in s.survivors)
    place = next(j for j, (u, _) in enumerate(listed) if u == lost)

    def unmask(pairs):
        return s.frame(ref.UNMASK, me, rows(pairs))

    add("2", "two rows swapped", unmask([listed[1], listed[0], *listed[2:]]))
    add("2", "a row twice", unmask([listed[0], *listed]))
    add("9.1", "a peer left out", unmask(listed[:-1]))
    add("9.1", "nothing given", unmask([]))
    own_share = s.shares[me][0][s.ids[1]]
    add("9.1", "a share of its own", unmask([(me, u8(1) + own_share), *listed]))
    add("9.1", "kind 0", flipped(due, HEADER + 2 + 4, 1))
    add("9.1", "kind 3", flipped(due, HEADER + 2 + 4, 2))
    survivor = listed[0][0]
    other = [(survivor, u8(2) + s.shares[survivor][1][me]), *listed[1:]]
    add("9.1", "a survivor's mask key", unmask(other))
    other = list(listed)
    other[place] = (lost, u8(1) + s.shares[lost][0][me])
    add("9.1", "a lost client's self mask", unmask(other))
    add("9.2", "a share that does not fit its commitment", flipped(due, HEADER + 2 + 4 + 20))
    other = [(survivor, u8(1) + s.shares[survivor][0][s.ids[2]]), *listed[1:]]
    add("9.2", "another holder's share", unmask(other))


def sparse_forgeries(session):
    s = session
    me = next(i for i in s.members if i in s.survivors)
    f = Forgeries(s, me)
    path = 32 * (s.n - 1).bit_length()
    committee_forgeries(f, path)
    sparse_roster_forgeries(f, path)
    reveal = s.to_server["reveal"][me]

    def add(clause, why, message, **more):
        f.to_server("reveal", clause, why, message, **more)

    envelope(add, reveal)
    add("4.2", "once more", reveal, before=1)
    add("5.3", "another nonce", flipped(reveal, HEADER))
    other_nonce = flipped(s.nonce[me], 0)
    signature = ref.sign(s.identity[me], "reveal", s.h0, s.root, u32(me), other_nonce)
    add("5.3", "another nonce, signed", s.frame(ref.REVEAL, me, other_nonce + signature))
    add("5.3", "a signature changed", flipped(reveal, -1))
    signature = ref.sign(s.identity[me], "reveal", s.h0, bytes(32), u32(me), s.nonce[me])
    add("5.3", "a signature over another root", s.frame(ref.REVEAL, me, s.nonce[me] + signature))
    outsider = next(i for i in s.ids if i not in s.members)
    signature = ref.sign(s.identity[outsider], "reveal", s.h0, s.root, u32(outsider), bytes(32))
    by_outsider = s.frame(ref.REVEAL, outsider, bytes(32) + signature)
    f.to_server("reveal", "5.3", "a client that is no member", by_outsider, sender=outsider)
    return f.cases


def committee_forgeries(f, path):
    s, me = f.session, f.me
    due = s.to_client["reveal"][me]
    listed = rows_of(due[HEADER + 32 :], 160 + path)
    place = next(j for j, (i, _) in enumerate(listed) if i == me)
    other = (place + 1) % len(listed)
    outsider = next(i for i in s.ids if i not in s.members)
    row = 4 + 160 + path

    def add(clause, why, message):
        f.to_client("reveal", clause, why, message)

    def committee(pairs):
        return s.frame(ref.COMMITTEE, me, s.root + rows(pairs))

    def at(index):
        return HEADER + 32 + 2 + index * row + 4

    envelope(add, due)
    add("5.3", "another root", flipped(due, HEADER))
    add("5.3", "a member left out", committee([*listed[:other], *listed[other + 1 :]]))
    with_outsider = [
        *listed[:other],
        *listed[other + 1 :],
        (outsider, s.advertisements[outsider] + s.path(outsider)),
    ]
    add("5.3", "an outsider for a member", committee(sorted(with_outsider)))
    add("5.3", "a path changed", flipped(due, at(other) + 160))
    add(
        "5.3",
        "another member's path",
        committee(
            [
                *listed[:other],
                (listed[other][0], listed[other][1][:160] + listed[place][1][160:]),
                *listed[other + 1 :],
            ]
        ),
    )
    add("5.3", "a signature changed", flipped(due, at(other) + 159))
    add("5.3", "its own nonce commitment changed", flipped(due, at(place) + 70))
    add("5.3", "a member's nonce commitment changed", flipped(due, at(other) + 70))


def sparse_roster_forgeries(f, path):
    s, me = f.session, f.me
    due = s.to_client["share"][me]
    member_size, peer_size = 160 + path + 96, 160 + path
    cut = HEADER + 32 + 2 + len(s.members) * (4 + member_size)
    members, peers = rows_of(due[HEADER + 32 : cut], member_size), rows_of(due[cut:], peer_size)
    other = next(j for j, (i, _) in enumerate(members) if i != me)
    stranger = next(i for i in s.ids if i != me and i not in s.neighbors[me])

    def add(clause, why, message, outcome=REFUSED):
        f.to_client("share", clause, why, message, outcome)

    def roster(of_members=members, of_peers=peers, root=None):
        return s.frame(ref.ROSTER, me, (root or s.root) + rows(of_members) + rows(of_peers))

    def at(index, offset):
        return HEADER + 32 + 2 + index * (4 + member_size) + 4 + offset

    envelope(add, due)
    add("6.1", "another root", roster(root=bytes(32)))
    outsider = next(i for i in s.ids if i not in s.members)
    elsewhere = replayed(s, silent={outsider: "advertise"})
    add("6.1", "another root, for which all members signed", elsewhere.to_client["share"][me])
    add("6.1", "a member's path changed", flipped(due, at(other, 170)))
    add("6.1", "a nonce changed", flipped(due, at(other, 160 + path)))
    add("6.1", "a reveal's signature changed", flipped(due, at(other, member_size - 1)))
    add("6.1", "a member left out", roster([*members[:other], *members[other + 1 :]]))
    add("6.1", "two reveals swapped", roster(swapped_reveals(members, peer_size)))
    client, record = members[other]
    signature = ref.sign(s.identity[client], "reveal", s.h0, bytes(32), u32(client), s.nonce[client])
    elsewhere = [*members[:other], (client, record[:-64] + signature), *members[other + 1 :]]
    add("6.1", "a reveal under another root", roster(elsewhere))
    add("6.1", "a peer's path changed", flipped(due, len(due) - 1))
    add("6.1", "a peer's signature changed", flipped(due, len(due) - path - 1))
    without = [row for row in peers if row[0] != me]
    add("6.1", "its own advertisement missing", roster(of_peers=without))
    to_stranger = sorted([*peers, (stranger, s.advertisements[stranger] + s.path(stranger))])
    add("5.5", "a client that is no neighbour", roster(of_peers=to_stranger))
    few = sorted([row for row in peers if row[0] == me] + without[: s.t - 1])
    add("6.1", "fewer than t neighbours", roster(of_peers=few), ABORTED)


def replayed(session, *, silent):
    """The same clients with the same randomness, others of whom are lost."""
    return Session(session.c, name=session.name, silent=silent).run()


def swapped_reveals(members, size):
    (a, first), (b, second) = members[:2]
    return [(a, first[:size] + second[size:]), (b, second[:size] + first[size:]), *members[2:]]


def semi_honest_forgeries(session):
    s, me = session, next(i for i in session.ids if i in session.survivors)
    f = Forgeries(s, me)
    roster, due = s.to_client["share"][me], s.to_client["unmask"][me]
    advertisement = s.to_server["advertise"][me]
    f.to_server("advertise", "1.5", "a signature", flipped(advertisement, -1))
    known = dict(rows_of(roster[HEADER + 32 :], 160))
    signed = known | {s.ids[-1]: flipped(known[s.ids[-1]], -1)}
    body = root_of(s, signed) + rows(sorted(signed.items()))
    f.to_client("share", "1.5", "a peer's signature", s.frame(ref.ROSTER, me, body))
    f.to_client("share", "6.1", "another root", flipped(roster, HEADER))
    mute = next(i for i, phase in s.silent.items() if phase == "share")
    sets = {
        "without the client": [i for i in s.shared if i != me],
        "with a peer that shared nothing": [*s.survivors, mute],
    }
    for why, clients in sets.items():
        f.to_client("unmask", "8.1", why, s.frame(ref.SURVIVORS, me, s.set_of(clients)))
    few = s.frame(ref.SURVIVORS, me, s.set_of(s.survivors[: s.T - 1]))
    f.to_client("unmask", "8.1", "fewer than T", few, ABORTED)
    f.to_client("unmask", "1.5", "a quorum", u8(2) + u8(ref.QUORUM) + due[2:])
    f.to_client("done", "4.2", "the survivors once more", due)
    return f.cases


def below_t_forgery(session):
    """Of T survivors, itself among them, fewer than t are neighbours."""
    f = Forgeries(session, session.ids[0])
    survivors = session.frame(ref.SURVIVORS, f.me, session.set_of(session.survivors[: session.T]))
    f.to_client("agree", "8.1", "T survivors, but fewer than t neighbours", survivors, ABORTED)
    return f.cases


def forged_configurations():
    """Bytes that no party accepts as a configuration."""
    c = configuration("weak", [1, 2, 3, 4, 5], 4, 8, (1, 1, 4, 2, 4))
    cases = []

    def add(clause, why, data, flag=b"\0"):
        wire = data + flag
        cases.append({"clause": clause, "why": why, "bytes": wire.hex(), "outcome": "refused"})

    malformed_configurations(add, ref.config_bytes(c))
    for key, value, clause, why in UNSOUND_CHANGES:
        add(clause, why, ref.config_bytes(c | {key: value}))
    keys = c["verification_keys"]
    for why, key in {
        "one key of two participants": keys[2],
        "a key that is no point": (2).to_bytes(32, "little").hex(),
        "a key of small order": (1).to_bytes(32, "little").hex(),
        "a key beyond the field": (2**255 - 16).to_bytes(32, "little").hex(),
    }.items():
        add("3.1", why, ref.config_bytes(c | {"verification_keys": keys | {1: key}}))
    three = c | {"participants": [1, 2, 3], "max_corrupt": 0, "num_neighbors": 2, "max_dropped": 0}
    add("1.3", "T = 2", ref.config_bytes(three | {"min_survivors": 2}))
    sparse = configuration("weak", NINE, 4, 8, (1, 1, 6, 3, 7))
    add("3.1", "odd k on a sparse graph", ref.config_bytes(sparse | {"num_neighbors": 5}))
    thin = ref.config_bytes(sparse | {"num_neighbors": 4, "threshold": 2})
    add("3.1", "a sparse graph too thin for its privacy bits", thin)
    return cases


def malformed_configurations(add, good):
    generator = 1 + 1 + 32 + 8 + 4 + 1
    count = good.index(u32(5) + u32(1))
    add("3.1", "version 1", flipped(good, 0, 3))
    add("3.1", "an unknown profile", flipped(good, 1, 2))
    add("3.1", "an unknown generator", flipped(good, generator, 3))
    add("2.1", "a byte short", good[:-1])
    add("2.1", "a participant short", good[:-36])
    add("2.1", "more participants claimed than follow", good[:count] + u32(2**32 - 1) + good[count + 4 :])
    add("3.1", "no participants", good[:count] + u32(0))
    add("3.6", "no flag", good, b"")
    add("3.6", "a flag that is neither 0 nor 1", good, u8(2))
    add("3.6", "a digest cut short", good, u8(1) + bytes(31))
    add("3.6", "bytes after the flag", good, u8(0) + bytes(32))


UNSOUND_CHANGES = (
    ("participants", [1, 3, 2, 4, 5], "3.1", "participants that do not ascend"),
    ("participants", [1, 2, 2, 4, 5], "3.1", "a participant twice"),
    ("vector_length", 0, "3.1", "no elements"),
    ("modulus_bits", 0, "3.1", "0 bits"),
    ("modulus_bits", 65, "3.1", "65 bits"),
    ("threshold", 1, "3.1", "t = 1"),
    ("threshold", 4, "3.1", "t above n - 1 - D"),
    ("threshold", 5, "3.1", "t above k"),
    ("min_survivors", 3, "8.2", "T = (n + C)/2"),
    ("min_survivors", 5, "3.1", "T above n - D"),
    ("privacy_bits", 0, "3.1", "no privacy bits"),
    ("correctness_bits", 0, "3.1", "no correctness bits"),
    ("num_neighbors", 0, "3.1", "k = 0"),
    ("num_neighbors", 5, "3.1", "k = n"),
    (
        "quantizer",
        {"granularity": float("nan"), "max_abs": 1.0, "num_clients": 5},
        "3.1",
        "a granularity that is no number",
    ),
    ("quantizer", {"granularity": 0.0, "max_abs": 1.0, "num_clients": 5}, "3.1", "half a quantiser"),
    (
        "quantizer",
        {"granularity": 1.0, "max_abs": 26.0, "num_clients": 5},
        "3.1",
        "sums of 9 bits in a ring of 8",
    ),
)


def large_configurations():
    """Cohorts whose sessions would fill a file: the canonical bytes by their hash, and the committee."""
    entries = []
    for n, numbers, bits in ((300, (15, 15, 36, 25, 285), 20), (1000, (50, 50, 58, 42, 950), 40)):
        name = f"a cohort of {n}"
        c = configuration(name, list(range(7, 7 + n)), 100, 32, numbers)
        c |= {"privacy_bits": bits, "correctness_bits": 20}
        data = ref.config_bytes(c)
        h0 = tagged_hash("configuration", data)
        entries.append(
            {
                "name": name,
                "config": {
                    key: value for key, value in c.items() if key not in ("verification_keys", "participants")
                },
                "participants": {"first": 7, "count": n},
                "identities": f"SHAKE-256 of '{name} identity ' and the client id",
                "bytes": "sha256:" + hashlib.sha256(data).hexdigest(),
                "h0": h0.hex(),
                "committee_size": ref.committee_size(c),
                "committee": ref.committee(c, h0),
            }
        )
    return entries


# --- files ---


def documents():
    source = "tests/reference/secagg_cases.py, which shares no code with the package"
    complete, sparse, aborted = complete_sessions(), sparse_sessions(), aborted_sessions()
    attacked = play(
        "attacked",
        [1, 2, 3, 4, 500, 501],
        19,
        10,
        (0, 1, 5, 2, 4),
        silent={501: "share", 500: "upload"},
        chunk=8,
    )
    small = play("t above T - 1", [1, 2, 3, 4, 5, 6], 2, 8, (1, 1, 5, 4, 4), silent={4: "share"})
    stranger = play("attacked elsewhere", attacked.ids, 19, 10, (0, 1, 5, 2, 4)).advertisements
    forgeries = client_forgeries(attacked, stranger[2]) + server_forgeries(attacked, stranger[1])
    forgeries += below_t_forgery(small) + sparse_forgeries(sparse[0])
    forgeries += semi_honest_forgeries(complete[-1])
    member = next(i for i in sparse[0].members if i in sparse[0].survivors)
    full = {
        complete[0].name: complete[0].ids,
        sparse[0].name: [member, next(i for i in NINE if i not in sparse[0].members)],
        sparse[1].name: [],
    }
    return {
        "complete.json": {
            "source": source,
            "sessions": [described(s, in_full=full.get(s.name, s.ids[1:2])) for s in complete],
        },
        "sparse.json": {
            "source": source,
            "sessions": [described(s, in_full=full.get(s.name, s.ids[1:2])) for s in sparse],
        },
        "aborted.json": {"source": source, "sessions": [described(s, in_full=[]) for s in aborted]},
        "forged.json": {
            "source": source,
            "sessions": [
                described(s, in_full=s.ids[:1], to_server_in_full=s is attacked) for s in (attacked, small)
            ],
            "forgeries": forgeries,
        },
        "configurations.json": {
            "source": source,
            "accepted": large_configurations(),
            "refused": forged_configurations(),
        },
    }


def written(document) -> str:
    """Integers of lists side by side, everything else on a line of its own."""
    text = json.dumps(document, indent=1)
    lists = re.compile(r"\[\s+(-?\d+(?:,\s+-?\d+)*)\s+\]")
    return lists.sub(lambda found: "[" + ", ".join(re.findall(r"-?\d+", found[1])) + "]", text) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, document in documents().items():
        (FOLDER / name).write_text(written(document))


if __name__ == "__main__":
    main()
