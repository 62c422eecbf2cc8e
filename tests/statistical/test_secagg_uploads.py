"""What the server sees of a vector is uniform: chi-square over the bytes of uploads, keys fixed.

256 cells, 255 degrees of freedom; the statistic is above 380 with probability below 1e-6, so five looks
give a false alarm in fewer than 1 of 100,000 choices of the fixed keys.
"""

import numpy as np
import pytest
from protocol.secagg_loop import HEADER, Loop, explicit_randomness

from fedsec.secagg import keys, masking, messages, ring
from fedsec.secagg.keys import Party

LIMIT = 380.0
LENGTH = 100_000


def chi_square(body):
    counts = np.bincount(np.frombuffer(body, np.uint8), minlength=256)
    expected = len(body) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def uploads(modulus_bits, length=LENGTH):
    """A session with small vectors of one value; the uploads' bodies."""
    loop = Loop(3, length, threshold=2, modulus_bits=modulus_bits)
    loop.vectors = {i: np.full(length, i) for i in loop.ids}
    loop.until("upload")
    return loop, {i: loop.answer(i)[HEADER:] for i in loop.ids}


@pytest.mark.parametrize("modulus_bits", [8, 16, 24, 32, 64])
def test_uploads_are_uniform(modulus_bits):
    _, seen = uploads(modulus_bits)
    assert max(chi_square(body) for body in seen.values()) < LIMIT


def test_an_upload_less_all_that_the_server_knows_is_uniform_still():
    """The server knows the other vectors, say, and even their pairwise masks: the self mask stays."""
    loop, seen = uploads(32)
    upload = ring.unpack(seen[10], LENGTH, 32)
    binding = keys.bind(loop.config, messages.encode_roster(loop.server._collected.roster))
    one = Party(10, loop.server._collected.roster[10].masking)
    terms = []
    for peer in (20, 30):
        other = Party(peer, loop.server._collected.roster[peer].masking)
        secret = explicit_draws(peer)[32:64]
        terms.append(masking.pair_term(binding, secret, other, one, uploader=one))
    masking.subtract(loop.config, upload, terms)
    assert chi_square(ring.pack(upload, 32)) < LIMIT
    assert not np.array_equal(upload, loop.vectors[10])


def test_negative_control_with_the_self_mask_off_too_the_vector_shows():
    loop, seen = uploads(32)
    upload = ring.unpack(seen[10], LENGTH, 32)
    binding = keys.bind(loop.config, messages.encode_roster(loop.server._collected.roster))
    one = Party(10, loop.server._collected.roster[10].masking)
    peers = [Party(peer, loop.server._collected.roster[peer].masking) for peer in (20, 30)]
    drawn = explicit_draws(10)
    terms = [masking.Term(keys.self_seed(binding, drawn[64:96], one), 1)]
    terms += [masking.pair_term(binding, drawn[32:64], one, peer, uploader=one) for peer in peers]
    masking.subtract(loop.config, upload, terms)
    assert np.array_equal(upload, loop.vectors[10])
    assert chi_square(ring.pack(upload, 32)) > 1000 * LIMIT


def test_negative_control_masks_that_miss_one_residue_are_noticed():
    """The generator elsewhere that never gives the top residue."""
    _, seen = uploads(8, 4 * LENGTH)
    body = np.frombuffer(seen[10], np.uint8)
    assert chi_square(body[body != 255].tobytes()) > LIMIT


def explicit_draws(client):
    """The sealing key, the mask key and the self mask of a client of the loop."""
    return explicit_randomness(f"{b's'} {client}")(96)
