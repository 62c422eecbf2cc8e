"""The operating system's generator fails at its n-th call, for every n: by name, and nothing leaves.

Errors, short reads, zeros, and the same bytes as the last time. What a generator gives that is bad and looks
well nobody can see.
"""

import contextlib
import errno
import os
from importlib.util import find_spec

import numpy as np
import pytest
from protocol.secagg_loop import COMPLETE_PHASES, Loop, config_of, identity_of, policy_of

import fedsec
from fedsec import noise, sampling
from fedsec.errors import EntropyError, FedsecError
from fedsec.secagg import Identity, Participant, SessionStore, recommend
from fedsec.secagg.local import LocalSession

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


def federated_round(secure_aggregation):
    """One round, summed in the plain or rehearsed with keys of one process."""
    import torch

    federation = fedsec.Federation(
        torch.nn.Linear(2, 1),
        num_clients=4,
        cohort_size=3,
        num_rounds=1,
        l2_clip_norm=1.0,
        noise_multiplier=1.0,
        target_delta=1e-5,
        secure_aggregation=secure_aggregation,
    )
    for rnd in federation.rounds():
        for client in rnd.cohort:
            rnd.submit(client, rnd.model())
        rnd.finish()


def private_step():
    """The first step of a training, trial and all, with a model that draws itself."""
    import torch

    model = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(2, 1))
    optimizer, data = (
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.utils.data.TensorDataset(torch.ones(4, 2)),
    )
    terms = {"batch_size": 4, "noise_multiplier": 1.0, "target_delta": 1e-5, "steps": 1}
    privacy = fedsec.attach(model, optimizer, data, **terms)
    for (x,) in privacy.loader():
        privacy.backward(model(x).squeeze(1))
        optimizer.step()


OPERATIONS = {
    "discrete Gaussian": lambda _: noise.discrete_gaussian(100, stddev=3.0),
    "Skellam": lambda _: noise.skellam(100, variance=9.0),
    "Gaussian": lambda _: noise.gaussian(100),
    "release": lambda _: noise.release(np.zeros(10), l2_sensitivity=1.0, noise_multiplier=1.0),
    "Poisson sample": lambda _: sampling.poisson(100, 0.1),
    "fixed-size sample": lambda _: sampling.fixed_size(100, 10),
    "ledger": lambda folder: fedsec.Ledger(folder / "budget", target_epsilon=1.0, target_delta=1e-5),
    "identity": lambda _: Identity.new(),
    "key file": lambda folder: identity_of(10).save(folder / f"{len(os.listdir(folder))}.pem"),
    "start": lambda _: Loop(4, seeded=False).clients[10].start(),
    "session in one process": lambda _: LocalSession(range(3), 2, profile="semi_honest"),
}
if find_spec("torch"):
    OPERATIONS |= {
        "federated round": lambda _: federated_round(secure_aggregation=False),
        "rehearsed round": lambda _: federated_round(secure_aggregation="insecure_session_key"),
        "private step": lambda _: private_step(),
    }


@pytest.mark.parametrize("kind", [*KINDS, "repeated"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_draw_of_an_operation(monkeypatch, tmp_path, name, kind):
    operation = OPERATIONS[name]
    operation(tmp_path)  # modules that are loaded on the way may draw, too
    counted = Source(monkeypatch, kind, None)
    operation(tmp_path)
    assert counted.calls >= 1
    for at in range(1, counted.calls + 1):
        Source(monkeypatch, kind, at)
        if kind == "repeated":
            with contextlib.suppress(EntropyError):  # the first draw of a source that is stuck is good
                operation(tmp_path)
        with pytest.raises(EntropyError, match="the operating system gives"):
            operation(tmp_path)
        Source(monkeypatch, kind, None)
        operation(tmp_path)  # and it goes on once there is randomness again


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
