"""Shamir sharing: against vectors and a table-driven twin, and the two promises of a threshold."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import shamir_reference

from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.secagg.primitives import shamir

SECRET = bytes(range(100, 132))
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "shamir.json").read_text())["vectors"]


def stream(data):
    """Explicit randomness: the bytes of `data`, in order."""
    unread = iter(data)
    return lambda length: bytes(itertools.islice(unread, length))


def test_multiplication_of_all_pairs_against_log_tables():
    """With t = 2 and a zero secret the share at x is coefficient * x: 255 * 256 products, no x = 0."""
    assert sorted(shamir_reference.EXP) == list(range(1, 256))
    for start in range(0, 256, 32):
        row = bytes(range(start, start + 32))
        shares = shamir.split(bytes(32), 2, 255, insecure_randomness=stream(row))
        for x, share in shares.items():
            assert list(share) == [shamir_reference.multiply(a, x) for a in row]


def test_multiplication_is_the_field_of_the_polynomial():
    """The twin's tables against multiplication by the definition, for all 65,536 pairs."""

    def by_definition(a, b):
        product = 0
        for bit in range(8):
            product ^= (a << bit) * (b >> bit & 1)
        for bit in range(14, 7, -1):
            if product >> bit & 1:
                product ^= 0x11B << (bit - 8)
        return product

    for a, b in itertools.product(range(256), repeat=2):
        assert shamir_reference.multiply(a, b) == by_definition(a, b)


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["valid"]], ids=lambda v: v["name"])
def test_vectors(vector):
    secret, coefficients = bytes.fromhex(vector["secret"]), bytes.fromhex(vector["coefficients"])
    shares = shamir.split(
        secret, vector["threshold"], vector["num_shares"], insecure_randomness=stream(coefficients)
    )
    expected = {int(x): bytes.fromhex(share) for x, share in vector["shares"].items()}
    assert {x: bytes(shares[x]) for x in expected} == expected
    assert shamir.combine(expected, vector["threshold"]) == secret


@pytest.mark.parametrize("vector", [v for v in VECTORS if not v["valid"]], ids=lambda v: v["name"])
def test_negative_vectors(vector):
    shares = {int(x): bytes.fromhex(share) for x, share in vector["shares"].items()}
    with pytest.raises(InvalidArgumentError):
        shamir.combine(shares, vector["threshold"])


@given(st.binary(min_size=32, max_size=32), st.data())
def test_split_and_combine_agree_with_the_twin(secret, data):
    n = data.draw(st.integers(2, 12))
    t = data.draw(st.integers(2, n))
    coefficients = data.draw(st.binary(min_size=32 * (t - 1), max_size=32 * (t - 1)))
    shares = shamir.split(secret, t, n, insecure_randomness=stream(coefficients))
    assert shares == shamir_reference.split(secret, coefficients, t, n)
    chosen = data.draw(st.permutations(sorted(shares)))[:t]
    assert shamir.combine({x: shares[x] for x in chosen}, t) == secret
    assert shamir_reference.combine({x: shares[x] for x in chosen}) == secret


@pytest.mark.parametrize(("t", "n"), [(2, 2), (2, 5), (3, 5), (4, 6), (6, 6)])
def test_every_subset_of_t_reconstructs_in_any_order(t, n):
    shares = shamir.split(SECRET, t, n)
    for chosen in itertools.permutations(shares, t):
        assert shamir.combine({x: shares[x] for x in chosen}, t) == SECRET


def test_all_255_shares():
    shares = shamir.split(SECRET, 200, 255)
    assert list(shares) == list(range(1, 256))
    assert shamir.combine({x: shares[x] for x in range(255, 55, -1)}, 200) == SECRET
    fewer = {x: shares[x] for x in range(1, 200)}
    assert shamir_reference.combine(fewer) != SECRET


