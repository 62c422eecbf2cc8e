"""make bench: the noise samplers, and as extra info their speed beside numpy and torch in the same run."""

import numpy as np
import pytest

from fedsec import noise
from fedsec.measure.noise import describe, samplers


@pytest.mark.parametrize("stddev", [0.5, 10.0, 1e6, 2.0**40])
def test_discrete_gaussian(benchmark, stddev):
    benchmark(noise.discrete_gaussian, 50_000, stddev)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gaussian(benchmark, dtype):
    benchmark(noise.gaussian, 200_000, 1.0, dtype)


def test_release(benchmark):
    benchmark(noise.release, np.zeros(50_000, np.float32), 1.0, 1.1)


def test_noise_beside_its_peers(benchmark, capsys):
    result = benchmark.pedantic(samplers, rounds=1)
    benchmark.extra_info.update(result)
    with capsys.disabled():
        print("", *describe(result), sep="\n")
