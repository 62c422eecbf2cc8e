"""Config: what it refuses, and that its bytes are canonical."""

import dataclasses

import numpy as np
import pytest

from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.secagg import Config, aggregate

GOOD = {"session_id": bytes(range(32)), "round_id": 7, "participants": [30, 10, 20], "vector_length": 5}


def config(**changes):
    return Config(**GOOD | changes)


def test_participants_are_kept_ascending_whatever_their_order():
    assert config().participants == (10, 20, 30)
    assert config() == config(participants=(10, 20, 30)) == config(participants=iter([20, 30, 10]))
    assert config().digest() == config(participants=(10, 20, 30)).digest()
    assert [config().abscissa(i) for i in (10, 20, 30)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("n", "threshold"), [(2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (10, 7), (100, 67), (255, 171)]
)
def test_default_threshold(n, threshold):
    assert config(participants=range(n)).threshold == threshold
    assert 2 * threshold > n


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"session_id": bytes(31)}, "session_id must be 32 bytes, got 31"),
        ({"round_id": -1}, "round_id"),
        ({"round_id": 2**64}, "round_id"),
        ({"participants": []}, "number of participants must be in"),
        ({"participants": [4]}, "number of participants must be in"),
        ({"participants": range(256)}, r"number of participants must be in \[2, 255\], got 256"),
        ({"participants": [1, 2, 2]}, "distinct, got 2 twice"),
        ({"participants": [1, -2]}, "participant must be in"),
        ({"participants": [1, 2**32]}, "participant must be in"),
        ({"vector_length": 0}, "vector_length"),
        ({"vector_length": 2**32}, "vector_length"),
        ({"modulus_bits": 0}, "modulus_bits"),
        ({"modulus_bits": 65}, "modulus_bits"),
        ({"threshold": 1}, r"threshold of 3 clients must be in \[2, 3\], got 1"),
        ({"threshold": 4}, "threshold of 3 clients"),
        ({"participants": range(10), "threshold": 5}, r"threshold of 10 clients must be in \[6, 10\], got 5"),
        ({"prg": "mt19937"}, "prg must be one of chacha20, got 'mt19937'"),
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
        {"participants": [1, "2"]},
        {"participants": [1.0, 2.0]},
        {"vector_length": 5.0},
        {"threshold": 2.5},
    ],
)
def test_wrong_types_are_refused(changes):
    with pytest.raises(InvalidTypeError):
        config(**changes)


def test_bytes_there_and_back():
    for one in (
        config(),
        config(participants=range(255), modulus_bits=64, threshold=200, round_id=2**64 - 1),
    ):
        assert Config.from_bytes(one.to_bytes()) == one
        assert Config.from_bytes(one.to_bytes()).digest() == one.digest()


def test_every_parameter_is_in_the_digest():
    changes = [
        {},
        {"session_id": bytes(32)},
        {"round_id": 8},
        {"participants": [10, 20, 31]},
        {"vector_length": 6},
        {"modulus_bits": 33},
        {"threshold": 2},
    ]
    assert len({config(**change).digest() for change in changes}) == len(changes)
    named = {name for change in changes for name in change}
    assert named == {field.name for field in dataclasses.fields(Config)} - {"prg"}  # there is one generator


def test_bytes_that_are_not_canonical_are_refused():
    good = config().to_bytes()
    for position in (0, 47):  # version, generator
        with pytest.raises(InvalidArgumentError):
            Config.from_bytes(good[:position] + b"\x09" + good[position + 1 :])
    swapped = good[:49] + good[53:57] + good[49:53] + good[57:]
    for bad in (b"", good[:-1], good + b"\0", good[:48], swapped):
        with pytest.raises(InvalidArgumentError):
            Config.from_bytes(bad)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().threshold = 2
    assert dataclasses.replace(config(), round_id=9) == config(round_id=9)


@pytest.mark.parametrize("data", [None, 123, "config", [1]])
def test_only_bytes_are_decoded(data):
    with pytest.raises(InvalidTypeError, match="must be bytes"):
        Config.from_bytes(data)


def test_dropped_must_be_a_mapping():
    vectors = {client: np.arange(2) for client in range(3)}
    with pytest.raises(InvalidTypeError, match="mapping"):
        aggregate(vectors, dropped=[1])
