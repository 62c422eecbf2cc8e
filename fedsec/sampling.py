"""Who takes part: the draws that an accountant counts as amplification.

They come from the operating system through the core's generator, never from `numpy.random` or
`torch.manual_seed`: a draw that somebody can predict amplifies nothing.

References
----------
[ACG+16] Abadi et al. Deep Learning with Differential Privacy. CCS 2016, sec. 3.1 (Poisson sampling).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedsec import _kernels, masks
from fedsec._checks import probability, whole

__all__ = ["fixed_size", "poisson"]


def poisson(population_size: int, sampling_probability: float) -> npt.NDArray[np.int64]:
    """Indices of a Poisson sample: each of `population_size` independently with the given probability.

    Returns a sorted int64 array, empty with positive probability. The probability is rounded down to a
    multiple of 2**-64, so that the sample is never larger than what is accounted [ACG+16].
    """
    size = whole("population_size", population_size, minimum=0)
    threshold = int(probability("sampling_probability", sampling_probability) * 2**64)
    if threshold == 2**64:
        return np.arange(size)
    return np.flatnonzero(_random_words(size) < np.uint64(threshold))


def fixed_size(population_size: int, sample_size: int) -> npt.NDArray[np.int64]:
    """Indices of a uniformly drawn subset of exactly `sample_size`, sorted, without replacement."""
    size = whole("population_size", population_size, minimum=0)
    count = whole("sample_size", sample_size, minimum=0, maximum=size)
    return np.sort(np.argsort(_random_words(size), kind="stable")[:count])


def _random_words(count: int) -> npt.NDArray[np.uint64]:
    key = _kernels.fresh_key()
    try:
        return masks.expand(key, count, modulus_bits=64)
    finally:
        _kernels.wipe(key)
