"""Private training in several processes: two real ones over gloo, their sums, their noise and their ends."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from fedsec.clipping import BookKeeper
from fedsec.errors import ProtocolError, UnsupportedError
from fedsec.training.processes import Processes

sys.path.insert(0, str(Path(__file__).parent))
import training_worker as worker

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch.distributed has no gloo here", allow_module_level=True)

TESTS = Path(__file__).parents[1]
LIMIT = 900  # seconds, for two processes on a busy machine


def run(scenario, folder):
    """What each of two processes printed."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    processes = [
        subprocess.Popen(
            [sys.executable, worker.__file__, str(rank), "2", str(folder / "store"), scenario],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    try:
        ended = [process.communicate(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, ended, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(out) if out else None for out, _ in ended]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return run("together", tmp_path_factory.mktemp("together"))


@pytest.fixture(scope="module")
def alone():
    """The same trainings in this one process."""
    return {
        "without noise": worker.without_noise(0),
        "adaptive": worker.without_noise(0, clipping="adaptive", l2_clip_norm=0.2),
    }


def test_all_processes_begin_and_end_with_the_same_parameters(both):
    first, second = both
    assert first["initial"] == second["initial"] == worker.weights(worker.classifier(0))
    assert first["weights"] == second["weights"]
    assert first["weights"] != first["initial"]


@pytest.mark.parametrize("training", ["without noise", "adaptive"])
def test_the_sum_is_that_of_one_process(both, alone, training):
    first, second = both
    assert first[training] == second[training]
    assert first[training] == pytest.approx(alone[training], abs=1e-6)
    assert alone["without noise"] != pytest.approx(worker.weights(worker.classifier(0)), abs=1e-3)


def test_noise_is_added_once(both):
    """Twice would double the variance. False alarm over keys: 1e-11, at 7 standard errors."""
    for found in (process["noise"] for process in both):
        assert found["count"] == 100 * 83
        assert abs(found["variance"] - 1.0) < 7 * math.sqrt(2 / found["count"]) + 2e-3 < 0.12
        assert abs(found["mean"]) < 7 / math.sqrt(found["count"])
    assert both[0]["noise"] == both[1]["noise"]


def test_epsilon_is_that_of_one_process(both):
    model, optimizer, privacy = worker.attached()
    for _ in range(2):
        worker.run_epoch(model, optimizer, privacy)
    assert both[0]["spent"] == both[1]["spent"] == str(privacy.spent())


def test_each_record_is_drawn_by_one_process(both):
    """Nearly half of them a step, 42 steps: that one is never drawn has a probability below 1e-10."""
    assert both[0]["draws"] == list(range(0, worker.RECORDS, 2))
    assert both[1]["draws"] == list(range(1, worker.RECORDS, 2))


def test_an_exhausted_ledger_ends_all_processes(both):
    first, second = (process["ended"] for process in both)
    assert first["said"].startswith("BudgetExceededError")
    assert second["said"] == "ProtocolError: process 0 has ended the training; its own error says why"
    assert first["steps"] == first["charged"] == second["steps"] > 0
    assert first["no_gradient"]
    assert second["no_gradient"]


def test_processes_that_are_not_at_the_same_step_are_refused(both):
    assert "not every process is at step 0" in both[0]["out of step"]
    assert "process 0 has ended" in both[1]["out of step"]


def test_steps_that_a_crash_took_count_in_all_processes(both):
    """Process 0 alone has the ledger, and says so."""
    first, second = (process["resumed"] for process in both)
    assert first == second
    assert (first["at"], first["steps"]) == (2 * worker.STEPS_AN_EPOCH, 3 * worker.STEPS_AN_EPOCH)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("wrapped before", "UnsupportedError: DistributedDataParallel sums gradients that are not private"),
        ("wrapped after", "DistributedDataParallel is not needed"),
        ("other terms", "l2_clip_norm is 2.0 in process 1, and 1.0 in process 0"),
        ("fixed", "sampling='fixed' in 2 processes"),
        ("declared", "a declared loader in 2 processes"),
        ("too few", "a record for each of the 2 processes, got 1"),
    ],
)
def test_what_cannot_be_trained_together_is_refused_in_every_process(both, what, said):
    for process in both:
        assert said in process["refused"][what]


@pytest.mark.parametrize("dying", [0, 1])
def test_a_process_that_dies_is_an_error_and_no_step(dying, tmp_path):
    found = run(f"dies{dying}", tmp_path)
    assert found[dying] is None
    other = found[1 - dying]
    assert "Error" in other["said"]
    assert other["unchanged"]
    assert other["no_gradient"]
    assert "has ended" in other["again"]
    assert "has ended" in other["loader"]
    assert other["epsilon"] > 0.0


def test_a_group_joined_after_attach_is_refused(monkeypatch):
    privacy = worker.attached()[2]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    with pytest.raises(ProtocolError, match="attach after init_process_group"):
        privacy.loader()


def test_shares_are_disjoint_and_all():
    processes = [Processes() for _ in range(3)]
    for rank, process in enumerate(processes):
        process.rank, process.count = rank, 3
    shares = [process.share(11).tolist() for process in processes]
    assert sorted(i for share in shares for i in share) == list(range(11))


def test_parameters_spread_over_processes_are_refused_by_name(tmp_path):
    """FSDP's: a DTensor in a group of one process."""
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = torch.nn.Linear(4, 2)
        spread = distribute_tensor(model.weight.detach(), init_device_mesh("cpu", (1,)), [Shard(0)])
        model.weight = torch.nn.Parameter(spread)
        with pytest.raises(UnsupportedError, match=r"weight is spread over processes \(.*FSDP"):
            BookKeeper(model)
    finally:
        distributed.destroy_process_group()
