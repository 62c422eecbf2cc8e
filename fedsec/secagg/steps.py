"""What a client makes of each message: functions from a state and a body to a state and an answer [SPEC 5-9].

A state is frozen and holds the secrets that the rest of the session still needs; a step makes the next
one of copies, and `Client` wipes the one left behind. Nothing here remembers, and nothing here sends: that
a step is taken once is `Client`'s business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

from fedsec.errors import AggregationAborted, ProtocolError
from fedsec.secagg import graph, keys, masking, messages
from fedsec.secagg.config import Config
from fedsec.secagg.keys import KEY_BYTES, KeyPair, Party
from fedsec.secagg.masking import Term
from fedsec.secagg.messages import (
    HASH_BYTES,
    Advertisement,
    Kind,
    Proven,
    Reveal,
    Roster,
    SealedPair,
    ShareOf,
    Unmasking,
)
from fedsec.secagg.primitives import merkle, shamir
from fedsec.secagg.primitives._secrets import Randomness, Unpicklable, draw, wiping, wiping_on_error


class Signer(Protocol):
    """A long-term Ed25519 identity; `Identity` and the keys of `cryptography` are."""

    def sign(self, data: bytes, /) -> bytes:
        """64 bytes."""


@dataclass(frozen=True, repr=False)
class Me(Unpicklable):
    """Who takes the steps."""

    config: Config
    client_id: int
    identity: Signer | None
    randomness: Randomness | None

    def draw(self) -> bytearray:
        """Fresh secret bytes."""
        return draw(KEY_BYTES, self.randomness)

    def sign(self, text: bytes) -> bytes:
        """A signature; zeros where nobody has an identity."""
        return bytes(keys.SIGNATURE_BYTES) if self.identity is None else self.identity.sign(text)

    def h1(self, state: Linked) -> bytes:
        """What masks and signatures are bound to; the model is known by then."""
        return keys.session_digest(state.binding, cast(bytes, self.config.model_digest))


@dataclass(frozen=True, repr=False)
class State(Unpicklable):
    """The secrets of one phase."""


@dataclass(frozen=True, repr=False)
class Advertised(State):
    """The private keys; the committee or the roster is awaited. `root` is empty until one was signed."""

    sealing: bytearray
    masking: bytearray
    nonce: bytearray
    advertisement: bytes
    root: bytes


@dataclass(frozen=True, repr=False)
class Linked(State):
    """What shares and masks are bound to, and between whom they go."""

    root: bytes
    binding: bytes
    neighbors: tuple[int, ...]

    @property
    def links(self) -> tuple[bytes, bytes, tuple[int, ...]]:
        """What every later state begins with."""
        return self.root, self.binding, self.neighbors


@dataclass(frozen=True, repr=False)
class Shared(Linked):
    """What the masks are made of, and what opens the others' shares, which are awaited.

    The secret of the mask key is gone: it was agreed upon with every neighbour that advertised.
    """

    self_mask: bytearray
    agreed: dict[int, bytearray]
    opening: dict[int, bytearray]
    sealing_keys: dict[int, bytes]
    mask_keys: dict[int, bytes]


@dataclass(frozen=True, repr=False)
class Delivered(Linked):
    """The others' shares, by accepted peer, and what the masks are made of; the vector is awaited."""

    self_mask: bytearray
    agreed: dict[int, bytearray]
    mask_keys: dict[int, bytes]
    self_mask_shares: dict[int, bytearray]
    mask_key_shares: dict[int, bytearray]


@dataclass(frozen=True, repr=False)
class Uploaded(Linked):
    """The others' shares; the survivors are awaited, or who signed them. `survivors` is empty until then."""

    self_mask_shares: dict[int, bytearray]
    mask_key_shares: dict[int, bytearray]
    survivors: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Opened(State):
    """Nothing is left to keep secret; the shares that were opened are for a sum over these survivors."""

    survivors: tuple[int, ...]


class Answer(NamedTuple):
    """What a step makes: the body of the answer, if there is one, and the next state.

    `tail` is the rest of a large body, which is thus copied once.
    """

    kind: Kind | None
    body: bytes
    state: State
    tail: bytes | memoryview = b""


def advertise(me: Me) -> Answer:
    """[SPEC 5.1]: two fresh keys, and in the committee a commitment to a nonce."""
    is_member = me.client_id in graph.committee(me.config)
    drawn: list[bytearray] = []
    with wiping_on_error(drawn):
        drawn.extend(me.draw() for _ in range(3 if is_member else 2))
        sealing, masking, nonce = (*drawn, bytearray(HASH_BYTES))[:3]
        commitment = bytes(HASH_BYTES)
        if is_member:
            commitment = keys.nonce_commitment(me.config.h0, me.client_id, nonce)
        signed = KeyPair(sealing).public + KeyPair(masking).public + commitment
        body = signed + me.sign(keys.advertise_text(me.config.h0, me.client_id, signed))
        return Answer(Kind.ADVERTISE, body, Advertised(sealing, masking, nonce, body, b""))


