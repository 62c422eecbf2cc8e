"""Killed at any instant, and started again: clients in folders, their budgets, federations and trainings.

Ledgers and session stores by themselves are killed in test_ledger_crashes and test_secagg_store_crashes.
Whatever is killed here can be opened again at once; what it let out before, it never lets out in another
form; what it was paid for stays paid for. `make soak` kills hundreds of times.
"""

import contextlib
import os
import signal
import time

import numpy as np
import pytest
from protocol import kills_worker
from protocol.kills_worker import CLIENT, VECTOR, budget_of, config_of_round, federation_in, training_in
from protocol.secagg_loop import identity_of, policy_of
from protocol.workers import Worker

from fedsec.errors import AggregationAborted
from fedsec.secagg import Client, Phase, Server, SessionStore

KILLS = 400 if os.environ.get("FEDSEC_LONG") == "1" else 15


@pytest.fixture(scope="module")
def worker():
    with contextlib.closing(Worker(kills_worker)) as worker:
        yield worker


@pytest.fixture(scope="module")
def torch_worker():
    pytest.importorskip("torch")
    with contextlib.closing(Worker(kills_worker, "torch")) as worker:
        yield worker


class Deliveries:
    """The server's requests to one client in a folder, whose process is killed now and then."""

    def __init__(self, worker, folder, rng):
        self.worker, self.folder, self.rng = worker, folder, rng
        self.slowest, self.kills, self.killing = 0.02, 0, True

    def ask(self, number, request):
        """All answers that ever came out to one request; it is asked until somebody answers or refuses."""
        came = []
        for _ in range(int(self.rng.integers(1, 4)) if self.killing else 0):
            seconds = float(self.rng.uniform(0.0, 1.2 * self.slowest))
            came += self.once(number, request, seconds)
        return {words[1] for words in came + self.once(number, request, None) if words[0] == "answer"}

    def once(self, number, request, seconds):
        started = time.perf_counter()
        said, code = self.worker.run("participant", self.folder, number, request.hex(), seconds=seconds)
        assert code in (0, -signal.SIGKILL)
        if seconds is None:
            self.slowest = max(0.02, 0.5 * self.slowest, time.perf_counter() - started)
            assert said  # it opens, and answers or refuses
        self.kills += code == -signal.SIGKILL
        return said


def test_a_client_in_a_folder_never_answers_in_two_ways(worker, tmp_path):
    """And a session that it fell out of goes on without it; the sum is right with or without."""
    rng, number, sums = np.random.default_rng(3), 0, []
    deliveries = Deliveries(worker, tmp_path / "client", rng)
    while deliveries.kills < KILLS:
        number += 1
        sums.append(play_session(deliveries, config_of_round(number), number))
    with_it = (4 * VECTOR).tolist()
    assert set(map(tuple, sums)) <= {tuple(with_it), tuple((3 * VECTOR).tolist()), ()}
    deliveries.killing = False
    assert play_session(deliveries, config_of_round(number + 1), number + 1) == with_it


def play_session(deliveries, config, number):
    """The sum of a session whose three other clients are never killed; nothing if it was given up."""
    store, server = SessionStore.in_memory(), Server(config)
    others = {
        i: Client(config, i, identity_of(i), policy=policy_of(config), store=store)
        for i in config.ids
        if i != CLIENT
    }
    inbox = dict.fromkeys(config.ids, b"")
    try:
        while server.phase is not Phase.DONE:
            if CLIENT in inbox:
                answers = deliveries.ask(number, inbox[CLIENT])
                assert len(answers) <= 1, f"two answers to one {server.phase.value} request"
                for answer in answers:
                    server.receive(CLIENT, bytes.fromhex(answer))
            for i in others.keys() & inbox.keys():
                server.receive(i, answer_of(others[i], inbox[i]))
            inbox = server.close_phase()
    except AggregationAborted:
        return []
    return server.result().view(np.int32).tolist()


def answer_of(client, request):
    if client.phase is Phase.ADVERTISE:
        return client.start()
    if client.phase is Phase.UPLOAD:
        client.submit(VECTOR)
    return client.receive(request)


def test_a_folder_that_was_killed_while_it_was_made(worker, tmp_path):
    rng = np.random.default_rng(4)
    for number in range(KILLS):
        folder = tmp_path / str(number)
        worker.run("participant", folder, 1, "", seconds=float(rng.uniform(0.0, 0.02)))
        (said,), code = worker.run("participant", folder, 1, "")
        assert code == 0
        # It was killed after its message was granted, and fell out; or it answers.
        assert said[0] == "answer" or "was started before" in said[2]
        (said,), _ = worker.run("participant", folder, 2, "")
        assert said[0] == "answer"


def test_a_budget_never_forgets_what_it_granted(worker, tmp_path):
    """What was reserved stays reserved or is charged, and what was settled is charged: never neither."""
    path, rng, first, reserved, settled = tmp_path / "own.ledger", np.random.default_rng(5), 1, set(), set()
    for number in range(KILLS):
        said, code = worker.run(
            "budget", path, first, seconds=float(rng.uniform(0.0, 0.03)), after=2 * (number % 2)
        )
        assert code == -signal.SIGKILL
        reserved |= {number for what, number in said if what == "reserved"}
        settled |= {number for what, number in said if what == "settled"}
        kept, ledger = budget_of(path)
        charged = {int(entry.purpose.split()[1].rstrip(",")) for entry in ledger.entries()}
        open_now = {int.from_bytes(session.rstrip(b"\0"), "little") for session in kept.reserved()}
        assert ledger.verify() == len(charged)
        assert settled <= charged
        assert reserved <= charged | open_now
        first = max(charged | open_now | {first - 1}) + 1
    assert len(settled) > KILLS // 4


def test_a_federation_never_releases_what_is_not_charged(torch_worker, tmp_path):
    """It goes on from its last checkpoint; a round done again has other noise, and is paid for again."""
    rng, released, rounds = np.random.default_rng(6), [], set()
    for _ in range(max(6, KILLS // 4)):
        said, code = torch_worker.run("federation", tmp_path, seconds=float(rng.uniform(0.0, 0.1)), after=3)
        assert code == -signal.SIGKILL, said
        released += [words[2] for words in said if words[0] == "round"]
        rounds |= {words[1] for words in said if words[0] == "round"}
        running, ledger = federation_in(tmp_path)
        assert len(released) <= ledger.verify()
        assert max(rounds, default=0) <= running.state_dict()["rounds_started"] <= ledger.verify()
        assert running.spent().rounds_charged == ledger.verify()
    assert len(set(released)) == len(released) > 3


@pytest.mark.parametrize("sampling", ["poisson", "allocation"])
def test_a_training_never_steps_by_what_is_not_charged(torch_worker, tmp_path, sampling):
    """It counts what its ledger has, also what no checkpoint knows; no step's noise or draw comes twice."""
    rng, told = np.random.default_rng(7), []
    for number in range(max(6, KILLS // 4)):
        work = ("training", tmp_path, sampling)
        said, code = torch_worker.run(*work, seconds=float(rng.uniform(0.0, 0.03)), after=1 + number % 4)
        assert code == -signal.SIGKILL, said
        told += [words[1:] for words in said if words[0] == "step"]
        _, _, privacy, ledger = training_in(tmp_path, sampling)
        assert privacy.charged()[1] == ledger.verify()
        assert max((step for step, *_ in told), default=0) <= privacy.steps
    steps, released, drawn = map(set, zip(*told, strict=True))
    assert len(steps) == len(released) == len(drawn) == len(told) > 5
