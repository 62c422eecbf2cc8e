"""Measurements run, and say what they measured; how fast is for `bench/` to print, not for tests to judge."""

from functools import partial

import pytest

from fedsec.measure import accounting, distributed, figures, masks, noise, secagg, timing


@pytest.mark.parametrize(
    ("measure", "describe"),
    [
        (lambda: masks.masked_sum(3, [100], repeats=1), masks.describe),
        (lambda: noise.samplers(100, repeats=1), noise.describe),
        (lambda: secagg.aggregation(4, 100, repeats=1), secagg.describe),
        (lambda: figures.figures(quick=True), figures.describe),
        (lambda: distributed.pipelines(1000, 4, repeats=2), distributed.describe),
        (lambda: accounting.accountant(repeats=1, cases=accounting.CASES[:1]), accounting.describe),
        (lambda: accounting.draws(3), accounting.describe_draws),
    ],
)
def test_every_measurement_describes_itself(measure, describe):
    result = measure()
    lines = describe(result)
    assert lines[0].startswith(result["what"])
    assert len(lines) > 2


def test_candidates_take_turns_after_a_warm_up_in_changing_order():
    calls = []
    medians = timing.medians({name: partial(calls.append, name) for name in "abc"}, repeats=20)
    in_turns = ["".join(calls[at : at + 3]) for at in range(0, len(calls), 3)]
    assert in_turns[0] == "abc"
    assert len(in_turns) == 21
    assert {"".join(sorted(turn)) for turn in in_turns} == {"abc"}
    assert len(set(in_turns)) > 3
    assert set(medians) == set("abc")


def test_training_steps_are_measured_and_described():
    pytest.importorskip("torch")
    from fedsec.measure import training

    result = training.steps(["small CNN 26k, 256"], repeats=1, memory=False)
    (found,) = result["models"].values()
    assert found["ratio"]["plain"] == 1.0
    assert {"fedsec", "vmap"} <= set(found["ratio"])
    assert training.describe(result)[0] == result["what"]


def test_the_simulator_is_measured_and_described():
    pytest.importorskip("torch")
    from fedsec.measure import simulator

    result = simulator.figures(quick=True)
    (grown,) = result["growth"]
    assert {"without privacy", "private, rehearsal", "private, secure aggregation"} <= set(result["ratios"])
    assert set(result["peers"]) | set(result["skipped"]) == {"pfl", "flwr", "ray"}
    assert all(ratio > 0.0 for ratios in result["ratios"].values() for ratio in ratios.values())
    assert grown["peak_gigabytes"] > 0.0
    assert grown["bytes_per_client"] > 10**4
    assert simulator.describe(result)[0] == result["what"]
