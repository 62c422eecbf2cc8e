"""Splits of a data set among clients, as indices: stand-ins for the ways in which real clients differ.

Every function returns one int64 array of record indices a client, sorted; records are never copied, and every
record belongs to exactly one client, who has at least one. A partition is public set-up, it protects nobody,
so it comes from a seed: the same seed (and numpy) gives the same partition, and no global seed has a say.

    parts = partition.dirichlet(targets, num_clients=100, concentration=0.3, seed=0)
    clients = [torch.utils.data.Subset(dataset, part) for part in parts]

References
----------
[HQB19] Hsu, Qi, Brown. Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification. 2019, sec. 3.1.
[LDCH22] Li, Diao, Chen, He. Federated Learning on Non-IID Data Silos: An Experimental Study. ICDE 2022
    (quantity skew).
[MMR+17] McMahan et al. Communication-Efficient Learning of Deep Networks from Decentralized Data. 2017,
    sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec._checks import whole, within
from fedsec.errors import InvalidArgumentError, InvalidTypeError

Indices = npt.NDArray[np.int64]

# Outside, numpy's Dirichlet sampler meets the ends of float64.
_MIN_CONCENTRATION, _MAX_CONCENTRATION = 1e-6, 1e6


def iid(num_records: int, num_clients: int, seed: int) -> list[Indices]:
    """Uniformly at random, sizes alike up to one.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        `num_clients` outside [1, num_records], a negative seed, no whole numbers.
    """
    records, clients, rng = _sizes(num_records, num_clients, seed)
    return _sorted(np.array_split(rng.permutation(records), clients))


def shards(
    targets: npt.NDArray[np.integer], num_clients: int, shards_per_client: int, seed: int
) -> list[Indices]:
    """Records sorted by label and cut into equal shards, of which each client gets a few at random [MMR+17].

    With two shards a client most have two labels.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        More shards than records; otherwise as for `iid` and `dirichlet`.
    """
    _counts, order = _by_label(targets)
    _records, clients, rng = _sizes(len(order), num_clients, seed)
    each = whole("shards_per_client", shards_per_client, minimum=1, maximum=len(order) // clients)
    cut, dealt = np.array_split(order, clients * each), rng.permutation(clients * each)
    return _sorted([np.concatenate([cut[i] for i in own]) for own in dealt.reshape(clients, each)])


def quantity(num_records: int, num_clients: int, concentration: float, seed: int) -> list[Indices]:
    """Records alike, sizes unlike: shares of the data from a symmetric Dirichlet distribution [LDCH22].

    `concentration` in [1e-6, 1e6]: near 0 few clients hold nearly everything; large, all hold alike.
    Everybody gets one record first.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        As for `iid` and `dirichlet`.
    """
    records, clients, rng = _sizes(num_records, num_clients, seed)
    alpha = within("concentration", concentration, _MIN_CONCENTRATION, _MAX_CONCENTRATION)
    sizes = 1 + rng.multinomial(records - clients, rng.dirichlet(np.full(clients, alpha)))
    return _sorted(np.split(rng.permutation(records), np.cumsum(sizes)[:-1]))


def by_key(keys: npt.NDArray[Any]) -> dict[Any, Indices]:
    """By a natural key of the records: writer, hospital, sensor. {key: indices}, in the order of the keys.

    Raises
    ------
    InvalidTypeError, InvalidArgumentError
        `keys` is not a one-dimensional array of numbers or strings, or is empty.
    """
    array = np.asarray(keys)
    if array.ndim != 1 or array.dtype.kind not in "biuSU":
        raise InvalidTypeError(f"keys must be a list of numbers or strings, got {_described(array)}")
    if len(array) == 0:
        raise InvalidArgumentError("keys must have at least one record, got 0")
    found, places = np.unique(array, return_inverse=True)
    cut = np.split(np.argsort(places, kind="stable"), np.cumsum(np.bincount(places))[:-1])
    return dict(zip(found.tolist(), _sorted(cut), strict=True))


def label_counts(targets: npt.NDArray[np.integer], parts: Sequence[Indices]) -> npt.NDArray[np.int64]:
    """How many records of each label each client has: (clients, labels), labels in ascending order."""
    _by_label(targets)
    labels, places = np.unique(targets, return_inverse=True)
    return np.stack([np.bincount(places[part], minlength=len(labels)) for part in parts])


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
    _records, total, rng = _sizes(len(order), num_clients, seed)
    prior = (
        within("concentration", concentration, _MIN_CONCENTRATION, _MAX_CONCENTRATION) * counts / len(order)
    )
    pools = [rng.permutation(pool) for pool in np.split(order, np.cumsum(counts)[:-1])]
    left = counts.copy()
    parts = []
    for client in range(total):
        size = (len(order) + client) // total
        taken = _draw(rng, rng.dirichlet(prior), left, size)
        ends = counts - left
        left -= taken
        picked = [pool[end : end + n] for pool, end, n in zip(pools, ends, taken, strict=True)]
        parts.append(np.sort(np.concatenate(picked)))
    return parts


def _sizes(num_records: object, num_clients: object, seed: object) -> tuple[int, int, np.random.Generator]:
    records = whole("num_records", num_records, minimum=1)
    clients = whole("num_clients", num_clients, minimum=1, maximum=records)
    return records, clients, np.random.default_rng(whole("seed", seed, minimum=0))


def _sorted(parts: Sequence[npt.NDArray[np.integer]]) -> list[Indices]:
    return [np.sort(part).astype(np.int64) for part in parts]


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
