"""Identities: keys, signatures, key files, and the statements by which a public key gets into a directory."""

import copy
import dataclasses
import hashlib
import json
import os
import pickle
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa, x25519

from fedsec.errors import IdentityError, InvalidArgumentError, InvalidTypeError
from fedsec.secagg.identity.enrolment import Enrolment, Rotation
from fedsec.secagg.identity.identities import Identity, fingerprint, require_public_key, verify

FIELD = 2**255 - 19

# RFC 8032, section 7.1, tests 1 to 3: seed, public key, message, signature.
RFC8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


def known(number):
    """An identity that is the same in every run."""
    return Identity.new(insecure_randomness=lambda length: bytes([number]) * length)


AUTHORITY, ALICE, BOB, MALLORY = (known(number) for number in range(1, 5))


class TestKeys:
    @pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC8032)
    def test_rfc_8032(self, seed, public, message, signature):
        identity = Identity.new(insecure_randomness=lambda _: bytes.fromhex(seed))
        assert identity.public_key.hex() == public
        assert identity.sign(bytes.fromhex(message)).hex() == signature
        assert verify(identity.public_key, bytes.fromhex(message), bytes.fromhex(signature))

    def test_new_ones_differ(self):
        assert Identity.new().public_key != Identity.new().public_key

    def test_signatures_of_others_and_of_other_messages_are_wrong(self):
        signature = ALICE.sign(b"message")
        assert verify(ALICE.public_key, bytearray(b"message"), signature)
        assert not verify(BOB.public_key, b"message", signature)
        assert not verify(ALICE.public_key, b"massage", signature)
        assert not verify(ALICE.public_key, b"message", b"")
        assert not verify(ALICE.public_key, b"message", signature + b"\0")
        for position in range(64):
            flipped = bytearray(signature)
            flipped[position] ^= 1
            assert not verify(ALICE.public_key, b"message", bytes(flipped))

    def test_a_signature_has_one_encoding(self):
        """S and S + L satisfy the same equation; only the smaller one is taken [RFC 8032, 5.1.7]."""
        signature = ALICE.sign(b"message")
        order = 2**252 + 27742317777372353535851937790883648493
        larger = int.from_bytes(signature[32:], "little") + order
        assert not verify(ALICE.public_key, b"message", signature[:32] + larger.to_bytes(32, "little"))

    @pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), "text", None, bytearray(32)])
    def test_what_is_no_key(self, key):
        with pytest.raises((InvalidArgumentError, InvalidTypeError), match="public_key must be 32 bytes"):
            verify(key, b"message", bytes(64))

    @pytest.mark.parametrize("key", [FIELD, FIELD + 1, 2**255 - 1, FIELD + 3 + 2**255])
    def test_encodings_beyond_the_field_are_no_keys(self, key):
        with pytest.raises(InvalidArgumentError, match="must be an Ed25519 public key"):
            verify(key.to_bytes(32, "little"), b"message", bytes(64))

    def test_points_of_small_order_are_no_keys(self):
        """Under them a signature holds for one message in eight or for all: nobody would be authenticated."""
        everybody = bytes([1, *bytes(31)])
        points = small_order_points()
        assert len(points) == 8
        assert everybody in points
        for point in points:
            for sign in (0, 128):
                key = point[:31] + bytes([point[31] ^ sign])
                with pytest.raises(InvalidArgumentError, match="must be an Ed25519 public key"):
                    require_public_key("public_key", key)
        # What the check is for: the library itself takes a signature that nobody had to know a secret for.
        forged = everybody + bytes(32)
        ed25519.Ed25519PublicKey.from_public_bytes(everybody).verify(forged, b"anything")

    def test_keys_off_the_curve_are_none(self):
        off = [y for y in range(2, 40) if not on_curve(y)]
        assert 10 < len(off) < 30
        for y in range(2, 40):
            key = y.to_bytes(32, "little")
            if y in off:
                with pytest.raises(InvalidArgumentError):
                    require_public_key("public_key", key)
            else:
                assert require_public_key("public_key", key) == key

    def test_fingerprints(self):
        digits = hashlib.sha256(ALICE.public_key).hexdigest()[:16]
        assert fingerprint(ALICE.public_key).replace(" ", "") == digits
        assert ALICE.fingerprint == f"{digits[:4]} {digits[4:8]} {digits[8:12]} {digits[12:]}"

    def test_secrets_stay_inside(self):
        assert repr(ALICE) == f"<secagg.Identity {ALICE.fingerprint}>"
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(InvalidTypeError, match="cannot be pickled or copied"):
                attempt(ALICE)

    def test_an_identity_is_of_an_ed25519_key(self):
        with pytest.raises(InvalidTypeError, match="Ed25519PrivateKey"):
            Identity(x25519.X25519PrivateKey.generate())


