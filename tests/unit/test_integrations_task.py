"""The two ends of a sum: what clients add, what the server makes of it."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from fedsec.errors import AggregationAborted, InvalidArgumentError, InvalidTypeError, NonFiniteError
from fedsec.federated.settings import Settings
from fedsec.integrations.metrics import Metrics
from fedsec.integrations.terms import EVALUATE, TRAIN, Terms
from fedsec.secagg import recommend, to_residues

KEY = b"k" * 32
BEFORE = {"w": np.ones((3, 2), np.float32), "b": np.zeros(2), "steps": np.array([7])}
PRIVACY = {"l2_clip_norm": 1.0, "noise_multiplier": 0.01, "target_delta": 1e-5}
METRICS = Metrics.of("metrics", {"accuracy": (0.0, 1.0), "loss": (0.0, 10.0)})


def terms(**settings):
    return Terms(Settings(num_clients=4, num_rounds=3, **settings))


def after(step):
    return {"w": BEFORE["w"] + np.float32(step), "b": BEFORE["b"] - step, "steps": np.array([9])}


def summed(task, vectors):
    bits = task.ring[1]
    total = sum(to_residues(vector, bits) for vector in vectors)  # of the lane dtype, and wraps as it does
    return total & total.dtype.type(2**bits - 1)


def trained(task, step, weight=1.0, values=()):
    return task.contribution(BEFORE, after(step), values, weight, KEY)


def evaluated(task, values, weight=1.0):
    return task.contribution(BEFORE, BEFORE, values, weight, KEY)


def test_a_weighted_mean():
    task = terms().task(TRAIN, BEFORE)
    vectors = [trained(task, step, weight) for step, weight in ((1.0, 10), (4.0, 30.0))]
    assert task.ring[0] == vectors[0].size == 9
    mean = task.mean(summed(task, vectors), KEY)
    assert mean.total == pytest.approx(40.0)
    assert mean.metrics == {}
    arrays = task.moved(BEFORE, mean.update)
    np.testing.assert_allclose(arrays["w"], 1.0 + 3.25, rtol=1e-6)
    np.testing.assert_allclose(arrays["b"], -3.25, rtol=1e-6)
    assert arrays["steps"] is BEFORE["steps"]
    assert {name: array.dtype for name, array in arrays.items()} == {n: a.dtype for n, a in BEFORE.items()}


def test_metrics_of_training_are_weighted_as_updates_are():
    task = replace(terms(), train_metrics=METRICS).task(TRAIN, BEFORE)
    vectors = [trained(task, 1.0, 10, [0.5, 3.0]), trained(task, 1.0, 30, [0.9, 1e9])]
    assert task.ring[0] == vectors[0].size == 11
    mean = task.mean(summed(task, vectors), KEY)
    assert mean.metrics == {"accuracy": pytest.approx(0.8), "loss": pytest.approx(0.75 * 10 + 0.25 * 3)}
    np.testing.assert_allclose(np.abs(mean.update), 1.0, rtol=1e-6)


def test_an_evaluation_is_of_metrics_alone():
    task = replace(terms(), evaluate_metrics=METRICS).task(EVALUATE, BEFORE)
    assert task.ring[0] == 3
    vectors = [evaluated(task, [0.5, 3.0], 10), evaluated(task, [0.9, 1.0], 30)]
    mean = task.mean(summed(task, vectors), KEY)
    assert mean.update.size == 0
    assert mean.total == pytest.approx(40.0)
    assert mean.metrics == {"accuracy": pytest.approx(0.8), "loss": pytest.approx(1.5)}


@pytest.mark.parametrize("noise", ["central", "local", "distributed"])
def test_a_private_evaluation_is_noisy_and_uniform(noise):
    said = replace(terms(**PRIVACY | {"noise": noise}), evaluate_metrics=METRICS)
    task = said.task(EVALUATE, BEFORE)
    values, weights = ([0.5, 3.0], [0.9, 1.0], [0.7, 2.0]), (1, 1000, 7)  # three of four live
    vectors = [evaluated(task, *one) for one in zip(values, weights, strict=True)]
    mean = task.mean(summed(task, vectors), KEY)
    # Noise of 0.01 sqrt(3) a coordinate, in half ranges, at most two such a client with local noise.
    assert mean.total == pytest.approx(3.0, abs=0.4)
    vectors = [evaluated(task, *one) for one in zip(values, weights, strict=True)]
    again = task.mean(summed(task, vectors), KEY)
    assert (again.total, again.metrics) != (mean.total, mean.metrics)  # alike by chance: 1e-7
    assert mean.metrics["accuracy"] == pytest.approx(0.7, abs=0.1)
    assert mean.metrics["loss"] == pytest.approx(2.0, abs=1.0)


def test_a_private_evaluation_is_charged_for_what_one_client_can_change():
    """At the far ends of all bounds the vector is as long as the noise is made for, and no longer."""
    said = replace(terms(**PRIVACY), evaluate_metrics=METRICS)
    task, training = said.task(EVALUATE, BEFORE), said.task(TRAIN, BEFORE)
    steps = task.plan.mechanism.quantizer.granularity
    norms = [np.linalg.norm(evaluated(task, one) * steps) for one in ([1, 10], [9, 99], [0, 0], [-1, 10])]
    np.testing.assert_allclose(norms, math.sqrt(3.0), rtol=0.01)
    assert task.plan.l2_sensitivity >= math.sqrt(3.0)
    assert task.plan.event == training.plan.event
    assert task.plan.noise_multiplier == training.plan.noise_multiplier == 0.01


def test_noise_that_leaves_no_clients_gives_no_metrics():
    task = replace(terms(**PRIVACY), evaluate_metrics=METRICS).task(EVALUATE, BEFORE)
    with pytest.raises(AggregationAborted, match="more than 0"):
        task.mean(summed(task, [-evaluated(task, [0.5, 5.0])]), KEY)


def test_a_private_mean_is_clipped_and_divided_by_the_public_number():
    task = terms(**PRIVACY).task(TRAIN, BEFORE)
    vectors = [trained(task, step, weight) for step, weight in ((100.0, 7), (-100.0, 1))]
    for vector in vectors:
        assert vector.size == task.ring[0] == 8
    mean = task.mean(summed(task, [vectors[0], vectors[0]]), KEY)
    assert mean.total == 4.0
    assert np.linalg.norm(mean.update) == pytest.approx(2.0 / 4.0, abs=0.05)  # two of norm 1, noise 0.01


def test_an_adaptive_bound_follows_what_is_released():
    task = terms(**PRIVACY, clipping="adaptive").task(TRAIN, BEFORE)
    assert task.ring[0] == 9
    for step, sign in ((100.0, 1), (1e-3, -1)):  # all beyond the bound, all within it
        mean = task.mean(summed(task, [trained(task, step)] * 4), KEY)
        assert sign * math.log(mean.plan.rule.l2_clip_norm) == pytest.approx(0.1, abs=0.02)
        assert mean.plan.event == task.plan.event


def test_local_noise_is_in_what_leaves():
    quiet, loud = terms(**PRIVACY), terms(**PRIVACY, noise="local")
    zero = [
        task.contribution(BEFORE, BEFORE | {"steps": np.array([9])}, [], 1.0, KEY)
        for task in (quiet.task(TRAIN, BEFORE), loud.task(TRAIN, BEFORE))
    ]
    assert not zero[0].any()
    assert zero[1].any()


@pytest.mark.parametrize("weight", [0, -1.0, math.nan, math.inf])
def test_weights_that_are_none(weight):
    with pytest.raises(InvalidArgumentError, match="weight"):
        trained(terms().task(TRAIN, BEFORE), 1.0, weight)


@pytest.mark.parametrize("said", [terms(), terms(**PRIVACY)])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"w": np.full((3, 2), np.nan, np.float32)}, NonFiniteError),
        ({"w": np.ones((2, 3), np.float32)}, InvalidArgumentError),
        ({"w": np.ones((3, 2))}, InvalidTypeError),
        ({"more": np.ones(1)}, InvalidArgumentError),
    ],
)
def test_models_that_do_not_fit(said, wrong, error):
    with pytest.raises(error):
        said.task(TRAIN, BEFORE).contribution(BEFORE, after(1.0) | wrong, [], 1.0, KEY)


def test_distributed_noise_is_in_the_sum_and_asks_for_its_survivors():
    said = PRIVACY | {"noise_multiplier": 0.05, "noise": "distributed", "corrupt_fraction": 0.0}
    task = terms(**said, dropout_fraction=0.25).task(TRAIN, BEFORE)
    vectors = [trained(task, 100.0) for _ in range(4)]
    assert len({vector.tobytes() for vector in vectors}) == 4
    mean = task.mean(summed(task, vectors), KEY)
    assert mean.total == 4.0
    assert np.linalg.norm(mean.update) == pytest.approx(1.0, abs=0.3)
    for n, lost, enough in ((4, 0.25, True), (4, 0.0, True), (3, 0.0, True), (5, 0.4, True)):
        parameters = recommend(num_clients=n, corrupt_fraction=0.0, dropout_fraction=lost)
        assert task.allows(parameters) is enough
    weaker = task.plan.secagg_parameters
    assert (weaker.num_clients, weaker.min_survivors, weaker.max_corrupt) == (4, 3, 0)
    five = Settings(num_clients=5, num_rounds=3, **said, dropout_fraction=0.0)
    stronger = Terms(five).task(TRAIN, BEFORE)
    assert not stronger.allows(recommend(num_clients=5, corrupt_fraction=0.0, dropout_fraction=0.2))
    assert not stronger.allows(recommend(num_clients=4, corrupt_fraction=0.0, dropout_fraction=0.0))
