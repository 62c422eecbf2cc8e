"""What noise inside the sum takes: a client from its floats to its upload, the server to the sum.

Beside `torch.randn` and an addition over the same vector, which is what noise costs where nobody cares how
exact it is; and, for the server, beside plain sums of the same vectors.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import _kernels, distributed, masks, secagg
from fedsec.measure.rounds import PRG, Round
from fedsec.measure.timing import timed, turns

KEY = bytes(range(32))
CLIENT_GOAL, SERVER_GOAL = 5.0, 2.0


def pipelines(length: int = 10**6, neighbors: int = 10, repeats: int = 9) -> dict[str, Any]:
    """`pipeline` for both laws of shares."""
    rows = [pipeline(length, neighbors, law, repeats) for law in ("skellam", "discrete_gaussian")]
    return {"what": "noise inside the sum, one thread", "rows": rows}


def pipeline(
    length: int = 10**6, neighbors: int = 10, law: str = "skellam", repeats: int = 9
) -> dict[str, Any]:
    """Median seconds of a client and of the server for vectors of `length` float32, and ratios to peers.

    One thread. A ratio is the median of the ratios within a turn.
    """
    clients = neighbors + 1
    plan = distributed.plan_clients(
        distributed.Cohort(clients, clients - 1, 1),
        dimension=length,
        l2_clip_norm=1.0,
        noise_multiplier=1.0,
        law=law,
    )
    vector = np.random.default_rng(0).normal(size=length).astype(np.float32)
    client = _client(plan, vector, clients, min(repeats, neighbors))
    server = _server(plan, vector, clients, repeats)
    return {
        "what": f"{length} coordinates, {neighbors} neighbours, {law} shares, "
        f"{plan.modulus_bits} bits, {PRG}",
        "backend": _kernels.best_backend.name,
        "plan": plan.figures(),
        "client": client,
        "server": server,
        "goals": {"client": CLIENT_GOAL, "server": SERVER_GOAL},
    }


def _client(
    plan: distributed.Plan, vector: npt.NDArray[np.float32], clients: int, repeats: int
) -> dict[str, Any]:
    parameters = secagg.Parameters(clients, 1, 1, clients - 1, clients // 2 + 1, clients - 1)
    session = Round(parameters, plan.encoding.length, modulus_bits=plan.modulus_bits).until("upload")
    waiting = iter(session.inbox)
    peers = _peers(vector)
    session.make_vector = lambda: plan.share_residues(vector, KEY)

    def whole() -> float:
        return session.answer(next(waiting))[1]

    taken: dict[str, list[float]] = {"whole pipeline": [], "encoding and noise": []}
    taken |= {name: [] for name in peers}
    for turn in range(repeats + 1):
        row = {"whole pipeline": whole(), "encoding and noise": timed(session.make_vector)[1]}
        row |= {name: timed(call)[1] for name, call in peers.items()}
        for name, seconds in row.items():
            if turn:  # the first warms up
                taken[name].append(seconds)
    ratios = {
        name: statistics.median(
            ours / theirs for ours, theirs in zip(taken["whole pipeline"], taken[name], strict=True)
        )
        for name in peers
    }
    return {"seconds": {name: statistics.median(times) for name, times in taken.items()}, "times": ratios}


def _server(
    plan: distributed.Plan, vector: npt.NDArray[np.float32], clients: int, repeats: int
) -> dict[str, Any]:
    residues = np.stack([plan.share_residues(vector, KEY) for _ in range(clients)])
    total = np.zeros(plan.encoding.length, residues.dtype)
    masks.add(total, residues, plan.modulus_bits)
    floats = np.stack([vector] * clients)

    def plain_sum(rows: npt.NDArray[Any]) -> Callable[[], object]:
        out = np.zeros(rows.shape[1], rows.dtype)
        return lambda: [np.add(out, row, out=out) for row in rows]

    taken = turns(
        {
            "decoding": lambda: plan.decode(total, KEY),
            "plain sum of floats": plain_sum(floats),
            "plain sum of residues": plain_sum(residues),
        },
        repeats,
    )
    peers = [name for name in taken if name != "decoding"]
    ratios = {
        name: statistics.median(
            ours / theirs for ours, theirs in zip(taken["decoding"], taken[name], strict=True)
        )
        for name in peers
    }
    return {"seconds": {name: statistics.median(times) for name, times in taken.items()}, "times": ratios}


def _peers(vector: npt.NDArray[np.float32]) -> dict[str, Callable[[], object]]:
    random = np.random.default_rng(0)

    def with_numpy() -> object:
        return vector + random.standard_normal(vector.size, np.float32)

    peers: dict[str, Callable[[], object]] = {"numpy's normal and an add": with_numpy}
    if find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)
        tensor = torch.from_numpy(vector)
        peers["torch.randn and an add"] = lambda: tensor + torch.randn(len(tensor))
    return peers


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    if "rows" in result:
        return [result["what"], *(line for row in result["rows"] for line in describe(row))]
    lines = [f"{result['what']} ({result['backend']})"]
    for side in ("client", "server"):
        figures = result[side]
        lines += [f"  {side}: {name:28} {1e3 * s:9.3f} ms" for name, s in figures["seconds"].items()]
        for name, times in figures["times"].items():
            lines.append(f"  {side}: {times:6.2f} times {name} (goal: at most {result['goals'][side]:g})")
    return lines
