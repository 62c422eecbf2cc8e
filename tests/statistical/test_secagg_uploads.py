"""What the server sees of a vector is uniform: chi-square over the bytes of uploads, keys fixed.

256 cells, 255 degrees of freedom; the statistic is above 380 with probability below 1e-6, so nine looks
give a false alarm in fewer than 1 of 100,000 choices of the fixed keys.
"""

import numpy as np
import pytest
from protocol.secagg_loop import HEADER, Loop, explicit_randomness

from fedsec import masks
from fedsec.secagg import keys, masking
from fedsec.secagg.keys import KeyPair, Party

LIMIT = 380.0
LENGTH = 100_000
PREFIX = HEADER + 8  # of an upload, before its elements


def chi_square(body):
    counts = np.bincount(np.frombuffer(body, np.uint8), minlength=256)
    expected = len(body) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def uploads(modulus_bits, length=LENGTH):
    """A session with small vectors of one value; the uploads' bodies."""
    loop = Loop(3, length, modulus_bits=modulus_bits)
    loop.vectors = {i: np.full(length, i % 2 ** (modulus_bits - 1)) for i in loop.ids}
    loop.until("upload")
    return loop, {i: loop.answer(i)[PREFIX:] for i in loop.ids}


@pytest.mark.parametrize("modulus_bits", [1, 8, 12, 16, 17, 32, 33, 64])
def test_uploads_are_uniform(modulus_bits):
    _, seen = uploads(modulus_bits)
    assert max(chi_square(body) for body in seen.values()) < LIMIT


def drawn_by(loop, client):
    """The sealing key, the mask key and the self mask of a client of the loop."""
    return np.split(np.frombuffer(explicit_randomness(f"{loop.config.session_id} {client}")(96), np.uint8), 3)


def without_pair_masks(loop, upload):
    """What remains of client 10's upload for somebody who knows the mask keys of 20 and 30."""
    h1, one = loop.server._h1(), Party(10, loop.server._collected.advertised[10].masking)
    terms = []
    for peer in (20, 30):
        pair = KeyPair(drawn_by(loop, peer)[1].tobytes())
        terms.append(masking.pair_term(h1, pair, Party(peer, pair.public), one, uploader=one))
    return without(loop, upload, terms)


def without(loop, vector, terms):
    with masking.collected(loop.config, terms) as collected:
        collected.subtract(vector)
    return vector


def test_an_upload_less_all_that_the_server_knows_is_uniform_still():
    """The server knows the other vectors, say, and even their pairwise masks: the self mask stays."""
    loop, seen = uploads(32)
    rest = without_pair_masks(loop, masks.unpack(seen[10], LENGTH, 32))
    assert chi_square(masks.pack(rest, 32)) < LIMIT
    assert not np.array_equal(rest, loop.vectors[10])


def test_negative_control_with_the_self_mask_off_too_the_vector_shows():
    loop, seen = uploads(32)
    rest = without_pair_masks(loop, masks.unpack(seen[10], LENGTH, 32))
    owner = Party(10, loop.server._collected.advertised[10].masking)
    seed = keys.self_seed(drawn_by(loop, 10)[2].tobytes(), loop.server._h1(), owner)
    rest = without(loop, rest, [masking.Term(seed, 1)])
    assert np.array_equal(rest, loop.vectors[10])
    assert chi_square(masks.pack(rest, 32)) > 1000 * LIMIT


def test_negative_control_masks_that_miss_one_residue_are_noticed():
    """The generator elsewhere that never gives the top residue."""
    _, seen = uploads(8, 4 * LENGTH)
    body = np.frombuffer(seen[10], np.uint8)
    assert chi_square(body[body != 255].tobytes()) > LIMIT
