"""Clients that train in processes of their own: the same results, errors that arrive, nobody left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import fedsec
from fedsec.clipping import AdaptiveClipping
from fedsec.errors import InvalidArgumentError, InvalidTypeError, ProtocolError, WorkerLostError
from fedsec.federated import simulate, workers


def model_of(value=0.0):
    model = torch.nn.Linear(4, 1)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    return model


def federate(num_clients=6, num_rounds=2, **arguments):
    arguments = {"secure_aggregation": False} | arguments
    return fedsec.Federation(model_of(), num_clients=num_clients, num_rounds=num_rounds, **arguments)


def flat(federation):
    return torch.cat([t.flatten().double() for t in federation.model.state_dict().values()])


class Trains:
    """Moves the model at random, counts its turns by client, says in which process."""

    def __init__(self):
        self.turns = {}

    def __call__(self, rnd, client):
        turn = self.turns[client] = self.turns.get(client, 0) + 1
        assert turn == rnd.round_id, "each client comes to the process that had it before"
        local = rnd.model()
        with torch.no_grad():
            for parameter in local.parameters():
                parameter.add_(torch.rand(()) + float(np.random.rand()))
            local.bias += float(torch.get_num_threads() == 1)
        if client == 4:
            rnd.drop(4, "upload")
        else:
            rnd.submit(client, local, weight=client + 1.0)


class Odd(Exception):  # noqa: N818
    """Cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Goes:
    """Wrong at client 3, in a way that has a name."""

    def __init__(self, wrong=""):
        self.wrong = wrong

    def __call__(self, rnd, client):
        if client == 3:
            getattr(self, self.wrong or "right")(rnd)
        rnd.submit(client, rnd.model())

    def right(self, rnd):
        pass

    def odd(self, rnd):
        raise Odd("this", "that")

    def for_another(self, rnd):
        rnd.submit(0, rnd.model())

    def twice(self, rnd):
        rnd.submit(3, rnd.model())

    def killed(self, rnd):
        os.kill(os.getpid(), signal.SIGKILL)

    def interrupted(self, rnd):
        until(lambda: state(os.getppid()) in "S")  # it waits for this client
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(600)


def records(num_records=20):
    x = torch.linspace(-1, 1, 4 * num_records).reshape(num_records, 4)
    return TensorDataset(x, x[:, :1].clone())


def all_records(rnd, client):
    rnd.submit_records(client, records(), torch.nn.functional.mse_loss)


def a_bad_record_is_ignored(rnd, client):
    data = records()
    if client == 2:
        data.tensors[0][:] = float("nan")
    try:
        rnd.submit_records(client, data, torch.nn.functional.mse_loss)
    except fedsec.errors.NonFiniteError:
        assert client == 2


RECORDS = {
    "unit": "record", "sampling_probability": 1.0, "l2_clip_norm": 100.0, "noise_multiplier": 1e-6,
    "target_delta": 1e-5,
}  # fmt: skip


def test_results_do_not_depend_on_the_number_of_workers():
    """Sums of integers: equal up to the rounding to the grid, 2^-34 here, at random."""
    models = []
    for number in (0, 2):
        federation = federate()
        torch.set_num_threads(1)
        done = simulate(federation, Trains(), workers=number, seed=7)
        assert [one.operator_only.survivors for one in done.history] == [(0, 1, 2, 3, 5)] * 2
        models.append(flat(federation))
    assert torch.allclose(*models, rtol=0, atol=1e-6)
    again = federate()
    simulate(again, Trains(), seed=8)
    assert not torch.allclose(flat(again), models[0], atol=1e-3)


@pytest.mark.usefixtures("alone")
def test_plans_travel():
    """Two counts of six clients and integer noise never bring a bound back: 2 * 0.37 * 6 is no integer."""
    federation = federate(
        secure_aggregation=True, clipping=AdaptiveClipping(l2_clip_norm=1.0, target_quantile=0.37),
        noise="distributed", noise_multiplier=1.0, target_delta=1e-5,
    )  # fmt: skip
    done = simulate(federation, Goes(), workers=1)
    assert done.guarantee.rounds_charged == 2
    assert federation.plan.rule.l2_clip_norm != 1.0


