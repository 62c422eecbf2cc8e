"""One process of several that train one model privately over gloo; run by `test_training_processes`.

    python training_worker.py RANK COUNT STORE SCENARIO

Prints what the scenario found as JSON. The processes meet at STORE, a file.
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from reference import draws
from torch import distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import fedsec
from fedsec import noise, sampling
from fedsec.errors import FedsecError

RECORDS, BATCH, STEPS_AN_EPOCH = 41, 10, 5


def records():
    x = torch.randn(RECORDS, 6, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x[:, :3].argmax(dim=1))


def classifier(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def attached(seed=0, learning_rate=0.1, **options):
    """Model, optimizer and privacy; `seed` is that of the initial weights."""
    model = classifier(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.5)
    terms = {"batch_size": BATCH, "noise_multiplier": 1.0, "target_delta": 1e-5, "epochs": 2} | options
    return model, optimizer, fedsec.attach(model, optimizer, records(), **terms)


def run_epoch(model, optimizer, privacy, rows=4, before_step=lambda: None):
    for x, y in privacy.loader(max_physical_batch_size=rows):
        privacy.backward(cross_entropy(model(x), y, reduction="none"))
        before_step()
        optimizer.step()
        optimizer.zero_grad()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()


def refused(call):
    """The name and words of the error that a call raises."""
    try:
        call()
    except (FedsecError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def everybody(size, _probability):
    return np.arange(size)


def nobody(_size, _probability):
    return np.zeros(0, np.int64)


def silent(parts, _dimension, _l2_sensitivity, _noise_multiplier, *, dtype, scale):
    return ((part * scale).astype(dtype) for part in parts)


class patched:  # noqa: N801 (reads as a word)
    """An attribute replaced within a block."""

    def __init__(self, owner, name, value):
        self.owner, self.name, self.value = owner, name, value

    def __enter__(self):
        self.before = getattr(self.owner, self.name)
        setattr(self.owner, self.name, self.value)

    def __exit__(self, *_):
        setattr(self.owner, self.name, self.before)


def without_noise(rank, **options):
    """Everybody drawn in every step, and no noise: what all processes together have summed."""
    with patched(sampling, "poisson", everybody), patched(noise, "release_parts", silent):
        parts = attached(seed=rank, **options)
        run_epoch(*parts)
    return weights(parts[0])


def noise_alone(rank):
    """Nobody drawn: 100 steps of noise, in units of the planned standard deviation."""
    with patched(sampling, "poisson", nobody):
        model, optimizer, privacy = attached(learning_rate=0.0, epochs=20, l2_clip_norm=2.0)
        found = []

        def keep():
            if privacy.is_last_microbatch:
                found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))

        handle = optimizer.register_step_post_hook(lambda *_: keep())
        for _ in range(20):
            run_epoch(model, optimizer, privacy)
        handle.remove()
    values = torch.stack(found).double() * BATCH / privacy.plan.rule.l2_sensitivity
    return {"count": values.numel(), "mean": float(values.mean()), "variance": float(values.var())}


def draws_of_processes(rank):
    """Which records this process reads, over some epochs."""
    seen = []

    class Watched(TensorDataset):
        def __getitem__(self, i):
            seen.append(int(i))
            return super().__getitem__(i)

    model = classifier(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    terms = {"batch_size": 20, "noise_multiplier": 1.0, "target_delta": 1e-5, "epochs": 14}
    privacy = fedsec.attach(model, optimizer, Watched(*records().tensors), **terms)
    for _ in range(14):
        run_epoch(model, optimizer, privacy)
    return sorted(set(seen))


def ends_of_process_0(rank, folder):
    """A ledger without room ends process 0, and by that the others."""
    ledger = None
    if rank == 0:
        ledger = fedsec.Ledger(folder / "ledger", target_epsilon=6.0, target_delta=1e-5)
    model, optimizer, privacy = attached(noise_multiplier=0.7, ledger=ledger)
    said = refused(lambda: run_epoch(model, optimizer, privacy))
    grads = [p.grad is None for p in model.parameters()]
    charged = None if ledger is None else len(ledger.entries())
    return {"said": said, "steps": privacy.steps, "charged": charged, "no_gradient": all(grads)}


def out_of_step(rank):
    """Only process 1 goes on from a saved state."""
    parts = attached()
    run_epoch(*parts)
    state = parts[2].state_dict()
    parts = attached()
    if rank == 1:
        parts[2].load_state_dict(state)
    return refused(lambda: run_epoch(*parts))


def resumed(rank, folder):
    """All go on from a state of process 0, which has charged a second epoch since, as if a crash had come."""
    ledger = fedsec.Ledger(folder / "resumed", target_epsilon=50.0, target_delta=1e-5) if rank == 0 else None
    parts = attached(ledger=ledger, epochs=3)
    run_epoch(*parts)
    shared = [parts[2].state_dict()]
    distributed.broadcast_object_list(shared, src=0)
    run_epoch(*parts)
    parts = attached(ledger=ledger, epochs=3)
    parts[2].load_state_dict(shared[0])
    at, told = parts[2].steps, str(parts[2].spent())
    run_epoch(*parts)
    return {"at": at, "spent": told, "steps": parts[2].steps}


def refusals(rank):
    """What is refused, in every process alike."""
    model = classifier(0)
    attached_model = attached()[0]
    wrapped = DistributedDataParallel(model)
    one_off = TensorDataset(torch.zeros(1, 6), torch.zeros(1, dtype=torch.int64))

    def attach(model, dataset=None, **options):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        terms = {"batch_size": 1, "noise_multiplier": 1.0, "target_delta": 1e-5, "epochs": 1} | options
        return fedsec.attach(model, optimizer, dataset or records(), **terms)

    return {
        "wrapped before": refused(lambda: attach(wrapped)),
        "wrapped after": refused(lambda: DistributedDataParallel(attached_model)),
        "other terms": refused(lambda: attach(model, l2_clip_norm=1.0 + rank)),
        "fixed": refused(
            lambda: attach(
                model, sampling="fixed", neighboring_relation=fedsec.NeighboringRelation.REPLACE_ONE
            )
        ),
        "declared": refused(
            lambda: attach(model, fedsec.training.DeclaredLoader([], "poisson", population_size=5))
        ),
        "too few": refused(lambda: attach(model, one_off).loader()),
    }


def together(rank, folder):
    """Everything that needs all processes alive."""
    parts = attached(seed=rank)  # unlike weights: process 0's count
    before = weights(parts[0])
    for _ in range(2):
        run_epoch(*parts)
    spent = parts[2].spent()
    return {
        "initial": before,
        "weights": weights(parts[0]),
        "spent": str(spent),
        "without noise": without_noise(rank),
        "adaptive": without_noise(rank, clipping="adaptive", l2_clip_norm=0.2),
        "noise": noise_alone(rank),
        "draws": draws_of_processes(rank),
        "ended": ends_of_process_0(rank, folder),
        "out of step": out_of_step(rank),
        "resumed": resumed(rank, folder),
        "refused": refusals(rank),
    }


def one_dies(rank, dying):
    """A process that ends in its second step; what the other one makes of it."""
    model, optimizer, privacy = attached(seed=rank)
    before = []

    def at_step():
        if privacy.is_last_microbatch and privacy.steps == 1:
            if rank == dying:
                os._exit(0)
            before[:] = weights(model)

    said = refused(lambda: run_epoch(model, optimizer, privacy, before_step=at_step))
    return {
        "said": said,
        "unchanged": weights(model) == before,
        "no_gradient": all(p.grad is None for p in model.parameters()),
        "again": refused(optimizer.step),
        "loader": refused(privacy.loader),
        "epsilon": privacy.spent().epsilon,
    }


def main():
    rank, count, store, scenario = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    draws.repeat(f"{scenario} {rank}")
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timedelta(seconds=300)
    )
    if scenario == "together":
        found = together(rank, store.parent)
    else:
        found = one_dies(rank, dying=int(scenario.removeprefix("dies")))
    print(json.dumps(found), flush=True)
    os._exit(0)  # a group whose other process has gone is not taken down in order


if __name__ == "__main__":
    main()
