"""How sessions handle what must not get out: drawing it, wiping it, keeping it out of repr and pickles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NoReturn, TypeVar

from fedsec import _kernels
from fedsec.errors import InvalidArgumentError, InvalidTypeError

Randomness = Callable[[int], bytes]
Secret = TypeVar("Secret")


def draw(length: int, insecure_randomness: Randomness | None = None) -> bytearray:
    """`length` random bytes: from the operating system, or from the source of a known-answer test."""
    drawn = (insecure_randomness or _kernels.fresh_bytes)(length)
    if len(drawn) != length:
        raise InvalidArgumentError(f"insecure_randomness must give {length} bytes, got {len(drawn)}")
    return bytearray(drawn)


def wipe(secret: object) -> None:
    """Zeros every bytearray in a state, a dict or a list; public values are left alone."""
    if isinstance(secret, bytearray):
        _kernels.wipe(secret)
    elif isinstance(secret, (dict, list)):
        for item in secret.values() if isinstance(secret, dict) else secret:
            wipe(item)
    else:
        for name in getattr(secret, "__dataclass_fields__", ()):
            wipe(getattr(secret, name))


class wiping(Generic[Secret]):  # noqa: N801 (a context manager like contextlib.closing)
    """Wipes when the block is left, whichever way: what one step makes and needs no longer."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def __enter__(self) -> Secret:
        return self._secret

    def __exit__(self, *_: object) -> None:
        wipe(self._secret)


@contextmanager
def wiping_on_error(secret: Secret) -> Iterator[Secret]:
    """Wipes when the block fails: what lives on if it does not."""
    try:
        yield secret
    except BaseException:
        wipe(secret)
        raise


class Unpicklable:
    """A holder of secrets: neither pickled nor copied."""

    def __reduce__(self) -> NoReturn:
        raise InvalidTypeError(f"a {type(self).__name__} holds secrets and cannot be pickled or copied")
