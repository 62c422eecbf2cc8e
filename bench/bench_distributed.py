"""make bench: a client's and the server's work with noise inside the sum, beside peers in the same run."""

import pytest

from fedsec.measure.distributed import describe, pipeline


@pytest.mark.parametrize("law", ["skellam", "discrete_gaussian"])
def test_pipeline_beside_its_peers(benchmark, capsys, law):
    result = benchmark.pedantic(pipeline, kwargs={"law": law}, rounds=1)
    benchmark.extra_info.update(result)
    with capsys.disabled():
        print("", *describe(result), sep="\n")