def curve_d():
    return -121665 * pow(121666, -1, FIELD) % FIELD


def on_curve(y):
    return root((y * y - 1) * pow(curve_d() * y * y + 1, -1, FIELD) % FIELD) is not None


def root(square):
    """A square root modulo 2^255 - 19, or None [RFC 8032, 5.1.3]."""
    candidate = pow(square, (FIELD + 3) // 8, FIELD)
    for factor in (1, pow(2, (FIELD - 1) // 4, FIELD)):
        if pow(candidate * factor, 2, FIELD) == square:
            return candidate * factor % FIELD
    return None


def add(p, q):
    """The complete addition on the curve [RFC 8032, 5.1.4], in affine coordinates."""
    (x1, y1), (x2, y2) = p, q
    product = curve_d() * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, FIELD)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, FIELD)
    return x % FIELD, y % FIELD


def small_order_points():
    """The multiples of a point of order 8: L times any point that is not in the large subgroup has one."""
    order, point = 2**252 + 27742317777372353535851937790883648493, None
    for y in range(2, 100):
        x = root((y * y - 1) * pow(curve_d() * y * y + 1, -1, FIELD) % FIELD)
        if x is not None:
            point = multiple((x, y), order)
            if multiple(point, 4) != (0, 1):
                break
    multiples = [multiple(point, number) for number in range(8)]
    return {(y + (x % 2 << 255)).to_bytes(32, "little") for x, y in multiples}


def multiple(point, number):
    total = (0, 1)
    for bit in bin(number)[2:]:
        total = add(total, total)
        total = add(total, point) if bit == "1" else total
    return total


class TestKeyFiles:
    @pytest.mark.parametrize("passphrase", [None, b"correct horse"])
    def test_round_trip(self, tmp_path, passphrase):
        path = tmp_path / "alice.pem"
        ALICE.save(path, passphrase)
        assert Identity.load(str(path), passphrase).public_key == ALICE.public_key
        header = path.read_bytes().splitlines()[0]
        assert (
            header
            == (b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN ENCRYPTED PRIVATE KEY-----")[bool(passphrase)]
        )

    def test_for_the_owner_alone_whatever_the_umask(self, tmp_path):
        before = os.umask(0)
        try:
            ALICE.save(tmp_path / "alice.pem")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "alice.pem").stat().st_mode) == 0o600

    def test_nothing_is_overwritten(self, tmp_path):
        ALICE.save(tmp_path / "alice.pem")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        for name in ("alice.pem", "link"):
            with pytest.raises(IdentityError, match=rf"{name}: File exists"):
                BOB.save(tmp_path / name)
        assert Identity.load(tmp_path / "alice.pem").public_key == ALICE.public_key
        assert not (tmp_path / "nowhere").exists()

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o660])
    def test_a_file_that_others_can_use_is_refused(self, tmp_path, mode):
        path = tmp_path / "alice.pem"
        ALICE.save(path)
        path.chmod(mode)
        with pytest.raises(IdentityError, match=rf"alice\.pem: .*mode {mode:o}.*chmod 600"):
            Identity.load(path)

    def test_links_folders_and_pipes_are_refused(self, tmp_path):
        ALICE.save(tmp_path / "alice.pem")
        (tmp_path / "link").symlink_to(tmp_path / "alice.pem")
        with pytest.raises(IdentityError, match="link: it is a symbolic link"):
            Identity.load(tmp_path / "link")
        os.mkfifo(tmp_path / "pipe", 0o600)
        for name in (".", "pipe"):
            with pytest.raises(IdentityError, match=r"no regular file|Is a directory"):
                Identity.load(tmp_path / name)
        with pytest.raises(IdentityError, match=r"missing: No such file"):
            Identity.load(tmp_path / "missing")

    def test_passphrases(self, tmp_path):
        open_, locked = tmp_path / "open.pem", tmp_path / "locked.pem"
        ALICE.save(open_)
        ALICE.save(locked, b"correct horse")
        for wrong in (b"correct hors", b"correct horse ", b"x"):
            with pytest.raises(IdentityError, match="the passphrase is wrong"):
                Identity.load(locked, wrong)
        with pytest.raises(IdentityError, match="is encrypted and needs a passphrase"):
            Identity.load(locked)
        with pytest.raises(IdentityError, match="is not encrypted"):
            Identity.load(open_, b"correct horse")
        for value, error in (
            (b"", InvalidArgumentError),
            (bytes(1024), InvalidArgumentError),
            ("s", InvalidTypeError),
        ):
            with pytest.raises(error, match="passphrase must be"):
                ALICE.save(tmp_path / "new.pem", value)
            with pytest.raises(error, match="passphrase must be"):
                Identity.load(locked, value)
        assert not (tmp_path / "new.pem").exists()

    def test_other_contents_are_refused(self, tmp_path):
        path, good = tmp_path / "key.pem", tmp_path / "good.pem"
        ALICE.save(good)
        text = good.read_bytes()
        for contents in (b"", b"no key", text[:60], bytes(20000), text.replace(b"PRIVATE", b"PUBLIC")):
            private(path, contents)
            with pytest.raises(IdentityError, match=r"key\.pem: it (holds no private key|takes more)"):
                Identity.load(path)
        for key in (rsa.generate_private_key(65537, 2048), x25519.X25519PrivateKey.generate()):
            private(path, pem(key))
            with pytest.raises(IdentityError, match="must hold an Ed25519 key, got an"):
                Identity.load(path)

    def test_a_failure_leaves_no_part_of_a_key(self, tmp_path, monkeypatch):
        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(IdentityError, match="No space left"):
            ALICE.save(tmp_path / "alice.pem")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("path", [5, None, b"bytes", "a\0b"])
    def test_what_is_no_path(self, path):
        for call in (ALICE.save, Identity.load):
            with pytest.raises((InvalidTypeError, InvalidArgumentError), match="path must"):
                call(path)


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def private(path, contents):
    path.write_bytes(contents)
    path.chmod(0o600)


