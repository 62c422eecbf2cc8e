"""Who a client is, beyond one session: an Ed25519 key pair in a file that its owner alone can read.

An identity signs in every session. Others know its public key from their `Directory`, never from the server.

References
----------
[RFC8032] Josefsson, Liusvaara. Edwards-Curve Digital Signature Algorithm (EdDSA). 2017.
[RFC5958] Turner. Asymmetric Key Packages (PKCS #8). 2010.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedsec._kernels import Buffer
from fedsec.errors import IdentityError, InvalidArgumentError, InvalidTypeError
from fedsec.secagg.identity import _files
from fedsec.secagg.primitives._secrets import Randomness, Unpicklable, draw, wiping

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_MAX_KEY_FILE_BYTES = 1 << 14
_FIELD = 2**255 - 19
_D = -121665 * pow(121666, -1, _FIELD) % _FIELD
# The y of the eight points of small order: under such a key anybody's signatures are valid.
_ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_ORDER = frozenset({0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8})


def require_public_key(name: str, value: object) -> bytes:
    """An Ed25519 public key of 32 bytes [RFC8032, 5.1.3].

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        Not 32 bytes, no canonical encoding of a point, or a point of small order, under which anybody's
        signatures would be valid.
    """
    key = _require_key_bytes(name, value)
    if not _is_canonical(key) or not _is_on_curve(key):
        raise InvalidArgumentError(f"{name} must be an Ed25519 public key, got {key.hex()}")
    return key


def _require_key_bytes(name: str, value: object) -> bytes:
    if not isinstance(value, bytes):
        raise InvalidTypeError(f"{name} must be {KEY_BYTES} bytes, got {type(value).__name__}")
    if len(value) != KEY_BYTES:
        raise InvalidArgumentError(f"{name} must be {KEY_BYTES} bytes, got {len(value)}")
    return value


def _is_canonical(key: bytes) -> bool:
    """Whether the y of a key is reduced, and that of no point of small order."""
    y = int.from_bytes(key, "little") % 2**255
    return y < _FIELD and y not in _SMALL_ORDER


@lru_cache(maxsize=1 << 16)
def _is_on_curve(key: bytes) -> bool:
    y = int.from_bytes(key, "little") % 2**255
    # x^2 = (y^2 - 1) / (d y^2 + 1) has a root if and only if numerator times denominator has one.
    square = (y * y - 1) * (_D * y * y + 1)
    return pow(square, (_FIELD - 1) // 2, _FIELD) == 1


def verify(public_key: bytes, message: Buffer, signature: bytes) -> bool:
    """Whether a signature over a message is that of this key's owner [RFC8032, 5.1.7].

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        The key is none (`require_public_key`), or message or signature are not bytes. A signature that is
        wrong, in whatever way, is no error: the answer is False.
    """
    key = _require_key_bytes("public_key", public_key)
    _require_bytes("message", message)
    _require_bytes("signature", signature)
    is_valid = _verifies(key, message, signature)
    # Nothing is valid under a key that is on no curve, so this costs its arithmetic for wrong ones only.
    if not is_valid or not _is_canonical(key):
        require_public_key("public_key", key)
    return is_valid


def _verifies(key: bytes, message: Buffer, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _require_bytes(name: str, value: object) -> None:
    if not isinstance(value, (bytes, bytearray)):
        raise InvalidTypeError(f"{name} must be bytes, got {type(value).__name__}")


def fingerprint(public_key: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a public key, in groups of four.

    For eyes: to tell keys apart in a list. 64 bits do not stand against somebody who searches for a second
    key with the same ones; compare whole keys where trust begins.
    """
    digits = hashlib.sha256(require_public_key("public_key", public_key)).hexdigest()
    return " ".join(digits[start : start + 4] for start in range(0, 16, 4))


class Identity(Unpicklable):
    """A long-term Ed25519 key pair, of a client or of a directory's authority.

    Made by `Identity.new` or `Identity.load`. `repr` shows the fingerprint only; it can be neither pickled
    nor copied. The private key lies in memory of the `cryptography` package for as long as the object lives.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        if not isinstance(private, Ed25519PrivateKey):
            raise InvalidTypeError(f"private must be an Ed25519PrivateKey, got {type(private).__name__}")
        self._private = private
        self._public = private.public_key().public_bytes_raw()

    @classmethod
    def new(cls, *, insecure_randomness: Randomness | None = None) -> Identity:
        """A fresh key pair from the operating system's generator.

        Parameters
        ----------
        insecure_randomness : function from a length to bytes, optional
            Replaces that generator; for known-answer tests only.
        """
        with wiping(draw(KEY_BYTES, insecure_randomness)) as seed:
            return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def __repr__(self) -> str:
        return f"<secagg.Identity {self.fingerprint}>"

    @property
    def public_key(self) -> bytes:
        """The public half: 32 bytes."""
        return self._public

    @property
    def fingerprint(self) -> str:
        """The public key in short, for eyes; see `fingerprint`."""
        return fingerprint(self._public)

    def sign(self, message: Buffer) -> bytes:
        """The signature of a message: 64 bytes, the same for the same message [RFC8032, 5.1.6]."""
        return self._private.sign(message)

    def save(self, path: _files.Name, passphrase: bytes | None = None) -> None:
        """Writes the private key into a new file that its owner alone can read: PKCS #8, PEM [RFC5958].

        Parameters
        ----------
        path : str or path
            Nothing may be there yet, not even a link.
        passphrase : bytes, optional
            Encrypts the file (the `cryptography` package's best available encryption). The key derivation is
            what PKCS #8 offers, so against somebody who has the file only a long passphrase stands.

        Raises
        ------
        IdentityError
            Something is there, or it cannot be written; then nothing is left of it.
        """
        data = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, _encryption(passphrase)
        )
        _files.create(_files.path_of(path), data, 0o600)

    @classmethod
    def load(cls, path: _files.Name, passphrase: bytes | None = None) -> Identity:
        """Back from `save`.

        Raises
        ------
        IdentityError
            No such file; a link, or (POSIX) a file that group or others may read or write; a wrong or a
            missing passphrase, or one too many; a key of another kind.
        """
        place = _files.path_of(path)
        _encryption(passphrase)
        data = _files.read(place, _MAX_KEY_FILE_BYTES, private=True)
        with _files.errors_named(place):
            return cls(_private_key(data, passphrase))


def _encryption(passphrase: object) -> serialization.KeySerializationEncryption:
    if passphrase is None:
        return serialization.NoEncryption()
    if not isinstance(passphrase, bytes):
        raise InvalidTypeError(f"passphrase must be bytes, got {type(passphrase).__name__}")
    if not 1 <= len(passphrase) <= 1023:
        raise InvalidArgumentError(f"passphrase must be 1 to 1023 bytes, got {len(passphrase)}")
    return serialization.BestAvailableEncryption(passphrase)


def _private_key(data: bytes, passphrase: bytes | None) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(data, passphrase)
    except TypeError:
        state = "is encrypted and needs a passphrase" if passphrase is None else "is not encrypted"
        raise IdentityError(f"the key {state}") from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = "" if passphrase is None else "the passphrase is wrong, or "
        raise IdentityError(f"{wrong}it holds no private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"it must hold an Ed25519 key, got an {type(key).__name__}")
    return key
