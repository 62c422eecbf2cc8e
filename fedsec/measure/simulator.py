"""What the simulator costs beside a bare Python loop that does the same training, and how it grows.

In CPU seconds, so that other work on the machine matters less; all sides take turns in one process with one
torch thread, pfl among them where it is installed; Flower's simulation has processes of its own, and follows
(`measure.simulator_peers`). What a client costs beside its training is measured apart from it, within the
same runs: training is the larger part by far, and its own spread would hide the difference. Peak memory is a
fresh process's.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import TensorDataset

from fedsec.federated import FedAvg, Federation, Losses, Round, partition, simulate
from fedsec.federated.settings import SESSION_KEY
from fedsec.measure import simulator_peers as peers
from fedsec.measure import training

_SGD_ROWS = 16  # of a batch of the small CNN: a step of a millisecond or two
_GOALS = {"without privacy": 1.05, "private, secure aggregation": 1.3}
_GIGABYTE = 2**30


def figures(quick: bool = False, say: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Costs beside training, and rounds of growing cohorts; `say` hears of each beforehand."""
    torch.set_num_threads(1)
    clients, turns = (10, 1) if quick else (100, 3)
    beside = _beside(clients, turns, 5.0 if quick else 40.0, say)
    population, length = (200, 10**4) if quick else (10_000, 10**6)
    growth = []
    for cohort in (20,) if quick else (100, 300, 1000):
        say(f"a cohort of {cohort} of {population} clients, {length} parameters")
        growth.append(_in_a_fresh_process(population, cohort, length))
    what = f"simulator: CPU time of {clients} clients, CNN with 26,010 parameters, beside a bare loop"
    return {"what": what, "peers": peers.versions(), "skipped": peers.missing(), **beside, "growth": growth}


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    lines = [result["what"], f"  training, one client: {result['training_ms']:.1f} ms"]
    for name, milliseconds in result["beside_training_ms"].items():
        ratios = ", ".join(f"{ratio:.3f} at {at} ms" for at, ratio in result["ratios"].get(name, {}).items())
        goal = f" (at most {_GOALS[name]} at 40 ms)" if name in _GOALS else ""
        lines.append(f"  {name}: {milliseconds:.2f} ms a client beside training; {ratios or 'ratio 1'}{goal}")
    if result["skipped"]:
        lines.append(f"  left out: {', '.join(result['skipped'])} not installed (fedsec[simulators])")
    lines += [
        f"  {row['cohort']} of {row['clients']} clients, d = {row['length']}, {row['dropped']} lost: "
        f"{row['cpu_seconds']:.0f} s of CPU, {row['bytes_per_client'] / 1e6:.2f} MB sent by a client, "
        f"peak memory {row['peak_gigabytes']:.2f} GB"
        for row in result["growth"]
    ]
    return lines


# ---- beside a bare loop


class _Training:
    """Some steps of SGD on a client's batch, and what they took."""

    def __init__(self, num_clients: int, milliseconds: float) -> None:
        torch.manual_seed(0)
        self.model = training.MODELS["small CNN 26k, 256"][0]()
        count = num_clients * _SGD_ROWS
        dataset = TensorDataset(torch.randn(count, 1, 28, 28), torch.randint(10, (count,)))
        self._data = [dataset[torch.from_numpy(part)] for part in partition.iid(count, num_clients, seed=0)]
        self.taken: list[float] = []
        self._steps = 10
        for _ in range(3):  # the first one warms up
            self(copy.deepcopy(self.model), 0)
        self._steps = max(1, math.ceil(10 * milliseconds * 1e-3 / min(self.taken)))

    def __call__(self, local: torch.nn.Module, client: int) -> None:
        started = time.process_time()
        _sgd(local, self._data[client], self._steps)
        self.taken.append(time.process_time() - started)


@functools.cache
def _training(num_clients: int, milliseconds: float) -> _Training:
    """Kept for Flower's actor, which asks for it with every message."""
    return _Training(num_clients, milliseconds)