@pytest.mark.parametrize("t", [2, 3])
def test_t_minus_1_shares_fit_every_secret_equally(t):
    """All coefficients of one byte for all secrets: what t - 1 holders see has the same law for each."""
    held = range(1, t) if t == 2 else (3, 7)
    if t == 2:
        for secret in range(256):
            seen = {shamir_reference.split(bytes([secret]), bytes([c]), 2, 3)[held[0]] for c in range(256)}
            assert len(seen) == 256
    else:
        for secret in (0, 1, 0x53, 255):
            seen = set()
            for high, low in itertools.product(range(256), repeat=2):
                seen.add(
                    tuple(
                        shamir_reference.multiply(shamir_reference.multiply(high, x) ^ low, x) ^ secret
                        for x in held
                    )
                )
            assert len(seen) == 2**16


def test_one_share_of_two_fits_every_secret_in_the_core():
    """The core itself, all coefficients of one byte position: the share takes every value once."""
    for secret in (0, 1, 0x8D, 255):
        seen = set()
        for start in range(0, 256, 32):
            row = bytes(range(start, start + 32))
            seen |= set(shamir.split(bytes([secret]) * 32, 2, 3, insecure_randomness=stream(row))[3])
        assert seen == set(range(256))


def test_fresh_randomness_every_time():
    assert shamir.split(SECRET, 2, 3) != shamir.split(SECRET, 2, 3)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_secrets_of_another_length_are_refused(secret):
    with pytest.raises(InvalidArgumentError, match="secret must be 32 bytes"):
        shamir.split(secret, 2, 3)


@pytest.mark.parametrize(
    ("threshold", "num_shares", "named"),
    [
        (1, 3, "threshold"),
        (4, 3, "threshold"),
        (0, 3, "threshold"),
        (2, 1, "num_shares"),
        (2, 256, "num_shares"),
    ],
)
def test_thresholds_out_of_range_are_refused(threshold, num_shares, named):
    with pytest.raises(InvalidArgumentError, match=named):
        shamir.split(SECRET, threshold, num_shares)


@pytest.mark.parametrize(("secret", "threshold"), [("0" * 32, 2), (None, 2), (SECRET, 2.0), (SECRET, True)])
def test_wrong_types_are_refused(secret, threshold):
    with pytest.raises(InvalidTypeError):
        shamir.split(secret, threshold, 3)


def test_randomness_that_runs_short_is_refused():
    with pytest.raises(InvalidArgumentError, match="must give 64 bytes, got 63"):
        shamir.split(SECRET, 3, 5, insecure_randomness=stream(bytes(63)))


@pytest.mark.parametrize(
    "shares",
    [
        {1: bytes(32)},
        {0: bytes(32), 1: bytes(32)},
        {1: bytes(32), 256: bytes(32)},
        {1: bytes(32), 2: bytes(31)},
        {-1: bytes(32), 2: bytes(32)},
    ],
)
def test_shares_that_cannot_be_combined_are_refused(shares):
    with pytest.raises(InvalidArgumentError):
        shamir.combine(shares, 2)


def test_a_wrong_share_gives_another_secret():
    shares = shamir.split(SECRET, 3, 5)
    shares[2][7] ^= 1
    assert shamir.combine(shares, 3) != SECRET


@pytest.mark.parametrize(("t", "n"), [(60, 100), (255, 255)])
def test_large_sharings_agree_with_the_twin(t, n):
    coefficients = bytes((7 * i + i // 256) % 256 for i in range(32 * (t - 1)))
    shares = shamir.split(SECRET, t, n, insecure_randomness=stream(coefficients))
    for x in (1, 2, 99, n):
        value = bytes(32)
        rows = [coefficients[i : i + 32] for i in range(0, len(coefficients), 32)]
        for row in [*rows, SECRET]:  # Horner's rule
            value = bytes(shamir_reference.multiply(v, x) ^ c for v, c in zip(value, row, strict=True))
        assert shares[x] == value
    chosen = {x: shares[x] for x in list(shares)[n - t :]}
    assert shamir.combine(chosen, t) == shamir_reference.combine(chosen) == SECRET
