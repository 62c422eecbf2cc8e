"""The key schedule: every input counts, no two purposes meet, unusable keys are refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.errors import ProtocolError
from fedsec.secagg import keys
from fedsec.secagg.keys import KeyPair, Party

PAIRS = {i: KeyPair(bytes([i]) * 32) for i in (1, 2, 3)}
PARTIES = {i: Party(i, pair.public) for i, pair in PAIRS.items()}
H1 = b"h" * 32
SHARED = b"s" * 32
COMMITMENTS = b"c" * 64

# The points of small order, on the curve and on its twist, non-canonical ones too [cr.yp.to/ecdh.html].
SMALL_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


def test_both_ends_agree_on_the_pair_seed():
    one, other = PARTIES[1], PARTIES[2]
    seed = keys.pair_seed(PAIRS[1].agree(other), H1, one, other)
    assert seed == keys.pair_seed(PAIRS[2].agree(one), H1, other, one)
    assert seed != keys.pair_seed(PAIRS[1].agree(PARTIES[3]), H1, one, PARTIES[3])


def test_every_input_of_a_derivation_counts():
    """Change one input, change the key: salt, ids, order, public keys, secret, purpose [SPEC 6.2, 7.3]."""
    one, other = PARTIES[1], PARTIES[2]
    derived = [
        keys.sealing_key(SHARED, H1, one, other),
        keys.sealing_key(SHARED, H1, other, one),
        keys.sealing_key(SHARED, b"i" * 32, one, other),
        keys.sealing_key(b"t" * 32, H1, one, other),
        keys.sealing_key(SHARED, H1, Party(5, one.public_key), other),
        keys.sealing_key(SHARED, H1, one, Party(5, other.public_key)),
        keys.sealing_key(SHARED, H1, Party(1, b"p" * 32), other),
        keys.sealing_key(SHARED, H1, one, Party(2, b"p" * 32)),
        keys.self_seed(SHARED, H1, one),
        keys.self_seed(SHARED, H1, other),
        keys.self_seed(SHARED, b"i" * 32, one),
        keys.pair_seed(SHARED, H1, one, other),
        keys.pair_seed(SHARED, b"i" * 32, one, other),
        keys.pair_seed(SHARED, H1, one, PARTIES[3]),
        keys.pair_seed(SHARED, H1, one, one),
    ]
    assert len({bytes(key) for key in derived}) == len(derived)
    assert all(len(key) == 32 for key in derived)


def test_every_input_of_a_hash_counts():
    """[SPEC 5.1, 6.2, 6.4, 6.5, 7.2]"""
    a, b = b"a" * 32, b"b" * 32
    digests = [
        keys.binding(a, b, a),
        keys.binding(b, b, a),
        keys.binding(a, a, a),
        keys.binding(a, b, b),
        keys.session_digest(a, b),
        keys.session_digest(b, a),
        keys.nonce_commitment(a, 1, b),
        keys.nonce_commitment(a, 2, b),
        keys.nonce_commitment(b, 1, b),
        keys.nonce_commitment(a, 1, a),
        keys.mask_commitment(a, 1, b),
        keys.mask_commitment(a, 2, b),
        keys.mask_commitment(b, 1, b),
        *(keys.share_commitment(a, *row, b) for row in itertools.product((1, 2), (3, 4), (5, 6))),
        keys.share_commitment(b, 1, 3, 5, b),
        keys.share_commitment(a, 1, 3, 5, a),
    ]
    assert len(set(digests)) == len(digests)


def test_nothing_that_is_signed_can_be_read_in_two_ways():
    """Texts of one purpose have one length, and each purpose another tag."""
    a = b"a" * 32
    texts = [
        keys.advertise_text(a, 1, bytes(96)),
        keys.reveal_text(a, a, 1, a),
        keys.agree_text(a, a, b"any length at all"),
    ]
    tags = [text.split(b"\0")[0] for text in texts]
    assert tags == [b"fedsec secagg 2 advertise", b"fedsec secagg 2 reveal", b"fedsec secagg 2 agree"]
    assert [len(text) - len(t) - 1 for text, t in zip(texts, tags, strict=True)] == [132, 100, 96]


def test_copied_public_keys_still_give_another_seed():
    """A client that advertises another's key as its own does not get that client's masks [SPEC 6.2]."""
    copied = Party(3, PARTIES[2].public_key)
    shared = PAIRS[1].agree(copied)
    assert shared == PAIRS[1].agree(PARTIES[2])
    seeds = [keys.pair_seed(shared, H1, PARTIES[1], peer) for peer in (PARTIES[2], copied)]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize("public", SMALL_ORDER, ids=range(len(SMALL_ORDER)))
def test_keys_of_small_order_are_refused(public):
    with pytest.raises(ProtocolError, match="client 9 advertised a public key of small order"):
        keys.require_usable(Party(9, public))
    with pytest.raises(ProtocolError, match="small order"):
        PAIRS[1].agree(Party(9, public))


@given(st.binary(min_size=32, max_size=32))
def test_generated_keys_are_usable(secret):
    keys.require_usable(Party(1, KeyPair(secret).public))


def test_sealed_shares_open_for_their_receiver_only():
    """[SPEC 6.4]: bound to sender, receiver, binding and commitments."""
    key, pair = bytearray(b"k" * 32), bytes(64)
    sealed = keys.seal(key, H1, pair, COMMITMENTS, PARTIES[1], PARTIES[2])
    assert len(sealed) == 80
    assert keys.unseal(key, H1, sealed, COMMITMENTS, PARTIES[1], PARTIES[2]) == pair
    right = (H1, COMMITMENTS, PARTIES[1], PARTIES[2])
    wrong = ((b"i" * 32,), (b"d" * 64,), tuple(PARTIES.values()), tuple(PARTIES.values()))
    for bound, committed, sender, receiver in itertools.product(
        *((one, *others) for one, others in zip(right, wrong, strict=True))
    ):
        if (bound, committed, sender, receiver) != right:
            with pytest.raises(ProtocolError, match=f"shares of client {sender.client_id}"):
                keys.unseal(key, bound, sealed, committed, sender, receiver)


@pytest.mark.parametrize("position", range(0, 80, 7))
def test_a_changed_ciphertext_is_refused(position):
    key = bytearray(b"k" * 32)
    sealed = bytearray(keys.seal(key, H1, bytes(64), COMMITMENTS, PARTIES[1], PARTIES[2]))
    sealed[position] ^= 1
    with pytest.raises(ProtocolError, match="not authentic"):
        keys.unseal(key, H1, bytes(sealed), COMMITMENTS, PARTIES[1], PARTIES[2])
