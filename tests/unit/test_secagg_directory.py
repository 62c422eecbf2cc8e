"""The directory: whom it lists, what it refuses, and what is seen of meddling with its file."""

import copy
import dataclasses
import json
import os
import pickle
import stat
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fedsec import secagg
from fedsec.errors import IdentityError, InvalidArgumentError, InvalidTypeError
from fedsec.secagg.identity import directory as module
from fedsec.secagg.identity.directory import Directory, Entry
from fedsec.secagg.identity.enrolment import Enrolment, Rotation
from fedsec.secagg.identity.identities import Identity

KIND = b"fedsec directory 1"


def known(number):
    """An identity that is the same in every run."""
    return Identity.new(insecure_randomness=lambda length: bytes([number]) * length)


AUTHORITY, OTHER, *CLIENTS = (known(number) for number in range(1, 12))
TRUSTED = AUTHORITY.public_key


def request(client_id, identity=None, name=None, authority=TRUSTED):
    return Enrolment.new(identity or CLIENTS[client_id], client_id, name or f"client {client_id}", authority)


@pytest.fixture
def three():
    directory = Directory.new(TRUSTED)
    for client_id in (2, 0, 1):
        directory = directory.add(request(client_id))
    return directory


@pytest.fixture
def path(tmp_path, three):
    three.save(tmp_path / "clients.directory", AUTHORITY)
    return tmp_path / "clients.directory"


# What a person may take for "Clínica A": of another script, composition or width, or the very same.
LOOKALIKES = [
    "Cl\u00ednica \u0410",
    "Cli\u0301nica A",
    "Cl\u00edn\u0456ca A",
    "\uff23l\u00ednica A",
    "Cl\u00ednica A",
]


@pytest.mark.parametrize("lookalike", LOOKALIKES, ids=ascii)
def test_a_name_that_looks_like_another_stands_for_nobody(lookalike):
    """Ids and keys decide; a name is for people, who compare keys (docs/identities.md)."""
    mine = request(1, name="Cl\u00ednica A")
    theirs = request(2, name=lookalike)
    directory = Directory.new(TRUSTED).add(mine).add(theirs)
    assert dict(directory) == {1: CLIENTS[1].public_key, 2: CLIENTS[2].public_key}
    parameters = secagg.recommend(num_clients=3, corrupt_fraction=0.0, dropout_fraction=0.0)
    keys = {1: CLIENTS[2].public_key, 2: CLIENTS[1].public_key, 3: CLIENTS[3].public_key}
    config = secagg.Config(bytes(32), 1, keys, 3, parameters)
    with pytest.raises(InvalidArgumentError, match="the key of client 1 is not the one of the trust store"):
        secagg.Config.from_bytes(config.to_bytes(), directory)
    with pytest.raises(IdentityError, match="does not go by the key"):
        directory.rotate(Rotation.new(CLIENTS[2], CLIENTS[4], 1, TRUSTED))
    if lookalike != mine.name:  # not even the signed text of the one serves for the other
        with pytest.raises(IdentityError, match="not signed"):
            dataclasses.replace(mine, name=lookalike)


HIDDEN = [
    "\u200b",
    "\u202e",
    "\u00ad",
    "\ufeff",
    "\u2066",
    "\n",
    "\x00",
    "\u3164",
    "\u115f",
    "\u034f",
    "\ufe0f",
    "\uffa0",
    "\u2800",
    "\U000e0100",
]


@pytest.mark.parametrize("hidden", HIDDEN, ids=ascii)
def test_a_name_hides_nothing(hidden):
    with pytest.raises(InvalidArgumentError, match="printable"):
        request(1, name=f"Cl\u00ednica{hidden}A")


