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
from unittest.mock import Mock

import pytest
from protocol.secagg_loop import HEADER, PHASE_NAMES, SPARSE, Loop, complete, identity_of

from fedsec import secagg
from fedsec.errors import AggregationAborted, InvalidArgumentError, ProtocolError, StoreError
from fedsec.secagg import graph, keys, masking, steps
from fedsec.secagg.primitives import shamir
from fedsec.secagg.primitives._secrets import Unpicklable, wiping, wiping_on_error

# --- repr ---

# What may be shown. A field that is not named here counts as secret, so that a new one is, too.
PUBLIC = {
    # What goes over the wire, but for `Unmasking`, whose share is opened to the server alone.
    "Advertisement": {"sealing", "masking", "commitment", "signature"},
    "Proven": {"advertisement", "path"},
    "Reveal": {"nonce", "signature"},
    "Roster": {"root", "committee", "peers"},
    "SealedPair": {"commitments", "sealed"},
    "Unmasking": {"of"},
    "Answer": {"kind", "body", "state", "tail"},  # a state's own repr shows nothing
    "Outcome": {"survivors", "dropped", "seconds", "bytes_per_client", "attempts"},
    "Party": {"client_id", "public_key"},
    "Term": {"sign"},
    "_Graph": {"root", "binding", "neighbors"},
    "_Rest": {"session_id", "answered", "phase"},
}
# Modules that never see a secret of a session.
WITHOUT_SECRETS = {"config", "directory", "enrolment", "parameters", "quantizer", "schema", "store"}
# Their repr is written out, and tested where they are.
WRITTEN_OUT = {"Client", "Server", "Identity", "Outbox", "Participant"}
MARK = "marked as secret"


def classes():
    """Every class that a module of the package defines."""
    names = [m.name for m in pkgutil.iter_modules(secagg.__path__) if m.name not in WITHOUT_SECRETS]
    modules = [importlib.import_module(f"fedsec.secagg.{name}") for name in names]
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
    elif cls.__name__ not in WRITTEN_OUT:
        assert cls.__repr__ is object.__repr__


def test_every_class_with_secrets_is_among_them():
    names = {cls.__name__ for cls in classes()}
    assert {"Advertised", "Shared", "Delivered", "Uploaded", "Dealt", "_Collected", "LocalSession"} <= names
    assert {"Me", "KeyPair", "Outcome", "Term", "Masks", "Unmasking"} <= names


@pytest.mark.parametrize("cls", [c for c in classes() if c.__name__ in ("KeyPair", "Me", "Masks", "Dealt")])
def test_holders_of_secrets_are_not_pickled(cls):
    assert issubclass(cls, Unpicklable)


# --- wiping ---


@pytest.fixture
def made(monkeypatch):
    """Every bytearray that is drawn, derived, split, combined or put into a state from now on."""
    seen = []

    def record(holder, name):
        original = getattr(holder, name)

        def recorded(*arguments, **options):
            result = original(*arguments, **options)
            seen.append(result)
            return result

        monkeypatch.setattr(holder, name, recorded)

    def record_state(cls):
        original = cls.__init__

        def recorded(state, *arguments, **options):
            seen.append(state)
            original(state, *arguments, **options)

        monkeypatch.setattr(cls, "__init__", recorded)

    for holder, names in [
        (keys, ("pair_seed", "self_seed", "sealing_key", "unseal")),
        (keys.KeyPair, ("agree",)),
        (shamir, ("split", "combine")),
        (steps, ("draw",)),
    ]:
        for name in names:
            record(holder, name)
    for cls in (steps.Advertised, steps.Shared, steps.Delivered, steps.Uploaded):
        record_state(cls)
    return seen


