"""make bench: a step of private training beside a plain one, vmap and Opacus, in turns in one process."""

import pytest

pytest.importorskip("torch")

from fedsec.measure.training import MODELS, describe, steps


@pytest.mark.parametrize("model", MODELS)
def test_a_step_beside_a_plain_one(benchmark, capsys, model):
    result = benchmark.pedantic(steps, args=([model],), rounds=1)
    benchmark.extra_info.update(result)
    with capsys.disabled():
        print("", *describe(result), sep="\n")
