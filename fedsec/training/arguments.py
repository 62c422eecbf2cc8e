"""`attach`: from arguments to a plan and hooks, with everything checked before anything is changed."""

from __future__ import annotations

from typing import Any

import torch

from fedsec.accounting import Ledger, NeighboringRelation
from fedsec.accounting.events import check_relation
from fedsec.accounting.ledger import require_ledger
from fedsec.clipping import BookKeeper, ClippingRule
from fedsec.clipping.bounds import clipping_rule
from fedsec.errors import InvalidArgumentError, InvalidTypeError, UnsupportedError
from fedsec.training.batches import DeclaredLoader
from fedsec.training.plan import make_plan
from fedsec.training.privacy import Privacy
from fedsec.training.processes import Processes

_UNFIT = {
    "LBFGS": "it calls the loss many times a step",
    "SparseAdam": "private gradients are dense",
}


def attach(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: Any,
    *,
    batch_size: int | None = None,
    sampling_probability: float | None = None,
    expected_batch_size: float | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    l2_clip_norm: float = 1.0,
    clipping: str | ClippingRule = "flat",
    target_epsilon: float | None = None,
    noise_multiplier: float | None = None,
    target_delta: float,
    sampling: str = "poisson",
    neighboring_relation: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE_ONE,
    loss_reduction: str | None = None,
    noise: str = "exact",
    when_exhausted: str = "raise",
    ledger: Ledger | None = None,
) -> Privacy:
    """Make the training loop around a model, an optimizer and a data set private, record by record.

    Parameters
    ----------
    model : Module
        Stays as it is: its class, names and state dict are not changed; hooks are added until
        `Privacy.detach`. Attach before `torch.compile`.
    optimizer : torch.optim.Optimizer
        Of all trainable parameters of the model, and of no others. Any one that steps without a closure.
    dataset : sized and indexable, or DeclaredLoader
        One record each; or a loader of your own, with your word on how it draws.
    batch_size : int
        Expected number of records a step; declares the data set's size public.
    sampling_probability, expected_batch_size : float
        In place of `batch_size`, to keep the size private: the probability in (0, 1], and a public number
        that sums are divided by.
    epochs, steps : int
        How long: an epoch has ceil(1 / sampling probability) steps. Without them `target_epsilon` and
        `noise_multiplier` together say it.
    l2_clip_norm : float in [1e-8, 1e8]
    clipping : "flat", "per_layer", "automatic" or "adaptive", or a rule of `fedsec.clipping`
        A name stands for `FlatClipping`, `PerLayerClipping`, `AutomaticClipping` or `AdaptiveClipping` with
        `l2_clip_norm`, which for the last one is where it begins; a rule has a clip norm of its own.
    target_epsilon, noise_multiplier : float
        The budget that noise is calibrated to, or the noise itself: standard deviation over sensitivity.
    target_delta : float in (0, 1)
    sampling : "poisson", "allocation" or "fixed"
        Each record joins each step independently; or one step of each epoch, drawn independently of others;
        or every step has a fresh sample of `batch_size` records.
    neighboring_relation : NeighboringRelation
    loss_reduction : None, "mean" or "sum"
        None: `privacy.backward(losses)` with one loss a record. Otherwise what a plain `loss.backward()`
        starts from, over the records of one micro-batch; the mean is undone.
    noise : "exact" or "continuous"
        `fedsec.noise.release`, or for comparison of speed floating-point noise without a guarantee.
    when_exhausted : "raise" or "stop"
        What `loader` does when all planned steps are taken.
    ledger : Ledger, optional
        Charged before each release.

    Returns
    -------
    Privacy

    Raises
    ------
    InvalidArgumentError, InvalidTypeError
        An argument is not what it should be, or two of them do not go together; each is named.
    UnsupportedError
        A layer that mixes records, an optimizer that calls closures again and again, shuffled batches, a
        loader without a declaration, a compiled or wrapped model.
    CalibrationError, BudgetExceededError
        No noise meets the target; the noise given does not.

    Notes
    -----
    After an error nothing is attached. Tested on the CPU; gradients on other devices are staged through it
    for the noise, which has not been run.

    In several processes (torch.distributed, after `init_process_group`) every one calls `attach` with the
    same data set and arguments: `batch_size` and whatever else are those of all together. The model is not
    wrapped in DistributedDataParallel: it begins with process 0's parameters, each process draws from its
    own share of the records, and process 0 adds the noise.
    """
    _require_choice("loss_reduction", loss_reduction, (None, "mean", "sum"))
    _require_choice("when_exhausted", when_exhausted, ("raise", "stop"))
    relation = check_relation(neighboring_relation)
    rule = clipping_rule(clipping, l2_clip_norm)
    _require_unwrapped(model)
    processes = Processes()
    _require_joint_sampling(processes, dataset, sampling)
    plan = make_plan(
        rule,
        _size(dataset, sampling),
        sampling=sampling,
        batch_size=batch_size,
        sampling_probability=sampling_probability,
        expected_batch_size=expected_batch_size,
        epochs=epochs,
        steps=steps,
        noise=noise,
        noise_multiplier=noise_multiplier,
        target_epsilon=target_epsilon,
        target_delta=target_delta,
        relation=relation,
        declared=isinstance(dataset, DeclaredLoader),
    )
    if ledger is not None:
        require_ledger(ledger, relation)
    keeper = BookKeeper(model)
    try:
        _require_optimizer(optimizer, keeper)
        shapes = {name: tuple(p.shape) for name, p in keeper.parameters.items()}
        processes.agree(plan.identity() | {"parameters": shapes, "loss_reduction": loss_reduction})
        processes.begin_alike(model)
        return Privacy(
            keeper,
            optimizer,
            dataset,
            plan,
            processes,
            loss_reduction=loss_reduction,
            when_exhausted=when_exhausted,
            ledger=ledger,
        )
    except BaseException:
        keeper.close()
        raise


