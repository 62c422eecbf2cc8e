"""make bench: the simulator beside a bare loop, and cohorts that grow."""

import pytest

pytest.importorskip("torch")

from fedsec.measure.simulator import describe, figures


def test_the_simulator(benchmark, capsys):
    result = benchmark.pedantic(figures, rounds=1)
    benchmark.extra_info.update(result)
    with capsys.disabled():
        print("", *describe(result), sep="\n")
