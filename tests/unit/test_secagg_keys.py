"""The key schedule: every input counts, no two purposes meet, unusable keys are refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.errors import ProtocolError
from fedsec.secagg import Config, keys
from fedsec.secagg.keys import Party

CONFIG = Config(bytes(32), 3, (1, 2, 3), 4)
SECRETS = {i: bytes([i]) * 32 for i in (1, 2, 3)}
PARTIES = {i: Party(i, keys.public_key(secret)) for i, secret in SECRETS.items()}
BINDING = keys.bind(CONFIG, b"roster")
SHARED = b"s" * 32

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
    one = keys.pair_seed(BINDING, SECRETS[1], PARTIES[1], PARTIES[2])
    assert one == keys.pair_seed(BINDING, SECRETS[2], PARTIES[2], PARTIES[1])
    assert one != keys.pair_seed(BINDING, SECRETS[1], PARTIES[1], PARTIES[3])


def test_every_input_of_a_derivation_counts():
    """Change one input, change the key: session, round, roster, ids, order, public keys, purpose."""
    one, other = PARTIES[1], PARTIES[2]
    bindings = [
        BINDING,
        keys.bind(Config(b"x" * 32, 3, (1, 2, 3), 4), b"roster"),
        keys.bind(Config(bytes(32), 4, (1, 2, 3), 4), b"roster"),
        keys.bind(Config(bytes(32), 3, (1, 2, 3), 5), b"roster"),
        keys.bind(CONFIG, b"another roster"),
    ]
    derived = [keys.sealing_key(binding, SHARED, one, other) for binding in bindings]
    derived += [
        keys.sealing_key(BINDING, SHARED, other, one),
        keys.sealing_key(BINDING, SHARED, Party(5, one.public_key), other),
        keys.sealing_key(BINDING, SHARED, one, Party(5, other.public_key)),
        keys.sealing_key(BINDING, SHARED, Party(1, b"p" * 32), other),
        keys.sealing_key(BINDING, SHARED, one, Party(2, b"p" * 32)),
        keys.sealing_key(BINDING, b"t" * 32, one, other),
        keys.self_seed(BINDING, SHARED, one),
        keys.self_seed(BINDING, SHARED, other),
        keys.pair_seed(BINDING, SECRETS[1], one, other),
        keys.sealing_key(BINDING, keys.agree(SECRETS[1], other), one, other),
        keys.commitment(BINDING, SHARED, one),
        keys.commitment(BINDING, b"t" * 32, one),
        keys.commitment(bindings[1], SHARED, one),
    ]
    assert len({bytes(key) for key in derived}) == len(derived)
    assert all(len(key) == 32 for key in derived)


def test_copied_public_keys_still_give_another_seed():
    """A client that advertises another's key as its own does not get that client's masks."""
    copied = Party(3, PARTIES[2].public_key)
    assert keys.pair_seed(BINDING, SECRETS[1], PARTIES[1], PARTIES[2]) != keys.pair_seed(
        BINDING, SECRETS[1], PARTIES[1], copied
    )


@pytest.mark.parametrize("public", SMALL_ORDER, ids=range(len(SMALL_ORDER)))
def test_keys_of_small_order_are_refused(public):
    with pytest.raises(ProtocolError, match="client 9 advertised a public key of small order"):
        keys.require_usable(Party(9, public))
    with pytest.raises(ProtocolError, match="small order"):
        keys.pair_seed(BINDING, SECRETS[1], PARTIES[1], Party(9, public))


@given(st.binary(min_size=32, max_size=32))
def test_generated_keys_are_usable(secret):
    keys.require_usable(Party(1, keys.public_key(secret)))


def test_sealed_shares_open_for_their_receiver_only():
    key, pair = bytearray(b"k" * 32), bytes(64)
    sealed = keys.seal(BINDING, key, pair, PARTIES[1], PARTIES[2])
    assert len(sealed) == 80
    assert keys.unseal(BINDING, key, sealed, PARTIES[1], PARTIES[2]) == pair
    other = keys.bind(CONFIG, b"another roster")
    for binding, sender, receiver in itertools.product((BINDING, other), PARTIES.values(), PARTIES.values()):
        if (binding, sender, receiver) != (BINDING, PARTIES[1], PARTIES[2]):
            with pytest.raises(ProtocolError, match=f"shares of client {sender.client_id}"):
                keys.unseal(binding, key, sealed, sender, receiver)


@pytest.mark.parametrize("position", range(0, 80, 7))
def test_a_changed_ciphertext_is_refused(position):
    key = bytearray(b"k" * 32)
    sealed = bytearray(keys.seal(BINDING, key, bytes(64), PARTIES[1], PARTIES[2]))
    sealed[position] ^= 1
    with pytest.raises(ProtocolError, match="not authentic"):
        keys.unseal(BINDING, key, bytes(sealed), PARTIES[1], PARTIES[2])
