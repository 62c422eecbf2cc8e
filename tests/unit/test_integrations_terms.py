"""Terms of a run, and the two ends of a round: what clients add, what the server makes of the sum."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("torch")

from fedsec.errors import FedsecError, InvalidArgumentError, InvalidTypeError, NonFiniteError
from fedsec.integrations.terms import Terms, contribution, moved, protects, ring_of, schema_of
from fedsec.secagg import recommend, to_residues

PLAIN = Terms(max_clients=4, num_rounds=3)
PRIVATE = Terms(4, 3, l2_clip_norm=1.0, noise_multiplier=0.01, target_delta=1e-5)
KEY = b"k" * 32
BEFORE = {"w": np.ones((3, 2), np.float32), "b": np.zeros(2), "steps": np.array([7])}


def after(step):
    return {"w": BEFORE["w"] + np.float32(step), "b": BEFORE["b"] - step, "steps": np.array([9])}


def summed(plan, vectors):
    bits = ring_of(plan)[1]
    return sum(to_residues(vector, bits) for vector in vectors) % 2**bits


def test_a_weighted_mean():
    plan = PLAIN.plan(schema_of(BEFORE))
    vectors = [
        contribution(plan, BEFORE, after(step), weight, KEY) for step, weight in ((1.0, 10), (4.0, 30.0))
    ]
    assert ring_of(plan)[0] == vectors[0].size == 9
    arrays, weight = moved(plan, BEFORE, summed(plan, vectors), KEY)
    assert weight == pytest.approx(40.0)
    np.testing.assert_allclose(arrays["w"], 1.0 + 3.25, rtol=1e-6)
    np.testing.assert_allclose(arrays["b"], -3.25, rtol=1e-6)
    assert arrays["steps"] is BEFORE["steps"]
    assert {name: array.dtype for name, array in arrays.items()} == {n: a.dtype for n, a in BEFORE.items()}


def test_a_private_mean_is_clipped_and_divided_by_the_public_number():
    plan = PRIVATE.plan(schema_of(BEFORE))
    vectors = [
        contribution(plan, BEFORE, after(step), weight, KEY) for step, weight in ((100.0, 7), (-100.0, 1))
    ]
    for vector in vectors:
        assert vector.size == ring_of(plan)[0] == 8
    arrays, divisor = moved(plan, BEFORE, summed(plan, [vectors[0], vectors[0]]), KEY)
    assert divisor == 4.0
    step = np.concatenate([arrays["w"].ravel() - 1.0, arrays["b"]])
    assert np.linalg.norm(step) == pytest.approx(2.0 / 4.0, abs=0.05)  # two of norm 1, noise 0.01, over 4


def test_local_noise_is_in_what_leaves():
    quiet = Terms(4, 3, l2_clip_norm=1.0, noise_multiplier=5.0, target_delta=1e-5)
    loud = Terms(4, 3, l2_clip_norm=1.0, noise_multiplier=5.0, target_delta=1e-5, noise="local")
    plans = [terms.plan(schema_of(BEFORE)) for terms in (quiet, loud)]
    zero = [contribution(plan, BEFORE, BEFORE | {"steps": np.array([9])}, 1.0, KEY) for plan in plans]
    assert not zero[0].any()
    assert zero[1].any()


@pytest.mark.parametrize("weight", [0, -1.0, math.nan, math.inf])
def test_weights_that_are_none(weight):
    with pytest.raises(InvalidArgumentError, match="weight"):
        contribution(PLAIN.plan(schema_of(BEFORE)), BEFORE, after(1.0), weight, KEY)


@pytest.mark.parametrize("terms", [PLAIN, PRIVATE])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"w": np.full((3, 2), np.nan, np.float32)}, NonFiniteError),
        ({"w": np.ones((2, 3), np.float32)}, InvalidArgumentError),
        ({"w": np.ones((3, 2))}, InvalidTypeError),
        ({"more": np.ones(1)}, InvalidArgumentError),
    ],
)
def test_models_that_do_not_fit(terms, wrong, error):
    with pytest.raises(error):
        contribution(terms.plan(schema_of(BEFORE)), BEFORE, after(1.0) | wrong, 1.0, KEY)


def test_terms_travel_and_settle_the_noise():
    asked = Terms(4, 3, l2_clip_norm=1.0, target_epsilon=2.0, target_delta=1e-5)
    plan = asked.plan(schema_of(BEFORE))
    settled = asked.settled(plan)
    assert settled.noise_multiplier == plan.noise_multiplier > 0.0
    assert Terms.from_bytes(settled.to_bytes()) == settled
    assert ring_of(settled.plan(schema_of(BEFORE))) == ring_of(plan)
    assert PLAIN.settled(PLAIN.plan(schema_of(BEFORE))) == PLAIN


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"max_clients":4}', b'{"a":1}', b"\xff", PLAIN.to_bytes() + b" "]
)
def test_what_are_no_terms(data):
    with pytest.raises(InvalidArgumentError, match="terms"):
        Terms.from_bytes(data)


def test_terms_of_values_that_are_none():
    for name, value in (("max_clients", "4"), ("max_clients", 2), ("noise", "loud"), ("l2_clip_norm", -1.0)):
        said = json.loads(PRIVATE.to_bytes()) | {name: value}
        terms = Terms.from_bytes(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())
        with pytest.raises(FedsecError):
            terms.plan(schema_of(BEFORE))


def test_the_digest_is_of_model_and_terms():
    digests = {
        terms.digest(arrays)
        for terms in (PLAIN, PRIVATE)
        for arrays in (BEFORE, after(1.0), BEFORE | {"steps": np.array([8])})
    }
    assert len(digests) == 6
    assert {len(digest) for digest in digests} == {32}


def test_distributed_noise_is_in_the_sum_and_asks_for_its_survivors():
    terms = Terms(
        4, 3, l2_clip_norm=1.0, noise_multiplier=0.05, target_delta=1e-5, noise="distributed",
        corrupt_fraction=0.0, dropout_fraction=0.25,
    )  # fmt: skip
    plan = terms.plan(schema_of(BEFORE))
    assert Terms.from_bytes(terms.to_bytes()) == terms
    vectors = [contribution(plan, BEFORE, after(100.0), 1.0, KEY) for _ in range(4)]
    assert len({vector.tobytes() for vector in vectors}) == 4
    arrays, divisor = moved(plan, BEFORE, summed(plan, vectors), KEY)
    step = np.concatenate([arrays["w"].ravel() - 1.0, arrays["b"]])
    assert divisor == 4.0
    assert np.linalg.norm(step) == pytest.approx(1.0, abs=0.3)
    for n, lost, enough in ((4, 0.25, True), (4, 0.0, True), (3, 0.0, True), (5, 0.4, True)):
        parameters = recommend(num_clients=n, corrupt_fraction=0.0, dropout_fraction=lost)
        assert protects(plan, parameters) is enough
    weaker = terms.plan(schema_of(BEFORE)).secagg_parameters
    assert (weaker.num_clients, weaker.min_survivors, weaker.max_corrupt) == (4, 3, 0)
    stronger = Terms(**{**vars(terms), "max_clients": 5, "dropout_fraction": 0.0}).plan(schema_of(BEFORE))
    assert not protects(stronger, recommend(num_clients=5, corrupt_fraction=0.0, dropout_fraction=0.2))
    assert not protects(stronger, recommend(num_clients=4, corrupt_fraction=0.0, dropout_fraction=0.0))