def _require_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise InvalidArgumentError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _size(dataset: Any, sampling: str) -> int | None:
    """How many records; None where a declared loader keeps that private."""
    if isinstance(dataset, DeclaredLoader):
        if dataset.sampling != sampling:
            raise InvalidArgumentError(
                f"sampling is {sampling!r}, and {dataset.sampling!r} in the declaration"
            )
        return dataset.population_size
    if isinstance(dataset, torch.utils.data.DataLoader):
        raise UnsupportedError(
            "give the data set, not a DataLoader: a loader that shuffles and cuts batches of fixed size "
            "does not draw the samples that an epsilon is computed for; privacy.loader() does. One that does "
            "draw them needs your word on how: fedsec.training.DeclaredLoader"
        )
    try:
        size = len(dataset)
    except TypeError:
        raise InvalidTypeError(
            f"dataset must have a length and take indices, got {type(dataset).__name__}"
        ) from None
    if size == 0:
        raise InvalidArgumentError("dataset must hold at least one record, got none")
    return size


def _require_unwrapped(model: torch.nn.Module) -> None:
    """Wrappers that sum raw gradients over processes or devices, or hold pieces of parameters."""
    if isinstance(model, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
        raise UnsupportedError(
            f"{type(model).__name__} sums gradients that are not private: attach the model inside it, and "
            "leave the wrapper out; after init_process_group attach sums over processes itself "
            "(docs/training.md)"
        )


def _require_joint_sampling(processes: Processes, dataset: Any, sampling: str) -> None:
    """Shares of the records can be drawn from apart only if records are drawn independently."""
    if processes.count == 1:
        return
    if sampling == "fixed" or isinstance(dataset, DeclaredLoader):
        what = "a declared loader" if isinstance(dataset, DeclaredLoader) else "sampling='fixed'"
        raise UnsupportedError(
            f"{what} in {processes.count} processes: they draw apart, each from its share of the records, as "
            "'poisson' and 'allocation' of a data set allow"
        )


def _require_optimizer(optimizer: object, keeper: BookKeeper) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InvalidTypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    for kind in type(optimizer).__mro__:
        if kind.__name__ in _UNFIT:
            raise UnsupportedError(f"{kind.__name__} cannot be made private: {_UNFIT[kind.__name__]}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    ours = {id(p): name for name, p in keeper.parameters.items()}
    missing = [name for key, name in ours.items() if key not in held]
    if missing:
        raise InvalidArgumentError(
            "the optimizer must hold every trainable parameter; freeze what it should not train: "
            f"{missing[0]} is missing"
        )
    foreign = [
        p for g in optimizer.param_groups for p in g["params"] if id(p) not in ours and p.requires_grad
    ]
    if foreign:
        raise InvalidArgumentError(
            f"the optimizer holds a trainable parameter of shape {tuple(foreign[0].shape)} that is not the "
            "model's"
        )
