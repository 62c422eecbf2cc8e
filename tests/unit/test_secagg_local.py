"""`secagg.aggregate`: a whole session in one call."""

import numpy as np
import pytest

from fedsec import secagg
from fedsec.errors import AggregationAborted, InvalidArgumentError, InvalidTypeError
from fedsec.secagg import aggregate, centre

VECTORS = {i: np.arange(5) * i - 7 for i in range(1, 11)}


def test_the_snippet():
    outcome = aggregate(VECTORS, modulus_bits=32, dropped={3: "upload", 8: "unmask"})
    survivors = [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert outcome.survivors == tuple(survivors)
    assert centre(outcome.sum, 32).tolist() == sum(VECTORS[i] for i in survivors).tolist()
    assert outcome.dropped == {3: "upload", 8: "unmask"}
    assert outcome.sum.dtype == np.uint32
    assert list(outcome.seconds) == ["advertise", "share", "upload", "unmask"]
    for seconds in outcome.seconds.values():
        assert list(seconds) == ["client", "server"]
        assert all(value > 0 for value in seconds.values())
    # advertise, share, upload and unmask messages, each with its header of 38 bytes
    assert outcome.bytes_per_client == 4 * 38 + 64 + (32 + 2 + 9 * 84) + 20 + (2 + 10 * 37)


def test_dropped_names_are_plain_strings():
    outcome = aggregate(VECTORS, dropped={3: "share"})
    assert {type(phase) for phase in outcome.dropped.values()} == {str}


@pytest.mark.parametrize("dtype", [np.uint16, np.int8, np.int32, np.uint64])
def test_other_integers(dtype):
    vectors = {i: np.array([i, 100], dtype) for i in range(3)}
    assert aggregate(vectors, modulus_bits=16).sum.tolist() == [3, 300]


def test_below_the_threshold():
    assert aggregate(VECTORS, dropped=dict.fromkeys((1, 2, 3), "upload")).survivors == tuple(range(4, 11))
    with pytest.raises(AggregationAborted, match="6 clients sent their upload message, the threshold is 7"):
        aggregate(VECTORS, dropped=dict.fromkeys((1, 2, 3, 4), "upload"))
    assert len(aggregate(VECTORS, dropped={1: "upload", 2: "share"}, threshold=8).survivors) == 8


def test_everybody_dropped():
    for phase in secagg.Phase("advertise"), "share", "upload", "unmask":
        with pytest.raises(AggregationAborted, match="0 clients"):
            aggregate(VECTORS, dropped=dict.fromkeys(VECTORS, phase))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"vectors": {}}, "number of participants must be in .*, got 0"),
        ({"vectors": {1: np.arange(3)}}, "number of participants must be in .*, got 1"),
        ({"vectors": {1: np.arange(3), 2: np.arange(4)}}, "common shape"),
        ({"vectors": {1: np.arange(0), 2: np.arange(0)}}, "vector_length"),
        ({"vectors": {1: np.arange(3), 2: np.arange(3) + 2**31}}, "vector must hold values"),
        ({"modulus_bits": 65}, "modulus_bits"),
        ({"threshold": 5}, "threshold of 10 clients"),
        ({"dropped": {11: "upload"}}, "dropped must name clients that have vectors, got 11"),
        ({"dropped": {1: "training"}}, r"dropped\[1\] must be one of .*, got 'training'"),
        ({"dropped": {1: "done"}}, "dropped"),
        ({"prg": "none"}, "prg"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, named):
    with pytest.raises(InvalidArgumentError, match=named):
        aggregate(**{"vectors": VECTORS} | arguments)


@pytest.mark.parametrize(
    "vectors",
    [None, [np.arange(3)], {1: np.zeros(3), 2: np.zeros(3)}, {"1": np.arange(3), "2": np.arange(3)}],
)
def test_wrong_types_are_refused(vectors):
    with pytest.raises(InvalidTypeError):
        aggregate(vectors)
