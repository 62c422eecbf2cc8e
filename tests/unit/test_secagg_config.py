"""Config: what it refuses, that its bytes are canonical, and whose keys it takes."""

import dataclasses
import itertools

import numpy as np
import pytest
from protocol.secagg_loop import MODEL, SPARSE, complete, config_of, identity_of, ids_of

from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.secagg import Config, Policy, Quantizer, aggregate

KEYS = {i: identity_of(i).public_key for i in (10, 20, 30)}
GOOD = {
    "session_id": bytes(range(32)),
    "round_id": 7,
    "participants": KEYS,
    "vector_length": 5,
    "parameters": complete(3, lost=0),
}


def config(**changes):
    return Config(**GOOD | changes)


def strangers(ids):
    """Ids alone, for the profile without identities."""
    return {"participants": ids, "profile": "semi_honest"}


def test_participants_are_kept_ascending_whatever_their_order():
    backwards = dict(reversed(KEYS.items()))
    assert config(participants=backwards).ids == (10, 20, 30)
    assert config(participants=backwards).participants == KEYS
    assert config(participants=backwards).to_bytes() == config().to_bytes()
    assert config(**strangers(iter([20, 30, 10]))).ids == (10, 20, 30)
    assert [config().position(i) for i in (10, 20, 30)] == [0, 1, 2]


def test_what_follows_from_profile_and_graph():
    """[SPEC 1.5, 5]: who signs, who reveals, who agrees."""
    seen = {}
    for graph, parameters in (("complete", complete(10)), ("sparse", SPARSE)):
        for profile in ("authenticated", "semi_honest"):
            one = config_of(parameters, profile=profile)
            seen[graph, profile] = (one.is_complete, one.authenticated, one.reveals, one.agrees)
    assert seen == {
        ("complete", "authenticated"): (True, True, False, True),
        ("complete", "semi_honest"): (True, False, False, False),
        ("sparse", "authenticated"): (False, True, True, True),
        ("sparse", "semi_honest"): (False, False, False, False),
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"session_id": bytes(31)}, "session_id must be 32 bytes, got 31"),
        ({"round_id": -1}, "round_id"),
        ({"round_id": 2**64}, "round_id"),
        ({"participants": {}}, "parameters must be for the 0 participants, got num_clients=3"),
        ({"participants": {10: KEYS[10]}}, "parameters must be for the 1 participants"),
        ({"participants": KEYS | {-2: bytes(32)}}, "participant must be in"),
        ({"participants": KEYS | {2**32: bytes(32)}}, "participant must be in"),
        ({"participants": KEYS | {20: bytes(31)}}, "key of client 20 must be 32 bytes, got 31"),
        ({"participants": KEYS | {20: KEYS[10]}}, "distinct keys"),
        (strangers([1, 2, 2]), "distinct, got 2 twice"),
        ({"parameters": complete(4)}, "for the 3 participants, got num_clients=4"),
        ({"vector_length": 0}, "vector_length"),
        ({"vector_length": 2**32}, "vector_length"),
        ({"modulus_bits": 0}, "modulus_bits"),
        ({"modulus_bits": 65}, "modulus_bits"),
        ({"prg": "mt19937"}, "prg must be one of chacha20.*, got 'mt19937'"),
        ({"model_digest": bytes(31)}, "model_digest must be 32 bytes, got 31"),
        ({"profile": "trusting"}, "profile must be one of semi_honest, authenticated"),
        ({"quantizer": Quantizer(1.0, 100.0, 3), "modulus_bits": 8}, "at least the 10 of the quantizer"),
        ({"quantizer": Quantizer(1.0, 100.0, 2)}, r"for at least the 3 participants, .*, got num_clients=2"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes, named):
    with pytest.raises(InvalidArgumentError, match=named):
        config(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"session_id": "x" * 32},
        {"session_id": None},
        {"round_id": 1.0},
        {"round_id": True},
        {"participants": 3},
        {"participants": [1, 2, 3]},
        {"participants": KEYS | {"40": bytes(32)}},
        {"participants": KEYS | {20: "k" * 32}},
        strangers(3),
        strangers([1.0, 2.0, 3.0]),
        {"vector_length": 5.0},
        {"parameters": 2},
        {"parameters": None},
        {"model_digest": "m" * 32},
        {"quantizer": 0.5},
    ],
)
def test_wrong_types_are_refused(changes):
    with pytest.raises(InvalidTypeError):
        config(**changes)


@pytest.mark.parametrize(
    "one",
    [
        config(),
        config(model_digest=MODEL),
        config(modulus_bits=64, round_id=2**64 - 1, quantizer=Quantizer(2.0**-20, 8.0, 3)),
        config_of(SPARSE),
        config_of(SPARSE, profile="semi_honest"),
        config_of(complete(255)),
    ],
    ids=str,
)
def test_bytes_there_and_back(one):
    """[SPEC 3.1, 3.6]"""
    back = Config.from_bytes(one.to_bytes(), one.participants)
    assert back == one
    assert back.h0 == one.h0