class TestMapping:
    def test_it_maps_ids_to_keys_in_order(self, three):
        assert dict(three) == {i: CLIENTS[i].public_key for i in (0, 1, 2)}
        assert list(three) == [0, 1, 2]
        assert len(three) == 3
        assert 3 not in three
        assert three.get(3) is None
        assert len(Directory.new(TRUSTED)) == 0

    def test_every_change_is_a_new_value_with_the_next_serial(self, three):
        assert Directory.new(TRUSTED).serial == 0
        assert three.serial == 3
        revoked = three.revoke(1, "key lost")
        assert (revoked.serial, three.serial) == (4, 3)
        assert 1 in three
        assert three == copy.deepcopy(three) == pickle.loads(pickle.dumps(three))
        assert hash(three) == hash(copy.deepcopy(three))
        assert three != revoked
        with pytest.raises(dataclasses.FrozenInstanceError):
            three.serial = 9

    def test_the_revoked_are_not_in_the_mapping(self, three):
        directory = three.revoke(1, "key lost")
        assert list(directory) == [0, 2]
        assert 1 not in directory
        with pytest.raises(KeyError):
            directory[1]
        assert CLIENTS[1].public_key not in directory.values()
        assert directory.entry(1).revoked
        assert directory.entry(1).reason == "key lost"
        assert not directory.entry(0).revoked

    def test_repr(self, three):
        assert repr(three) == f"<secagg.Directory of {AUTHORITY.fingerprint}, serial 3, 3 clients>"


class TestChanges:
    def test_a_request_is_for_one_authority(self, three):
        with pytest.raises(IdentityError, match=f"for the directory of {OTHER.public_key.hex()}"):
            three.add(request(3, authority=OTHER.public_key))

    def test_ids_and_keys_are_used_once(self, three):
        with pytest.raises(IdentityError, match=r"client 1 is in the directory \(active\)"):
            three.add(request(1, CLIENTS[5]))
        with pytest.raises(IdentityError, match="is or was client 1's; keys are used once"):
            three.add(request(5, CLIENTS[1]))

    def test_the_revoked_do_not_come_back(self, three):
        directory = three.revoke(1, "key stolen")
        with pytest.raises(IdentityError, match=r"client 1 is in the directory \(revoked\)"):
            directory.add(request(1))
        with pytest.raises(IdentityError, match="keys are used once"):
            directory.add(request(5, CLIENTS[1]))
        with pytest.raises(IdentityError, match="client 1 was revoked: key stolen"):
            directory.rotate(Rotation.new(CLIENTS[1], CLIENTS[5], 1, TRUSTED))
        with pytest.raises(IdentityError, match="client 1 was revoked"):
            directory.revoke(1, "again")
        assert directory.add(request(5))[5] == CLIENTS[5].public_key

    def test_rotation(self, three):
        rotated = three.rotate(Rotation.new(CLIENTS[1], CLIENTS[5], 1, TRUSTED))
        assert rotated[1] == CLIENTS[5].public_key
        assert rotated.entry(1).former_keys == (CLIENTS[1].public_key,)
        assert rotated.entry(1).enrolled == three.entry(1).enrolled
        again = rotated.rotate(Rotation.new(CLIENTS[5], CLIENTS[6], 1, TRUSTED))
        assert again.entry(1).former_keys == (CLIENTS[1].public_key, CLIENTS[5].public_key)
        assert again.serial == three.serial + 2

    def test_rotations_that_do_not_follow(self, three):
        statement = Rotation.new(CLIENTS[1], CLIENTS[5], 1, TRUSTED)
        rotated = three.rotate(statement)
        with pytest.raises(IdentityError, match="client 1 does not go by the key"):
            rotated.rotate(statement)
        with pytest.raises(IdentityError, match="keys are used once"):
            rotated.rotate(Rotation.new(CLIENTS[5], CLIENTS[1], 1, TRUSTED))  # back to the first one
        with pytest.raises(IdentityError, match="is or was client 2's"):
            three.rotate(Rotation.new(CLIENTS[1], CLIENTS[2], 1, TRUSTED))
        with pytest.raises(IdentityError, match="client 0 does not go by the key"):
            three.rotate(Rotation.new(CLIENTS[1], CLIENTS[5], 0, TRUSTED))
        with pytest.raises(IdentityError, match="no client 7"):
            three.rotate(Rotation.new(CLIENTS[7], CLIENTS[5], 7, TRUSTED))
        with pytest.raises(IdentityError, match="for the directory of"):
            three.rotate(Rotation.new(CLIENTS[1], CLIENTS[5], 1, OTHER.public_key))
        with pytest.raises(IdentityError, match="keys are used once"):
            rotated.add(request(5, CLIENTS[1]))  # a former key, by whoever has it

    def test_revoking(self, three):
        for reason in ("", "two\nlines", None, "x" * 201):
            with pytest.raises((InvalidArgumentError, InvalidTypeError), match="reason must be"):
                three.revoke(1, reason)
        with pytest.raises(IdentityError, match="no client 7"):
            three.revoke(7, "gone")
        with pytest.raises(InvalidTypeError, match="client_id must be"):
            three.revoke("1", "gone")

    def test_hand_made_values_keep_the_rules(self, three):
        first, second, _ = three.entries
        with pytest.raises(InvalidArgumentError, match="client ids must be distinct"):
            Directory(TRUSTED, 1, [first, dataclasses.replace(second, client_id=0)])
        with pytest.raises(InvalidArgumentError, match="keys must be distinct"):
            Directory(TRUSTED, 1, [first, dataclasses.replace(second, public_key=first.public_key)])
        with pytest.raises(InvalidArgumentError, match="keys must be distinct"):
            Directory(TRUSTED, 1, [first, dataclasses.replace(second, former_keys=(first.public_key,))])
        with pytest.raises(InvalidTypeError, match="must be of class Entry"):
            Directory(TRUSTED, 1, [(3, b"")])
        for serial in (-1, 2**63, 1.0):
            with pytest.raises((InvalidArgumentError, InvalidTypeError), match="serial must be"):
                Directory(TRUSTED, serial, [])
        for time in ("", "2026-02-30T00:00:00Z", "2026-1-1T00:00:00Z", "2026-01-01", 5):
            with pytest.raises(InvalidArgumentError, match="enrolled must be a time"):
                Entry(1, "name", CLIENTS[1].public_key, time)

    def test_bounds(self, three, monkeypatch):
        monkeypatch.setattr(module, "MAX_CLIENTS", 3)
        with pytest.raises(InvalidArgumentError, match=r"number of clients must be in \[0, 3\], got 4"):
            three.add(request(5))
        monkeypatch.setattr(module, "MAX_FORMER_KEYS", 0)
        with pytest.raises(IdentityError, match="number of former keys"):
            three.rotate(Rotation.new(CLIENTS[1], CLIENTS[5], 1, TRUSTED))
        monkeypatch.setattr(module, "MAX_SERIAL", 3)
        with pytest.raises(InvalidArgumentError, match="serial must be"):
            three.revoke(1, "gone")


