"""Splits a data set among clients that differ in what they see: the demo's stand-in for real clients.

Between `data` and `run`. A partition is public set-up, it protects nobody, so it comes from a seed.

References
----------
[HQB19] Hsu, Qi, Brown. Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification. 2019, sec. 3.1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedsec._checks import whole, within
from fedsec.errors import InvalidArgumentError, InvalidTypeError

Indices = npt.NDArray[np.int64]

# Outside, numpy's Dirichlet sampler meets the ends of float64.
_MIN_CONCENTRATION, _MAX_CONCENTRATION = 1e-6, 1e6


def dirichlet(
    targets: npt.NDArray[np.integer], num_clients: int, concentration: float, seed: int
) -> list[Indices]:
    """Splits records among clients of equal size, each with its own mix of labels [HQB19].

    Each client in turn draws a mix of the labels from Dirichlet(concentration * p), p the labels' shares
    in all the data. Its records are drawn one by one: a label by the mix, then a record of that label
    which nobody has yet, uniformly. A label that runs out leaves the mix, the rest is renormalised; once
    the whole mix has run out, labels are drawn by what is left of them.

    Parameters
    ----------
    targets : integers (n,)
        The records' labels.
    num_clients : int
        In [1, n].
    concentration : float
        In [1e-6, 1e6]. Near 0 a client has one or two labels; large, all mixes are alike.
    seed : int
        0 or above. The same seed (and numpy) gives the same partition.

    Returns
    -------
    list of int64 arrays
        For each client the indices of its records, sorted. Every record belongs to exactly one client;
        sizes differ by at most one, so that every client has at least one record.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        An argument of the wrong type, or outside the domain above.
    """
    counts, order = _by_label(targets)
    total = whole("num_clients", num_clients, minimum=1, maximum=len(order))
    rng = np.random.default_rng(whole("seed", seed, minimum=0))
    prior = (
        within("concentration", concentration, _MIN_CONCENTRATION, _MAX_CONCENTRATION) * counts / len(order)
    )
    pools = [rng.permutation(pool) for pool in np.split(order, np.cumsum(counts)[:-1])]
    left = counts.copy()
    shards = []
    for client in range(total):
        size = (len(order) + client) // total
        taken = _draw(rng, rng.dirichlet(prior), left, size)
        ends = counts - left
        left -= taken
        picked = [pool[end : end + n] for pool, end, n in zip(pools, ends, taken, strict=True)]
        shards.append(np.sort(np.concatenate(picked)))
    return shards


def _by_label(targets: object) -> tuple[Indices, Indices]:
    """How many records each label has, and the records' indices in the order of their labels."""
    if not isinstance(targets, np.ndarray) or targets.dtype.kind not in "iu" or targets.ndim != 1:
        raise InvalidTypeError(f"targets must be an integer array (n,), got {_described(targets)}")
    if len(targets) == 0:
        raise InvalidArgumentError("targets must have at least one record, got 0")
    _labels, counts = np.unique(targets, return_counts=True)
    return counts, np.argsort(targets, kind="stable")


def _described(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _draw(
    rng: np.random.Generator, mix: npt.NDArray[np.float64], left: Indices, size: int
) -> npt.NDArray[np.int64]:
    """How many of each label `size` draws by the mix take, of what is left.

    Draws come in batches. What a batch asks of a label beyond what is left is drawn again from the other
    labels: in law the same as renormalising at the draw that empties it.
    """
    taken = np.zeros_like(left)
    while (missing := size - int(taken.sum())) > 0:
        available = left - taken
        weights = np.where(available > 0, mix, 0.0)
        if weights.sum() == 0.0:
            weights = available.astype(np.float64)
        taken += np.minimum(rng.multinomial(missing, weights / weights.sum()), available)
    return taken