def bytearrays(value):
    if isinstance(value, bytearray):
        yield value
    elif isinstance(value, dict):
        yield from bytearrays(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from bytearrays(item)
    elif dataclasses.is_dataclass(value):
        yield from bytearrays(list(vars(value).values()))


def wiped(made):
    """How many secrets were made; none of them is left."""
    secrets = list(bytearrays(made))
    assert not any(any(secret) for secret in secrets)
    return len(secrets)


def with_row(message, row, content):
    """A message that is a table behind a root, with the content of one row replaced."""
    start = HEADER + 32 + 2 + row * (4 + len(content)) + 4
    return message[:start] + content + message[start + len(content) :]


def test_a_roster_with_a_bad_last_key_leaves_nothing(made, monkeypatch):
    """Self mask, all shares and the keys of the peers before it are made by then."""
    loop = Loop(4).until("share")
    agree = keys.KeyPair.agree
    monkeypatch.setattr(keys.KeyPair, "agree", lambda p, you: fail() if you[0] == 40 else agree(p, you))
    made.clear()
    with pytest.raises(MemoryError):
        loop.clients[10].receive(loop.inbox[10])
    assert wiped(made) > 2 * 3 + 2 * 2


def test_a_start_that_fails_leaves_nothing(made):
    class Mute:
        public_key = identity_of(10).public_key
        sign = staticmethod(fail)

    client = Loop(4).clients[10]
    object.__setattr__(client._me, "identity", Mute())
    with pytest.raises(MemoryError):
        client.start()
    assert wiped(made) >= 2


def test_a_delivery_with_a_bad_last_ciphertext_leaves_nothing(made):
    loop = Loop(4).until("upload")
    made.clear()
    with pytest.raises(ProtocolError, match="not authentic"):
        loop.clients[10].receive(loop.inbox[10][:-1] + b"\0")
    assert wiped(made) > 2 * 2


def test_a_delivery_from_a_bad_dealer_leaves_nothing(made, monkeypatch):
    """Its shares are open by then, and do not fit."""
    with monkeypatch.context() as patch:
        patch.setattr(keys, "share_commitment", lambda *_: bytes(32))
        loop = Loop(4).until("upload")
    made.clear()
    commitments = steps._commitments
    monkeypatch.setattr(
        steps, "_commitments", lambda *given: (made.extend(given[-1]), commitments(*given))[1]
    )
    with pytest.raises(ProtocolError, match="client 20 dealt this client shares that it did not commit to"):
        loop.clients[10].receive(loop.inbox[10])
    assert wiped(made) >= 3


def test_an_upload_that_fails_at_the_masks_leaves_nothing(made, monkeypatch):
    loop = Loop(4).until("upload")
    loop.clients[10].submit(loop.vectors[10])
    vector = loop.clients[10]._vector
    made.clear()
    monkeypatch.setattr(masking.masks, "accumulate", fail)
    with pytest.raises(MemoryError):
        loop.clients[10].receive(loop.inbox[10])
    assert wiped(made) > 6
    assert not vector.any()


def test_an_upload_that_fails_between_its_masks_leaves_nothing(made, monkeypatch):
    loop = Loop(4).until("upload")
    loop.clients[10].submit(loop.vectors[10])
    made.clear()
    seed = keys.pair_seed
    monkeypatch.setattr(
        keys, "pair_seed", lambda s, h, me, you: fail() if you[0] == 40 else seed(s, h, me, you)
    )
    with pytest.raises(MemoryError):
        loop.clients[10].receive(loop.inbox[10])
    assert wiped(made) > 6


@pytest.mark.parametrize("phase", PHASE_NAMES[1:])
@pytest.mark.parametrize("error", [ProtocolError, StoreError, MemoryError])
def test_a_store_that_grants_nothing_leaves_nothing(made, monkeypatch, phase, error):
    """The next state is made by then, and never entered."""
    loop = Loop(parameters=SPARSE).until(phase)
    member = graph.committee(loop.config)[0]
    held = list(bytearrays(loop.clients[member]._state))
    made.clear()
    monkeypatch.setattr(loop.store, "claim", Mock(side_effect=error))
    with pytest.raises(error):
        loop.answer(member)
    assert loop.clients[member].phase == "aborted"
    wiped([held, made])


def test_chunks_that_are_not_drawn_to_the_end_leave_nothing(made):
    loop = Loop(4, 70_000).until("upload")
    client = loop.clients[10]
    client.receive(loop.inbox[10])
    made.clear()
    chunks = client.upload(loop.vectors[10])
    next(chunks)
    chunks.close()
    assert client.phase == "aborted"
    assert wiped(made) > 6


@pytest.mark.parametrize("kind", ["self mask", "mask key"])
def test_a_server_that_rebuilds_the_wrong_secret_forgets_it_and_all_before(made, monkeypatch, kind):
    """The client whose secret is wrong is the last one, so that the others' have been rebuilt."""
    silent = {40: "upload", 50: "upload"}
    loop = Loop(parameters=complete(5, corrupt=0, lost=2), silent=silent).until("unmask")
    owner = {"self mask": 30, "mask key": 50}[kind]
    for i in (10, 20, 30):
        loop.server.receive(i, loop.answer(i))
    shares = loop.server._collected.dealt[owner].shares
    next(iter(shares.values()))[0] ^= 1
    held = list(bytearrays(loop.server._collected.dealt))
    made.clear()
    with pytest.raises(AggregationAborted, match=f"shares of its {kind} that do not fit together"):
        loop.server.close_phase()
    assert wiped([made, held]) >= 2


@pytest.mark.parametrize("ends", ["done", "aborted"])
def test_a_server_forgets_the_shares_that_it_was_given(made, ends):
    loop = Loop(4, silent={40: "upload"}).until("unmask")
    for i in loop.inbox:
        loop.server.receive(i, loop.answer(i))
    held = list(bytearrays(loop.server._collected.dealt))
    made.clear()
    loop.close() if ends == "done" else loop.server.abort()
    assert len(held) == 3 * 3
    assert wiped([made, held]) >= len(held)
    assert not any(vars(loop.server._collected).values())


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

FORKED = """
import os, sys, threading
from protocol.secagg_loop import Loop
from fedsec.errors import ProtocolError
from fedsec.secagg import SessionStore

loop = Loop(3, 70_000, store=SessionStore(sys.argv[1]))
client = loop.clients[10]
held, done = threading.Event(), threading.Event()

def hold():
    with client._turn:
        held.set()
        done.wait()

def in_child(run):
    thread = threading.Thread(target=hold)   # has its turn while this one forks
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(run())
    done.set()
    thread.join()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def refused(*calls):
    count = 0
    for call in calls:
        try:
            call()
        except ProtocolError as error:
            count += "another process" in str(error)
    return 10 * count + (client.phase == "aborted" and client._vector is None)
"""

CALLS = """
loop.until({phase!r})
calls = [lambda: client.submit(loop.vectors[10]), lambda: client.receive(b""), lambda: client.to_bytes(b"")]
print(in_child(lambda: refused(client.start, *calls)))
"""

ABORT = """
loop.until({phase!r})
print(in_child(lambda: client.abort() or client.phase == "aborted"))
"""

CHUNKS = """
loop.until("upload")
client.receive(loop.inbox[10])
chunks = client.upload(loop.vectors[10])
loop.server.receive(10, next(chunks))
print(in_child(lambda: chunks.close() or client.phase == "aborted"))
loop.server.receive(10, next(chunks))
loop.play_others([10])
"""

REST = """
print(loop.finish().tolist() == loop.expected_sum(loop.ids))
"""


def run_forked(script, path):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED + script + REST, str(path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, timeout=600
    ).stdout.split()


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@forks
@pytest.mark.parametrize("phase", ["advertise", "unmask"])
def test_a_forked_client_answers_in_its_own_process_alone(phase, tmp_path):
    """All calls are refused in the child, whose copy is wiped; the parent's session goes on."""
    assert run_forked(CALLS.format(phase=phase), tmp_path / "store") == ["41", "True"]


@forks
@pytest.mark.parametrize("phase", ["advertise", "unmask"])
def test_an_abort_in_a_forked_process_ends_its_own_copy_alone(phase, tmp_path):
    """It does not wait for the parent's threads, and the store knows nothing of it."""
    assert run_forked(ABORT.format(phase=phase), tmp_path / "store") == ["1", "True"]


@forks
def test_an_upload_left_in_a_forked_process_goes_on_in_its_own(tmp_path):
    """A child that ends drops the iterator that it inherited."""
    assert run_forked(CHUNKS, tmp_path / "store") == ["1", "True"]