class TestFile:
    def test_round_trip(self, path, three):
        assert Directory.load(path, authority=TRUSTED) == three
        changed = three.revoke(1, "key löst").rotate(Rotation.new(CLIENTS[2], CLIENTS[5], 2, TRUSTED))
        changed.save(str(path), AUTHORITY)
        assert Directory.load(str(path), authority=TRUSTED, min_serial=5) == changed
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0

    def test_the_signature_by_the_description_alone(self, path):
        members = json.loads(path.read_bytes())
        signature = bytes.fromhex(members.pop("signature"))
        signed = KIND + json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
        ed25519.Ed25519PublicKey.from_public_bytes(TRUSTED).verify(signature, signed)

    def test_trust_comes_from_the_caller(self, path, three):
        with pytest.raises(TypeError):
            Directory.load(path)
        with pytest.raises(
            IdentityError, match=rf"clients\.directory: it is not the directory of {OTHER.public_key.hex()}"
        ):
            Directory.load(path, authority=OTHER.public_key)
        forged = Directory(OTHER.public_key, 9, three.entries)
        with pytest.raises(IdentityError, match="is not the directory of"):
            Directory.from_bytes(forged.to_bytes(OTHER), TRUSTED)
        for authority in (None, "", bytes(31), TRUSTED.hex()):
            with pytest.raises((InvalidTypeError, InvalidArgumentError), match="authority must be"):
                Directory.load(path, authority=authority)

    def test_only_the_authority_signs(self, three, tmp_path):
        with pytest.raises(IdentityError, match="'s to sign, not"):
            three.save(tmp_path / "new", OTHER)
        assert not list(tmp_path.iterdir())
        claimed = json.loads(Directory(OTHER.public_key, 3, three.entries).to_bytes(OTHER))
        with pytest.raises(IdentityError, match="not signed by its authority"):
            Directory.from_bytes(spelled(claimed | {"authority": TRUSTED.hex()}), TRUSTED)

    def test_old_files_are_refused(self, path, three, tmp_path):
        """Rollback: Mallory serves the file from before he was revoked."""
        three.revoke(2, "Mallory").save(tmp_path / "new", AUTHORITY)
        assert Directory.load(path, authority=TRUSTED, min_serial=3).serial == 3
        with pytest.raises(IdentityError, match="serial number must be at least 4, got 3"):
            Directory.load(path, authority=TRUSTED, min_serial=4)
        for least in (-1, 1.5, None):
            with pytest.raises((InvalidTypeError, InvalidArgumentError), match="min_serial must be"):
                Directory.load(path, authority=TRUSTED, min_serial=least)

    def test_flipped_at_every_position(self, path):
        text = path.read_bytes()
        for position in range(len(text)):
            for flip in (1, 32, 128):
                flipped = bytearray(text)
                flipped[position] ^= flip
                with pytest.raises(IdentityError):
                    Directory.from_bytes(bytes(flipped), TRUSTED)

    def test_cut_and_extended(self, path):
        text = path.read_bytes()
        for changed in (*(text[:length] for length in range(0, len(text), 7)), text + b"\n", b"\n" + text):
            with pytest.raises(IdentityError):
                Directory.from_bytes(changed, TRUSTED)

    def test_other_spellings_of_what_is_signed_are_refused(self, path):
        text = path.read_bytes()
        members = json.loads(text)
        others = [
            json.dumps(members, sort_keys=True, separators=(",", ":")).encode(),
            json.dumps(members, indent=2).encode() + b"\n",
            text.replace(b"\n", b"\r\n"),
            text.replace(b"client 0", b"client \\u0030"),
            text.replace(b'"serial": 3', b'"serial": 4, "serial": 3'),
            text.replace(b'"serial": 3', b'"serial": 3.0'),
            text.replace(b'"serial": 3', b'"serial": 3e0'),
        ]
        for other in others:
            assert other != text
            with pytest.raises(IdentityError, match=r"not spelled|not signed|serial must be"):
                Directory.from_bytes(other, TRUSTED)

    def test_hostile_texts_end_in_the_one_error(self):
        for text in (b"", b"[" * 10**5, b"{" * 10**5, b"1" * 10**5, b"null", b"[]", b'"x"', b"\xff", b"{}"):
            with pytest.raises(IdentityError):
                Directory.from_bytes(text, TRUSTED)

    def test_what_is_too_large_is_not_read(self, path, monkeypatch):
        monkeypatch.setattr(module, "MAX_BYTES", 100)
        with pytest.raises(IdentityError, match="more than the 100 bytes"):
            Directory.load(path, authority=TRUSTED)

    def test_what_is_no_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for name, words in (
            ("pipe", "no regular file"),
            (".", "Is a directory"),
            ("missing", "No such file"),
        ):
            with pytest.raises(IdentityError, match=words):
                Directory.load(tmp_path / name, authority=TRUSTED)


