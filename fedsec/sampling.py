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

__all__ = ["fixed_size", "permutation", "poisson", "uniform"]


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


def permutation(size: int) -> npt.NDArray[np.int64]:
    """The numbers below `size` in uniformly random order, up to a distance of size**2 / 2**65."""
    count = whole("size", size, minimum=0)
    return np.argsort(_random_words(count), kind="stable")


def uniform(count: int, bound: int) -> npt.NDArray[np.int64]:
    """`count` independent numbers, each uniform below `bound`: words that favour some are drawn again."""
    number = whole("count", count, minimum=0)
    most = whole("bound", bound, minimum=1, maximum=2**62)
    limit = np.uint64(2**64 - 1 - 2**64 % most)
    words = _random_words(number)
    while (late := np.flatnonzero(words > limit)).size:
        words[late] = _random_words(late.size)
    return (words % np.uint64(most)).astype(np.int64)


def _random_words(count: int) -> npt.NDArray[np.uint64]:
    key = _kernels.fresh_key()
    try:
        return masks.expand(key, count, modulus_bits=64)
    finally:
        _kernels.wipe(key)
