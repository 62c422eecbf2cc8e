"""Masked sums as one would say them: Python integers over a keystream made by another library."""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def keystream(key: bytes, nonce: bytes, counter: int, length: int) -> bytes:
    """OpenSSL's ChaCha20, which takes counter and nonce as one 16-byte value."""
    algorithm = algorithms.ChaCha20(key, counter.to_bytes(4, "little") + nonce)
    return Cipher(algorithm, mode=None).encryptor().update(bytes(length))


def aes_ctr(key: bytes, nonce: bytes, counter: int, length: int) -> bytes:
    """OpenSSL's AES-CTR, which takes nonce and big-endian counter as one 16-byte value."""
    mode = modes.CTR(nonce + counter.to_bytes(4, "big"))
    return Cipher(algorithms.AES(key), mode).encryptor().update(bytes(length))


def noise_stream(key: bytes, numbers: tuple[int, int, int], block: int, length: int) -> bytes:
    """The generator of noise: AES-128, its nonce 12 bytes of the key plus three numbers and the domain."""
    added = b"".join(number.to_bytes(4, "little") for number in numbers)
    parts = zip(key[16:28], added, bytes(8) + b"nois", strict=True)
    return aes_ctr(key[:16], bytes(a ^ b ^ c for a, b, c in parts), block, length)


def stream(prg: str, seed: bytes, begin: int, length: int) -> bytes:
    """Bytes begin to begin + length - 1 of a seed's keystream."""
    size = 64 if prg == "chacha20" else 16
    block, skipped = divmod(begin, size)
    if prg == "chacha20":
        whole = keystream(seed, bytes(12), block, skipped + length)
    elif prg == "aes128ctr":
        whole = aes_ctr(seed[:16], seed[16:28], block, skipped + length)
    else:
        whole = aes_ctr(seed, bytes(12), block, skipped + length)
    return whole[skipped:]


def mask(
    seed: bytes, offset: int, length: int, lane: int, modulus_bits: int, prg: str = "chacha20"
) -> list[int]:
    size = lane // 8
    data = stream(prg, seed, offset * size, length * size)
    words = [int.from_bytes(data[size * j : size * (j + 1)], "little") for j in range(length)]
    return [word % 2**modulus_bits for word in words]


def accumulate(
    start: list[int],
    seeds: list[bytes],
    signs: list[int],
    lane: int,
    modulus_bits: int,
    offset: int,
    prg: str = "chacha20",
) -> list[int]:
    out = list(start)
    for seed, sign in zip(seeds, signs, strict=True):
        for j, word in enumerate(mask(seed, offset, len(start), lane, modulus_bits, prg)):
            out[j] += sign * word
    return [value % 2**modulus_bits for value in out]
