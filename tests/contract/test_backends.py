"""One suite over every backend that this CPU can run: each gives the bytes of RFC 8439 and of the twins."""

import json
from pathlib import Path

import numpy as np
import pytest
from reference import masks_reference

from fedsec import _kernels

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "chacha20_rfc8439.json").read_text())["vectors"]

pytestmark = pytest.mark.parametrize("backend", _kernels.backends(), ids=lambda backend: backend.name)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_rfc8439_blocks(backend, vector):
    key, nonce = bytes.fromhex(vector["key"]), bytes.fromhex(vector["nonce"])
    stream = _kernels.chacha20(key, nonce, vector["counter"], 1, backend)
    assert stream.hex() == vector["keystream"]


@pytest.mark.parametrize("n_blocks", [0, 1, 3, 4, 5, 63, 64, 65, 130])
def test_keystream_equals_openssl_and_is_seekable(backend, n_blocks):
    key, nonce = bytes(range(32)), bytes(range(12))
    expected = masks_reference.keystream(key, nonce, 7, 64 * n_blocks)
    assert _kernels.chacha20(key, nonce, 7, n_blocks, backend) == expected
    for block in range(n_blocks):
        assert _kernels.chacha20(key, nonce, 7 + block, 1, backend) == expected[64 * block : 64 * block + 64]


@pytest.mark.parametrize("lane", _kernels.LANES)
def test_masked_sum_equals_the_twin(backend, lane):
    rng = np.random.default_rng(lane)
    for length in [0, 1, 15, 16, 17, 33, 1023, 2049, 2600]:
        modulus_bits = int(rng.integers(1, lane + 1))
        offset = int(rng.integers(0, 3000))
        n_seeds = int(rng.integers(0, 6))
        seeds = rng.integers(0, 256, (n_seeds, 32), dtype=np.uint8)
        signs = rng.choice(np.array([-1, 1], np.int8), n_seeds)
        out = rng.integers(0, 2**modulus_bits, length, dtype=np.uint64).astype(f"uint{lane}")
        expected = masks_reference.accumulate(
            out.tolist(), [seed.tobytes() for seed in seeds], signs.tolist(), lane, modulus_bits, offset
        )
        _kernels.masked_sum(out, seeds, signs, modulus_bits, offset, backend)
        assert out.tolist() == expected


def test_the_last_words_of_a_seed_are_reachable(backend):
    """The block counter's end: the last element of the keystream, and the one before its last block."""
    for lane in _kernels.LANES:
        size = lane // 8
        last = _kernels.KEYSTREAM_BYTES // size - 1
        out = np.zeros(1, f"uint{lane}")
        seeds = np.arange(32, dtype=np.uint8)[np.newaxis]
        _kernels.masked_sum(out, seeds, np.ones(1, np.int8), lane, last, backend)
        block = masks_reference.keystream(seeds.tobytes(), bytes(12), 2**32 - 1, 64)
        assert int(out[0]) == int.from_bytes(block[-size:], "little")
