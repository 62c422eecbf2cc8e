"""The operating system's generator fails at its n-th call, for every n: by name, and nothing leaves.

Errors, short reads, zeros, and the same bytes as the last time. What a generator gives that is bad and looks
well nobody can see.
"""

import contextlib
import errno
import os

import numpy as np
import pytest
from protocol.secagg_loop import COMPLETE_PHASES, Loop, config_of, identity_of, policy_of

from fedsec import noise, sampling
from fedsec.errors import EntropyError, FedsecError
from fedsec.secagg import Identity, Participant, SessionStore, recommend

SYSTEM = os.urandom


def broken(_):
    raise OSError(errno.EIO, "Input/output error")


def missing(_):
    raise NotImplementedError("no generator here")


KINDS = {
    "broken": broken,
    "missing": missing,
    "short": lambda length: SYSTEM(length - 1),
    "empty": lambda _: b"",
    "zeros": bytes,
    "ones": lambda length: b"\xff" * length,
}


class Source:
    """In the place of `os.urandom`; it counts, and fails at one call, or from it on."""

    def __init__(self, monkeypatch, kind, at):
        self.calls, self.kind, self.at, self.last = 0, kind, at, {}
        monkeypatch.setattr(os, "urandom", self)

    def __call__(self, length):
        self.calls += 1
        if self.at is not None and self.calls >= self.at:
            if self.kind == "repeated":
                return self.last.get(length) or self.last.setdefault(length, SYSTEM(length))
            return KINDS[self.kind](length)
        self.last[length] = SYSTEM(length)
        return self.last[length]


OPERATIONS = {
    "discrete Gaussian": lambda _: noise.discrete_gaussian(100, stddev=3.0),
    "Skellam": lambda _: noise.skellam(100, variance=9.0),
    "Gaussian": lambda _: noise.gaussian(100),
    "release": lambda _: noise.release(np.zeros(10), l2_sensitivity=1.0, noise_multiplier=1.0),
    "Poisson sample": lambda _: sampling.poisson(100, 0.1),
    "fixed-size sample": lambda _: sampling.fixed_size(100, 10),
    "identity": lambda _: Identity.new(),
    "start": lambda _: Loop(4, seeded=False).clients[10].start(),
}


@pytest.mark.parametrize("kind", [*KINDS, "repeated"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_draw_of_an_operation(monkeypatch, name, kind):
    operation = OPERATIONS[name]
    counted = Source(monkeypatch, kind, None)
    operation(None)
    assert counted.calls >= 1
    for at in range(1, counted.calls + 1):
        Source(monkeypatch, kind, at)
        if kind == "repeated":
            with contextlib.suppress(EntropyError):  # the first draw of a source that is stuck is good
                operation(None)
        with pytest.raises(EntropyError, match="the operating system gives"):
            operation(None)
        Source(monkeypatch, kind, None)
        operation(None)  # and it goes on once there is randomness again


@pytest.mark.parametrize("kind", [*KINDS, "repeated"])
def test_every_draw_of_a_session(monkeypatch, kind):
    """The client whose draw fails lets nothing out, and the others go on without it, or give up by name."""
    counted = Source(monkeypatch, kind, None)
    Loop(4, seeded=False).finish()
    # Those of the first client, which comes first in each phase; of the others' every fifth.
    for at in [*range(1, 7), *range(7, counted.calls + 1, 5)]:
        source = Source(monkeypatch, kind, at)
        loop, failed = Loop(4, seeded=False), 0
        try:
            for _ in COMPLETE_PHASES:
                failed += play_phase(loop, source)
        except FedsecError:
            assert failed
        else:
            assert loop.server.result().tolist() == loop.expected_sum(loop.server.survivors)


def play_phase(loop, source):
    failed = 0
    for client in list(loop.inbox):
        sent = len(loop.sent[client])
        try:
            message = loop.answer(client)
        except EntropyError:
            source.at, failed = None, failed + 1
            assert len(loop.sent[client]) == sent
            continue
        loop.server.receive(client, message)
    loop.close()
    return failed


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_could_not_start_can_start_again(monkeypatch, kind):
    loop = Loop(4, seeded=False)
    Source(monkeypatch, kind, 1)
    with pytest.raises(EntropyError):
        loop.clients[10].start()
    Source(monkeypatch, kind, None)
    assert loop.finish().tolist() == loop.expected_sum(loop.ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gets_no_key_without_randomness(monkeypatch, tmp_path, kind):
    config = config_of(recommend(num_clients=4, corrupt_fraction=0.0, dropout_fraction=0.25))
    SessionStore(tmp_path / "other")

    def join():
        return Participant(tmp_path / "client", 10, identity_of(10), policy=policy_of(config)).join(config)

    Source(monkeypatch, kind, 1)
    with pytest.raises(EntropyError):
        join()
    Source(monkeypatch, kind, None)
    assert join()
