"""Secrets of a session: wiped whichever way a step ends, shown by nothing, answered by one process alone."""

import dataclasses
import enum
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from protocol.secagg_loop import HEADER, Loop

from fedsec import secagg
from fedsec.errors import AggregationAborted, InvalidArgumentError, ProtocolError
from fedsec.secagg import Client, Server, client, keys, masking, messages, shamir
from fedsec.secagg._secrets import Unpicklable, wiping, wiping_on_error

# --- repr ---

# What may be shown. A field that is not named here counts as secret, so that a new one is, too.
PUBLIC = {
    "Binding": {"config", "digest"},
    "Config": {field.name for field in dataclasses.fields(secagg.Config)},
    "Outcome": {"survivors", "dropped", "seconds", "bytes_per_client"},
    "Party": {"client_id", "public_key"},
    "PublicKeys": {"sealing", "masking"},
    "Quantizer": {"granularity", "max_abs", "num_clients"},
    "Term": {"sign"},
    "Transition": {"takes", "then"},
    "Unmasking": {"of"},
}
MARK = "marked as secret"


def classes():
    """Every class that a module of the package defines."""
    modules = [
        importlib.import_module(f"fedsec.secagg.{m.name}") for m in pkgutil.iter_modules(secagg.__path__)
    ]
    found = [
        c for m in modules for _, c in inspect.getmembers(m, inspect.isclass) if c.__module__ == m.__name__
    ]
    return [c for c in found if not issubclass(c, enum.Enum)]


def fields_of(cls):
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else cls._fields


def marked(cls):
    """An instance whose secret fields hold the mark."""
    public = PUBLIC.get(cls.__name__, set())
    values = {name: "public" if name in public else MARK for name in fields_of(cls)}
    if not dataclasses.is_dataclass(cls):
        return cls(**values)
    instance = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return instance


@pytest.mark.parametrize("cls", classes(), ids=lambda c: c.__name__)
def test_no_repr_shows_a_secret(cls):
    if dataclasses.is_dataclass(cls) or issubclass(cls, tuple):
        assert MARK not in repr(marked(cls))
        assert MARK not in str([marked(cls)])
    else:
        # Their repr is written out, and tested in a session: test_secagg_client.py, test_secagg_server.py.
        assert cls in (Client, Server, Unpicklable)


def test_every_class_with_secrets_is_among_them():
    names = {cls.__name__ for cls in classes()}
    assert {"Outcome", "Term", "Unmasking", "_Shared", "_Uploaded", "_Collected", "_Session"} <= names


# --- wiping ---


@pytest.fixture
def made(monkeypatch):
    """Every bytearray that the key schedule, the sharing and the generator give out from now on."""
    seen = []

    def record(module, name, original):
        def recorded(*arguments, **options):
            result = original(*arguments, **options)
            seen.extend(result.values() if isinstance(result, dict) else [result])
            return result

        monkeypatch.setattr(module, name, recorded)

    for module, names in [
        (keys, ("agree", "pair_seed", "self_seed", "sealing_key", "unseal")),
        (shamir, ("split", "combine")),
    ]:
        for name in names:
            record(module, name, getattr(module, name))
    record(client, "draw", client.draw)
    return seen


def all_wiped(made):
    return made and not any(any(secret) for secret in made)


def with_row(message, row, content):
    """A table message with the content of one row (64 bytes) replaced."""
    start = HEADER + 2 + row * (4 + len(content)) + 4
    return message[:start] + content + message[start + len(content) :]


def test_a_roster_with_a_bad_last_key_leaves_nothing(made):
    """Self mask, all shares and the keys of the peers before it are made by then."""
    loop = Loop(4).until("share")
    sealing_key_of_nobody = bytes(32) + loop.inbox[10][-32:]
    made.clear()
    with pytest.raises(ProtocolError, match="small order"):
        loop.clients[10].receive(with_row(loop.inbox[10], 3, sealing_key_of_nobody))
    assert len(made) > 2 * 4 + 2 * 3
    assert all_wiped(made)


