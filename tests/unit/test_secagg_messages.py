"""The codec: exact lengths, ascending ids, and a layout that does not move."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol.secagg_loop import SPARSE, complete, config_of

from fedsec.errors import InvalidTypeError, ProtocolError
from fedsec.secagg import messages
from fedsec.secagg.messages import Advertisement, Kind, Proven, Reveal, Roster, SealedPair, ShareOf, Unmasking
from fedsec.secagg.primitives import merkle

DIGEST = bytes(range(32))
COMPLETE, RING = config_of(complete(10)), config_of(SPARSE)
IDS = st.integers(0, 2**32 - 1)
PATH_BYTES = 32 * merkle.depth(10)


def exactly(size):
    return st.binary(min_size=size, max_size=size)


def tables(values):
    return st.dictionaries(IDS, values, max_size=4)


HASHES, SIGNATURES = exactly(32), exactly(64)
ADVERTISEMENTS = st.builds(Advertisement, HASHES, HASHES, HASHES, SIGNATURES)
PAIRS = st.builds(SealedPair, exactly(64), exactly(80))
REVEALS = st.builds(Reveal, HASHES, SIGNATURES)
SETS = st.sets(st.sampled_from(COMPLETE.ids))


def proven(config):
    return st.builds(Proven, ADVERTISEMENTS, exactly(0 if config.is_complete else PATH_BYTES))


def rosters(config):
    committee = tables(st.tuples(proven(config), REVEALS)) if config.reveals else st.just({})
    return st.builds(Roster, HASHES, committee, tables(proven(config)))


def test_the_frame():
    """[SPEC 4.1]"""
    message = messages.frame(Kind.UPLOAD, DIGEST, 0x01020304, b"body")
    assert message == b"\x02\x07\x04\x03\x02\x01" + DIGEST + b"body"
    assert messages.unframe(message, Kind.UPLOAD, DIGEST, 0x01020304) == b"body"


@pytest.mark.parametrize(
    ("position", "reason"),
    [(0, "version"), (1, "kind UPLOAD"), (2, "names client"), (37, "another session, configuration")],
)
def test_every_byte_of_the_frame_counts(position, reason):
    message = bytearray(messages.frame(Kind.UPLOAD, DIGEST, 7, b""))
    message[position] ^= 64
    with pytest.raises(ProtocolError, match=reason):
        messages.unframe(bytes(message), Kind.UPLOAD, DIGEST, 7)


@pytest.mark.parametrize("message", [None, "text", 5, [1], memoryview(b"")])
def test_messages_are_bytes(message):
    with pytest.raises(InvalidTypeError, match="message must be bytes"):
        messages.require_bytes(message)


@given(ADVERTISEMENTS, REVEALS, SIGNATURES)
def test_advertisements_reveals_and_signatures_there_and_back(advertisement, reveal, signature):
    assert messages.decode_advertise(advertisement.to_bytes()) == advertisement
    assert messages.decode_reveal(messages.encode_reveal(reveal)) == reveal
    assert messages.decode_signature(signature) == signature


@given(HASHES, tables(proven(RING)))
def test_committees_there_and_back(root, members):
    assert messages.decode_committee(RING, messages.encode_committee(root, members)) == (root, members)


@pytest.mark.parametrize("config", [COMPLETE, RING], ids=["complete", "sparse"])
@given(data=st.data())
def test_rosters_there_and_back(config, data):
    roster = data.draw(rosters(config))
    assert messages.decode_roster(config, messages.encode_roster(config, roster)) == roster


@given(HASHES, tables(PAIRS))
def test_shares_and_deliveries_there_and_back(commitment, sealed):
    assert messages.decode_share(messages.encode_share(commitment, sealed)) == (commitment, sealed)
    assert messages.decode_delivery(messages.encode_delivery(sealed)) == sealed


@given(st.integers(0, 2**64 - 1), st.binary(max_size=20))
def test_uploads_there_and_back(first, packed):
    assert messages.decode_upload(messages.encode_upload(first, packed)) == (first, packed)


@given(SETS)
def test_sets_there_and_back(members):
    assert messages.decode_set(COMPLETE, messages.encode_set(COMPLETE, members)) == tuple(sorted(members))


@given(st.dictionaries(st.sampled_from(COMPLETE.ids), SIGNATURES))
def test_quorums_there_and_back(signatures):
    assert messages.decode_quorum(COMPLETE, messages.encode_quorum(COMPLETE, signatures)) == signatures


@given(tables(st.builds(Unmasking, st.sampled_from(ShareOf), HASHES)))
def test_unmaskings_there_and_back(shares):
    assert messages.decode_unmask(messages.encode_unmask(shares)) == shares


def codecs(config):
    """Every decoder with its encoder."""
    return [
        (messages.decode_advertise, Advertisement.to_bytes),
        (lambda body: messages.decode_committee(config, body), lambda d: messages.encode_committee(*d)),
        (messages.decode_reveal, messages.encode_reveal),
        (lambda body: messages.decode_roster(config, body), lambda d: messages.encode_roster(config, d)),
        (messages.decode_share, lambda d: messages.encode_share(*d)),
        (messages.decode_delivery, messages.encode_delivery),
        (messages.decode_upload, lambda d: messages.encode_upload(*d)),
        (lambda body: messages.decode_set(config, body), lambda d: messages.encode_set(config, d)),
        (messages.decode_signature, bytes),
        (lambda body: messages.decode_quorum(config, body), lambda d: messages.encode_quorum(config, d)),
        (messages.decode_unmask, messages.encode_unmask),
    ]


def assert_decodes_to_the_same_or_is_refused(body):
    for config in (COMPLETE, RING):
        for decode, encode in codecs(config):
            try:
                decoded = decode(body)
            except ProtocolError:
                continue
            assert encode(decoded) == body


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(body):
    """And what decodes encodes to the same bytes: there is one encoding."""
    assert_decodes_to_the_same_or_is_refused(body)


def test_zeros_of_any_length_decode_or_are_refused():
    """Empty tables and sets are most of what short bodies can be."""
    for length in range(300):
        assert_decodes_to_the_same_or_is_refused(bytes(length))


@pytest.mark.parametrize(
    "decode",
    [
        messages.decode_delivery,
        messages.decode_unmask,
        lambda body: messages.decode_roster(COMPLETE, bytes(32) + body),
        lambda body: messages.decode_committee(RING, bytes(32) + body),
    ],
)
def test_a_count_that_claims_more_than_there_is_allocates_nothing(decode):
    """[SPEC 2.1]"""
    with pytest.raises(ProtocolError, match=r"must take at least \d{7,} bytes, got \d\d?$"):
        decode(struct.pack("<H", 65535))


@pytest.mark.parametrize("ids", [(1, 1), (2, 1)])
def test_ids_ascend(ids):
    """[SPEC 2]: so nobody is in a table twice."""
    rows = b"".join(struct.pack("<IB", i, 1) + bytes(32) for i in ids)
    with pytest.raises(ProtocolError, match="ascending"):
        messages.decode_unmask(struct.pack("<H", 2) + rows)


def test_a_set_has_no_bits_beyond_the_participants():
    """[SPEC 2]"""
    assert messages.decode_set(COMPLETE, b"\xff\x03") == COMPLETE.ids
    for bit in range(10, 16):
        with pytest.raises(ProtocolError, match="no bits beyond the 10 participants"):
            messages.decode_set(COMPLETE, (1 << bit).to_bytes(2, "little"))


@pytest.mark.parametrize("kind", [0, 3, 255])
def test_unknown_kinds_of_share_are_refused(kind):
    with pytest.raises(ProtocolError, match=f"kind 1 or 2, got {kind}"):
        messages.decode_unmask(struct.pack("<HIB", 1, 5, kind) + bytes(32))