def spelled(members):
    return (json.dumps(members, sort_keys=True, indent=1) + "\n").encode()


def signed(members):
    """A text that the authority has signed, though `Directory` would not have written it."""
    members = {name: value for name, value in members.items() if name != "signature"}
    text = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    return spelled(members | {"signature": AUTHORITY.sign(KIND + text).hex()})


class TestSignedNonsense:
    """Even under a good signature the decoder is strict: every client sees the same list, or none."""

    @pytest.fixture
    def members(self, path):
        return json.loads(path.read_bytes())

    def test_the_negative_control(self, members, three):
        assert Directory.from_bytes(signed(members), TRUSTED) == three

    def refuse(self, members, words):
        with pytest.raises(IdentityError, match=words):
            Directory.from_bytes(signed(members), TRUSTED)

    def test_reordered_clients(self, members):
        members["clients"].reverse()
        self.refuse(members, "ascending order")

    def test_an_id_twice(self, members):
        members["clients"][1]["client_id"] = 0
        self.refuse(members, "client ids must be distinct, got 0 twice")

    def test_a_key_twice(self, members):
        members["clients"][1]["public_key"] = members["clients"][0]["public_key"]
        self.refuse(members, "keys must be distinct")

    def test_a_former_key_that_is_somebody_elses(self, members):
        members["clients"][1]["former_keys"] = [members["clients"][0]["public_key"]]
        self.refuse(members, "keys must be distinct")

    @pytest.mark.parametrize("name", ["authority", "clients", "serial", "format"])
    def test_members_of_the_directory(self, members, name):
        for value in (None, -1, 1.5, True, "x", [5], {"a": 1}):
            self.refuse(members | {name: value}, r"must|holds no|not the directory")
        del members[name]
        self.refuse(members, r"exactly its members|holds no")
        self.refuse(members | {name: 1, "more": 1}, r"more|holds no")

    @pytest.mark.parametrize(
        "name", ["client_id", "enrolled", "former_keys", "name", "public_key", "reason", "revoked"]
    )
    def test_members_of_a_client(self, members, name):
        client = members["clients"][1]
        for value in (None, -1, 1.5, [5], {"a": 1}, "\n", "ff" * 32):
            if name in ("name", "reason") and value == "ff" * 32:
                continue
            members["clients"][1] = client | {name: value}
            self.refuse(members, "must")
        members["clients"][1] = {other: value for other, value in client.items() if other != name}
        self.refuse(members, "must have the members")
        members["clients"][1] = client | {"more": 1}
        self.refuse(members, "must have the members")
        members["clients"][1] = [client]
        self.refuse(members, "must have the members")

    def test_revoked_without_a_reason_and_the_other_way(self, members):
        members["clients"][1]["revoked"] = True
        self.refuse(members, "revoked for a reason or not at all")
        members["clients"][1] |= {"revoked": False, "reason": "key lost"}
        self.refuse(members, "revoked for a reason or not at all")
        members["clients"][1] |= {"revoked": 1}
        self.refuse(members, "revoked for a reason or not at all")

    def test_keys_that_are_none(self, members):
        for key in ("00" * 32, "01" + "00" * 31, "FF" * 32, "0" * 63, " " + "0" * 63):
            members["clients"][1]["public_key"] = key
            self.refuse(members, "must be")


