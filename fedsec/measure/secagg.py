"""A whole secure aggregation, phase by phase, beside numpy's sum of the same vectors in the clear."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from fedsec import _kernels, secagg


def aggregation(num_clients: int = 10, vector_length: int = 26_000, repeats: int = 3) -> dict[str, Any]:
    """Median seconds by phase, of one client and of the server, all parties in this process.

    One client in ten (at least one, where the default threshold allows it) is lost before its upload, so
    that the server has masks to reconstruct. `seconds_whole_session` is the mean of `repeats` sessions.
    """
    rng = np.random.default_rng(0)
    vectors = {
        client: rng.integers(-1000, 1000, vector_length, dtype=np.int32) for client in range(num_clients)
    }
    lost = max(1, num_clients // 10) if num_clients > 3 else 0
    dropped = dict.fromkeys(range(lost), "upload")
    started = time.perf_counter()
    outcomes = [secagg.aggregate(vectors, dropped=dropped) for _ in range(repeats)]
    whole = (time.perf_counter() - started) / repeats
    started = time.perf_counter()
    plain = np.sum([vectors[client] for client in outcomes[0].survivors], axis=0)
    in_the_clear = time.perf_counter() - started
    if not np.array_equal(secagg.centre(outcomes[0].sum, 32), plain):
        raise AssertionError("the secure sum differs from the plain sum")
    return {
        "what": f"{num_clients} clients, {lost} lost before the upload, {vector_length} words of 32 bits",
        "backend": _kernels.best_backend.name,
        "seconds": {phase: _medians(outcomes, phase) for phase in outcomes[0].seconds},
        "seconds_whole_session": whole,
        "seconds_plain_sum": in_the_clear,
        "bytes_per_client": outcomes[0].bytes_per_client,
    }


def describe(result: dict[str, Any]) -> list[str]:
    """The result in lines for people."""
    lines = [
        f"{result['what']} ({result['backend']}): {result['seconds_whole_session']:.3f} s in one process"
    ]
    for phase, seconds in result["seconds"].items():
        client, server = 1e3 * seconds["client"], 1e3 * seconds["server"]
        lines.append(f"  {phase:10} one client {client:8.2f} ms   server {server:8.2f} ms")
    plain = f"  numpy's plain sum of the same vectors {1e3 * result['seconds_plain_sum']:.2f} ms"
    return [*lines, plain, f"  {result['bytes_per_client']} bytes sent by a client"]


def _medians(outcomes: list[secagg.Outcome], phase: str) -> dict[str, float]:
    sides = outcomes[0].seconds[phase]
    return {side: statistics.median(outcome.seconds[phase][side] for outcome in outcomes) for side in sides}
