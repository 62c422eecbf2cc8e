"""Saved accountants: the same answers bit for bit, and what no accountant loads."""

import contextlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsec.accounting import (
    Composed,
    Gaussian,
    Laplace,
    NeighboringRelation,
    NonPrivate,
    PLDAccountant,
    PoissonSampled,
    RDPAccountant,
    Repeated,
)
from fedsec.errors import InvalidArgumentError, InvalidTypeError, UnsupportedError

KINDS = [RDPAccountant, PLDAccountant]
SGD = PoissonSampled(Gaussian(1.1), 0.01)
UNSUPPORTED = {
    "type": "PoissonSampled",
    "sampling_probability": 0.5,
    "event": {"type": "Composed", "events": []},
}

noise = st.floats(-1.0, 2.0).map(lambda exponent: 10.0**exponent)
mechanisms = st.one_of(
    st.builds(Gaussian, noise),
    st.builds(Laplace, noise),
    st.builds(PoissonSampled, st.builds(Gaussian, noise), st.floats(0.0, 1.0)),
    st.just(NonPrivate()),
)
events = st.recursive(
    mechanisms,
    lambda inner: st.one_of(
        st.builds(Composed, st.lists(inner, max_size=3)), st.builds(Repeated, inner, st.integers(1, 1000))
    ),
    max_leaves=4,
)
relations = st.sampled_from(NeighboringRelation)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def reloaded(accountant, **options):
    state = json.loads(json.dumps(accountant.state_dict()))
    relation = accountant.neighboring_relation
    return type(accountant)(neighboring_relation=relation, **options).load_state_dict(state)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(events, st.integers(1, 10**6)), max_size=3), relations, st.floats(-30.0, -0.1))
def test_the_same_bits_by_way_of_json(runs, relation, exponent):
    accountant = RDPAccountant(neighboring_relation=relation)
    for event, count in runs:
        with contextlib.suppress(UnsupportedError):
            accountant.compose(event, count)
    again = reloaded(accountant)
    delta = 10.0**exponent
    assert again.epsilon(delta) == accountant.epsilon(delta)
    assert again.delta(1.0) == accountant.delta(1.0)
    assert again.state_dict() == accountant.state_dict()


def test_the_same_bits_from_every_kind(kind):
    accountant = kind().compose(SGD, 200).compose(Gaussian(3.0), 2)
    again = reloaded(accountant)
    assert again.epsilon_interval(1e-6) == accountant.epsilon_interval(1e-6)
    assert again.compose(Gaussian(5.0)).epsilon(1e-6) == accountant.compose(Gaussian(5.0)).epsilon(1e-6)


def test_what_was_asked_before_does_not_linger(kind):
    """Answers that are kept belong to what was composed when they were found."""
    accountant = kind().compose(Gaussian(0.5))
    spent = accountant.epsilon(1e-5)
    assert accountant.load_state_dict(kind().compose(Gaussian(4.0)).state_dict()) is accountant
    assert accountant.epsilon(1e-5) == kind().compose(Gaussian(4.0)).epsilon(1e-5) < spent
    assert accountant.load_state_dict(kind().state_dict()).epsilon(1e-5) == 0.0


def test_a_state_is_plain_and_small():
    state = RDPAccountant(orders=[2.0, 5.0]).compose(Repeated(Gaussian(2.0), 5), 2).state_dict()
    assert state == {
        "format": 1,
        "accountant": "RDPAccountant",
        "neighboring_relation": "ADD_OR_REMOVE_ONE",
        "options": {"search_start": [1.0, 4.0]},
        "composed": {
            "type": "Composed",
            "events": [
                {"type": "Repeated", "event": {"type": "Gaussian", "noise_multiplier": 2.0}, "count": 10}
            ],
        },
    }


def test_a_state_does_not_change_afterwards(kind):
    accountant = kind().compose(Gaussian(2.0))
    state = accountant.state_dict()
    before = json.dumps(state)
    accountant.compose(Gaussian(1.0))
    assert json.dumps(state) == before


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": 2}, InvalidArgumentError, "format of state must be 1, got 2"),
        ({"format": True}, InvalidArgumentError, "format of state must be 1, got True"),
        ({"accountant": "Accountant"}, InvalidArgumentError, "accountant of state must be 'RDPAccountant'"),
        ({"neighboring_relation": "REPLACE_ONE"}, InvalidArgumentError, "neighboring_relation of state must"),
        ({"neighboring_relation": None}, InvalidArgumentError, "neighboring_relation of state must"),
        ({"options": {}}, InvalidArgumentError, "options of state must be"),
        ({"options": {"search_start": math.nan}}, InvalidArgumentError, "finite"),
        ({"options": object()}, InvalidTypeError, "plain values"),
        ({"composed": {"type": "Gaussian"}}, InvalidArgumentError, "Gaussian misses 'noise_multiplier'"),
        ({"composed": Gaussian(1.0)}, InvalidTypeError, "must be a mapping"),
        ({"composed": UNSUPPORTED}, UnsupportedError, "PoissonSampled"),
        (
            {"composed": {"type": "Composed", "events": [{"type": "NonPrivate"}, UNSUPPORTED]}},
            UnsupportedError,
            "PoissonSampled",
        ),
        (
            {"composed": {"type": "Repeated", "count": 2**53, "event": {"type": "Repeated", "count": 2,
                          "event": {"type": "NonPrivate"}}}},
            InvalidArgumentError,
            r"at most 2\*\*53",
        ),
        ({"more": 1}, InvalidArgumentError, "state has the unknown 'more'"),
    ],
)  # fmt: skip
def test_bad_states_leave_the_accountant_as_it_was(change, error, message):
    accountant = RDPAccountant().compose(SGD, 10)
    before, spent = accountant.state_dict(), accountant.epsilon(1e-5)
    with pytest.raises(error, match=message):
        accountant.load_state_dict(RDPAccountant().compose(Gaussian(1.0)).state_dict() | change)
    assert accountant.state_dict() == before
    assert accountant.epsilon(1e-5) == spent


@pytest.mark.parametrize("state", [None, [], "state", 1, {}])
def test_what_is_no_state(kind, state):
    with pytest.raises((InvalidArgumentError, InvalidTypeError), match="state"):
        kind().load_state_dict(state)


def test_accountants_load_only_their_own_kind_and_relation(kind):
    state = kind().compose(Gaussian(1.0)).state_dict()
    (other,) = (one for one in KINDS if one is not kind)
    with pytest.raises(InvalidArgumentError, match=f"accountant of state must be '{other.__name__}'"):
        other().load_state_dict(state)
    for relation in NeighboringRelation:
        if relation is not NeighboringRelation.ADD_OR_REMOVE_ONE:
            with pytest.raises(InvalidArgumentError, match="neighboring_relation of state must be"):
                kind(neighboring_relation=relation).load_state_dict(state)


def test_options_must_be_the_same():
    state = RDPAccountant(orders=[2.0, 3.0]).state_dict()
    RDPAccountant(orders=[3.0, 2.0]).load_state_dict(state)
    with pytest.raises(InvalidArgumentError, match="options of state must be"):
        RDPAccountant().load_state_dict(state)