def _beside(
    num_clients: int, turns: int, milliseconds: float, say: Callable[[str], object]
) -> dict[str, Any]:
    """What a client costs beside its training, in each way of running a round."""
    say(f"{num_clients} clients beside a bare loop")
    train = _training(num_clients, milliseconds)
    missing = peers.missing()
    ways: dict[str, Callable[[int], None]] = {
        "bare loop": lambda clients: _bare(clients, train),
        "without privacy": lambda clients: _simulated(clients, train, secure=False, private=False),
        "private, rehearsal": lambda clients: _simulated(clients, train, secure=SESSION_KEY, private=True),
        "private, secure aggregation": lambda clients: _simulated(clients, train, secure=True, private=True),
    }
    if "pfl" not in missing:
        ways["pfl, without privacy"] = lambda clients: peers.pfl_round(clients, train)
        ways["pfl, private"] = lambda clients: peers.pfl_round(clients, train, private=True)
    for run in ways.values():
        run(3)  # imports, and what else comes but once
    beside: dict[str, list[float]] = {name: [] for name in ways}
    train.taken.clear()
    for _ in range(turns):
        for name, run in ways.items():
            before, started = len(train.taken), time.process_time()
            run(num_clients)
            whole = time.process_time() - started
            beside[name].append((whole - sum(train.taken[before:])) / num_clients)
    if not {"flwr", "ray"} & set(missing):
        say("Flower's simulation")
        make = functools.partial(_training, num_clients, milliseconds)
        beside["Flower's simulation"] = peers.flower_rounds(num_clients, make, turns)
    medians = {name: 1e3 * statistics.median(taken) for name, taken in beside.items()}
    bare = medians["bare loop"]
    return {
        "training_ms": 1e3 * statistics.median(train.taken),
        "beside_training_ms": medians,
        "ratios": {
            name: {at: (at + mine) / (at + bare) for at in (5, 10, 20, 40, 80)}
            for name, mine in medians.items()
            if name != "bare loop"
        },
    }


def _sgd(model: torch.nn.Module, batch: Any, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _bare(num_clients: int, train: _Training) -> None:
    """Federated averaging as one would write it down."""
    total = {name: torch.zeros_like(t) for name, t in train.model.state_dict().items()}
    for client in range(num_clients):
        local = copy.deepcopy(train.model)
        train(local, client)
        for name, tensor in local.state_dict().items():
            total[name] += tensor / num_clients
    copy.deepcopy(train.model).load_state_dict(total)


def _simulated(num_clients: int, train: _Training, *, secure: bool | str, private: bool) -> None:
    privacy: dict[str, Any] = (
        {"l2_clip_norm": 1.0, "noise_multiplier": 1.0, "target_delta": 1e-5} if private else {}
    )
    model = copy.deepcopy(train.model)
    federation = Federation(
        model, num_clients=num_clients, num_rounds=1, secure_aggregation=secure, **privacy
    )

    def contribute(rnd: Round, client: int) -> None:
        local = rnd.model()
        train(local, client)
        rnd.submit(client, local)

    simulate(federation, contribute)


# ---- growth


def _in_a_fresh_process(clients: int, cohort: int, length: int) -> dict[str, Any]:
    code = f"from fedsec.measure import simulator; simulator.one_round({clients}, {cohort}, {length})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603
    return dict(json.loads(done.stdout))


def one_round(num_clients: int, cohort_size: int, length: int) -> None:
    """A private, securely aggregated round with a twentieth of the cohort lost; prints what it took."""
    torch.set_num_threads(1)
    side = math.isqrt(length)
    dataset = TensorDataset(torch.randn(num_clients, side))
    parts = partition.iid(num_clients, num_clients, seed=0)
    federation = Federation(
        torch.nn.Linear(side, side, bias=False), num_clients=num_clients, cohort_size=cohort_size,
        num_rounds=1, l2_clip_norm=1.0, noise_multiplier=1.0, target_delta=1e-6, strategy=FedAvg(),
    )  # fmt: skip

    def contribute(rnd: Round, client: int) -> None:
        local = rnd.model()
        (inputs,) = dataset[torch.from_numpy(parts[client])]
        optimizer = torch.optim.SGD(local.parameters(), lr=0.01)
        local(inputs).square().mean().backward()
        optimizer.step()
        rnd.submit(client, local)

    wall, cpu = time.perf_counter(), time.process_time()
    done = simulate(federation, contribute, losses=Losses(dropout=0.05))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    figures = done.history[0].operator_only
    if figures is None:
        raise AssertionError("the round was aborted: more clients were lost than planned for")
    print(
        json.dumps(
            {
                "clients": num_clients,
                "cohort": cohort_size,
                "length": length,
                "seconds": wall,
                "cpu_seconds": cpu,
                "dropped": len(figures.dropped),
                "masking": figures.seconds["masking"],
                "unmasking": figures.seconds["unmasking"],
                "bytes_per_client": figures.bytes_per_client,
                "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIGABYTE,
            }
        )
    )
