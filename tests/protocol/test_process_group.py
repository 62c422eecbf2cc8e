"""Secure aggregation over torch.distributed: four processes, gloo, one after another all that may happen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from protocol.process_group_worker import SIZE, vector_of
from protocol.secagg_loop import ids_of

TESTS = Path(__file__).parents[1]
IDS = ids_of(SIZE)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    environment = os.environ | {"PYTHONPATH": str(TESTS), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    worker = TESTS / "protocol" / "process_group_worker.py"
    processes = [
        subprocess.Popen(
            [sys.executable, worker, str(rank), folder / "rendezvous", folder / f"{rank}.json"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(SIZE)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=900)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]


def expected(ranks, bits, seed=0):
    total = sum(vector_of(rank, bits, seed=seed).astype(object) for rank in ranks) % 2**bits
    return [int(value) for value in total]


def test_all_reduce_wraps_and_takes_no_unsigned_types(ranks):
    for rank in ranks:
        assert rank["wraps"] == [(4 * (2**31 - 1) + 2**31) % 2**32 - 2**31, -4, 0]
        assert rank["unsigned"] == [False, False]


@pytest.mark.parametrize("bits", [9, 16, 20, 32, 33, 61, 64])
def test_the_sum_of_all(ranks, bits):
    hub, *others = (rank[f"all {bits}"] for rank in ranks)
    assert hub["sum"] == expected(range(SIZE), bits)
    assert tuple(hub["survivors"]) == IDS
    assert np.dtype(hub["dtype"]).itemsize == (2 if bits <= 16 else 4 if bits <= 32 else 8)
    assert others == [None] * (SIZE - 1)


@pytest.mark.parametrize(
    ("scenario", "lost"), [("nothing to give", 2), ("no client", 3), ("not at the hub", 0)]
)
def test_a_rank_that_is_there_but_gives_nothing_is_lost(ranks, scenario, lost):
    left = [rank for rank in range(SIZE) if rank != lost]
    outcome = ranks[0][scenario]
    assert outcome["sum"] == expected(left, 32)
    assert outcome["survivors"] == [IDS[rank] for rank in left]


@pytest.mark.parametrize("scenario", ["too few", "another model"])
def test_a_session_that_cannot_end_is_given_up_on_all_ranks(ranks, scenario):
    for rank in ranks:
        assert "AggregationAborted: the server gave the session up" in rank[scenario]


def test_the_group_goes_on_after_that(ranks):
    assert ranks[0]["after that"]["sum"] == expected(range(SIZE), 32)


def test_a_lost_process_is_an_error_on_all_others(ranks):
    for rank in (0, 2, 3):
        assert "AggregationAborted: a process of the group was lost" in ranks[rank]["a process lost"]
