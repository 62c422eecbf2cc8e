"""The main job, shortened: real digits, real masks, real noise."""

import json

import pytest
import torch

from fedsec.demo import data, run, show
from fedsec.errors import InvalidArgumentError, InvalidTypeError


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    torch.set_num_threads(1)
    return data.load("digits")


@pytest.fixture(scope="module")
def result(digits):
    seen = []
    outcome = run.run(digits, run.Options(clients=5, rounds=4, dropout=0.2), seen.append)
    assert seen == outcome.history
    return outcome


def test_the_budget_is_met_exactly_by_the_planned_rounds(result):
    assert result.guarantee.epsilon <= 3.0
    assert result.guarantee.epsilon == pytest.approx(3.0, rel=1e-3)
    assert result.guarantee.rounds_charged == 4
    assert result.guarantee.neighboring_relation == "ADD_OR_REMOVE_ONE"
    assert "Poisson over records" in result.guarantee.sampler


def test_exactly_the_stated_share_of_clients_is_lost_in_each_round(result):
    assert result.lost == 4
    assert result.aborted == 0
    assert all(step.survivors in (4, 5) for step in result.history)


def test_it_learns_something_in_four_rounds_and_more_without_privacy(result):
    assert result.history[-1].accuracy > 0.2  # chance is 0.1
    assert result.accuracy_without_privacy > 0.2


def test_every_part_of_the_work_is_timed(result):
    assert {"training", "masking", "unmasking", "noise", "total", "without privacy"} == set(result.seconds)
    assert all(seconds > 0 for seconds in result.seconds.values())
    assert result.bytes_per_client > 4 * 8 * result.num_parameters / 2


def test_rounds_that_abort_are_counted_and_not_charged(digits):
    outcome = run.run(digits, run.Options(clients=5, rounds=3, dropout=1.0, seed=5))
    assert outcome.aborted == 3
    assert outcome.guarantee.epsilon == 0.0
    assert outcome.guarantee.rounds_charged == 0


def test_distributed_noise_runs_and_names_itself(digits):
    outcome = run.run(digits, run.Options(clients=5, rounds=2, dropout=0.2, noise="distributed"))
    assert outcome.guarantee.noise == "distributed"
    assert outcome.guarantee.epsilon <= 3.0
    assert outcome.guarantee.rounds_charged == 2
    assert outcome.guarantee.warnings == ()
    assert "inside the" in show.report(outcome).tables["Guarantee"]["noise"]


def test_local_noise_runs_and_names_itself(digits):
    outcome = run.run(digits, run.Options(clients=4, rounds=1, dropout=0.0, noise="local"))
    assert outcome.guarantee.noise == "local"
    tables = show.report(outcome).tables
    assert "local" in tables["Guarantee"]["noise"]
    assert "its own client" in tables["Guarantee"]["unit"]


def test_the_record_has_the_keys_that_scripts_read(result, tmp_path):
    report = show.report(result)
    record = json.loads(report.json())
    expected = {"accuracy", "epsilon", "delta", "rounds", "clients", "dropped", "seconds", "dataset"}
    assert expected <= set(record)
    assert len(record["history"]) == 4
    target = tmp_path / "run.md"
    drawn = show.save(report, result, target)
    text = target.read_text()
    assert "accuracy, the same without privacy" in text
    assert "at most epsilon = " in text
    if drawn:
        assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
        assert "run.png" in text


@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        ({"clients": 1}, InvalidArgumentError, r"\[2, 255\], got 1"),
        ({"clients": 256}, InvalidArgumentError, "256"),
        ({"rounds": 0}, InvalidArgumentError, "rounds"),
        ({"rounds": 1.5}, InvalidTypeError, r"1\.5"),
        ({"dropout": 1.1}, InvalidArgumentError, r"\[0, 1\], got 1\.1"),
        ({"dropout": float("nan")}, InvalidArgumentError, "nan"),
        ({"seed": -1}, InvalidArgumentError, "seed"),
    ],
)
def test_options_are_checked(options, error, names):
    with pytest.raises(error, match=names):
        run.Options(**options)


def test_more_clients_than_records_are_refused(digits):
    few = data.DataSet(
        "few", digits.train_inputs[:3], digits.train_targets[:3], digits.test_inputs, digits.test_targets, 10
    )
    with pytest.raises(InvalidArgumentError):
        run.run(few, run.Options(clients=5, rounds=1))
