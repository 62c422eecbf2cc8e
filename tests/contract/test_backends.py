"""One suite over every backend of this build: each gives the standards' bytes, the twins' and generic's.

Backends that this CPU cannot run are skipped by name.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from reference import masks_reference

from fedsec import _kernels

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "chacha20_rfc8439.json").read_text())["vectors"]
ABLE = _kernels.backends()
(GENERIC,) = (backend for backend in ABLE if backend.name == "generic")


def named(backend):
    return backend.name


@pytest.fixture(params=_kernels.all_backends(), ids=named)
def backend(request):
    if request.param not in ABLE:
        pytest.skip(f"this CPU cannot run {request.param.name}")
    return request.param


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_rfc8439_blocks(backend, vector):
    key, nonce = bytes.fromhex(vector["key"]), bytes.fromhex(vector["nonce"])
    stream = _kernels.chacha20(key, nonce, vector["counter"], 1, backend)
    assert stream.hex() == vector["keystream"]


@pytest.mark.parametrize("n_blocks", [0, 1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130])
def test_keystream_equals_openssl_and_is_seekable(backend, n_blocks):
    key, nonce = bytes(range(32)), bytes(range(12))
    expected = masks_reference.keystream(key, nonce, 7, 64 * n_blocks)
    assert _kernels.chacha20(key, nonce, 7, n_blocks, backend) == expected
    for block in range(n_blocks):
        assert _kernels.chacha20(key, nonce, 7 + block, 1, backend) == expected[64 * block : 64 * block + 64]


@pytest.mark.parametrize("n_blocks", [0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 100])
def test_the_generator_of_noise_equals_openssl(backend, n_blocks):
    """AES-128 in counter mode, the nonce out of the key and of three numbers; also at the counter's end."""
    key, stream = bytes(range(7, 39)), (1, 2**32 - 1, 0x01020304)
    for block in (0, 5, 2**32 - max(n_blocks, 1)):
        out = np.empty(16 * n_blocks, np.uint8)
        _kernels.noise_keystream(out, key, stream, block, backend)
        assert out.tobytes() == masks_reference.noise_stream(key, stream, block, 16 * n_blocks)