ENROLMENT = Enrolment.new(ALICE, 3, "Hospital Süd", AUTHORITY.public_key)
ROTATION = Rotation.new(ALICE, BOB, 3, AUTHORITY.public_key)


@pytest.mark.parametrize("statement", [ENROLMENT, ROTATION], ids=["enrolment", "rotation"])
class TestStatements:
    def test_round_trip(self, statement, tmp_path):
        assert type(statement).from_bytes(statement.to_bytes()) == statement
        statement.save(tmp_path / "statement")
        assert type(statement).load(tmp_path / "statement") == statement
        with pytest.raises(IdentityError, match="statement: File exists"):
            statement.save(tmp_path / "statement")

    def test_signatures_by_the_description_alone(self, statement):
        """The format's name, and then the object without its signatures: sorted, no spaces, ASCII."""
        members = json.loads(statement.to_bytes())
        signatures = {name: members.pop(name) for name in list(members) if name.endswith("signature")}
        signed = (
            members["format"].encode() + json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
        )
        for name, signature in signatures.items():
            key = members["public_key" if name == "signature" else name.replace("signature", "key")]
            public = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
            public.verify(bytes.fromhex(signature), signed)

    def test_flipped_at_every_position(self, statement):
        text = statement.to_bytes()
        for position in range(len(text)):
            for flip in (1, 32, 128):
                flipped = bytearray(text)
                flipped[position] ^= flip
                with pytest.raises(IdentityError):
                    type(statement).from_bytes(bytes(flipped))

    def test_cut_and_extended(self, statement):
        text = statement.to_bytes()
        for changed in (*(text[:length] for length in range(len(text))), text + b"\n", b" " + text, text * 2):
            with pytest.raises(IdentityError):
                type(statement).from_bytes(changed)

    @pytest.mark.parametrize("authority", [MALLORY.public_key, bytes(31), "00" * 32])
    def test_it_is_for_one_authority(self, statement, authority):
        with pytest.raises((IdentityError, InvalidTypeError, InvalidArgumentError)):
            dataclasses.replace(statement, authority=authority)

    @pytest.mark.parametrize("client_id", [4, -1, 2**32, 3.0, True, "3"])
    def test_it_is_for_one_client(self, statement, client_id):
        with pytest.raises((IdentityError, InvalidTypeError, InvalidArgumentError)):
            dataclasses.replace(statement, client_id=client_id)
        members = json.loads(statement.to_bytes()) | {"client_id": client_id}
        with pytest.raises(IdentityError):
            type(statement).from_bytes(spelled(members))

    def test_members_are_exact(self, statement):
        members = json.loads(statement.to_bytes())
        for name in members:
            fewer = {other: value for other, value in members.items() if other != name}
            for changed in (fewer, members | {name: None}, members | {name: []}, members | {name: {"a": 1}}):
                with pytest.raises(IdentityError):
                    type(statement).from_bytes(spelled(changed))
        with pytest.raises(IdentityError, match="differs in more"):
            type(statement).from_bytes(spelled(members | {"more": 1}))

    def test_one_spelling(self, statement):
        text = statement.to_bytes()
        members = json.loads(text)
        upper = members | {name: v.upper() for name, v in members.items() if name == "authority"}
        others = [
            json.dumps(members).encode(),
            json.dumps(members, indent=1).encode(),
            json.dumps(members, sort_keys=True, indent=2).encode() + b"\n",
            text.replace(b"\n", b"\r\n"),
            text.replace(b'"client_id": 3', b'"client_id": 3,\n "client_id": 3'),
            text.replace(b'"client_id": 3', b'"client_id": 3.0'),
            text.replace(b'"client_id": 3', b'"client_id": NaN'),
            text.replace(b'"client_id": 3', b'"client_id": ' + b"3" * 9000),
            text.replace(b'"client_id": 3', b'"client_id": ' + b"[" * 9000),
            text.decode().encode("utf-16"),
            spelled(upper),
        ]
        for other in others:
            with pytest.raises(IdentityError):
                type(statement).from_bytes(other)


