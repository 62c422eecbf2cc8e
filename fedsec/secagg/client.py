"""A client's side of one session: bytes in, bytes out [SPEC 4.2].

Everything from the server passes through `Client.receive`, the one choke point, and everything to it is
recorded in the client's `SessionStore` before it leaves. Each phase has a frozen state with the secrets
that the rest of the session still needs (`steps`); the state left behind is wiped whole. Whatever goes
wrong with a message wipes the session for good. What the caller does wrong (a vector twice, a message
before `start`) leaves it as it was.

References
----------
[BIK+17] Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedsec import masks
from fedsec._checks import whole
from fedsec.errors import InvalidArgumentError, InvalidTypeError, ProtocolError
from fedsec.secagg import graph, masking, messages, snapshot, steps
from fedsec.secagg._machine import Phase, after, client_takes, phases
from fedsec.secagg.config import MAX_CLIENT_ID, Config, Policy, decode_config, require_digest
from fedsec.secagg.encoding import ring
from fedsec.secagg.identity.identities import Identity
from fedsec.secagg.messages import Kind
from fedsec.secagg.parameters import MAX_ATTEMPTS
from fedsec.secagg.primitives._secrets import Randomness, Unpicklable, wipe, wiping_on_error
from fedsec.secagg.steps import Answer, Me, State
from fedsec.secagg.store import SessionStore

CHUNK_LENGTH = 2**16  # elements in a message of an upload in chunks; a multiple of 8 [SPEC 7.4]

_STEPS: dict[Phase, Callable[[Me, Any, bytes], Answer]] = {
    Phase.REVEAL: steps.reveal,
    Phase.SHARE: steps.share,
    Phase.UPLOAD: steps.deliver,
    Phase.AGREE: steps.agree,
    Phase.UNMASK: steps.unmask,
}
_STATES = {
    state.__name__: state
    for state in (
        State,
        steps.Advertised,
        steps.Shared,
        steps.Delivered,
        steps.Uploaded,
        steps.Opened,
    )
}


class Budget(Protocol):
    """What a client asks before it lets out what could tell its vector; whatever it raises ends the session.

    `fedsec.distributed.ClientBudget` is one.
    """

    def reserve(self, config: Config, /) -> None:
        """Asked once, before any of the upload leaves: the others can open its mask without this client."""
        ...

    def settle(self, config: Config, survivors: tuple[int, ...], /) -> None:
        """Asked once, before a share leaves: enough clients have signed that the sum is over these."""
        ...


class Client(Unpicklable):
    """One participant of a session.

    ``message = client.start()``; then ``message = client.receive(bytes)`` for each message of the server:
    the answer, or None when there is none. The vector is handed over by ``client.submit(vector)`` before
    the upload is due, or in the end by ``client.upload(vector)``, in chunks. `phase` says which message the
    client owes next. After an error about a message the session is `ABORTED`, its secrets are wiped, and
    it answers nothing any more.

    Parameters
    ----------
    config : Config
    client_id : int
        One of `config.participants`.
    identity : Identity or Ed25519PrivateKey
        The one that `config.participants` names; None with the semi-honest profile.
    policy : Policy
        The least that this client accepts; its own, never the server's.
    store : SessionStore
        Where this client records what it lets out; one that survives the process, but for simulations.
    budget : Budget, optional
        Asked before the upload and before a share leaves, after the store has granted it.
    insecure_randomness : function from a length to bytes, optional
        Replaces the operating system's generator; for known-answer tests only.

    Raises
    ------
    ProtocolError
        The configuration is below the policy.

    Guarantees: for each peer at most one kind of share ever leaves the client, once, whatever the server
    sends, from however many threads, processes and saved copies; the vector leaves once, under the self
    mask and the masks of at least `threshold` peers; one set of survivors is signed. In a forked process
    the client only aborts.
    """

    def __init__(
        self,
        config: Config,
        client_id: int,
        identity: Identity | Ed25519PrivateKey | None = None,
        *,
        policy: Policy | None = None,
        store: SessionStore | None = None,
        budget: Budget | None = None,
        insecure_randomness: Randomness | None = None,
    ) -> None:
        if not isinstance(config, Config):
            raise InvalidTypeError(f"config must be a Config, got {type(config).__name__}")
        number = whole("client_id", client_id, minimum=0, maximum=MAX_CLIENT_ID)
        if number not in config.participants:
            raise InvalidArgumentError(f"client_id must be one of the participants, got {client_id}")
        self._policy = _accept(config, policy)
        self._me = Me(config, number, _signer(config, number, identity), insecure_randomness)
        self._store = _session_store(config, store)
        self._budget = budget
        self._phase = Phase.ADVERTISE
        self._state = State()
        self._vector: npt.NDArray[Any] | None = None
        self._is_latest = True
        # Two threads with two lists of survivors must not both be answered.
        self._turn = threading.RLock()
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"<secagg.Client {self.client_id}, phase {self._phase.value}>"

    @property
    def client_id(self) -> int:
        """The id under which the server knows this client."""
        return self._me.client_id

    @property
    def config(self) -> Config:
        """What this session was made with, and the model bound to it since."""
        return self._me.config

    @property
    def phase(self) -> Phase:
        """The message that this client owes next, or `DONE`, or `ABORTED`."""
        return self._phase

    def bind_model(self, model_digest: bytes) -> None:
        """Says which model is trained (32 bytes), once, if the configuration does not; before the upload."""
        with self._own_turn():
            config = self._me.config
            if config.model_digest is not None:
                raise ProtocolError("the model is bound already")
            digest = require_digest("model_digest", model_digest)
            self._me = dataclasses.replace(self._me, config=config.with_model(digest))

    def start(self) -> bytes:
        """The first message: public keys, fresh for this session [SPEC 5.1]."""
        with self._own_turn():
            if self._phase is not Phase.ADVERTISE:
                raise ProtocolError(f"start must be called once, at first; the phase is {self._phase.value}")
            return cast(bytes, self._leave(steps.advertise(self._me)))

    def submit(self, vector: npt.NDArray[np.integer[Any]]) -> None:
        """Hands over the vector to be summed, (config.vector_length,) integers, once, before its upload.

        Signed values in [-2^(b-1), 2^(b-1)) or unsigned ones below 2^b; others, and floats, are refused.
        A copy is kept until the upload; `upload` keeps none.
        """
        with self._own_turn():
            if self._is_past_upload() or isinstance(self._state, steps.Delivered):
                raise ProtocolError(f"a vector is no longer taken in phase {self._phase.value}, see upload")
            if self._vector is not None:
                raise ProtocolError("a vector has been submitted already")
            self._require_length(vector)
            self._vector = ring.to_residues(vector, self._me.config.modulus_bits)

    def receive(self, message: bytes) -> bytes | None:
        """Takes the server's message and returns the answer to it, if there is one now.

        There is none to the delivery of the others' shares if no vector was submitted before: `upload`
        answers it.

        Raises
        ------
        ProtocolError, AggregationAborted
            The message is not what the protocol allows now, or too few clients are left: the session is
            wiped and `ABORTED`. Called before `start`, or with a vector but no model when the upload is due,
            it raises `ProtocolError` and nothing has changed.
        InvalidTypeError
            The message is not bytes; nothing has changed.
        """
        received = messages.require_bytes(message)
        with self._own_turn():
            self._require_ready()
            with self._aborting():
                answer = self._step(received)
                if isinstance(self._state, steps.Delivered) and self._vector is not None:
                    return self._upload_submitted(self._vector)
                return answer

    def upload(self, vector: npt.NDArray[np.integer[Any]]) -> Iterator[bytes]:
        """Yields the upload in messages of 2^16 elements, once the delivery has been received.

        `vector` is as for `submit`; it is read while chunks are drawn, and not changed. Memory beyond it is
        that of a chunk. To leave the iterator before its end ends the session.
        """
        with self._own_turn():
            if self._vector is not None:
                raise ProtocolError("a vector has been submitted already")
            self._require_delivered()
            self._require_length(vector)
            ring.require_fits(vector, self._me.config.modulus_bits)
        return self._stream(vector)

    def abort(self) -> None:
        """Ends the session for good, in saved copies of this client as well, and wipes its secrets.

        In a forked process it ends what was inherited; the session goes on where the client was made.
        """
        if os.getpid() != self._process:
            return self._leave_to_parent()
        with self._turn:
            started = self._phase is not Phase.ADVERTISE
            self._end()
            if started and self._is_latest:
                self._store.end_session(self._key, self._me.config.session_id)

    def close(self) -> None:
        """Wipes this copy, which answers nothing any more; the session goes on from what `to_bytes` saved."""
        with self._own_turn():
            self._end()

    def to_bytes(self, key: bytes) -> bytes:
        """The whole session, sealed under the caller's 32-byte key [SPEC 10].

        Refused with `ProtocolError` while an upload in chunks is under way.
        """
        with self._own_turn():
            if self._phase is Phase.UPLOAD and isinstance(self._state, steps.Uploaded):
                raise ProtocolError("a session cannot be saved in the middle of an upload")
            return snapshot.seal(key, "client", self._saved())

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        key: bytes,
        identity: Identity | Ed25519PrivateKey | None = None,
        *,
        policy: Policy | None = None,
        store: SessionStore | None = None,
        budget: Budget | None = None,
    ) -> Client:
        """Goes on with a session that `to_bytes` saved, with the store and the budget that it had.

        Of several copies only the one that answers a phase first gets to answer it. The others are refused
        by the store, and abort.
        """
        saved = snapshot.unseal(key, "client", data)
        config, model, number, phase, state, fields, vector, has_budget = saved
        if has_budget and budget is None:
            raise InvalidTypeError("budget must be the one that the session was made with, got None")
        client = cls(decode_config(config), number, identity, policy=policy, store=store, budget=budget)
        if model is not None and client._me.config.model_digest is None:
            client.bind_model(model)
        client._phase = Phase(phase)
        client._state = _STATES[state](*fields)
        if vector is not None:
            lane = masks.lane_dtype(client._me.config.modulus_bits)
            client._vector = np.frombuffer(vector, lane).copy()
        return client

    def _saved(self) -> tuple[object, ...]:
        config, state = self._me.config, self._state
        fields = [getattr(state, entry.name) for entry in dataclasses.fields(state)]
        vector = None if self._vector is None else self._vector.tobytes()
        model = config.model_digest
        where = (self.client_id, self._phase.value, type(state).__name__)
        return (config.to_bytes(), model, *where, fields, vector, self._budget is not None)

    @property
    def _key(self) -> bytes:
        """Under which the store keeps this client's sessions: its public key, or its id if it has none."""
        config = self._me.config
        return config.participants[self.client_id] or self.client_id.to_bytes(4, "little")

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        """One thread at a time, and only in the process that made the client."""
        if os.getpid() != self._process:
            self._leave_to_parent()
            raise ProtocolError("the client was made by another process, which alone may go on with it")
        with self._turn:
            yield

    def _leave_to_parent(self) -> None:
        # The lock may have been held by a thread that the fork left behind; the parent's session goes on.
        self._turn = threading.RLock()
        self._end()

    def _end(self) -> None:
        self._phase = Phase.ABORTED
        self._enter(State())
        self._forget_vector()

    @contextmanager
    def _aborting(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.abort()
            raise

    def _require_length(self, vector: object) -> None:
        length = len(ring.require_integers(vector))
        if length != self._me.config.vector_length:
            raise InvalidArgumentError(
                f"vector must have length {self._me.config.vector_length}, got {length}"
            )

    def _require_ready(self) -> None:
        if self._phase is Phase.ABORTED:
            raise ProtocolError("the session was aborted")
        if self._phase is Phase.ADVERTISE:
            raise ProtocolError("a message came before start was called")
        if self._phase is Phase.UPLOAD and self._vector is not None:
            self._require_model()

    def _require_delivered(self) -> None:
        if not isinstance(self._state, steps.Delivered):
            raise ProtocolError(f"no upload is due in phase {self._phase.value}")
        self._require_model()

    def _require_model(self) -> None:
        if self._me.config.model_digest is None:
            raise ProtocolError("bind_model must be called before the upload, then this once more")

    def _is_past_upload(self) -> bool:
        order = (*phases(self._me.config), Phase.DONE, Phase.ABORTED)
        return order.index(self._phase) > order.index(Phase.UPLOAD)

    def _step(self, message: bytes) -> bytes | None:
        if self._phase is Phase.DONE:
            raise ProtocolError("the session is over: nothing is answered twice")
        if self._phase is Phase.UPLOAD and not isinstance(self._state, steps.Shared):
            raise ProtocolError("a message came while this client's upload was due")
        takes = client_takes(self._me.config, self._phase)
        body = messages.unframe(message, takes, self._digest(), self.client_id)
        return self._leave(_STEPS[self._phase](self._me, self._state, body))

    def _digest(self) -> bytes:
        """What the messages of this phase are bound to [SPEC 4.1]."""
        if isinstance(self._state, (steps.Delivered, steps.Uploaded)):
            return self._me.h1(self._state)
        return self._me.config.h0

    def _leave(self, answer: Answer) -> bytes | None:
        """Enters the next state, and lets the answer out once the store has it."""
        if answer.kind is None:
            self._enter(answer.state)
            return None
        with wiping_on_error(answer.state):
            self._claim(answer.state)
            message = self._frame(answer.kind, answer.body, answer.tail)
        self._enter(answer.state)
        self._phase = after(self._me.config, self._phase)
        if self._phase is Phase.REVEAL and self.client_id not in graph.committee(self._me.config):
            self._phase = Phase.SHARE
        if self._phase is Phase.DONE:
            self._store.end_session(self._key, self._me.config.session_id)
        return message

    def _claim(self, following: State) -> None:
        """Before anything of this phase leaves: the store grants it once, and then the budget pays for it."""
        config, uploads = self._me.config, self._phase is Phase.UPLOAD
        if self._phase is Phase.ADVERTISE:
            return self._store.open_session(self._key, config.session_id, config.round_id, MAX_ATTEMPTS)
        try:
            self._store.claim(self._key, config.session_id, self._phase.value, once_per_round=uploads)
        except ProtocolError:
            # Another copy has answered already: this one is out, and the session is the other's.
            self._is_latest = False
            raise
        if self._budget is None:
            return
        if uploads:
            self._budget.reserve(config)
        elif isinstance(following, steps.Opened):
            self._budget.settle(config, following.survivors)

    def _upload_submitted(self, residues: npt.NDArray[Any]) -> bytes:
        delivered = cast(steps.Delivered, self._state)
        with masking.collected(self._me.config, steps.mask_terms(self._me, delivered)) as terms:
            terms.add(residues)
        packed = masking.packed(residues, self._me.config.modulus_bits)
        self._vector = None
        head = messages.encode_upload(0, b"")
        return cast(bytes, self._leave(Answer(Kind.UPLOAD, head, steps.uploaded(delivered), packed)))

    def _stream(self, vector: npt.NDArray[Any]) -> Iterator[bytes]:
        with ExitStack() as kept:
            with self._own_turn():
                self._require_delivered()
                with self._aborting():
                    self._claim(self._state)
                    delivered = cast(steps.Delivered, self._state)
                    collected = masking.collected(self._me.config, steps.mask_terms(self._me, delivered))
                    terms = kept.enter_context(collected)
                    self._enter(steps.uploaded(delivered))
            try:
                for first in range(0, len(vector), CHUNK_LENGTH):
                    yield self._chunk(terms, vector, first)
            except BaseException:
                if self._phase is Phase.UPLOAD:
                    self.abort()
                raise

    def _chunk(self, terms: masking.Masks, vector: npt.NDArray[Any], first: int) -> bytes:
        bits, end = self._me.config.modulus_bits, first + CHUNK_LENGTH
        with self._own_turn():
            if self._phase is not Phase.UPLOAD:
                raise ProtocolError("the session was aborted during its upload")
            residues = ring.to_residues(vector[first:end], bits)
            terms.add(residues, first)
            packed = masking.packed(residues, bits)
            message = self._frame(Kind.UPLOAD, messages.encode_upload(first, b""), packed)
            if end >= len(vector):
                self._phase = after(self._me.config, self._phase)
            return message

    def _enter(self, state: State) -> None:
        wipe(self._state)
        self._state = state

    def _forget_vector(self) -> None:
        if self._vector is not None:
            self._vector.fill(0)
        self._vector = None

    def _frame(self, kind: Kind, *body: bytes | memoryview) -> bytes:
        return messages.frame(kind, self._digest(), self.client_id, *body)


def _accept(config: Config, policy: Policy | None) -> Policy | None:
    """The policy, if it accepts the configuration; only the semi-honest profile goes without."""
    if policy is None and not config.authenticated:
        return None
    if not isinstance(policy, Policy):
        raise InvalidTypeError(f"policy must be a Policy, the least that this client accepts, got {policy!r}")
    policy.require(config)
    return policy


def _signer(config: Config, client_id: int, identity: object) -> Identity | Ed25519PrivateKey | None:
    if not config.authenticated:
        if identity is not None:
            raise InvalidTypeError("identity must be None with the semi-honest profile: nothing is signed")
        return None
    if not isinstance(identity, (Identity, Ed25519PrivateKey)):
        raise InvalidTypeError(f"identity must be an Identity or an Ed25519 private key, got {identity!r}")
    if _public(identity) != config.participants[client_id]:
        raise InvalidArgumentError(
            f"identity must be the one that the configuration names for client {client_id}"
        )
    return identity


def _public(identity: Identity | Ed25519PrivateKey) -> bytes:
    if isinstance(identity, Identity):
        return identity.public_key
    return identity.public_key().public_bytes_raw()


def _session_store(config: Config, store: SessionStore | None) -> SessionStore:
    if store is None and not config.authenticated:
        return SessionStore.in_memory()
    if not isinstance(store, SessionStore):
        raise InvalidTypeError(f"store must be a SessionStore, got {store!r}")
    return store