@pytest.mark.parametrize("prg", _kernels.PRGS)
def test_noise_is_not_the_mask_of_the_same_seed(prg):
    """Should a seed ever be used for both. The control: two streams of noise, and the same one twice."""
    seed, streams = np.arange(32, dtype=np.uint8), []
    mask = np.zeros(64, np.uint64)
    _kernels.masked_sum(mask, seed[np.newaxis], np.ones(1, np.int8), 64, prg)
    for stream in [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        streams.append(np.empty(64, np.uint64))
        _kernels.noise_keystream(streams[-1], seed.tobytes(), stream)
    assert np.array_equal(streams[0], streams[1])
    assert len(np.unique([mask, *streams])) == 64 * 5


def test_aes128_counter_mode_of_sp_800_38a(backend):
    """[SP 800-38A, F.5.1]: the seed holds key and nonce, and the offset is the vector's first counter."""
    key, nonce = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"), bytes(range(0xF0, 0xFC))
    blocks = {
        0xFCFDFEFF: "ec8cdf7398607cb0f2d21675ea9ea1e4",
        0xFCFDFF00: "362b7c3c6773516318a077d7fc5073ae",
        0xFCFDFF01: "6a2cc3787889374fbeb4c81b17ba6c44",
        0xFCFDFF02: "e89c399ff0f198c6d40a31db156cabfe",
    }
    seeds = np.frombuffer(key + nonce + bytes(4), np.uint8)[np.newaxis]
    for counter, block in blocks.items():
        out = np.zeros(2, np.uint64)
        _kernels.masked_sum(out, seeds, np.ones(1, np.int8), 64, "aes128ctr", 2 * counter, backend=backend)
        assert out.astype("<u8").tobytes().hex() == block


@pytest.mark.parametrize("prg", _kernels.PRGS)
@pytest.mark.parametrize("lane", _kernels.LANES)
def test_masked_sum_equals_the_twin(backend, lane, prg):
    rng = np.random.default_rng(lane)
    for length in [0, 1, 15, 16, 17, 33, 1023, 2049, 2600]:
        modulus_bits = int(rng.integers(1, lane + 1))
        offset = int(rng.integers(0, 3000))
        n_seeds = int(rng.integers(0, 6))
        seeds = rng.integers(0, 256, (n_seeds, 32), dtype=np.uint8)
        signs = rng.choice(np.array([-1, 1], np.int8), n_seeds)
        out = rng.integers(0, 2**modulus_bits, length, dtype=np.uint64).astype(f"uint{lane}")
        expected = masks_reference.accumulate(
            out.tolist(), [seed.tobytes() for seed in seeds], signs.tolist(), lane, modulus_bits, offset, prg
        )
        _kernels.masked_sum(out, seeds, signs, modulus_bits, prg, offset, backend=backend)
        assert out.tolist() == expected


def case(lane, length):
    """Seeds, signs, ring, offset and what was in `out` before: from odd places, in rings of every width."""
    rng = np.random.default_rng((lane, length))
    n_seeds = int(rng.integers(0, 5))
    seeds = rng.integers(0, 256, (n_seeds, 32), dtype=np.uint8)
    signs = rng.choice(np.array([-1, 1], np.int8), n_seeds)
    before = rng.integers(0, 2**lane, length, dtype=np.uint64, endpoint=lane < 64).astype(f"uint{lane}")
    return before, seeds, signs, length % lane + 1, int(rng.integers(0, 2**33)) * 2 + length % 2


@functools.cache
def generic_sums(lane, prg):
    sums = []
    for length in range(1101):
        out, *arguments, offset = case(lane, length)
        _kernels.masked_sum(out, *arguments, prg, offset, backend=GENERIC)
        sums.append(out)
    return sums


@pytest.mark.parametrize("prg", _kernels.PRGS)
@pytest.mark.parametrize("lane", _kernels.LANES)
def test_every_length_and_ring_gives_the_bytes_of_generic(backend, lane, prg):
    for length, expected in enumerate(generic_sums(lane, prg)):
        out, *arguments, offset = case(lane, length)
        _kernels.masked_sum(out, *arguments, prg, offset, backend=backend)
        assert np.array_equal(out, expected), length


@pytest.mark.parametrize("prg", _kernels.PRGS)
@pytest.mark.parametrize("n_seeds", [85, 86, 96, 97, 116, 117, 250])
def test_groups_of_seeds_add_up(backend, n_seeds, prg):
    """Key schedules are made for some seeds at a time."""
    rng = np.random.default_rng(n_seeds)
    seeds = rng.integers(0, 256, (n_seeds, 32), dtype=np.uint8)
    signs = rng.choice(np.array([-1, 1], np.int8), n_seeds)
    out, expected = np.zeros(300, np.uint32), np.zeros(300, np.uint32)
    _kernels.masked_sum(out, seeds, signs, 29, prg, 5, backend=backend)
    for seed, sign in zip(seeds, signs, strict=True):
        data = masks_reference.stream(prg, seed.tobytes(), 20, 1200)
        expected += np.frombuffer(data, "<u4") * np.uint32(int(sign) % 2**32)
    assert np.array_equal(out, expected % 2**29)


@pytest.mark.parametrize("prg", _kernels.PRGS)
@pytest.mark.parametrize("lane", _kernels.LANES)
@pytest.mark.parametrize("begin", [0, 4096 - 8, 2**18 - 5000 * 8, 2**28 + 1000 * 8])
def test_long_sums_equal_openssl_across_pages_and_tiles(backend, lane, prg, begin):
    """Rounds that blocks of a page or of a place share are not made again: the bytes are the standard's."""
    n_bytes, size = 70_000 if backend is GENERIC else 300_000, lane // 8
    rng = np.random.default_rng(begin)
    for length, n_seeds in [(n_bytes // size, 3), (4 * 4096 // size, 30), (4 * 4096 // size - 1, 1)]:
        seeds = rng.integers(0, 256, (n_seeds, 32), dtype=np.uint8)
        signs = rng.choice(np.array([-1, 1], np.int8), n_seeds)
        out = rng.integers(0, 2**16, length).astype(f"uint{lane}")
        expected = out.copy()
        for seed, sign in zip(seeds, signs, strict=True):
            data = masks_reference.stream(prg, seed.tobytes(), begin, length * size)
            expected += np.frombuffer(data, f"<u{size}") * np.array(sign).astype(out.dtype)
        _kernels.masked_sum(out, seeds, signs, lane, prg, begin // size, backend=backend)
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("prg", _kernels.PRGS)
@pytest.mark.parametrize("lane", _kernels.LANES)
def test_neighbours_of_out_are_left_alone(backend, lane, prg):
    whole = np.full(1500, 7, f"uint{lane}")
    seeds, signs = np.ones((3, 32), np.uint8), np.array([1, -1, 1], np.int8)
    for start, end in [(1, 2), (3, 700), (511, 1499)]:
        _kernels.masked_sum(whole[start:end], seeds, signs, lane, prg, 77, backend=backend)
        assert np.all(whole[:start] == 7)
        assert np.all(whole[end:] == 7)
        whole[:] = 7


@pytest.mark.parametrize("prg", _kernels.PRGS)
def test_the_last_words_of_a_seed_are_reachable(backend, prg):
    """The block counter's end: the last elements of the keystream, and those in the chunk before."""
    for lane in _kernels.LANES:
        size = lane // 8
        end = _kernels.KEYSTREAM_BYTES[prg]
        seed = np.arange(32, dtype=np.uint8)
        for length in (1, 700):
            out = np.zeros(length, f"uint{lane}")
            offset = end // size - length
            _kernels.masked_sum(
                out, seed[np.newaxis], np.ones(1, np.int8), lane, prg, offset, backend=backend
            )
            expected = masks_reference.stream(prg, seed.tobytes(), end - length * size, length * size)
            assert out.astype(out.dtype.newbyteorder("<")).tobytes() == expected


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_threads_share_the_work_without_a_seam(backend, num_threads, monkeypatch):
    monkeypatch.setattr(_kernels, "THREAD_BYTES", 4000)
    seeds, signs = np.arange(96, dtype=np.uint8).reshape(3, 32), np.array([1, -1, -1], np.int8)
    for prg in _kernels.PRGS:
        for length, offset in [(5000, 0), (5001, 123), (3000, 9)]:
            out, expected = np.ones(length, np.uint32), np.ones(length, np.uint32)
            _kernels.masked_sum(out, seeds, signs, 31, prg, offset, num_threads, backend)
            _kernels.masked_sum(expected, seeds, signs, 31, prg, offset, 1, GENERIC)
            assert np.array_equal(out, expected)


@pytest.mark.parametrize("lane", _kernels.LANES)
def test_packed_residues_are_read_like_generic(backend, lane):
    """At every width and length, from odd places, added or not; nothing behind the end is touched."""
    rng = np.random.default_rng(lane)
    for bits in range(1, lane + 1):
        for length in [*range(35), 63, 64, 65, 127, 200, 333]:
            packed = rng.integers(0, 256, (length * bits + 7) // 8 + 1, dtype=np.uint8)[1:]
            if length * bits % 8:
                packed[-1] &= 2 ** (length * bits % 8) - 1
            before = rng.integers(0, 2**bits, length + 1, dtype=np.uint64)
            before = before.astype(f"uint{lane}")
            for read in (_kernels.unpack_bits, _kernels.add_packed):
                ours, theirs = before.copy(), before.copy()
                assert read(ours[:-1], packed, bits, backend)
                assert read(theirs[:-1], packed, bits, GENERIC)
                assert np.array_equal(ours, theirs), (bits, length)
