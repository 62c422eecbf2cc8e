"""Sessions at rest: plain values under an authenticated seal, to go on with in another process [SPEC 10].

Values are whole numbers, texts, None, bytes, bytearrays, tuples and dictionaries, nested as you like: nothing
in a snapshot is run when it is read. Whoever has the key can read all secrets of the session.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedsec._kernels import fresh_bytes
from fedsec.errors import InvalidArgumentError, InvalidTypeError

KEY_BYTES = 32

_MAGIC = b"fedsec session 2\0"
_SALT_BYTES = 32
# Each snapshot has a key of its own, so its nonce need not change.
_NONCE = bytes(12)


def seal(key: bytes, role: str, value: object) -> bytes:
    """A value under the caller's 32-byte key; `role` says whose session it is."""
    salt = fresh_bytes(_SALT_BYTES)
    text = json.dumps(_plain(value), separators=(",", ":")).encode("ascii")
    return _MAGIC + salt + _cipher(key, salt).encrypt(_NONCE, text, _MAGIC + role.encode("ascii"))


def unseal(key: bytes, role: str, data: bytes) -> Any:
    """Back from `seal`; `InvalidArgumentError` for another key, another role, or anything changed."""
    if not isinstance(data, (bytes, bytearray)):
        raise InvalidTypeError(f"a saved session must be bytes, got {type(data).__name__}")
    start = len(_MAGIC) + _SALT_BYTES
    salt, sealed = data[len(_MAGIC) : start], data[start:]
    try:
        text = _cipher(key, bytes(salt)).decrypt(
            _NONCE, bytes(sealed), bytes(data[: len(_MAGIC)]) + role.encode("ascii")
        )
    except InvalidTag:
        raise InvalidArgumentError(
            f"the saved session of a {role} must be opened with the key that sealed it, unchanged"
        ) from None
    return _value(json.loads(text))


def _cipher(key: bytes, salt: bytes) -> ChaCha20Poly1305:
    if not isinstance(key, (bytes, bytearray)):
        raise InvalidTypeError(f"the key of a saved session must be bytes, got {type(key).__name__}")
    if len(key) != KEY_BYTES:
        raise InvalidArgumentError(f"the key of a saved session must be {KEY_BYTES} bytes, got {len(key)}")
    return ChaCha20Poly1305(HKDF(SHA256(), KEY_BYTES, salt=salt, info=_MAGIC).derive(key))


def _plain(value: object) -> object:
    """JSON's values; bytes and the like as objects with one letter for their type."""
    if value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        letter = "a" if isinstance(value, bytearray) else "b"
        return {letter: base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return {"d": [[_plain(k), _plain(v)] for k, v in value.items()]}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    raise InvalidTypeError(f"a saved session holds plain values, got {type(value).__name__}")


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return tuple(_value(item) for item in plain)
    if isinstance(plain, dict):
        ((letter, inner),) = plain.items()
        if letter == "d":
            return {_value(k): _value(v) for k, v in inner}
        raw = base64.b64decode(inner)
        return bytearray(raw) if letter == "a" else raw
    return plain
