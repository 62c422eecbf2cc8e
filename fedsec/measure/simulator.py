"""What the simulator costs beside a bare Python loop that does the same training, and how it grows.

Ratios are of CPU seconds, so that other work on the machine matters little; both sides take turns in one
process with one torch thread. Peak memory is that of a fresh process.
"""

from __future__ import annotations

import copy
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
from fedsec.measure import training

_SGD_ROWS = 16  # of a batch of the small CNN: a step of a millisecond or two
_GOALS = {"without privacy": 1.05, "private, secure aggregation": 1.3}
_GIGABYTE = 2**30

Train = Callable[[torch.nn.Module, int], None]


def figures(quick: bool = False, say: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Overheads by a client's training time, rounds of growing cohorts; `say` hears of each beforehand."""
    torch.set_num_threads(1)
    clients, turns = (10, 1) if quick else (100, 3)
    rows = []
    for milliseconds in (40,) if quick else (5, 10, 20, 40, 80):
        say(f"overhead, {milliseconds} ms of training")
        rows.append(_overheads(clients, turns, milliseconds))
    population, length = (200, 10**4) if quick else (10_000, 10**6)
    growth = []
    for cohort in (20,) if quick else (100, 300, 1000):
        say(f"a cohort of {cohort} of {population} clients, {length} parameters")
        growth.append(_in_a_fresh_process(population, cohort, length))
    what = f"simulator: CPU time beside a bare loop, {clients} clients, CNN with 26,010 parameters"
    return {"what": what, "overheads": rows, "growth": growth}


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    lines = [result["what"]]
    for row in result["overheads"]:
        ratios = ", ".join(f"{name} {ratio:.3f}" for name, ratio in row["ratios"].items())
        lines.append(f"  {row['training_ms']:6.1f} ms of training a client: {ratios}")
    goals = ", ".join(f"{name} at most {goal}" for name, goal in _GOALS.items())
    lines.append(f"  goals from 40 ms on: {goals}")
    lines += [
        f"  {row['cohort']} of {row['clients']} clients, d = {row['length']}, {row['dropped']} lost: "
        f"{row['cpu_seconds']:.0f} s of CPU, {row['bytes_per_client'] / 1e6:.2f} MB sent by a client, "
        f"peak memory {row['peak_gigabytes']:.2f} GB"
        for row in result["growth"]
    ]
    return lines


# ---- beside a bare loop


def _overheads(num_clients: int, turns: int, milliseconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    model = training.MODELS["small CNN 26k, 256"][0]()
    count = num_clients * _SGD_ROWS
    dataset = TensorDataset(torch.randn(count, 1, 28, 28), torch.randint(10, (count,)))
    data = [dataset[torch.from_numpy(part)] for part in partition.iid(count, num_clients, seed=0)]
    _sgd(copy.deepcopy(model), data[0], 10)
    ten = _seconds(lambda: _sgd(copy.deepcopy(model), data[0], 10))
    steps = max(1, math.ceil(10 * milliseconds * 1e-3 / ten))

    def train(local: torch.nn.Module, client: int) -> None:
        _sgd(local, data[client], steps)

    candidates = {
        "bare": lambda: _bare(model, num_clients, train),
        "without privacy": lambda: _simulated(model, num_clients, train, secure=False, private=False),
        "private, rehearsal": lambda: _simulated(model, num_clients, train, secure=SESSION_KEY, private=True),
        "private, secure aggregation": lambda: _simulated(
            model, num_clients, train, secure=True, private=True
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(turns):
        for name, run in candidates.items():
            seconds[name].append(_seconds(run))
    ratios = {
        name: statistics.median(mine / bare for mine, bare in zip(taken, seconds["bare"], strict=True))
        for name, taken in seconds.items()
        if name != "bare"
    }
    taken = statistics.median(_seconds(lambda: train(copy.deepcopy(model), 0)) for _ in range(5))
    return {"training_ms": 1e3 * taken, "seconds": seconds, "ratios": ratios}


def _sgd(model: torch.nn.Module, batch: Any, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _bare(model: torch.nn.Module, num_clients: int, train: Train) -> None:
    """Federated averaging as one would write it down."""
    total = {name: torch.zeros_like(t) for name, t in model.state_dict().items()}
    for client in range(num_clients):
        local = copy.deepcopy(model)
        train(local, client)
        for name, tensor in local.state_dict().items():
            total[name] += tensor / num_clients
    copy.deepcopy(model).load_state_dict(total)


def _simulated(
    model: torch.nn.Module, num_clients: int, train: Train, *, secure: bool | str, private: bool
) -> None:
    privacy: dict[str, Any] = (
        {"l2_clip_norm": 1.0, "noise_multiplier": 1.0, "target_delta": 1e-5} if private else {}
    )
    federation = Federation(
        copy.deepcopy(model), num_clients=num_clients, num_rounds=1, secure_aggregation=secure, **privacy
    )

    def contribute(rnd: Round, client: int) -> None:
        local = rnd.model()
        train(local, client)
        rnd.submit(client, local)

    simulate(federation, contribute)


def _seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


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
