"""Events as plain values: every event there and back, and what is refused on the way."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec import accounting
from fedsec.accounting import (
    ApproximateDP,
    Composed,
    DiscreteGaussian,
    DiscreteGaussianSum,
    DiscreteLaplace,
    Gaussian,
    Laplace,
    NonPrivate,
    PoissonSampled,
    RandomAllocation,
    RandomizedResponse,
    Repeated,
    SampledWithoutReplacement,
    Skellam,
    events,
)
from fedsec.accounting.codec import canonical, decode, encode, parse
from fedsec.errors import InvalidArgumentError, InvalidTypeError

positive = st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False)
unit = st.floats(0.0, 1.0)
whole = st.integers(1, 2**53)
dimension = st.none() | whole
mechanisms = st.one_of(
    st.builds(Gaussian, positive),
    st.builds(Laplace, positive),
    st.builds(DiscreteGaussian, positive, positive, dimension),
    st.builds(DiscreteGaussianSum, positive, whole, positive, dimension),
    st.builds(Skellam, positive, positive, dimension),
    st.builds(DiscreteLaplace, positive, whole),
    st.builds(RandomizedResponse, st.just(0.0) | positive),
    st.builds(ApproximateDP, st.just(0.0) | positive, unit),
    st.just(NonPrivate()),
)


def around(inner):
    sizes = st.tuples(whole, whole).map(sorted)
    return st.one_of(
        st.builds(PoissonSampled, inner, unit),
        st.builds(lambda event, n: SampledWithoutReplacement(event, n[1], n[0]), inner, sizes),
        st.builds(lambda event, n: RandomAllocation(event, n[1], n[0]), inner, sizes),
        st.builds(Composed, st.lists(inner, max_size=4)),
        st.builds(Repeated, inner, whole),
    )


trees = st.recursive(mechanisms, around, max_leaves=8)


@settings(max_examples=150, deadline=None)
@given(trees)
def test_there_and_back_by_way_of_json(event):
    text = canonical(encode(event))
    back = decode(parse(text))
    assert back == event
    assert repr(back) == repr(event)  # every bit of every number
    assert canonical(encode(back)) == text
    assert text.isascii()


def test_every_event_is_known():
    """An event that is added later is encoded without further ado, or this test says so."""
    named = {name for name in accounting.__all__ if isinstance(getattr(accounting, name), type)}
    kinds = {n for n in named if issubclass(getattr(accounting, n), events.Event)} - {"Event"}
    assert len(kinds) >= 14
    for name in kinds:
        with pytest.raises(InvalidArgumentError, match=f"{name} has the unknown 'colour'"):
            decode({"type": name, **dict.fromkeys(required(name), 1), "colour": "red"})


def required(name):
    kind = getattr(accounting, name)
    return [key for key in kind.__dataclass_fields__ if not hasattr(kind, key)]


def test_what_it_looks_like():
    event = Repeated(PoissonSampled(Gaussian(1), 0.25), 10)
    assert canonical(encode(event)) == (
        '{"count":10,"event":{"event":{"noise_multiplier":1.0,"type":"Gaussian"},'
        '"sampling_probability":0.25,"type":"PoissonSampled"},"type":"Repeated"}'
    )
    assert encode(Composed([NonPrivate()])) == {"type": "Composed", "events": [{"type": "NonPrivate"}]}
    assert encode(Skellam(4, 1)) == {"type": "Skellam", "variance": 4.0, "l2_sensitivity": 1.0}
    assert encode(Skellam(4, 1, 7))["dimension"] == 7


def test_fields_with_a_default_may_be_left_out():
    assert decode({"type": "Skellam", "variance": 4, "l2_sensitivity": 1}) == Skellam(4.0, 1.0)
    given = {"type": "Skellam", "variance": 4, "l2_sensitivity": 1, "dimension": None}
    assert encode(decode(given)) == encode(Skellam(4.0, 1.0))


def test_numbers_of_numpy_become_plain():
    event = Repeated(Gaussian(np.float64(1.5)), np.int64(3))
    assert json.loads(json.dumps(encode(event))) == encode(Repeated(Gaussian(1.5), 3))


GAUSSIAN = {"type": "Gaussian", "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, InvalidTypeError, "must be a mapping with a type, got None"),
        ([GAUSSIAN], InvalidTypeError, "must be a mapping"),
        ("Gaussian", InvalidTypeError, "must be a mapping"),
        ({}, InvalidArgumentError, "type must be one of .*, got None"),
        ({"type": "Gausian", "noise_multiplier": 1.0}, InvalidArgumentError, "type must .* got 'Gausian'"),
        ({"type": "Event"}, InvalidArgumentError, "type must be one of .*, got 'Event'"),
        ({"type": "_AdditiveNoise", "noise_multiplier": 1.0}, InvalidArgumentError, "type must be one of"),
        ({"type": ["Gaussian"], "noise_multiplier": 1.0}, InvalidArgumentError, "type must be one of"),
        ({"type": "Gaussian"}, InvalidArgumentError, "Gaussian misses 'noise_multiplier'"),
        ({**GAUSSIAN, "seed": 1}, InvalidArgumentError, "Gaussian has the unknown 'seed'"),
        ({**GAUSSIAN, 3: 1}, InvalidArgumentError, "Gaussian has the unknown 3"),
        ({"type": "Gaussian", "noise_multiplier": "1"}, InvalidTypeError, "noise_multiplier .* got '1'"),
        ({"type": "Gaussian", "noise_multiplier": True}, InvalidTypeError, "noise_multiplier .* got True"),
        ({"type": "Gaussian", "noise_multiplier": None}, InvalidTypeError, "noise_multiplier .* got None"),
        ({"type": "Gaussian", "noise_multiplier": GAUSSIAN}, InvalidTypeError, "noise_multiplier must be"),
        ({"type": "Gaussian", "noise_multiplier": [1.0]}, InvalidTypeError, "must be a mapping .* got 1.0"),
        ({"type": "Gaussian", "noise_multiplier": -1}, InvalidArgumentError, "noise_multiplier .* got -1"),
        ({"type": "Gaussian", "noise_multiplier": math.nan}, InvalidArgumentError, "noise_multiplier .* nan"),
        ({"type": "Gaussian", "noise_multiplier": 10**400}, InvalidTypeError, "noise_multiplier must be"),
        ({"type": "Repeated", "event": GAUSSIAN, "count": 2.0}, InvalidTypeError, "count .* got 2.0"),
        ({"type": "Repeated", "event": 5, "count": 2}, InvalidTypeError, "event must be an event"),
        ({"type": "Repeated", "event": [GAUSSIAN], "count": 2}, InvalidTypeError, "event must be an event"),
        ({"type": "Composed", "events": GAUSSIAN}, InvalidTypeError, "events must be a sequence"),
        ({"type": "Composed", "events": "GG"}, InvalidTypeError, "each of events must be an event"),
        ({"type": "Composed", "events": [None]}, InvalidTypeError, "must be a mapping"),
    ],
)
def test_refused(given, error, message):
    with pytest.raises(error, match=message):
        decode(given)


def nested(depth):
    return '{"type":"Repeated","count":1,"event":' * depth + '{"type":"NonPrivate"}' + "}" * depth


def test_depth_is_limited():
    assert encode(decode(parse(nested(63))))["type"] == "Repeated"
    with pytest.raises(InvalidArgumentError, match="at most 64 deep"):
        decode(parse(nested(64)))
    with pytest.raises(InvalidArgumentError, match="not a JSON text"):
        parse(nested(100_000))
    event = Gaussian(1.0)
    for _ in range(64):
        event = Repeated(event, 1)
    with pytest.raises(InvalidArgumentError, match="at most 64 deep"):
        encode(event)


def test_deep_lists_are_refused_without_being_printed():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for hostile in (deep, {"type": deep}, {"type": "Composed", "events": deep}):
        with pytest.raises((InvalidArgumentError, InvalidTypeError)):
            decode(hostile)


class Stranger(Gaussian):
    pass


@pytest.mark.parametrize("value", [None, 1.1, "Gaussian", GAUSSIAN, events.Event(), Stranger(1.0)])
def test_only_own_events_are_encoded(value):
    with pytest.raises(InvalidTypeError, match="event must be"):
        encode(value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1,]", "NaN", '{"a":Infinity}', "-Infinity", '{"a":1,"a":2}', "\x00", "{'a':1}"],
)
def test_what_is_no_json(text):
    with pytest.raises(InvalidArgumentError, match="not a JSON text"):
        parse(text)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (math.nan, InvalidArgumentError),
        ([math.inf], InvalidArgumentError),
        ({"a": b"bytes"}, InvalidTypeError),
        ({(1, 2): 3}, InvalidTypeError),
        (np.float32(1.0), InvalidTypeError),
    ],
)
def test_what_cannot_be_written(value, error):
    with pytest.raises(error, match="can be written"):
        canonical(value)


def test_canonical_text_does_not_depend_on_the_order_of_keys():
    text = '{"a":[0.1,"\\u00fc"],"b":1}'
    assert canonical({"b": 1, "a": [0.1, "ü"]}) == canonical({"a": [0.1, "ü"], "b": 1}) == text