def reveal(me: Me, state: Advertised, body: bytes) -> Answer:
    """[SPEC 5.3]: once the root of all keys is fixed, and only for that root, the nonce."""
    root, members = messages.decode_committee(me.config, body)
    _require_committee(me.config, root, members)
    _require_own(me, state, members)
    signature = me.sign(keys.reveal_text(me.config.h0, root, me.client_id, state.nonce))
    after = Advertised(
        bytearray(state.sealing),
        bytearray(state.masking),
        bytearray(state.nonce),
        state.advertisement,
        root,
    )
    return Answer(Kind.REVEAL, messages.encode_reveal(Reveal(bytes(state.nonce), signature)), after)


def share(me: Me, state: Advertised, body: bytes) -> Answer:
    """[SPEC 6]: splits self mask and mask key, seals a share of each for every neighbour that advertised."""
    roster = messages.decode_roster(me.config, body)
    graph_seed = _require_graph(me.config, roster, state.root)
    neighbors = graph.neighbors(me.config, graph_seed, me.client_id)
    _require_own(me, state, roster.peers)
    _require_peers(me, roster, neighbors)
    shared = Shared(
        roster.root,
        keys.binding(me.config.h0, roster.root, graph_seed),
        neighbors,
        self_mask=me.draw(),
        agreed={},
        opening={},
        sealing_keys={peer: proven.advertisement.sealing for peer, proven in roster.peers.items()},
        mask_keys={peer: proven.advertisement.masking for peer, proven in roster.peers.items()},
    )
    with wiping_on_error(shared):
        sealed = _seal_shares(me, state, shared)
        commitment = keys.mask_commitment(shared.binding, me.client_id, shared.self_mask)
        return Answer(Kind.SHARE, messages.encode_share(commitment, sealed), shared)


def deliver(me: Me, state: Shared, body: bytes) -> Answer:
    """[SPEC 7.1]: opens the shares of the peers, and accepts those peers."""
    delivery = messages.decode_delivery(body)
    _require_members("delivery", delivery, state.opening)
    _require_threshold(me.config, "neighbors shared keys", len(delivery))
    delivered = Delivered(
        *state.links,
        self_mask=bytearray(state.self_mask),
        agreed=_copies({peer: state.agreed[peer] for peer in delivery}),
        mask_keys={peer: state.mask_keys[peer] for peer in (*delivery, me.client_id)},
        self_mask_shares={},
        mask_key_shares={},
    )
    with wiping_on_error(delivered):
        for peer, pair in delivery.items():
            opened = _open(me, state, peer, pair)
            delivered.self_mask_shares[peer], delivered.mask_key_shares[peer] = opened
        return Answer(None, b"", delivered)


def mask_terms(me: Me, state: Delivered) -> Iterator[Term]:
    """[SPEC 7.3]: the self mask, and one mask for each accepted peer."""
    h1, own = me.h1(state), Party(me.client_id, state.mask_keys[me.client_id])
    yield Term(keys.self_seed(state.self_mask, h1, own), 1)
    for peer, agreed in state.agreed.items():
        yield masking.agreed_term(h1, agreed, own, Party(peer, state.mask_keys[peer]), uploader=own)


def uploaded(state: Delivered | Uploaded, survivors: tuple[int, ...] = ()) -> Uploaded:
    """The state once the vector has left, and once survivors are signed: the keys of the masks are gone."""
    shares = (_copies(state.self_mask_shares), _copies(state.mask_key_shares))
    return Uploaded(*state.links, *shares, survivors)


def agree(me: Me, state: Uploaded, body: bytes) -> Answer:
    """[SPEC 8.1]: signs the one set of survivors that this client will ever sign in the session."""
    survivors = _acceptable_survivors(me, state, body)
    signature = me.sign(keys.agree_text(me.h1(state), state.root, body))
    return Answer(Kind.AGREE, signature, uploaded(state, survivors))


def unmask(me: Me, state: Uploaded, body: bytes) -> Answer:
    """[SPEC 9.1]: of survivors the share of b_u, of the others the share of the mask key."""
    if me.config.agrees:
        _require_quorum(me, state, body)
        survivors = state.survivors
    else:
        survivors = _acceptable_survivors(me, state, body)
    alive, shares = set(survivors), {}
    for peer in state.self_mask_shares:
        if peer in alive:
            shares[peer] = Unmasking(ShareOf.SELF_MASK, state.self_mask_shares[peer])
        else:
            shares[peer] = Unmasking(ShareOf.MASK_KEY, state.mask_key_shares[peer])
    return Answer(Kind.UNMASK, messages.encode_unmask(shares), Opened(survivors))


