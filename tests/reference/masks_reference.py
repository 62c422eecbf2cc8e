"""Masked sums as one would say them: Python integers over a keystream made by another library."""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms


def keystream(key: bytes, nonce: bytes, counter: int, length: int) -> bytes:
    """OpenSSL's ChaCha20, which takes counter and nonce as one 16-byte value."""
    algorithm = algorithms.ChaCha20(key, counter.to_bytes(4, "little") + nonce)
    return Cipher(algorithm, mode=None).encryptor().update(bytes(length))


def mask(seed: bytes, offset: int, length: int, lane: int, modulus_bits: int) -> list[int]:
    size = lane // 8
    stream = keystream(seed, bytes(12), 0, (offset + length) * size)
    words = [
        int.from_bytes(stream[size * j : size * (j + 1)], "little") for j in range(offset, offset + length)
    ]
    return [word % 2**modulus_bits for word in words]


def accumulate(
    start: list[int], seeds: list[bytes], signs: list[int], lane: int, modulus_bits: int, offset: int
) -> list[int]:
    out = list(start)
    for seed, sign in zip(seeds, signs, strict=True):
        for j, word in enumerate(mask(seed, offset, len(start), lane, modulus_bits)):
            out[j] += sign * word
    return [value % 2**modulus_bits for value in out]