@pytest.fixture
def interruptible():
    """A shell starts what runs in the background deaf to interrupts."""
    given = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, given)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("wrong", "error", "names"),
    [
        ("odd", RuntimeError, "Odd: this and that"),
        ("killed", WorkerLostError, "ended at client 3, exit code -9"),
        ("interrupted", KeyboardInterrupt, None),
    ],
)
def test_what_goes_wrong_in_a_worker_is_the_callers(wrong, error, names):
    before = children()
    with pytest.raises(error, match=names) as raised:
        simulate(federate(), Goes(wrong), workers=1)
    if wrong == "odd":
        assert "in odd\n" in str(raised.value.__cause__)
    assert children() == before


@pytest.fixture
def alone(monkeypatch):
    """Workers as threads of this process, with everything else as it is: they start at once."""

    class Alone:
        Pipe = staticmethod(multiprocessing.Pipe)

        class Process(threading.Thread):
            pid = exitcode = None

            def __init__(self, target, args, **arguments):
                copy = Connection(os.dup(args[0].fileno()))  # the caller closes its own
                super().__init__(target=target, args=(copy,), **arguments)

    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda _kind: Alone)
    monkeypatch.setattr(workers, "_serve", lambda connection: workers._Served(connection).until_the_end())


@pytest.mark.usefixtures("alone")
def test_a_client_submits_once_and_for_itself():
    with pytest.raises(InvalidArgumentError, match="client must be 3, whose turn it is, got 0"):
        simulate(federate(), Goes("for_another"), workers=1)
    with pytest.raises(InvalidArgumentError, match="client 3 has submitted in round 1 already"):
        simulate(federate(), Goes("twice"), workers=1)


@pytest.mark.usefixtures("alone")
def test_records_are_summed_checked_across_clients_and_a_bad_one_ends_the_round():
    models = []
    for number in (0, 2):
        federation = federate(**RECORDS, num_records=120)
        done = simulate(federation, all_records, workers=number)
        assert done.history[0].operator_only.seconds["training"] > 0
        models.append(flat(federation))
    assert torch.allclose(*models, atol=1e-2)
    with pytest.raises(InvalidArgumentError, match="num_records was declared as 50"):
        simulate(federate(num_clients=3, **RECORDS, num_records=50), all_records, workers=1)
    with pytest.raises(ProtocolError, match="round 1 has ended"):
        simulate(federate(**RECORDS, num_records=120), a_bad_record_is_ignored, workers=1)


def test_bad_arguments():
    with pytest.raises(InvalidTypeError, match="must be picklable"):
        simulate(federate(), lambda _rnd, _client: None, workers=1)
    with pytest.raises(InvalidArgumentError, match="workers"):
        simulate(federate(), Trains(), workers=-1)
    with pytest.raises(InvalidArgumentError, match="seed"):
        simulate(federate(), Trains(), seed=-1)


def children(of=None):
    """Processes that a process has started and that run, without multiprocessing's own tracker."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            line = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == (of or os.getpid()) and state != "Z" and b"spawn_main" in line:
            found.add(int(status.parent.name))
    return found


SCRIPT = """
import sys, time
import torch, fedsec
from fedsec.federated import simulate, workers

def slow(rnd, client):
    time.sleep(600)

if {guarded}:
    federation = fedsec.Federation(torch.nn.Linear(2, 1), num_clients=4, num_rounds=1)
    simulate(federation, slow, workers=1)
"""


@pytest.fixture
def script(tmp_path):
    def start(guarded="__name__ == '__main__'"):
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(guarded=guarded))
        return subprocess.Popen([sys.executable, path], stderr=subprocess.PIPE, text=True)

    return start


def until(holds, seconds=300.0):
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends
        time.sleep(0.02)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_driver_leaves_nobody_behind(script):
    driver = script()
    (worker,) = until(lambda: children(driver.pid))
    until(lambda: threads(worker) >= 2)  # it watches its parent
    driver.kill()
    driver.communicate(timeout=300)
    until(lambda: threads(worker) == 0)


def threads(pid):
    """Of a process that runs: nobody may be there to ask for what an orphan has ended with."""
    try:
        return 0 if state(pid) == "Z" else len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return 0


def state(pid):
    """A letter, or nothing if there is no such process, or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_script_without_a_guard_is_told(script):
    driver = script(guarded="True")
    _, errors = driver.communicate(timeout=600)
    assert driver.returncode != 0
    assert "under if __name__ == '__main__'" in errors.strip().splitlines()[-1]
