"""One rank of test_process_group.py: runs the scenarios in order and writes down what came of them."""

import json
import os
import sys
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from protocol.secagg_loop import client_of, config_of

from fedsec.errors import FedsecError
from fedsec.integrations.process_group import aggregate
from fedsec.secagg import SessionStore, recommend

SIZE = 4
PARAMETERS = recommend(num_clients=SIZE, corrupt_fraction=0.0, dropout_fraction=0.25)


class Impostor:
    """A rank that goes by another one's id, and has nothing but that to say."""

    phase = "done"

    def __init__(self, config, client_id):
        self._me = client_of(config, client_id, SessionStore.in_memory())

    def start(self):
        message = bytearray(self._me.start())
        message[-1] ^= 1  # it cannot sign as the other
        return bytes(message)

    def submit(self, vector):
        pass

    def receive(self, message):
        raise AssertionError("nobody answers an impostor")

    def abort(self):
        pass


def session(rank, name, bits, length=1000, *, gives=True, client=True, seed=0, posing_as=None, **settings):
    config = config_of(PARAMETERS, length, session=name.encode(), modulus_bits=bits, **settings)
    vector = vector_of(rank, bits, length, seed)
    me = client_of(config, config.ids[rank], SessionStore.in_memory()) if client else None
    if posing_as is not None:
        me = Impostor(config, config.ids[posing_as])
    try:
        outcome = aggregate(config, me, vector if gives else None)
    except FedsecError as error:
        return f"{type(error).__name__}: {error}"
    return outcome and {
        "sum": outcome.sum.tolist(),
        "survivors": outcome.survivors,
        "dtype": str(outcome.sum.dtype),
    }


def vector_of(rank, bits, length=1000, seed=0):
    """Anything in the ring, so that sums wrap."""
    return np.random.default_rng((seed, rank)).integers(0, 2**bits, length, dtype=np.uint64)


def wraps(dtype, value):
    """What an all-reduce of one signed number a rank makes of sums beyond its range."""
    tensor = torch.tensor([value], dtype=dtype)
    dist.all_reduce(tensor)
    return int(tensor)


def takes(dtype):
    """Whether an all-reduce takes a type at all."""
    try:
        dist.all_reduce(torch.ones(1, dtype=dtype))
    except (RuntimeError, ValueError, TypeError):
        return False
    return True


def main():
    rank, where, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    timeout = timedelta(seconds=300)
    dist.init_process_group(
        "gloo", init_method=f"file://{where}", rank=rank, world_size=SIZE, timeout=timeout
    )
    done = {
        "wraps": [wraps(torch.int32, 2**31 - 1), wraps(torch.int64, 2**63 - 1), wraps(torch.int64, -(2**63))],
        "unsigned": [takes(torch.uint32), takes(torch.uint64)],
    }
    for bits in (9, 16, 20, 32, 33, 61, 64):
        done[f"all {bits}"] = session(rank, f"all {bits}", bits)
    done["nothing to give"] = session(rank, "n", 32, gives=rank != 2)
    done["no client"] = session(rank, "c", 32, client=rank != 3)
    done["not at the hub"] = session(rank, "h", 32, client=rank != 0)
    done["an impostor"] = session(rank, "i", 32, posing_as=1 if rank == 3 else None)
    done["too few"] = session(rank, "f", 32, gives=rank > 1)
    done["another model"] = session(rank, "m", 32, model_digest=bytes([rank == 3]) * 32)
    done["after that"] = session(rank, "a", 32)
    if rank != 1:
        done["a process lost"] = session(rank, "l", 32)
    with open(out, "w") as file:
        json.dump(done, file)
    os._exit(0)  # a group whose other process has gone is not taken down in order


if __name__ == "__main__":
    main()