class TestSaving:
    def test_a_change_that_somebody_else_made_meanwhile_is_not_lost(self, path, three):
        """Two administrators start from serial 3; the second one is told."""
        three.revoke(0, "gone").save(path, AUTHORITY)
        with pytest.raises(IdentityError, match="serial number is 4, so 4 cannot follow"):
            three.revoke(1, "gone").save(path, AUTHORITY)
        with pytest.raises(IdentityError, match="so 3 cannot follow"):
            three.save(path, AUTHORITY)
        assert list(Directory.load(path, authority=TRUSTED)) == [1, 2]

    def test_of_many_at_once_one_succeeds(self, path, three):
        saved, barrier = [], threading.Barrier(6)

        def change(client_id):
            directory = three.add(request(client_id))
            barrier.wait()
            try:
                directory.save(path, AUTHORITY)
            except IdentityError:
                return
            saved.append(client_id)

        threads = [threading.Thread(target=change, args=(client_id,)) for client_id in range(3, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(Directory.load(path, authority=TRUSTED)) == [0, 1, 2, *saved]
        assert len(saved) == 1

    def test_other_files_are_left_alone(self, path, three):
        path.write_text("a list of groceries\n")
        with pytest.raises(IdentityError, match="holds no 'fedsec directory 1'"):
            three.revoke(0, "gone").save(path, AUTHORITY)
        assert path.read_text() == "a list of groceries\n"
        path.unlink()
        Directory.new(OTHER.public_key).save(path, OTHER)
        with pytest.raises(IdentityError, match="not the directory of"):
            three.save(path, AUTHORITY)

    def test_a_failure_leaves_the_old_one(self, path, three, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        before = path.read_bytes()
        for call in ("fsync", "replace"):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, full)
                with pytest.raises(IdentityError, match="No space left"):
                    three.revoke(0, "gone").save(path, AUTHORITY)
            assert path.read_bytes() == before
            assert [entry.name for entry in path.parent.iterdir()] == [path.name]


class TestInASession:
    def test_a_config_takes_it_as_it_is(self, path):
        directory = Directory.load(path, authority=TRUSTED).add(request(3)).revoke(0, "left")
        parameters = secagg.recommend(num_clients=3, corrupt_fraction=0.0, dropout_fraction=0.0)
        config = secagg.Config(
            session_id=bytes(32), round_id=1, participants=directory, vector_length=4, parameters=parameters
        )
        assert config.ids == (1, 2, 3)
        assert dict(config.participants) == dict(directory)