def test_every_parameter_but_the_model_is_in_the_digest():
    """[SPEC 3.2]"""
    changes = [
        {},
        {"session_id": bytes(32)},
        {"round_id": 8},
        {"participants": {31 if i == 30 else i: key for i, key in KEYS.items()}},
        {"participants": KEYS | {30: identity_of(40).public_key}},
        {"vector_length": 6},
        {"modulus_bits": 33},
        {"parameters": complete(3, lost=0, corrupt=0)},
        {"quantizer": Quantizer(1.0, 100.0, 3)},
        {"quantizer": Quantizer(1.0, 101.0, 3)},
        {"quantizer": Quantizer(2.0, 100.0, 3)},
        {"quantizer": Quantizer(1.0, 100.0, 4)},
        strangers((10, 20, 30)),
    ]
    assert len({config(**change).h0 for change in changes}) == len(changes)
    named = {name for change in changes for name in change}
    # There is one generator so far.
    assert named == {field.name for field in dataclasses.fields(Config)} - {"model_digest", "prg"}
    assert config(model_digest=MODEL).h0 == config().with_model(bytes(32)).h0 == config().h0


def test_bytes_that_are_not_canonical_are_refused():
    good = config().to_bytes()
    first = len(good) - 1 - 3 * 36
    rows = [good[first + 36 * i : first + 36 * (i + 1)] for i in range(3)]
    bad = [
        b"",
        good[:-1],
        good + b"\0",
        good[:48],
        b"\x01" + good[1:],  # version
        good[:1] + b"\x02" + good[2:],  # profile
        good[:47] + b"\x09" + good[48:],  # generator
        good[:first] + rows[1] + rows[0] + rows[2] + b"\0",
        good[:first] + rows[0] + rows[0] + rows[2] + b"\0",
        good[:-1] + b"\x01",
        good[:-1] + b"\x02" + MODEL,
        good[:-1] + b"\x00" + MODEL,
    ]
    for data in bad:
        with pytest.raises(InvalidArgumentError):
            Config.from_bytes(data, KEYS)


@pytest.mark.parametrize("one", [config(model_digest=MODEL), config_of(SPARSE)], ids=["complete", "sparse"])
def test_any_bit_of_the_bytes_makes_another_configuration_or_none(one):
    """[SPEC 2.1, 3.1]: refused by name, or something else that is canonical, too."""
    good = one.to_bytes()
    for position, bit in itertools.product(range(len(good)), range(8)):
        changed = bytearray(good)
        changed[position] ^= 1 << bit
        try:
            other = Config.from_bytes(bytes(changed), one.participants)
        except InvalidArgumentError:
            continue
        assert other != one
        assert other.to_bytes() == changed


def test_keys_that_are_not_in_the_trust_store_are_refused():
    """[SPEC 3.3]: verification keys never come from the server."""
    data = config().to_bytes()
    others = {
        "unknown": {i: KEYS[i] for i in (10, 20)},
        "another": KEYS | {30: identity_of(40).public_key},
        "nobody": {},
    }
    for store in others.values():
        with pytest.raises(InvalidArgumentError, match="is not the one of the trust store"):
            Config.from_bytes(data, store)
    assert Config.from_bytes(data, KEYS | {50: identity_of(50).public_key}) == config()


@pytest.mark.parametrize("store", [None, [10, 20, 30], "all"])
def test_without_a_trust_store_no_identities_are_taken(store):
    with pytest.raises(InvalidTypeError, match="trust store"):
        Config.from_bytes(config().to_bytes(), store)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().vector_length = 2
    assert dataclasses.replace(config(), round_id=9) == config(round_id=9)


@pytest.mark.parametrize("data", [None, 123, "config", [1]])
def test_only_bytes_are_decoded(data):
    with pytest.raises(InvalidTypeError, match="must be bytes"):
        Config.from_bytes(data, KEYS)


@pytest.mark.parametrize(
    ("policy", "named"),
    [((-1, 3), "max_corrupt"), ((0, 2), "min_survivors"), ((0, 3, 0), "privacy_bits")],
)
def test_policies_out_of_range_are_refused_by_name(policy, named):
    with pytest.raises(InvalidArgumentError, match=named):
        Policy(*policy)


def test_dropped_must_be_a_mapping():
    vectors = dict.fromkeys(ids_of(3), np.arange(2))
    with pytest.raises(InvalidTypeError, match="mapping"):
        aggregate(vectors, dropped=[1])
