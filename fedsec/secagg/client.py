"""A client's side of one session: bytes in, bytes out [BIK+17, Fig. 4].

Everything from the server passes through `Client.receive`, the one choke point. Each phase has a frozen
state with the secrets that the rest of the session still needs; a step makes the next state of copies,
and the state left behind is wiped whole. Whatever goes wrong with a message wipes the session for good,
and what the step had made so far with it.
What the caller does wrong (a vector twice, a message before `start`) leaves the session as it was.

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fedsec._checks import whole
from fedsec.errors import AggregationAborted, InvalidArgumentError, InvalidTypeError, ProtocolError
from fedsec.secagg import keys, masking, messages, ring, shamir
from fedsec.secagg._machine import CLIENT, Phase
from fedsec.secagg._secrets import Randomness, Unpicklable, draw, wipe, wiping, wiping_on_error
from fedsec.secagg.config import MAX_CLIENT_ID, Config
from fedsec.secagg.keys import KEY_BYTES, Binding, Party
from fedsec.secagg.masking import Term
from fedsec.secagg.messages import Kind, PublicKeys, ShareOf, Unmasking


@dataclass(frozen=True, repr=False)
class _State(Unpicklable):
    """The secrets of one phase."""


@dataclass(frozen=True, repr=False)
class _Advertised(_State):
    """The private keys; the roster is awaited."""

    sealing: bytearray
    masking: bytearray


@dataclass(frozen=True, repr=False)
class _Shared(_State):
    """What the masks are made of; the others' shares are awaited."""

    masking: bytearray
    self_mask: bytearray
    own_share: bytearray
    roster: dict[int, PublicKeys]
    binding: Binding
    opening: dict[int, bytearray]


@dataclass(frozen=True, repr=False)
class _Uploaded(_State):
    """The shares held, by peer; the survivors are awaited."""

    self_mask_shares: dict[int, bytearray]
    mask_key_shares: dict[int, bytearray]


