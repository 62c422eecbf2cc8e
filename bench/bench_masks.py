"""make bench: the masked sum, and as extra info its ratios to numpy and OpenSSL in the same run."""

import numpy as np
import pytest

from fedsec import masks
from fedsec.measure.masks import describe, masked_sum


@pytest.mark.parametrize("prg", masks.PRGS)
@pytest.mark.parametrize("modulus_bits", [16, 32, 64])
def test_masked_sum(benchmark, modulus_bits, prg):
    out = np.zeros(100_000, masks.lane_dtype(modulus_bits))
    seeds = np.random.default_rng(0).integers(0, 256, (20, 32), dtype=np.uint8)
    benchmark(masks.accumulate, out, seeds, np.ones(20, np.int8), modulus_bits, prg, num_threads=1)


@pytest.mark.parametrize("modulus_bits", [16, 20, 32, 64])
def test_sum_of_packed_vectors(benchmark, modulus_bits):
    out = np.zeros(100_000, masks.lane_dtype(modulus_bits))
    benchmark(masks.add_packed, out, masks.pack(out, modulus_bits), modulus_bits)


def test_masked_sum_beside_its_peers(benchmark, capsys):
    result = benchmark.pedantic(masked_sum, rounds=1)
    benchmark.extra_info.update(result)
    with capsys.disabled():
        print("", *describe(result), sep="\n")
