"""The server's side of one session: bytes in, bytes out, no clock and no sockets [BIK+17, Fig. 4].

The server collects one message a client and phase; the caller decides when to stop waiting and closes
the phase, upon which every client that is still there gets its answer. Uploads are added up as they
come, so memory is one vector, whatever the number of clients. In the end the server knows the sum over
the survivors and, as long as it follows the protocol, nothing else about any vector.

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import masks
from fedsec._checks import whole
from fedsec.errors import AggregationAborted, InvalidTypeError, ProtocolError
from fedsec.secagg import keys, masking, messages, ring, shamir
from fedsec.secagg._machine import PHASES, SERVER, Phase
from fedsec.secagg._secrets import Unpicklable, wipe, wiping
from fedsec.secagg.config import MAX_CLIENT_ID, Config
from fedsec.secagg.keys import Binding, Party
from fedsec.secagg.masking import Term
from fedsec.secagg.messages import Kind, PublicKeys, ShareOf


@dataclass(frozen=True, repr=False)
class _Collected(Unpicklable):
    """What clients sent, for as long as the session needs it."""

    roster: dict[int, PublicKeys] = field(default_factory=dict)
    commitments: dict[int, bytes] = field(default_factory=dict)
    sealed: dict[int, dict[int, bytes]] = field(default_factory=dict)
    # By owner, then by the abscissa of the client that handed it out.
    shares: dict[int, dict[int, bytearray]] = field(default_factory=dict)


class Server(Unpicklable):
    """The server of one session.

    ``server.receive(client_id, message)`` for each message that arrives, ``server.close_phase()`` when
    the caller has waited enough: it returns the answer for each client that is still in. After the
    fourth phase `result` is the sum.

    A message that is late, repeated, out of phase, malformed or of a client that fell out is refused
    with `ProtocolError`, and the session stands as before: its sender may still send the right one. If
    fewer than `config.threshold` clients sent theirs when a phase is closed, or a reconstructed secret is
    not the one that its owner advertised, `close_phase` raises `AggregationAborted`: the session is over.
    Threads may share a server: its methods take turns.
    """

    def __init__(self, config: Config) -> None:
        if not isinstance(config, Config):
            raise InvalidTypeError(f"config must be a Config, got {type(config).__name__}")
        self._config = config
        self._phase = Phase.ADVERTISE
        self._closed: list[Phase] = []
        self._arrived: dict[Phase, set[int]] = {phase: set() for phase in PHASES}
        self._collected = _Collected()
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

        A client that fell out in the unmask phase is in the sum, and so among the survivors, too.
        """
        before = set(self._config.participants)
        lost: dict[int, Phase] = {}
        for phase in self._closed:
            lost |= dict.fromkeys(before - self._arrived[phase], phase)
            before = self._arrived[phase]
        return dict(sorted(lost.items()))

    def receive(self, client_id: int, message: bytes) -> None:
        """Takes one client's message of the current phase; the transport vouches for the sender."""
        sender = whole("client_id", client_id, minimum=0, maximum=MAX_CLIENT_ID)
        received = messages.require_bytes(message)
        with self._turn:
            self._require_due(sender)
            takes = SERVER[self._phase].takes
            _TAKE[takes](self, sender, messages.unframe(received, takes, self._config, sender))
            self._arrived[self._phase].add(sender)

    def close_phase(self) -> dict[int, bytes]:
        """Ends the phase; the answers for the clients that are still in, none after the last phase."""
        with self._turn:
            if self._phase not in SERVER:
                raise ProtocolError(f"the session is {self._phase.value}: no phase is open")
            self._closed.append(self._phase)
            try:
                self._require_threshold()
                answers = _CLOSE[self._phase](self)
            except BaseException:
                self.abort()
                raise
            self._phase = SERVER[self._phase].then
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

    def _require_due(self, sender: int) -> None:
        if self._phase not in SERVER:
            raise ProtocolError(f"the session is {self._phase.value}, client {sender} sent a message")
        if sender not in self._expected():
            raise ProtocolError(f"no {self._phase.value} message is expected of client {sender}")
        if sender in self._arrived[self._phase]:
            raise ProtocolError(f"client {sender} sent its {self._phase.value} message already")

    def _forget(self) -> None:
        wipe(self._collected)
        self._collected = _Collected()

    def _expected(self) -> Collection[int]:
        """Who may send a message now: all that sent the one before."""
        return self._arrived[self._closed[-1]] if self._closed else self._config.participants

    def _require_threshold(self) -> None:
        arrived, threshold = len(self._arrived[self._phase]), self._config.threshold
        if arrived < threshold:
            raise AggregationAborted(
                f"{arrived} clients sent their {self._phase.value} message, the threshold is {threshold}"
            )

    def _take_advertise(self, sender: int, body: bytes) -> None:
        advertised = messages.decode_advertise(body)
        known = {key for pair in self._collected.roster.values() for key in pair}
        if len(known | set(advertised)) < len(known) + 2:
            raise ProtocolError(f"client {sender} advertised a public key that is not its own alone")
        for key in advertised:
            keys.require_usable(Party(sender, key))
        self._collected.roster[sender] = advertised

    def _take_share(self, sender: int, body: bytes) -> None:
        commitment, sealed = messages.decode_share(body)
        if sealed.keys() != self._arrived[Phase.ADVERTISE] - {sender}:
            raise ProtocolError(f"client {sender} must seal shares for every other client of the roster")
        self._collected.commitments[sender] = commitment
        self._collected.sealed[sender] = sealed

    def _take_upload(self, sender: int, body: bytes) -> None:
        bits = self._config.modulus_bits
        masks.add(self._sum, ring.unpack(body, self._config.vector_length, bits), bits)

    def _take_unmask(self, sender: int, body: bytes) -> None:
        shares = messages.decode_unmask(body)
        asked = {peer: self._asked_of(peer) for peer in self._arrived[Phase.SHARE]}
        if {peer: given.of for peer, given in shares.items()} != asked:
            raise ProtocolError(f"client {sender} must give the one share that was asked of each peer")
        for peer, given in shares.items():
            holders = self._collected.shares.setdefault(peer, {})
            holders[self._config.abscissa(sender)] = bytearray(given.share)

    def _asked_of(self, peer: int) -> ShareOf:
        return ShareOf.SELF_MASK if peer in self._arrived[Phase.UPLOAD] else ShareOf.MASK_KEY

    def _send_roster(self) -> dict[int, bytes]:
        roster = messages.encode_roster(self._collected.roster)
        return {client: self._frame(Kind.ROSTER, client, roster) for client in self._collected.roster}

    def _send_delivery(self) -> dict[int, bytes]:
        answers = {}
        for client in self._arrived[Phase.SHARE]:
            others = self._arrived[Phase.SHARE] - {client}
            sealed = {other: self._collected.sealed[other][client] for other in others}
            answers[client] = self._frame(Kind.DELIVERY, client, messages.encode_delivery(sealed))
        self._collected.sealed.clear()
        return answers

    def _send_survivors(self) -> dict[int, bytes]:
        survivors = messages.encode_survivors(self.survivors)
        return {client: self._frame(Kind.SURVIVORS, client, survivors) for client in self.survivors}

    def _finish(self) -> dict[int, bytes]:
        """[BIK+17, round 4]: the survivors' self masks and the others' pairwise masks come off the sum."""
        binding = keys.bind(self._config, messages.encode_roster(self._collected.roster))
        masking.subtract(self._config, self._sum, self._mask_terms(binding))
        self._forget()
        return {}

    def _mask_terms(self, binding: Binding) -> Iterator[Term]:
        for owner in self.survivors:
            yield self._self_term(binding, owner)
        for lost in self._arrived[Phase.SHARE] - self._arrived[Phase.UPLOAD]:
            yield from self._pair_terms(binding, lost)

    def _self_term(self, binding: Binding, client: int) -> Term:
        owner = self._masking_party(client)
        with wiping(self._combine(client)) as self_mask:
            commitment = keys.commitment(binding, self_mask, owner)
            if not hmac.compare_digest(commitment, self._collected.commitments[client]):
                raise AggregationAborted(
                    f"the shares of the self mask of client {client} do not fit together"
                )
            return Term(keys.self_seed(binding, self_mask, owner), 1)

    def _pair_terms(self, binding: Binding, lost: int) -> Iterator[Term]:
        """The masks between a client that did not upload and each that did."""
        gone = self._masking_party(lost)
        with wiping(self._combine(lost)) as secret:
            if keys.public_key(secret) != gone.public_key:
                raise AggregationAborted(f"the shares of the mask key of client {lost} do not fit together")
            for other in map(self._masking_party, self.survivors):
                yield masking.pair_term(binding, secret, gone, other, uploader=other)

    def _combine(self, owner: int) -> bytearray:
        return shamir.combine(self._collected.shares[owner], self._config.threshold)

    def _masking_party(self, client: int) -> Party:
        return Party(client, self._collected.roster[client].masking)

    def _frame(self, kind: Kind, client: int, body: bytes) -> bytes:
        return messages.frame(kind, self._config, client, body)


_TAKE: dict[Kind, Callable[[Server, int, bytes], None]] = {
    Kind.ADVERTISE: Server._take_advertise,
    Kind.SHARE: Server._take_share,
    Kind.UPLOAD: Server._take_upload,
    Kind.UNMASK: Server._take_unmask,
}

_CLOSE: dict[Phase, Callable[[Server], dict[int, bytes]]] = {
    Phase.ADVERTISE: Server._send_roster,
    Phase.SHARE: Server._send_delivery,
    Phase.UPLOAD: Server._send_survivors,
    Phase.UNMASK: Server._finish,
}
