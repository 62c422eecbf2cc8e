"""Who exchanges shares and masks with whom: everybody, or the nearest k on a random ring [SPEC 5.5].

The ring is drawn only once all keys are fixed, from nonces that a committee committed to before, so that
whoever wants to sit around a victim cannot arrange for it [BBG+20]. All of it follows from the
configuration and a seed; every party computes it alone.

References
----------
[BBG+20] Bell et al. Secure Single-Server Aggregation with (Poly)Logarithmic Overhead. CCS 2020.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedsec import masks
from fedsec.secagg.config import Config
from fedsec.secagg.keys import hashed

COMPLETE_SEED = bytes(32)

_ID = struct.Struct("<I")


@lru_cache(maxsize=2)
def committee(config: Config) -> tuple[int, ...]:
    """The clients whose nonces decide the ring, ascending: those with the least hashes [SPEC 5.3].

    Remembered, as every step of every client asks who they are.
    """
    if not config.reveals:
        return ()
    ranked = sorted(config.ids, key=lambda client: hashed(b"committee", config.h0, _ID.pack(client)))
    return tuple(sorted(ranked[: config.parameters.committee_size]))


def seed(config: Config, root: bytes, nonces: bytes) -> bytes:
    """The seed of the ring, from the committee's nonces in ascending order of its members."""
    return COMPLETE_SEED if config.is_complete else hashed(b"graph", config.h0, root, nonces)


def neighbors(config: Config, graph_seed: bytes, client_id: int) -> tuple[int, ...]:
    """The clients that this one shares with, ascending, whether or not they advertised."""
    if config.is_complete:
        return tuple(client for client in config.ids if client != client_id)
    ring = _ring(graph_seed, len(config.ids))
    place = int(np.flatnonzero(ring == config.position(client_id))[0])
    half = config.parameters.num_neighbors // 2
    near = [ring[(place + step) % len(ring)] for step in range(-half, half + 1) if step]
    return tuple(sorted(config.ids[position] for position in near))


@lru_cache(maxsize=2)
def _ring(graph_seed: bytes, num_participants: int) -> npt.NDArray[np.intp]:
    """Positions of participants around the ring; remembered, as a server looks at it once a client."""
    words = masks.expand(graph_seed, num_participants, modulus_bits=64, prg="chacha20")
    return np.argsort(words, kind="stable")