def test_a_delivery_with_a_bad_last_ciphertext_leaves_nothing(made, monkeypatch):
    states = []

    def record(*fields, original=client._Uploaded):
        states.append(original(*fields))
        return states[-1]

    monkeypatch.setattr(client, "_Uploaded", record)
    loop = Loop(4).until("upload")
    loop.clients[10].submit(loop.vectors[10])
    made.clear()
    with pytest.raises(ProtocolError, match="not authentic"):
        loop.clients[10].receive(loop.inbox[10][:-1] + b"\0")
    assert len(made) == 2
    assert all_wiped(made)
    (held,) = states
    assert len(held.self_mask_shares) == 3
    assert all_wiped([*held.self_mask_shares.values(), *held.mask_key_shares.values()])


def test_an_upload_that_fails_at_the_masks_leaves_nothing(made, monkeypatch):
    loop = Loop(4).until("upload")
    loop.clients[10].submit(loop.vectors[10])
    vector = loop.clients[10]._vector
    made.clear()
    monkeypatch.setattr(masking.masks, "accumulate", fail)
    with pytest.raises(MemoryError):
        loop.clients[10].receive(loop.inbox[10])
    assert len(made) > 6
    assert all_wiped(made)
    assert not vector.any()


def test_an_upload_that_fails_between_its_masks_leaves_nothing(made, monkeypatch):
    loop = Loop(4).until("upload")
    loop.clients[10].submit(loop.vectors[10])
    made.clear()
    seed = keys.pair_seed
    monkeypatch.setattr(
        keys, "pair_seed", lambda b, s, me, you: fail() if you[0] == 40 else seed(b, s, me, you)
    )
    with pytest.raises(MemoryError):
        loop.clients[10].receive(loop.inbox[10])
    assert len(made) > 6
    assert all_wiped(made)


@pytest.mark.parametrize("kind", ["self mask", "mask key"])
def test_a_server_that_rebuilds_the_wrong_secret_forgets_it_and_all_before(made, kind):
    """The client whose share is wrong is the last one, so that the others' secrets have been rebuilt."""
    loop = Loop(5, threshold=3, silent={40: "upload", 50: "upload"}).until("unmask")
    owner = {"self mask": 30, "mask key": 50}[kind]
    for i in (10, 20, 30):
        message = loop.answer(i)
        shares = messages.decode_unmask(message[HEADER:])
        shares[owner] = messages.Unmasking(shares[owner].of, b"other" + bytes(shares[owner].share[5:]))
        loop.server.receive(i, message[:HEADER] + messages.encode_unmask(shares))
    made.clear()
    with pytest.raises(AggregationAborted, match=f"{kind} of client {owner} do not fit"):
        loop.server.close_phase()
    assert len(made) >= 2
    assert all_wiped(made)


def fail(*_, **__):
    raise MemoryError


def test_a_split_that_fails_leaves_no_coefficients(monkeypatch):
    drawn = []

    def draw(length, _):
        drawn.append(bytearray(b"c" * length))
        return drawn[-1]

    monkeypatch.setattr(shamir, "draw", draw)
    monkeypatch.setattr(shamir._kernels, "shamir_split", fail)
    with pytest.raises(MemoryError):
        shamir.split(bytes(32), 3, 5)
    assert drawn == [bytearray(64)]


def test_wiping_in_any_case_and_on_errors():
    kept, lost = bytearray(b"kept"), bytearray(b"lost")
    with wiping_on_error({1: kept}), wiping([lost]) as the_same:
        assert the_same == [b"lost"]
    assert (kept, lost) == (b"kept", bytes(4))
    with pytest.raises(InvalidArgumentError), wiping_on_error(kept):
        raise InvalidArgumentError
    assert kept == bytes(4)


# --- forks ---

FORK = """
import os
from protocol.secagg_loop import Loop
from fedsec.errors import ProtocolError

loop = Loop(3).until({phase!r})
client = loop.clients[10]
client._turn.acquire()   # as another thread might hold it while this one forks
child = os.fork()
if child == 0:
    refused = 0
    for call, argument in ((client.start, ()), (client.submit, [loop.vectors[10]]), (client.receive, [b""])):
        try:
            call(*argument)
        except ProtocolError as error:
            refused += "another process" in str(error)
    os._exit(10 * refused + (client.phase == "aborted" and client._vector is None))
client._turn.release()
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, loop.finish().tolist() == loop.expected_sum(loop.ids))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("phase", ["advertise", "unmask"])
def test_a_forked_client_answers_in_its_own_process_alone(phase):
    """All three calls are refused in the child, whose copy is wiped; the parent's session goes on."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK.format(phase=phase)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=60)
    assert run.stdout.split() == ["31", "True"]
