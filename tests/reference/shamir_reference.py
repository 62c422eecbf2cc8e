"""Shamir's sharing as a textbook has it: log tables for GF(2^8), one byte at a time."""

GENERATOR = 3  # z + 1 generates the multiplicative group of GF(2)[z] / 0x11b


def _carryless_step(a: int) -> int:
    """a times z + 1."""
    doubled = a << 1
    if doubled & 0x100:
        doubled ^= 0x11B
    return doubled ^ a


EXP = [1]
for _ in range(254):
    EXP.append(_carryless_step(EXP[-1]))
LOG = {value: power for power, value in enumerate(EXP)}


def multiply(a: int, b: int) -> int:
    return 0 if a == 0 or b == 0 else EXP[(LOG[a] + LOG[b]) % 255]


def divide(a: int, b: int) -> int:
    return 0 if a == 0 else EXP[(LOG[a] - LOG[b]) % 255]


def split(secret: bytes, coefficients: bytes, threshold: int, num_shares: int) -> dict[int, bytes]:
    """`coefficients`: rows of len(secret) bytes, that of the highest power first."""
    size = len(secret)
    rows = [coefficients[size * k : size * (k + 1)] for k in range(threshold - 1)] + [secret]
    shares = {}
    for x in range(1, num_shares + 1):
        values = []
        for position in range(size):
            value, power = 0, 1
            for row in reversed(rows):
                value ^= multiply(row[position], power)
                power = multiply(power, x)
            values.append(value)
        shares[x] = bytes(values)
    return shares


def combine(shares: dict[int, bytes]) -> bytes:
    secret = bytes(len(next(iter(shares.values()))))
    for x, share in shares.items():
        weight = 1
        for other in shares:
            if other != x:
                weight = multiply(weight, divide(other, other ^ x))
        secret = bytes(s ^ multiply(weight, y) for s, y in zip(secret, share, strict=True))
    return secret
