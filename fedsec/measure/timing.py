"""Timing in turns."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
Clock = Callable[[], float]


def turns(
    candidates: Mapping[Key, Callable[[], object]], repeats: int = 7, clock: Clock = time.perf_counter
) -> dict[Key, list[float]]:
    """Seconds of each call of each candidate; they take turns, after one warm-up each.

    Each turn is in another order, for a call also pays for what the one before it has left in the caches.
    """
    seconds: dict[Key, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        call()
    shuffled, order = random.Random(1), list(candidates.items())  # noqa: S311 (an order, no secret)
    for _ in range(repeats):
        shuffled.shuffle(order)
        for name, call in order:
            started = clock()
            call()
            seconds[name].append(clock() - started)
    return seconds


def medians(candidates: Mapping[str, Callable[[], object]], repeats: int = 7) -> dict[str, float]:
    """Median seconds a call of each candidate, in turns."""
    return {name: statistics.median(taken) for name, taken in turns(candidates, repeats).items()}


def timed(call: Callable[[], Result], clock: Clock = time.perf_counter) -> tuple[Result, float]:
    """What a call returns, and its seconds by a clock."""
    started = clock()
    result = call()
    return result, clock() - started