def spelled(members):
    return (json.dumps(members, sort_keys=True, indent=1) + "\n").encode()


class TestEnrolment:
    def test_nobody_enrols_a_key_without_its_private_half(self):
        """Mallory puts Alice's key into a request of his own, under his name or her signature."""
        for signature in (ENROLMENT.signature, MALLORY.sign(b"anything"), bytes(64), b""):
            with pytest.raises(IdentityError, match="not signed by the key"):
                Enrolment(4, "Mallory", ALICE.public_key, AUTHORITY.public_key, signature)

    @pytest.mark.parametrize(
        "name", ["", " ", "two\nlines", "tab\t", " space", "a" * 201, "\u202eesrever", "\ud800", 5, None]
    )
    def test_names_show_what_they_are(self, name):
        with pytest.raises((InvalidArgumentError, InvalidTypeError), match="name must be"):
            Enrolment.new(ALICE, 3, name, AUTHORITY.public_key)

    def test_a_rotation_is_no_enrolment(self):
        with pytest.raises(IdentityError, match="holds no 'fedsec enrolment 1', but another text"):
            Enrolment.from_bytes(ROTATION.to_bytes())
        with pytest.raises(IdentityError, match="holds no 'fedsec rotation 1', but another text"):
            Rotation.from_bytes(ENROLMENT.to_bytes())


class TestRotation:
    def test_both_keys_must_agree(self):
        text = Rotation.new(ALICE, MALLORY, 3, AUTHORITY.public_key)
        with pytest.raises(IdentityError, match=f"key {ALICE.public_key.hex()}"):
            dataclasses.replace(text, old_signature=text.new_signature)
        with pytest.raises(IdentityError, match=f"key {MALLORY.public_key.hex()}"):
            dataclasses.replace(text, new_signature=text.old_signature)
        with pytest.raises(IdentityError, match="not signed"):
            dataclasses.replace(text, new_key=BOB.public_key)

    def test_a_key_does_not_follow_itself(self):
        with pytest.raises(InvalidArgumentError, match="new_key must differ"):
            Rotation.new(ALICE, ALICE, 3, AUTHORITY.public_key)
