"""`secagg.aggregate`: a whole session in one call."""

import numpy as np
import pytest

from fedsec.errors import AggregationAborted, InvalidArgumentError, InvalidTypeError, UnsupportedError
from fedsec.secagg import Parameters, aggregate, centre, recommend
from fedsec.secagg.local import LocalSession, default_parameters

VECTORS = {i: np.arange(5) * i - 7 for i in range(1, 11)}


def test_the_snippet():
    """[SPEC 4.1] says how long messages are, each with its header of 38 bytes."""
    outcome = aggregate(VECTORS, modulus_bits=32, dropped={3: "upload", 8: "unmask"})
    survivors = [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert outcome.survivors == tuple(survivors)
    assert centre(outcome.sum, 32).tolist() == sum(VECTORS[i] for i in survivors).tolist()
    assert outcome.dropped == {3: "upload", 8: "unmask"}
    assert outcome.sum.dtype == np.uint32
    assert list(outcome.seconds) == ["advertise", "share", "upload", "agree", "unmask"]
    for seconds in outcome.seconds.values():
        assert list(seconds) == ["client", "server"]
        assert all(value > 0 for value in seconds.values())
    bodies = {
        "advertise": 32 + 32 + 32 + 64,
        "share": 32 + 2 + 9 * (4 + 64 + 80),
        "upload": 8 + 4 * 5,
        "agree": 64,
        "unmask": 2 + 9 * (4 + 1 + 32),
    }
    assert outcome.bytes_per_client == 5 * 38 + sum(bodies.values())
    assert outcome.attempts == 1


def test_dropped_names_are_plain_strings():
    outcome = aggregate(VECTORS, dropped={3: "share"})
    assert {type(phase) for phase in outcome.dropped.values()} == {str}


@pytest.mark.parametrize("dtype", [np.uint16, np.int8, np.int32, np.uint64])
def test_other_integers(dtype):
    vectors = {i: np.array([i, 100], dtype) for i in range(3)}
    assert aggregate(vectors, modulus_bits=16).sum.tolist() == [3, 300]


def test_it_is_set_up_for_the_losses_that_are_asked_for():
    assert aggregate(VECTORS, dropped=dict.fromkeys((1, 2, 3, 4), "upload")).survivors == tuple(range(5, 11))


@pytest.mark.parametrize(("n", "lost"), [(11, 4), (9, 3), (49, 1), (255, 120)])
def test_as_many_as_are_lost_and_no_more(n, lost):
    """4/11 as a double is a little more than four elevenths, and five of eleven would be too many."""
    assert default_parameters(n, lost).max_dropped == max(lost, -(-n // 10))


def test_too_few_survivors():
    parameters = recommend(num_clients=10, corrupt_fraction=0.1, dropout_fraction=0.2)
    dropped = {1: "upload", 2: "share"}
    assert len(aggregate(VECTORS, dropped=dropped, parameters=parameters).survivors) == 8
    with pytest.raises(AggregationAborted, match="7 clients sent their upload message, at least 8 must"):
        aggregate(VECTORS, dropped=dropped | {3: "upload"}, parameters=parameters)


@pytest.mark.parametrize("phase", ["advertise", "share", "upload", "agree", "unmask"])
def test_everybody_dropped(phase):
    with pytest.raises(AggregationAborted, match=r"0 (clients|neighbors)"):
        aggregate(VECTORS, dropped=dict.fromkeys(VECTORS, phase))


def test_sparse_graphs_start_again_while_the_committee_is_lost():
    """[SPEC 5.4]: 8 of 100 draw the ring; with 5 lost some member is among them now and then."""
    parameters = recommend(num_clients=100, corrupt_fraction=0.05, dropout_fraction=0.05)
    vectors = {i: np.array([i]) for i in range(100)}
    outcome = aggregate(vectors, dropped=dict.fromkeys(range(5), "reveal"), parameters=parameters)
    assert 1 <= outcome.attempts < 64
    assert outcome.sum.tolist() == [sum(range(5, 100))]
    assert "reveal" in outcome.seconds


def test_the_semi_honest_profile():
    outcome = aggregate(VECTORS, dropped={3: "upload"}, profile="semi_honest")
    assert list(outcome.seconds) == ["advertise", "share", "upload", "unmask"]
    assert len(outcome.survivors) == 9


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"vectors": {}}, "num_clients must be in .*, got 0"),
        ({"vectors": {1: np.arange(3)}}, "num_clients must be in .*, got 1"),
        ({"vectors": {1: np.arange(3), 2: np.arange(4), 3: np.arange(4)}}, "common shape"),
        ({"vectors": dict.fromkeys(range(3), np.arange(0))}, "vector_length"),
        ({"vectors": dict.fromkeys(range(3), np.arange(3) + 2**31)}, "vector must hold values"),
        ({"modulus_bits": 65}, "modulus_bits"),
        ({"parameters": Parameters(3, 1, 0, 2, 2, 3)}, "for the 10 participants"),
        ({"profile": "trusting"}, "profile must be one of"),
        ({"dropped": {11: "upload"}}, "dropped must name clients of the session, got 11"),
        ({"dropped": {1: "training"}}, r"dropped\[1\] must be one of .*, got 'training'"),
        ({"dropped": {1: "done"}}, "dropped"),
        ({"prg": "none"}, "prg"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, named):
    with pytest.raises(InvalidArgumentError, match=named):
        aggregate(**{"vectors": VECTORS} | arguments)


def test_two_clients_are_refused():
    """[SPEC 1.3]: each would learn the other's vector."""
    with pytest.raises(UnsupportedError, match="2 clients with 1 corrupt and 0 lost are infeasible"):
        aggregate({1: np.arange(3), 2: np.arange(3)})


@pytest.mark.parametrize(
    "vectors",
    [
        None,
        [np.arange(3)],
        dict.fromkeys((1, 2, 3), np.zeros(3)),
        dict.fromkeys(("1", "2", "3"), np.arange(3)),
    ],
)
def test_wrong_types_are_refused(vectors):
    with pytest.raises(InvalidTypeError):
        aggregate(vectors)


def test_uploads_one_at_a_time():
    """Nothing of a vector is kept; who never uploads is lost at the upload."""
    session = LocalSession(range(1, 11), 5, dropped={2: "share", 8: "unmask"})
    assert session.awaited == (1, 3, 4, 5, 6, 7, 8, 9, 10)
    vector = np.empty(5, np.int64)
    for client in session.awaited[1:]:
        vector[:] = VECTORS[client]
        session.upload(client, vector)
        vector[:] = 10**6
    session.lose(9, "unmask")
    outcome = session.finish()
    assert outcome.dropped == {1: "upload", 2: "share", 8: "unmask", 9: "unmask"}
    assert outcome.survivors == (3, 4, 5, 6, 7, 8, 9, 10)
    assert centre(outcome.sum, 32).tolist() == sum(VECTORS[i] for i in outcome.survivors).tolist()


def test_uploads_that_are_not_awaited_are_refused():
    session = LocalSession(range(1, 11), 5, dropped={3: "upload"})
    session.upload(1, VECTORS[1])
    for client in (1, 3, 77):
        with pytest.raises(InvalidArgumentError, match=f"awaited, got {client}"):
            session.upload(client, VECTORS[1])
    with pytest.raises(InvalidArgumentError, match="dropped must name clients"):
        session.lose(77, "unmask")
