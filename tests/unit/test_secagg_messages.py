"""The codec: exact lengths, ascending ids, and a layout that does not move."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsec.errors import InvalidTypeError, ProtocolError
from fedsec.secagg import Config, messages
from fedsec.secagg.messages import Kind, PublicKeys, ShareOf, Unmasking

CONFIG = Config(bytes(32), 0, (1, 2), 3)
IDS = st.integers(0, 2**32 - 1)


def test_the_frame():
    message = messages.frame(Kind.UPLOAD, CONFIG, 0x01020304, b"body")
    assert message == b"\x01\x05\x04\x03\x02\x01" + CONFIG.digest() + b"body"
    assert messages.unframe(message, Kind.UPLOAD, CONFIG, 0x01020304) == b"body"


@pytest.mark.parametrize(
    ("position", "reason"), [(0, "version"), (1, "kind UPLOAD"), (2, "names client"), (37, "configuration")]
)
def test_every_byte_of_the_frame_counts(position, reason):
    message = bytearray(messages.frame(Kind.UPLOAD, CONFIG, 7, b""))
    message[position] ^= 64
    with pytest.raises(ProtocolError, match=reason):
        messages.unframe(bytes(message), Kind.UPLOAD, CONFIG, 7)


@pytest.mark.parametrize("message", [None, "text", 5, [1], memoryview(b"")])
def test_messages_are_bytes(message):
    with pytest.raises(InvalidTypeError, match="message must be bytes"):
        messages.require_bytes(message)


@given(st.dictionaries(IDS, st.binary(min_size=64, max_size=64), max_size=5))
def test_rosters_there_and_back(rows):
    roster = {i: PublicKeys(row[:32], row[32:]) for i, row in rows.items()}
    assert messages.decode_roster(messages.encode_roster(roster)) == roster


@given(
    st.binary(min_size=32, max_size=32), st.dictionaries(IDS, st.binary(min_size=80, max_size=80), max_size=4)
)
def test_shares_and_deliveries_there_and_back(commitment, sealed):
    assert messages.decode_share(messages.encode_share(commitment, sealed)) == (commitment, sealed)
    assert messages.decode_delivery(messages.encode_delivery(sealed)) == sealed


@given(st.sets(IDS, max_size=6))
def test_survivors_there_and_back(ids):
    assert messages.decode_survivors(messages.encode_survivors(ids)) == tuple(sorted(ids))


@given(
    st.dictionaries(
        IDS,
        st.tuples(st.sampled_from(ShareOf), st.binary(min_size=32, max_size=32)).map(lambda p: Unmasking(*p)),
    )
)
def test_unmaskings_there_and_back(shares):
    assert messages.decode_unmask(messages.encode_unmask(shares)) == shares


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(body):
    """And what decodes encodes to the same bytes: there is one encoding."""
    codecs = [
        (messages.decode_advertise, messages.encode_advertise),
        (messages.decode_roster, messages.encode_roster),
        (messages.decode_share, lambda decoded: messages.encode_share(*decoded)),
        (messages.decode_delivery, messages.encode_delivery),
        (messages.decode_survivors, messages.encode_survivors),
        (messages.decode_unmask, messages.encode_unmask),
    ]
    for decode, encode in codecs:
        try:
            decoded = decode(body)
        except ProtocolError:
            continue
        assert encode(decoded) == body


def test_a_count_that_claims_more_than_there_is_allocates_nothing():
    with pytest.raises(ProtocolError, match=f"a table of 65535 rows must take {2 + 65535 * 84} bytes, got 2"):
        messages.decode_delivery(struct.pack("<H", 65535))


@pytest.mark.parametrize("ids", [(1, 1), (2, 1)])
def test_ids_ascend(ids):
    with pytest.raises(ProtocolError, match="ascending"):
        messages.decode_survivors(struct.pack("<HII", 2, *ids))


def test_unknown_kinds_of_share_are_refused():
    with pytest.raises(ProtocolError, match="kind 1 or 2, got 3"):
        messages.decode_unmask(struct.pack("<HIB", 1, 5, 3) + bytes(32))