# --- what a client verifies ---


def _require_committee(config: Config, root: bytes, members: Mapping[int, Proven]) -> None:
    if tuple(members) != graph.committee(config):
        raise ProtocolError(f"the committee must be {graph.committee(config)}, got {tuple(members)}")
    for client, proven in members.items():
        _require_authentic(config, root, client, proven)


def _require_authentic(config: Config, root: bytes, client: int, proven: Proven) -> None:
    """The client itself advertised these keys, in this session, and they stand under the root."""
    if client not in config.participants:
        raise ProtocolError(f"client {client} advertises, which is no participant")
    advertisement, path = proven
    require_signed(config, client, advertisement)
    position, row = config.position(client), advertisement.to_bytes()
    if not config.is_complete and not merkle.leads_to(root, position, row, path):
        raise ProtocolError(f"the advertisement of client {client} does not stand under the root")


def require_signed(config: Config, client: int, advertisement: Advertisement) -> None:
    """The client signed its keys, and commits to a nonce only if it is of the committee.

    Where nobody has an identity, zeros stand for signatures.
    """
    if any(advertisement.commitment) and client not in graph.committee(config):
        raise ProtocolError(f"client {client} commits to a nonce, but is not of the committee")
    text = keys.advertise_text(config.h0, client, advertisement.signed)
    if config.authenticated:
        signed = keys.is_signed(config.participants[client], text, advertisement.signature)
    else:
        signed = not any(advertisement.signature)
    if not signed:
        raise ProtocolError(f"the advertisement of client {client} is not signed by it")


def _require_own(me: Me, state: Advertised, members: Mapping[int, Proven]) -> None:
    own = members.get(me.client_id)
    if own is None or own.advertisement.to_bytes() != state.advertisement:
        raise ProtocolError("the roster does not hold the keys that this client advertised")


def _require_graph(config: Config, roster: Roster, signed_root: bytes) -> bytes:
    """The seed of the graph, if root and reveals are what they should be [SPEC 5.3, 5.5, 6.1]."""
    if signed_root and roster.root != signed_root:
        raise ProtocolError("the root of the roster is not the one that this client signed")
    if config.is_complete and roster.root != root_of(config, roster.peers):
        raise ProtocolError("the root of the roster is not that of its advertisements")
    if config.reveals:
        _require_committee(config, roster.root, {c: proven for c, (proven, _) in roster.committee.items()})
        for client, (proven, revealed) in roster.committee.items():
            require_reveal(config, roster.root, client, proven.advertisement, revealed)
    nonces = b"".join(revealed.nonce for _, revealed in roster.committee.values())
    return graph.seed(config, roster.root, nonces)


def root_of(config: Config, peers: Mapping[int, Proven]) -> bytes:
    """The root of exactly these advertisements."""
    rows = {client: proven.advertisement.to_bytes() for client, proven in peers.items()}
    return merkle.Tree([rows.get(client, b"") for client in config.ids]).root


def require_reveal(
    config: Config, root: bytes, client: int, advertisement: Advertisement, revealed: Reveal
) -> None:
    """The nonce is the one that was committed to, and its owner saw this root before."""
    if keys.nonce_commitment(config.h0, client, revealed.nonce) != advertisement.commitment:
        raise ProtocolError(f"client {client} revealed another nonce than it had committed to")
    text = keys.reveal_text(config.h0, root, client, revealed.nonce)
    if not keys.is_signed(config.participants[client], text, revealed.signature):
        raise ProtocolError(f"the nonce of client {client} is not signed by it for this root")


def _require_peers(me: Me, roster: Roster, neighbors: Collection[int]) -> None:
    _require_members("roster", roster.peers, {*neighbors, me.client_id})
    _require_threshold(me.config, "neighbors advertised keys", len(roster.peers) - 1)
    for client, proven in roster.peers.items():
        _require_authentic(me.config, roster.root, client, proven)


def _acceptable_survivors(me: Me, state: Uploaded, body: bytes) -> tuple[int, ...]:
    """[SPEC 8.1], without which the server could ask for both kinds of share about one peer."""
    survivors = set(messages.decode_set(me.config, body))
    if me.client_id not in survivors:
        raise ProtocolError("the survivors leave out this client, which uploaded")
    if len(survivors) < me.config.parameters.min_survivors:
        raise AggregationAborted(
            f"{len(survivors)} clients survive, at least {me.config.parameters.min_survivors} must"
        )
    surviving = survivors.intersection(state.neighbors)
    for peer in surviving.difference(state.self_mask_shares):
        raise ProtocolError(f"the survivors name client {peer}, which shared nothing with this one")
    _require_threshold(me.config, "neighbors survive", len(surviving))
    return tuple(sorted(survivors))


