"""make bench: the masked sum, and as extra info its ratios to numpy and OpenSSL in the same run."""

import numpy as np
import pytest

from fedsec import _kernels, masks
from fedsec.measure.masks import describe, masked_sum


@pytest.mark.parametrize("prg", masks.PRGS)
@pytest.mark.parametrize("modulus_bits", [16, 32, 64])
def test_masked_sum(benchmark, modulus_bits, prg):
    out = np.zeros(100_000, masks.lane_dtype(modulus_bits))
    seeds = np.random.default_rng(0).integers(0, 256, (20, 32), dtype=np.uint8)
    benchmark(masks.accumulate, out, seeds, np.ones(20, np.int8), modulus_bits, prg, num_threads=1)


@pytest.mark.parametrize("modulus_bits", [20, 32])
@pytest.mark.parametrize("step", ["pack", "unpack", "add_packed", "numpy_add"])
def test_wire(benchmark, step, modulus_bits):
    out = np.ones(1_000_000, masks.lane_dtype(modulus_bits))
    packed = masks.pack(out, modulus_bits)
    calls = {
        "pack": lambda: masks.pack(out, modulus_bits),
        "unpack": lambda: masks.unpack(packed, out.size, modulus_bits),
        "add_packed": lambda: masks.add_packed(out, packed, modulus_bits),
        "numpy_add": lambda: np.add(out, out, out=out),
    }
    benchmark(calls[step])


@pytest.mark.parametrize("step", ["split", "combine"])
def test_sharing(benchmark, step):
    secret, coefficients = bytes(32), bytes(range(32)) * 59
    shares = bytes(_kernels.shamir_split(secret, coefficients, 100))
    if step == "split":
        benchmark(_kernels.shamir_split, secret, coefficients, 100)
    else:
        benchmark(_kernels.shamir_combine, bytes(range(1, 61)), shares[: 32 * 60])


def test_masked_sum_beside_its_peers(benchmark, capsys):
    result = benchmark.pedantic(masked_sum, rounds=1)
    benchmark.extra_info.update(result)
    with capsys.disabled():
        print("", *describe(result), sep="\n")
