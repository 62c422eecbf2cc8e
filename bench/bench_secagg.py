"""make bench: whole secure aggregations, client and server apart, beside Flower's; and Shamir sharing."""

import os

import pytest

from fedsec.measure import figures
from fedsec.measure.secagg import aggregation, describe
from fedsec.secagg.primitives import shamir


@pytest.mark.parametrize(("num_clients", "vector_length"), [(10, 26_000), (10, 1_000_000), (100, 26_000)])
def test_aggregation(benchmark, capsys, num_clients, vector_length):
    result = benchmark.pedantic(aggregation, args=(num_clients, vector_length), rounds=1)
    benchmark.extra_info.update(result)
    with capsys.disabled():
        print("", *describe(result), sep="\n")


def test_figures(benchmark, capsys):
    """Beside Flower's SecAgg+; in small: `fedsec bench secagg` has the sizes that the goals are for."""
    result = benchmark.pedantic(figures.figures, kwargs={"quick": True}, rounds=1)
    benchmark.extra_info.update(result)
    with capsys.disabled():
        print("", *figures.describe(result), sep="\n")


@pytest.mark.parametrize(("threshold", "num_shares"), [(7, 10), (67, 100), (171, 255)])
def test_shamir_split(benchmark, threshold, num_shares):
    benchmark(shamir.split, os.urandom(32), threshold, num_shares)


@pytest.mark.parametrize(("threshold", "num_shares"), [(7, 10), (67, 100), (171, 255)])
def test_shamir_combine(benchmark, threshold, num_shares):
    shares = shamir.split(os.urandom(32), threshold, num_shares)
    benchmark(shamir.combine, shares, threshold)