class Client(Unpicklable):
    """One participant of a session.

    ``message = client.start()``; then ``message = client.receive(bytes)`` for each message of the
    server, with one ``client.submit(vector)`` before the upload is due. `phase` says which message the
    client owes next. After an error about a message the session is `ABORTED`, its secrets are wiped, and
    it answers nothing any more.

    Parameters
    ----------
    config : Config
    client_id : int
        One of `config.participants`.
    insecure_randomness : function from a length to bytes, optional
        Replaces the operating system's generator; for known-answer tests only.

    Guarantees: for each peer at most one kind of share ever leaves the client, once, whatever the server
    sends, and from however many threads; the vector leaves once, under the self mask and the masks of at
    least `threshold` - 1 peers. In a forked process the client only aborts: two copies would be two
    answerers with the same keys.
    """

    def __init__(
        self, config: Config, client_id: int, *, insecure_randomness: Randomness | None = None
    ) -> None:
        if not isinstance(config, Config):
            raise InvalidTypeError(f"config must be a Config, got {type(config).__name__}")
        self._id = whole("client_id", client_id, minimum=0, maximum=MAX_CLIENT_ID)
        if self._id not in config.participants:
            raise InvalidArgumentError(f"client_id must be one of the participants, got {client_id}")
        self._config = config
        self._randomness = insecure_randomness
        self._phase = Phase.ADVERTISE
        self._state = _State()
        self._vector: npt.NDArray[Any] | None = None
        # Two threads with two lists of survivors must not both be answered.
        self._turn = threading.RLock()
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"<secagg.Client {self._id}, phase {self._phase.value}>"

    @property
    def client_id(self) -> int:
        """The id under which the server knows this client."""
        return self._id

    @property
    def phase(self) -> Phase:
        """The message that this client owes next, or `DONE`, or `ABORTED`."""
        return self._phase

    def start(self) -> bytes:
        """The first message: public keys, fresh for this session [BIK+17, round 0]."""
        with self._own_turn():
            if self._phase is not Phase.ADVERTISE:
                raise ProtocolError(f"start must be called once, at first; the phase is {self._phase.value}")
            state = _Advertised(self._draw(), self._draw())
            self._state, self._phase = state, Phase.SHARE
            return self._frame(Kind.ADVERTISE, messages.encode_advertise(_public(state)))

    def submit(self, vector: npt.NDArray[np.integer[Any]]) -> None:
        """Hands over the vector to be summed, (config.vector_length,) integers, once, before its upload.

        Signed values in [-2^(b-1), 2^(b-1)) or unsigned ones below 2^b; others, and floats, are refused.
        A copy is kept until the upload.
        """
        with self._own_turn():
            if self._phase in (Phase.UNMASK, Phase.DONE, Phase.ABORTED):
                raise ProtocolError(f"a vector is no longer taken in phase {self._phase.value}")
            if self._vector is not None:
                raise ProtocolError("a vector has been submitted already")
            self._vector = self._residues(vector)

    def receive(self, message: bytes) -> bytes:
        """Takes the server's message and returns the answer to it.

        Raises
        ------
        ProtocolError, AggregationAborted
            The message is not what the protocol allows now, or too few clients are left: the session is
            wiped and `ABORTED`. Called before `start`, or before `submit` when the upload is due, it
            raises `ProtocolError` and nothing has changed.
        InvalidTypeError
            The message is not bytes; nothing has changed.
        """
        received = messages.require_bytes(message)
        with self._own_turn():
            self._require_ready()
            try:
                return self._step(received)
            except BaseException:
                self.abort()
                raise

    def abort(self) -> None:
        """Ends the session for good and wipes its secrets."""
        with self._turn:
            self._phase = Phase.ABORTED
            self._enter(_State())
            if self._vector is not None:
                self._vector.fill(0)
            self._vector = None

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """One thread at a time, and only in the process that made the client."""
        if os.getpid() != self._process:
            # The lock may have been held by a thread that the fork left behind.
            self._turn = threading.RLock()
            self.abort()
            raise ProtocolError("the client was made by another process, which alone may go on with it")
        with self._turn:
            yield

    def _residues(self, vector: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
        residues = ring.to_residues(vector, self._config.modulus_bits)
        if len(residues) != self._config.vector_length:
            raise InvalidArgumentError(
                f"vector must have length {self._config.vector_length}, got {len(residues)}"
            )
        return residues

    def _require_ready(self) -> None:
        if self._phase is Phase.ABORTED:
            raise ProtocolError("the session was aborted")
        if self._phase is Phase.ADVERTISE:
            raise ProtocolError("a message came before start was called")
        if self._phase is Phase.UPLOAD and self._vector is None:
            raise ProtocolError("submit a vector before the upload is due, then receive this message again")

    def _step(self, message: bytes) -> bytes:
        if self._phase is Phase.DONE:
            raise ProtocolError("the session is over: nothing is answered twice")
        transition = CLIENT[self._phase]
        body = messages.unframe(message, transition.takes, self._config, self._id)
        answer, state = _STEPS[transition.takes](self, self._state, body)
        self._enter(state)
        self._phase = transition.then
        return answer

    def _enter(self, state: _State) -> None:
        wipe(self._state)
        self._state = state

    def _share(self, state: _Advertised, body: bytes) -> tuple[bytes, _Shared]:
        """[BIK+17, round 1]: splits self mask and mask key, seals a share of each for every peer."""
        roster = messages.decode_roster(body)
        self._require_roster(roster, _public(state))
        binding, own_share = keys.bind(self._config, body), bytearray(KEY_BYTES)
        shared = _Shared(bytearray(state.masking), self._draw(), own_share, roster, binding, {})
        with wiping_on_error(shared):
            sealed = self._seal_shares(state.sealing, shared)
            owner = Party(self._id, roster[self._id].masking)
            commitment = keys.commitment(binding, shared.self_mask, owner)
            return self._frame(Kind.SHARE, messages.encode_share(commitment, sealed)), shared

    def _seal_shares(self, sealing: bytearray, shared: _Shared) -> dict[int, bytes]:
        """What goes to each peer; our own share, and what opens the peers' ones, goes into the state."""
        with (
            wiping(self._split(shared.self_mask)) as self_mask_shares,
            wiping(self._split(shared.masking)) as mask_key_shares,
        ):
            shared.own_share[:] = self_mask_shares[self._config.abscissa(self._id)]
            sealed = {}
            for peer in sorted(shared.roster.keys() - {self._id}):
                x = self._config.abscissa(peer)
                with wiping(self_mask_shares[x] + mask_key_shares[x]) as pair:
                    sealed[peer], shared.opening[peer] = self._seal(sealing, shared, pair, peer)
            return sealed

    def _seal(
        self, sealing: bytearray, shared: _Shared, pair: bytearray, peer: int
    ) -> tuple[bytes, bytearray]:
        """A pair of shares for a peer, and the key that will open its pair for us."""
        me, other = (Party(client, shared.roster[client].sealing) for client in (self._id, peer))
        with (
            wiping(keys.agree(sealing, other)) as agreed,
            wiping(keys.sealing_key(shared.binding, agreed, me, other)) as key,
        ):
            sealed = keys.seal(shared.binding, key, pair, me, other)
            return sealed, keys.sealing_key(shared.binding, agreed, other, me)

    def _upload(self, state: _Shared, body: bytes) -> tuple[bytes, _Uploaded]:
        """[BIK+17, round 2]: y_u = x_u + PRG(b_u) + the sum of +-PRG(s_uv) over the peers that shared."""
        delivery = messages.decode_delivery(body)
        self._require_members("delivery", delivery, state.opening)
        self._require_threshold("shared keys", len(delivery) + 1)
        residues, bits = cast(npt.NDArray[Any], self._vector), self._config.modulus_bits
        with wiping_on_error(_Uploaded({self._id: bytearray(state.own_share)}, {})) as held:
            self._open(state, delivery, held)
            masking.add(self._config, residues, self._mask_terms(state, delivery))
            answer = self._frame(Kind.UPLOAD, ring.pack(residues, bits))
        self._vector = None
        return answer, held

    def _open(self, state: _Shared, delivery: Mapping[int, bytes], held: _Uploaded) -> None:
        me = Party(self._id, state.roster[self._id].sealing)
        for peer, sealed in delivery.items():
            sender = Party(peer, state.roster[peer].sealing)
            with wiping(keys.unseal(state.binding, state.opening[peer], sealed, sender, me)) as pair:
                held.self_mask_shares[peer] = pair[:KEY_BYTES]
                held.mask_key_shares[peer] = pair[KEY_BYTES:]

    def _mask_terms(self, state: _Shared, peers: Collection[int]) -> Iterator[Term]:
        me = Party(self._id, state.roster[self._id].masking)
        yield Term(keys.self_seed(state.binding, state.self_mask, me), 1)
        for peer in peers:
            other = Party(peer, state.roster[peer].masking)
            yield masking.pair_term(state.binding, state.masking, me, other, uploader=me)

    def _unmask(self, state: _Uploaded, body: bytes) -> tuple[bytes, _State]:
        """[BIK+17, round 4]: of survivors the share of b_u, of the others the share of the mask key."""
        survivors = messages.decode_survivors(body)
        self._require_members("list of survivors", survivors, state.self_mask_shares)
        self._require_threshold("uploaded", len(survivors))
        if self._id not in survivors:
            raise ProtocolError("the list of survivors leaves out this client, which uploaded")
        shares = {}
        for peer, share in state.self_mask_shares.items():
            survived = peer in survivors
            of = ShareOf.SELF_MASK if survived else ShareOf.MASK_KEY
            shares[peer] = Unmasking(of, share if survived else state.mask_key_shares[peer])
        return self._frame(Kind.UNMASK, messages.encode_unmask(shares)), _State()

    def _require_roster(self, roster: Mapping[int, PublicKeys], own: PublicKeys) -> None:
        self._require_members("roster", roster, self._config.participants)
        self._require_threshold("advertised keys", len(roster))
        if roster.get(self._id) != own:
            raise ProtocolError("the roster does not hold the keys that this client advertised")
        advertised = [key for pair in roster.values() for key in pair]
        if len(set(advertised)) < len(advertised):
            raise ProtocolError("the roster holds the same public key twice")

    def _require_members(self, what: str, given: Collection[int], allowed: Collection[int]) -> None:
        for client in given:
            if client not in allowed:
                raise ProtocolError(f"the {what} names client {client}, which does not belong there")

    def _require_threshold(self, did: str, count: int) -> None:
        if count < self._config.threshold:
            raise AggregationAborted(f"{count} clients {did}, the threshold is {self._config.threshold}")

    def _draw(self) -> bytearray:
        return draw(KEY_BYTES, self._randomness)

    def _split(self, secret: bytearray) -> dict[int, bytearray]:
        n = len(self._config.participants)
        return shamir.split(secret, self._config.threshold, n, insecure_randomness=self._randomness)

    def _frame(self, kind: Kind, body: bytes) -> bytes:
        return messages.frame(kind, self._config, self._id, body)


def _public(state: _Advertised) -> PublicKeys:
    return PublicKeys(keys.public_key(state.sealing), keys.public_key(state.masking))


_STEPS: dict[Kind, Callable[[Client, Any, bytes], tuple[bytes, _State]]] = {
    Kind.ROSTER: Client._share,
    Kind.DELIVERY: Client._upload,
    Kind.SURVIVORS: Client._unmask,
}
