"""The server's side of one session: bytes in, bytes out, no clock and no sockets [SPEC 4.3].

The server collects one message a client and phase (an upload may come in parts); the caller decides when to
stop waiting and closes the phase, upon which every client that is still there gets its answer. Uploads are
added up as they complete, so memory is one vector and the uploads in flight. In the end the server knows
the sum over the survivors and nothing else about any vector.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import masks
from fedsec._checks import whole
from fedsec.errors import (
    AggregationAborted,
    CommitteeLostError,
    InvalidArgumentError,
    InvalidTypeError,
    ProtocolError,
)
from fedsec.secagg import graph, keys, masking, messages, recovery, snapshot, steps
from fedsec.secagg._machine import PHASES, SERVER_TAKES, Phase, after, phases
from fedsec.secagg.config import MAX_CLIENT_ID, Config, decode_config, require_digest
from fedsec.secagg.keys import Party
from fedsec.secagg.messages import (
    Advertisement,
    Kind,
    Proven,
    Reveal,
    Roster,
    SealedPair,
    ShareOf,
)
from fedsec.secagg.outbox import Outbox
from fedsec.secagg.primitives import merkle
from fedsec.secagg.primitives._secrets import Unpicklable, wipe
from fedsec.secagg.recovery import Dealt
from fedsec.secagg.spool import Spool


@dataclass(repr=False)
class _Collected(Unpicklable):
    """What clients sent, for as long as the session needs it."""

    advertised: dict[int, Advertisement] = field(default_factory=dict)
    reveals: dict[int, Reveal] = field(default_factory=dict)
    sealed: dict[int, dict[int, SealedPair]] = field(default_factory=dict)
    dealt: dict[int, Dealt] = field(default_factory=dict)
    uploads: dict[int, Spool] = field(default_factory=dict)
    signatures: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Graph:
    """What is fixed once all keys are: the root, what shares are bound to, and who shares with whom."""

    root: bytes
    binding: bytes
    neighbors: dict[int, tuple[int, ...]]


class Server(Unpicklable):
    """The server of one session.

    ``server.receive(client_id, message)`` for each message that arrives, ``server.close_phase()`` when
    the caller has waited enough: it returns the answer for each client that is still in. After the last
    phase `result` is the sum.

    A message that is late, repeated, out of phase, malformed, not authentic or of a client that fell out is
    refused with `ProtocolError`, and the session stands as before: its sender may still send the right one.
    If fewer than `config.parameters.min_survivors` clients sent theirs when a phase is closed, or the
    secrets of one cannot be rebuilt, `close_phase` raises `AggregationAborted`: the session is over. It
    raises `CommitteeLostError` where another attempt with a fresh session id may go better. A part of an
    upload that the disk has no room for is refused with `StoreError`, and may come again. Threads may
    share a server: its methods take turns.
    """

    def __init__(self, config: Config) -> None:
        if not isinstance(config, Config):
            raise InvalidTypeError(f"config must be a Config, got {type(config).__name__}")
        self._config = config
        self._phase = Phase.ADVERTISE
        self._closed: list[Phase] = []
        self._arrived: dict[Phase, set[int]] = {phase: set() for phase in PHASES}
        self._collected = _Collected()
        self._graph = _Graph(b"", b"", {})
        self._sum = np.zeros(config.vector_length, masks.lane_dtype(config.modulus_bits))
        # Uploads that came in several threads must not be added to one sum at once, or one of them twice.
        self._turn = threading.RLock()

    def __repr__(self) -> str:
        return f"<secagg.Server, phase {self._phase.value}, {len(self.dropped)} clients dropped>"

    @property
    def phase(self) -> Phase:
        """The message that is being collected, or `DONE`, or `ABORTED`."""
        return self._phase

    @property
    def survivors(self) -> tuple[int, ...]:
        """The clients whose vectors are in the sum, ascending; empty until the upload phase is closed."""
        return tuple(sorted(self._arrived[Phase.UPLOAD])) if Phase.UPLOAD in self._closed else ()

    @property
    def dropped(self) -> dict[int, Phase]:
        """The clients that fell out, by id, each with the phase whose message it did not send in time.

        A client that fell out after its upload is in the sum, and so among the survivors, too.
        """
        lost: dict[int, Phase] = {}
        for phase in self._closed:
            gone = set(self._due(phase)) - self._arrived[phase] - lost.keys()
            lost |= dict.fromkeys(gone, phase)
        return dict(sorted(lost.items()))

    def bind_model(self, model_digest: bytes) -> None:
        """Says which model is trained (32 bytes), once, if the configuration does not; before any upload."""
        with self._turn:
            if self._config.model_digest is not None:
                raise ProtocolError("the model is bound already")
            digest = require_digest("model_digest", model_digest)
            self._config = self._config.with_model(digest)

    def receive(self, client_id: int, message: bytes) -> None:
        """Takes one client's message of the current phase; the transport vouches for the sender."""
        sender = whole("client_id", client_id, minimum=0, maximum=MAX_CLIENT_ID)
        received = messages.require_bytes(message)
        with self._turn:
            self._require_due(sender)
            takes = SERVER_TAKES[self._phase]
            body = messages.unframe(received, takes, self._digest(), sender)
            if _TAKE[takes](self, sender, body):
                self._arrived[self._phase].add(sender)

    receive_chunk = receive

    def receive_sum(self, heads: Mapping[int, bytes], residues: npt.NDArray[Any]) -> None:
        """Takes the uploads of several clients, whole, added up on the way here, as by an all-reduce.

        Parameters
        ----------
        heads : by client id, its upload message without the packed vector at the end
        residues : (vector_length,) of the lane dtype
            The sum of their masked vectors mod 2**modulus_bits.

        Raises
        ------
        ProtocolError
            One of the clients owes no upload, or its message is of another session or model. Nothing has
            changed, but the sum is of no use: what that client added cannot be told from the rest.
        """
        with self._turn:
            for sender, head in heads.items():
                self._require_due(sender)
                body = messages.unframe(messages.require_bytes(head), Kind.UPLOAD, self._digest(), sender)
                if body != messages.encode_upload(0, b""):
                    raise ProtocolError(
                        f"the upload of client {sender} must be whole, and apart from its head"
                    )
            if np.shape(residues) != self._sum.shape:
                raise InvalidArgumentError(
                    f"residues must have shape {self._sum.shape}, got {np.shape(residues)}"
                )
            masks.add(self._sum, residues, self._config.modulus_bits)
            self._arrived[Phase.UPLOAD].update(heads)

    def close_phase(self) -> Outbox:
        """Ends the phase; the answers by client id for those that are still in, none after the last phase.

        Each answer is made when it is read: all of them at once would be 5.7 GB for 10,000 clients.
        """
        with self._turn:
            if self._phase not in SERVER_TAKES:
                raise ProtocolError(f"the session is {self._phase.value}: no phase is open")
            self._require_model()
            self._closed.append(self._phase)
            try:
                self._require_enough()
                answers = _CLOSE[self._phase](self)
            except BaseException:
                self.abort()
                raise
            self._phase = after(self._config, self._phase)
            return answers

    def result(self) -> npt.NDArray[Any]:
        """The sum of the survivors' vectors mod 2**modulus_bits, (vector_length,) of the lane dtype."""
        with self._turn:
            if self._phase is not Phase.DONE:
                raise ProtocolError(f"the session is in phase {self._phase.value}: there is no result")
            return self._sum.copy()

    def abort(self) -> None:
        """Ends the session for good, without a sum."""
        with self._turn:
            self._phase = Phase.ABORTED
            self._sum.fill(0)
            self._forget()

    def to_bytes(self, key: bytes) -> bytes:
        """The whole session, sealed under the caller's 32-byte key [SPEC 10]."""
        with self._turn:
            have = self._collected
            value = {
                "config": self._config.to_bytes(),
                "phase": self._phase.value,
                "closed": [phase.value for phase in self._closed],
                "arrived": {phase.value: sorted(clients) for phase, clients in self._arrived.items()},
                "advertised": have.advertised,
                "reveals": have.reveals,
                "sealed": have.sealed,
                "dealt": {dealer: one.plain() for dealer, one in have.dealt.items()},
                "uploads": {client: spool.plain() for client, spool in have.uploads.items()},
                "signatures": have.signatures,
                "graph": (self._graph.root, self._graph.binding, self._graph.neighbors),
                "sum": self._sum.tobytes(),
            }
            return snapshot.seal(key, "server", value)

    @classmethod
    def from_bytes(cls, data: bytes, key: bytes) -> Server:
        """Goes on with a session that `to_bytes` saved."""
        value = snapshot.unseal(key, "server", data)
        server = cls(decode_config(value["config"]))
        config = server._config
        server._phase = Phase(value["phase"])
        server._closed = [Phase(phase) for phase in value["closed"]]
        server._arrived = {Phase(phase): set(clients) for phase, clients in value["arrived"].items()}
        server._collected = _Collected(
            {client: Advertisement(*row) for client, row in value["advertised"].items()},
            {client: Reveal(*row) for client, row in value["reveals"].items()},
            {
                client: {peer: SealedPair(*pair) for peer, pair in row.items()}
                for client, row in value["sealed"].items()
            },
            {dealer: Dealt(*row) for dealer, row in value["dealt"].items()},
            {
                client: Spool.from_plain(config.vector_length, config.modulus_bits, *row)
                for client, row in value["uploads"].items()
            },
            value["signatures"],
        )
        server._graph = _Graph(*value["graph"])
        server._sum[:] = np.frombuffer(value["sum"], server._sum.dtype)
        return server

    def _require_due(self, sender: int) -> None:
        if self._phase not in SERVER_TAKES:
            raise ProtocolError(f"the session is {self._phase.value}, client {sender} sent a message")
        if sender not in self._due(self._phase):
            raise ProtocolError(f"no {self._phase.value} message is expected of client {sender}")
        if sender in self._arrived[self._phase]:
            raise ProtocolError(f"client {sender} sent its {self._phase.value} message already")
        self._require_model()

    def _require_model(self) -> None:
        if self._phase is Phase.UPLOAD and self._config.model_digest is None:
            raise ProtocolError("bind_model must be called before the uploads")

    def _due(self, phase: Phase) -> Collection[int]:
        """Who may send a message in a phase: the committee its reveals, the others all that came so far."""
        if phase is Phase.ADVERTISE:
            return self._config.participants
        if phase is Phase.REVEAL:
            return graph.committee(self._config)
        if phase is Phase.SHARE:
            return self._arrived[Phase.ADVERTISE]
        order = phases(self._config)
        return self._arrived[order[order.index(phase) - 1]]

    def _digest(self) -> bytes:
        """What the messages of this phase are bound to [SPEC 4.1]."""
        if self._phase in (Phase.ADVERTISE, Phase.REVEAL, Phase.SHARE):
            return self._config.h0
        return self._h1()

    @cached_property
    def _agree_text(self) -> bytes:
        """What clients sign of the survivors, who stay the same once the uploads are closed."""
        survivors = messages.encode_set(self._config, self.survivors)
        return keys.agree_text(self._h1(), self._graph.root, survivors)

    def _h1(self) -> bytes:
        return keys.session_digest(self._graph.binding, self._config.model_digest or b"")

    def _forget(self) -> None:
        for spool in self._collected.uploads.values():
            spool.close()
        for one in self._collected.dealt.values():
            wipe(one.shares)
        self._collected = _Collected()

    def _require_enough(self) -> None:
        arrived = self._arrived[self._phase]
        if self._phase is Phase.REVEAL:
            self._require_committee(arrived)
        elif self._phase is not Phase.UNMASK and len(arrived) < self._config.parameters.min_survivors:
            raise AggregationAborted(
                f"{len(arrived)} clients sent their {self._phase.value} message, at least "
                f"{self._config.parameters.min_survivors} must"
            )

    def _require_committee(self, present: Collection[int]) -> None:
        missing = sorted(set(graph.committee(self._config)).difference(present))
        if missing:
            raise CommitteeLostError(
                f"clients {missing} of the committee were lost before they revealed their nonces: "
                "start again with a fresh session id"
            )

    # --- what is taken; True when the sender has sent all of it ---

    def _take_advertise(self, sender: int, body: bytes) -> bool:
        advertised, config = messages.decode_advertise(body), self._config
        steps.require_signed(config, sender, advertised)
        for key in (advertised.sealing, advertised.masking):
            keys.require_usable(Party(sender, key))
        self._collected.advertised[sender] = advertised
        return True

    def _take_reveal(self, sender: int, body: bytes) -> bool:
        revealed, advertised = messages.decode_reveal(body), self._collected.advertised[sender]
        steps.require_reveal(self._config, self._graph.root, sender, advertised, revealed)
        self._collected.reveals[sender] = revealed
        return True

    def _take_share(self, sender: int, body: bytes) -> bool:
        commitment, sealed = messages.decode_share(body)
        neighbors = self._graph.neighbors[sender]
        if sealed.keys() != self._arrived[Phase.ADVERTISE].intersection(neighbors):
            raise ProtocolError(f"client {sender} must seal shares for each neighbor that advertised")
        committed = {peer: pair.commitments for peer, pair in sealed.items()}
        mask_key = self._collected.advertised[sender].masking
        self._collected.dealt[sender] = Dealt(mask_key, commitment, committed, neighbors)
        self._collected.sealed[sender] = sealed
        return True

    def _take_upload(self, sender: int, body: bytes) -> bool:
        first, packed = messages.decode_upload(body)
        length, bits = self._config.vector_length, self._config.modulus_bits
        spool = self._collected.uploads.get(sender)
        if spool is None:
            spool = self._collected.uploads[sender] = Spool(length, bits)
        spool.append(first, packed)
        if spool.is_complete:
            del self._collected.uploads[sender]
            try:
                spool.add_to(self._sum)
            except BaseException:  # part of a vector may be in the sum
                self.abort()
                raise
        return spool.is_complete

    def _take_agree(self, sender: int, body: bytes) -> bool:
        signature = messages.decode_signature(body)
        if not keys.is_signed(self._config.participants[sender], self._agree_text, signature):
            raise ProtocolError(f"client {sender} did not sign the survivors")
        self._collected.signatures[sender] = signature
        return True

    def _take_unmask(self, sender: int, body: bytes) -> bool:
        given, dealt = messages.decode_unmask(body), self._collected.dealt
        peers = self._arrived[Phase.SHARE].intersection(self._graph.neighbors[sender])
        if {peer: one.of for peer, one in given.items()} != {peer: self._asked_of(peer) for peer in peers}:
            raise ProtocolError(f"client {sender} must give the one share that was asked of each peer")
        for peer, one in given.items():
            if not dealt[peer].fits(self._graph.binding, peer, sender, one):
                raise ProtocolError(f"client {sender} gave another share than client {peer} dealt to it")
        for peer, one in given.items():
            dealt[peer].keep(sender, one.share)
        return True

    def _asked_of(self, peer: int) -> ShareOf:
        return ShareOf.SELF_MASK if peer in self._arrived[Phase.UPLOAD] else ShareOf.MASK_KEY

    # --- what is answered when a phase is closed ---

    def _close_advertise(self) -> Outbox:
        advertised = self._collected.advertised
        tree = self._tree()
        self._graph = _Graph(tree.root, b"", {})
        if not self._config.reveals:
            return self._send_rosters(tree)
        self._require_committee(advertised)
        members = self._proven(tree, graph.committee(self._config))
        return self._same(Kind.COMMITTEE, members, messages.encode_committee(tree.root, members))

    def _close_reveal(self) -> Outbox:
        return self._send_rosters(self._tree())

    def _tree(self) -> merkle.Tree:
        rows = {client: advertised.to_bytes() for client, advertised in self._collected.advertised.items()}
        return merkle.Tree([rows.get(client, b"") for client in self._config.ids])

    def _proven(self, tree: merkle.Tree, clients: Collection[int]) -> dict[int, Proven]:
        """Advertisements with their paths, which a complete roster does without."""
        config, advertised = self._config, self._collected.advertised
        if config.is_complete:
            return {client: Proven(advertised[client], b"") for client in clients}
        return {client: Proven(advertised[client], tree.path(config.position(client))) for client in clients}

    def _send_rosters(self, tree: merkle.Tree) -> Outbox:
        config, reveals = self._config, dict(sorted(self._collected.reveals.items()))
        graph_seed = graph.seed(config, tree.root, b"".join(reveal.nonce for reveal in reveals.values()))
        here = sorted(self._arrived[Phase.ADVERTISE])
        neighbors = {client: graph.neighbors(config, graph_seed, client) for client in here}
        self._graph = _Graph(tree.root, keys.binding(config.h0, tree.root, graph_seed), neighbors)
        committee = {
            client: (proven, reveals[client]) for client, proven in self._proven(tree, reveals).items()
        }
        proven = self._proven(tree, here)

        def roster(client: int) -> bytes:
            peers = {peer: proven[peer] for peer in (*neighbors[client], client) if peer in proven}
            return messages.encode_roster(config, Roster(tree.root, committee, peers))

        return self._answers(Kind.ROSTER, here, roster)

    def _close_share(self) -> Outbox:
        sealed, neighbors = self._collected.sealed, self._graph.neighbors
        self._collected.sealed = {}

        def delivery(client: int) -> bytes:
            senders = [peer for peer in neighbors[client] if peer in sealed]
            return messages.encode_delivery({peer: sealed[peer][client] for peer in senders})

        return self._answers(Kind.DELIVERY, sealed, delivery)

    def _close_upload(self) -> Outbox:
        for spool in self._collected.uploads.values():
            spool.close()
        self._collected.uploads = {}
        survivors = self.survivors
        return self._same(Kind.SURVIVORS, survivors, messages.encode_set(self._config, survivors))

    def _close_agree(self) -> Outbox:
        """As many signatures as a client wants, and no more: verifying them is its largest cost."""
        signatures = self._collected.signatures
        enough = sorted(signatures)[: self._config.parameters.min_survivors]
        body = messages.encode_quorum(self._config, {client: signatures[client] for client in enough})
        return self._same(Kind.QUORUM, sorted(signatures), body)

    def _close_unmask(self) -> Outbox:
        with masking.collected(self._config, self._remaining_masks()) as remaining:
            remaining.subtract(self._sum)
        self._forget()
        return Outbox((), messages.require_bytes)

    def _remaining_masks(self) -> Iterator[masking.Term]:
        bound, dealt = self._graph.binding, self._collected.dealt
        return recovery.remaining_masks(self._config, self._h1(), bound, dealt, self.survivors)

    def _same(self, kind: Kind, clients: Iterable[int], body: bytes) -> Outbox:
        """One body for all."""
        return self._answers(kind, clients, lambda _: body)

    def _answers(self, kind: Kind, clients: Iterable[int], body: Callable[[int], bytes]) -> Outbox:
        digest = self._config.h0 if kind <= Kind.DELIVERY else self._h1()
        return Outbox(clients, lambda client: messages.frame(kind, digest, client, body(client)))


_TAKE: dict[Kind, Callable[[Server, int, bytes], bool]] = {
    Kind.ADVERTISE: Server._take_advertise,
    Kind.REVEAL: Server._take_reveal,
    Kind.SHARE: Server._take_share,
    Kind.UPLOAD: Server._take_upload,
    Kind.AGREE: Server._take_agree,
    Kind.UNMASK: Server._take_unmask,
}

_CLOSE: dict[Phase, Callable[[Server], Outbox]] = {
    Phase.ADVERTISE: Server._close_advertise,
    Phase.REVEAL: Server._close_reveal,
    Phase.SHARE: Server._close_share,
    Phase.UPLOAD: Server._close_upload,
    Phase.AGREE: Server._close_agree,
    Phase.UNMASK: Server._close_unmask,
}
