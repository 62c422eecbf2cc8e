"""Shamir's secret sharing: 32-byte secrets, t of n shares, over GF(2^8) in the compiled core.

In the share phase every client splits its self-mask seed and its mask key among all; in the unmask phase
the server combines what the survivors hand out. Any t shares give the secret; t - 1 say nothing about it.
Byte b of the share at abscissa x is f_b(x), f_b being a random polynomial of degree t - 1 with
f_b(0) = secret[b], over GF(2)[z] / (z^8 + z^4 + z^3 + z + 1) [Sha79]. There is no check against a wrong
share: whoever combines must know another way that the secret is the right one.

References
----------
[Sha79] Shamir. How to Share a Secret. CACM 22(11), 1979.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedsec import _kernels
from fedsec._checks import whole
from fedsec.errors import InvalidArgumentError, InvalidTypeError
from fedsec.secagg.primitives._secrets import Randomness, draw, wiping

MAX_SHARES = 255
SECRET_BYTES = 32


def split(
    secret: _kernels.Buffer,
    threshold: int,
    num_shares: int,
    *,
    insecure_randomness: Randomness | None = None,
) -> dict[int, bytearray]:
    """Shares of a 32-byte secret, by abscissa 1 .. num_shares (at most 255).

    Any `threshold` of them (2 .. num_shares) give the secret back; fewer are independent of it.
    `insecure_randomness` (a function from a length to bytes) replaces the operating system's generator,
    for known-answer tests only. Time does not depend on the secret.
    """
    _require_secret("secret", secret)
    n = whole("num_shares", num_shares, minimum=2, maximum=MAX_SHARES)
    t = whole("threshold", threshold, minimum=2, maximum=n)
    with (
        wiping(draw((t - 1) * SECRET_BYTES, insecure_randomness)) as coefficients,
        wiping(_kernels.shamir_split(secret, coefficients, n)) as flat,
    ):
        return {x: flat[SECRET_BYTES * (x - 1) : SECRET_BYTES * x] for x in range(1, n + 1)}


def combine(shares: Mapping[int, _kernels.Buffer], threshold: int) -> bytearray:
    """The secret from at least `threshold` shares by abscissa; the first `threshold` of them are used."""
    t = whole("threshold", threshold, minimum=2, maximum=MAX_SHARES)
    if len(shares) < t:
        raise InvalidArgumentError(f"shares must number at least the threshold {t}, got {len(shares)}")
    chosen = dict(list(shares.items())[:t])
    for x, share in chosen.items():
        if type(x) is not int or not 1 <= x <= MAX_SHARES:
            whole("abscissa of a share", x, minimum=1, maximum=MAX_SHARES)
        if type(share) not in (bytes, bytearray) or len(share) != SECRET_BYTES:
            _require_secret(f"share at {x}", share)
    with wiping(bytearray().join(chosen.values())) as flat:
        return _kernels.shamir_combine(bytes(chosen), flat)


def _require_secret(name: str, value: object) -> None:
    if not isinstance(value, (bytes, bytearray)):
        raise InvalidTypeError(f"{name} must be {SECRET_BYTES} bytes, got {type(value).__name__}")
    if len(value) != SECRET_BYTES:
        raise InvalidArgumentError(f"{name} must be {SECRET_BYTES} bytes, got {len(value)}")
