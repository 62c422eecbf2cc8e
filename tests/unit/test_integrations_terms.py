"""Terms of a run: how they travel, what they may say, and what they are called."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("torch")

from fedsec.clipping import AdaptiveClipping, FlatClipping
from fedsec.errors import FedsecError, InvalidArgumentError, ProtocolError, UnsupportedError
from fedsec.federated.settings import Settings
from fedsec.integrations import terms as module
from fedsec.integrations.metrics import Metrics
from fedsec.integrations.terms import EVALUATE, TRAIN, Terms

PLAIN = Terms(Settings(num_clients=4, num_rounds=3))
PRIVATE = Terms(
    Settings(num_clients=4, num_rounds=3, l2_clip_norm=1.0, noise_multiplier=0.01, target_delta=1e-5)
)
ACCURACY = Metrics.of("metrics", {"accuracy": (0.0, 1.0)})
ARRAYS = {"w": np.ones((3, 2), np.float32), "b": np.zeros(2), "steps": np.array([7])}

# Another value than the default for each setting, so that no field can be forgotten.
OTHER = {
    "num_clients": 5, "num_rounds": 4, "cohort_size": 3, "unit": "record", "noise": "local",
    "l2_clip_norm": 2.0, "clipping": "adaptive", "noise_multiplier": 2.0, "target_epsilon": 9.0,
    "target_delta": 1e-6, "sampling_probability": 0.5, "num_records": 10, "max_weight": 1.0,
    "total_weight": 4.0, "secure_aggregation": False, "corrupt_fraction": 0.1, "dropout_fraction": 0.1,
    "insecure_sampling_seed": 1, "local_steps": 2, "local_learning_rate": 0.5,
}  # fmt: skip


def canonical(said):
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


def test_every_setting_travels():
    assert set(OTHER) == {field.name for field in fields(Settings)}
    assert set(json.loads(PLAIN.to_bytes())["settings"]) == set(OTHER)


@pytest.mark.parametrize("name", sorted(set(OTHER) - module._CHOSEN))
def test_a_setting_that_no_run_may_choose_is_refused(name):
    said = json.loads(PRIVATE.to_bytes())
    said["settings"][name] = OTHER[name]
    with pytest.raises(FedsecError):
        Terms.from_bytes(canonical(said))


@pytest.mark.parametrize(
    "terms",
    [
        PLAIN,
        PRIVATE,
        replace(PLAIN, weighted_by="n", train_metrics=ACCURACY, evaluate_metrics=ACCURACY),
        replace(PRIVATE, settings=replace(PRIVATE.settings, clipping="adaptive")),
        replace(
            PRIVATE,
            settings=replace(
                PRIVATE.settings, l2_clip_norm=None, clipping=AdaptiveClipping(0.1, target_quantile=0.7)
            ),
        ),
        replace(
            PRIVATE,
            settings=replace(
                PRIVATE.settings, noise="distributed", corrupt_fraction=0.0, dropout_fraction=0.25
            ),
        ),
    ],
)
def test_terms_travel(terms):
    assert Terms.from_bytes(terms.to_bytes()) == terms


def test_the_noise_is_calibrated_once_and_a_bound_that_moves_travels():
    settings = Settings(
        num_clients=4, num_rounds=3, l2_clip_norm=1.0, clipping="adaptive", target_epsilon=2.0,
        target_delta=1e-5,
    )  # fmt: skip
    asked = Terms(settings)
    plan = asked.task(TRAIN, ARRAYS).plan
    released = np.zeros(plan.mechanism.vector_length)
    released[-1] = 1e9  # all within the bound
    after = asked.following(plan.following(released))
    assert after.settings.noise_multiplier == plan.noise_multiplier > 0.0
    assert after.settings.rule.l2_clip_norm < 1.0
    theirs = Terms.from_bytes(after.to_bytes()).task(TRAIN, ARRAYS)
    assert theirs.plan.rule == after.settings.rule
    assert theirs.plan.event == plan.event
    assert PLAIN.following(PLAIN.task(TRAIN, ARRAYS).plan) == PLAIN


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"7", b'{"max_clients":4}', b'{"a":1}', b"\xff", PLAIN.to_bytes() + b" ",
     PLAIN.to_bytes().replace(b'"train_metrics":[]', b'"train_metrics":7'),
     PLAIN.to_bytes().replace(b'"settings":{', b'"settings":{"more":1,'),
     PLAIN.to_bytes().replace(b'"clipping":"flat"', b'"clipping":{"rule":"Wild"}'),
     PLAIN.to_bytes().replace(b'"clipping":"flat"', b'"clipping":{"l2_clip_norm":1.0}'),
     PLAIN.to_bytes().replace(b'"num_clients":4', b'"num_clients":"4"')],
)  # fmt: skip
def test_what_are_no_terms(data):
    with pytest.raises(InvalidArgumentError, match="terms"):
        Terms.from_bytes(data)


@pytest.mark.parametrize(
    ("name", "value"), [("num_clients", 2), ("noise", "loud"), ("l2_clip_norm", -1.0), ("clipping", "loud")]
)
def test_settings_of_values_that_are_none(name, value):
    said = json.loads(PRIVATE.to_bytes())
    said["settings"][name] = value
    with pytest.raises(FedsecError):
        Terms.from_bytes(canonical(said))


def test_metrics_that_do_not_fit():
    with pytest.raises(UnsupportedError, match="evaluate_metrics"):
        replace(PRIVATE, train_metrics=ACCURACY)
    with pytest.raises(InvalidArgumentError, match="weighs"):
        replace(PLAIN, weighted_by="accuracy", evaluate_metrics=ACCURACY)


@pytest.mark.parametrize("task", [EVALUATE, "query", "system"])
def test_what_nobody_named_is_not_done(task):
    with pytest.raises(ProtocolError, match=task):
        PLAIN.task(task, ARRAYS)


def test_the_digest_is_of_model_terms_and_task():
    digests = {
        terms.digest(task, arrays)
        for terms in (PLAIN, PRIVATE, replace(PLAIN, evaluate_metrics=ACCURACY))
        for arrays in (ARRAYS, ARRAYS | {"b": np.ones(2)}, ARRAYS | {"steps": np.array([8])})
        for task in (TRAIN, EVALUATE)
    }
    assert len(digests) == 18
    assert {len(digest) for digest in digests} == {32}


def test_a_rule_that_is_no_adaptive_one_travels_too():
    terms = replace(
        PRIVATE, settings=replace(PRIVATE.settings, l2_clip_norm=None, clipping=FlatClipping(2.0))
    )
    assert Terms.from_bytes(terms.to_bytes()).settings.rule == FlatClipping(2.0)