def _require_quorum(me: Me, state: Uploaded, body: bytes) -> None:
    """[SPEC 9.1]: T members of the set that this client signed have signed it, too."""
    config = me.config
    signatures = messages.decode_quorum(config, body)
    _require_members("quorum", signatures, state.survivors)
    if len(signatures) < config.parameters.min_survivors:
        raise AggregationAborted(
            f"{len(signatures)} survivors signed, at least {config.parameters.min_survivors} must"
        )
    text = keys.agree_text(me.h1(state), state.root, messages.encode_set(config, state.survivors))
    for client, signature in signatures.items():
        if not keys.is_signed(config.participants[client], text, signature):
            raise ProtocolError(f"client {client} did not sign the survivors that this client signed")


def _require_members(what: str, given: Collection[int], allowed: Collection[int]) -> None:
    if foreign := set(given).difference(allowed):
        raise ProtocolError(f"the {what} names client {min(foreign)}, which does not belong there")


def _require_threshold(config: Config, did: str, count: int) -> None:
    if count < config.parameters.threshold:
        raise AggregationAborted(f"{count} {did}, the threshold is {config.parameters.threshold}")


# --- sealing and opening ---


def _seal_shares(me: Me, state: Advertised, shared: Shared) -> dict[int, SealedPair]:
    """What goes to each peer; what masks towards it and will open its shares goes into the new state."""
    sealing, masks = KeyPair(state.sealing), KeyPair(state.masking)
    with (
        wiping(_split(me, shared.self_mask)) as self_mask_shares,
        wiping(_split(me, state.masking)) as mask_key_shares,
    ):
        sealed = {}
        for x, peer in enumerate(shared.neighbors, start=1):
            if peer in shared.mask_keys:
                shares = (self_mask_shares[x], mask_key_shares[x])
                sealed[peer], shared.opening[peer] = _seal(me, sealing, shared, shares, peer)
                # Already here, so that the upload need not wait for it.
                shared.agreed[peer] = masks.agree(Party(peer, shared.mask_keys[peer]))
        return sealed


def _split(me: Me, secret: bytearray) -> dict[int, bytearray]:
    p = me.config.parameters
    return shamir.split(secret, p.threshold, p.num_neighbors, insecure_randomness=me.randomness)


def _seal(
    me: Me, pair: KeyPair, shared: Shared, shares: tuple[bytearray, bytearray], peer: int
) -> tuple[SealedPair, bytearray]:
    """A pair of shares for a peer, and the key that will open its pair for us."""
    own, other = (Party(client, shared.sealing_keys[client]) for client in (me.client_id, peer))
    commitments = _commitments(shared.binding, me.client_id, peer, shares)
    with (
        wiping(pair.agree(other)) as agreed,
        wiping(keys.sealing_key(agreed, shared.binding, own, other)) as key,
        wiping(shares[0] + shares[1]) as joined,
    ):
        sealed = keys.seal(key, shared.binding, joined, commitments, own, other)
        return SealedPair(commitments, sealed), keys.sealing_key(agreed, shared.binding, other, own)


def _open(me: Me, state: Shared, peer: int, pair: SealedPair) -> tuple[bytearray, bytearray]:
    own, sender = (Party(client, state.sealing_keys[client]) for client in (me.client_id, peer))
    opening = state.opening[peer]
    with wiping(keys.unseal(opening, state.binding, pair.sealed, pair.commitments, sender, own)) as joined:
        shares = joined[:KEY_BYTES], joined[KEY_BYTES:]
        with wiping_on_error(list(shares)):
            if _commitments(state.binding, peer, me.client_id, shares) != pair.commitments:
                raise ProtocolError(f"client {peer} dealt this client shares that it did not commit to")
            return shares


def _copies(shares: Mapping[int, bytearray]) -> dict[int, bytearray]:
    return {peer: bytearray(one) for peer, one in shares.items()}


def _commitments(bound: bytes, dealer: int, holder: int, shares: tuple[bytearray, bytearray]) -> bytes:
    self_mask_share, mask_key_share = shares
    return keys.share_commitment(
        bound, ShareOf.SELF_MASK, dealer, holder, self_mask_share
    ) + keys.share_commitment(bound, ShareOf.MASK_KEY, dealer, holder, mask_key_share)
