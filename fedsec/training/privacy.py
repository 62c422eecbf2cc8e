"""`Privacy`: what `attach` returns, and the one place where micro-batches, backward, noise and steps meet.

A step is: draw, micro-batches (forward, backward, clipped sum), then at `optimizer.step()` of the last one:
charge, add noise, write `param.grad`, and let the optimizer go on. Until then every `param.grad` is None, so
that whatever goes wrong means no update. What is called out of turn is a `ProtocolError`; after an error that
depends on data nothing goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch

from fedsec import noise
from fedsec._checks import mapping, real, same_as_saved, whole
from fedsec._kernels import fresh_seed
from fedsec.accounting import Event, Ledger
from fedsec.accounting.ledger import charged_since
from fedsec.clipping import AdaptiveClipping, BookKeeper, RecordGradients, clipped_sum
from fedsec.clipping.gradients import MOST_ROUNDINGS
from fedsec.errors import (
    FedsecError,
    InvalidArgumentError,
    InvalidTypeError,
    NonFiniteError,
    ProtocolError,
    UnsupportedError,
)
from fedsec.training import trial
from fedsec.training.batches import Cut, Declared, DeclaredLoader, Epochs, Records, most_records
from fedsec.training.draws import MicroBatch
from fedsec.training.plan import TrainingPlan, TrainingSpent
from fedsec.training.processes import Processes, exclude, include

_FORMAT = 1
_KEYS = {"format", "plan", "steps", "l2_clip_norm", "ledger"}
_ROWS = 64  # of a micro-batch, unless it is said otherwise


class Privacy:
    """Record-level privacy around a model, an optimizer and a data set; made by `fedsec.attach`.

    Guarantee: all values that training writes to parameters, at all planned steps together, are (epsilon,
    delta)-private for one record as `spent` says, if records take part through `loader` alone.
    """

    def __init__(
        self,
        keeper: BookKeeper,
        optimizer: torch.optim.Optimizer,
        dataset: Any,
        plan: TrainingPlan,
        processes: Processes,
        *,
        loss_reduction: str | None,
        when_exhausted: str,
        ledger: Ledger | None,
    ) -> None:
        self._keeper, self._optimizer, self._dataset, self._plan = keeper, optimizer, dataset, plan
        self._processes = processes
        self._reduction, self._stops, self._ledger = loss_reduction, when_exhausted == "stop", ledger
        self._steps = 0
        self._rule = plan.rule  # of the coming step
        self._trial: _Trial | None = None
        self._tried: set[int] = set()  # sizes of micro-batches
        self._current: MicroBatch | None = None
        self._collected = self._stepped = False
        # Of clipped gradients, by parameter, and of how many records are within the bound, less half of all.
        self._sums: dict[str, torch.Tensor] = {}
        self._added = _Added()
        self._balance = 0.0
        self._failure: str | None = None
        self._epoch = 0  # tells loaders that were overtaken by a newer one
        self._handle = optimizer.register_step_pre_hook(self._before_step)
        exclude(keeper.model)

    def __repr__(self) -> str:
        return f"<Privacy: {self._steps} of {self._plan.planned_steps} steps>"

    def __reduce__(self) -> NoReturn:
        raise InvalidTypeError("a Privacy holds private sums and cannot be pickled or copied: use state_dict")

    # ---- what it is about

    @property
    def plan(self) -> TrainingPlan:
        """Sampler, clipping rule, noise and cost."""
        return self._plan

    @property
    def steps(self) -> int:
        """How many steps have been released."""
        return self._steps

    @property
    def is_last_microbatch(self) -> bool:
        """Whether `optimizer.step()` on this micro-batch is a step: for schedulers and logs."""
        return self._current is not None and self._current.is_last and not self.on_trial

    @property
    def on_trial(self) -> bool:
        """Whether this micro-batch is one of those that are tried before the first step: for logs."""
        return self._trial is not None and self._current is not None

    def spent(self) -> TrainingSpent:
        """What was spent so far, and by all planned steps."""
        return self._plan.spent(self._steps)

    def charged(self) -> tuple[Event, int]:
        """What one charge costs, and how many there were: for an accountant."""
        return self._plan.event, self._plan.charges(self._steps)

    def detach(self) -> None:
        """Take all hooks off; model and optimizer are the user's own again, and nothing is private then."""
        self._handle.remove()
        include(self._keeper.model)
        self._keeper.close()
        self._failure = "detached"
        self._forget()

    # ---- batches

    def loader(
        self,
        max_physical_batch_size: int | None = None,
        *,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> Epochs:
        """Epochs (what is left of the first): micro-batches of the records drawn for each step.

        Parameters
        ----------
        max_physical_batch_size : int
            The size of every micro-batch; by default 64, or the expected batch size if that is less. The last
            one of a step is filled up with stand-ins that count for nothing. More of them are wasted the
            larger it is.
        collate_fn, num_workers, pin_memory
            As for `torch.utils.data.DataLoader`, where `attach` was given a data set.

        Returns
        -------
        Epochs
            Each iteration over it is one epoch; its length, how many micro-batches that one has. Batches are
            as `collate_fn` makes them. The very first epoch begins with two to four micro-batches on trial,
            of which nothing is kept: one record is replaced in all but the first, and no other record's
            gradient may change.

        Raises
        ------
        BudgetExceededError
            All planned steps are taken; with ``when_exhausted="stop"`` the epoch is empty instead.
        ProtocolError
            A step is under way.
        """
        rows = self._rows(max_physical_batch_size)
        source: Records | Declared
        if isinstance(self._dataset, DeclaredLoader):
            if collate_fn is not None or num_workers or pin_memory:
                raise InvalidArgumentError(
                    "collate_fn, num_workers and pin_memory are the declared loader's own"
                )
            source = Declared(self._dataset)
        else:
            own = self._processes.share(len(self._dataset))
            source = Records(self._dataset, own, collate_fn, num_workers, pin_memory)
        self._may_begin()
        return Epochs(lambda: self._epoch_of(rows, source))

    def _rows(self, given: int | None) -> int:
        expected = max(1, round(self._plan.expected_batch_size))
        return min(_ROWS, expected) if given is None else whole("max_physical_batch_size", given, minimum=1)

    def _may_begin(self) -> bool:
        """Whether there is an epoch to begin; raises if that is out of turn."""
        self._require_usable()
        self._processes.require_unchanged()
        if self._trial is not None:  # it may be left
            self._trial = None
            self._forget()
        if not self._settled():
            raise ProtocolError(
                "the last step is not finished: optimizer.step() on its last micro-batch is due"
            )
        if self._steps >= self._plan.planned_steps and self._stops:
            return False
        self._plan.require_affordable(self._steps + 1)
        return True

    def _epoch_of(self, rows: int, source: Records | Declared) -> tuple[Iterator[Any], int | None]:
        """One epoch's batches, and how many of them there are."""
        if not self._may_begin():
            return iter(()), 0
        first = self._steps % self._plan.steps_an_epoch
        if first and self._plan.sampling == "allocation":
            raise ProtocolError("an epoch of sampling='allocation' was left before its end: its draw is gone")
        self._epoch += 1
        tried = [] if rows in self._tried else self._variants(rows, source)
        left, most = self._plan.planned_steps - self._steps, most_records(rows) // self._processes.count
        cuts, count = source.epoch(self._plan, first, left, rows, most)
        return self._run(rows, tried, cuts, self._epoch), count if count is None else len(tried) + count

    def _variants(self, rows: int, source: Records | Declared) -> list[Any]:
        """Batches that differ in one row; of one row alone nothing can mix."""
        if rows == 1 or source.alone:
            return []
        return trial.variants(source.sample(rows + trial.SPARE), rows)

    def _run(self, rows: int, tried: list[Any], cuts: Iterator[Cut], number: int) -> Iterator[Any]:
        try:
            yield from self._tried_first(rows, tried, number)
            for micro, batch in cuts:
                self._require_newest(number)
                self._begin(micro)
                yield batch
            self._finish_last()
        finally:  # an epoch may be left
            if number == self._epoch:
                self._keeper.compile_again()

    def _tried_first(self, rows: int, tried: list[Any], number: int) -> Iterator[Any]:
        if tried:
            self._trial = _Trial()
            for batch in tried:
                self._require_newest(number)
                self._begin(MicroBatch(np.zeros(rows, np.int64), rows, is_last=False), seed=self._trial.seed)
                yield batch
            self._require_newest(number)
            self._settle()
        self._trial = self._current = None
        self._tried.add(rows)

    def _require_newest(self, number: int) -> None:
        if number != self._epoch:
            raise ProtocolError("a newer loader has taken over")

    def _begin(self, micro: MicroBatch, seed: int | None = None) -> None:
        self._require_usable()
        if self._current is not None:
            self._settle()
            if self._current.is_last and not self._stepped:
                raise ProtocolError("optimizer.step() was not called on the last micro-batch of a step")
        self._current, self._collected, self._stepped = micro, False, False
        self._keeper.begin(micro.rows, seed=seed, plain_backward=self._reduction is not None)

    def _finish_last(self) -> None:
        """An epoch that is read to its end has had its last step."""
        if self._current is not None and not self._settled():
            raise ProtocolError("optimizer.step() was not called on the last micro-batch of the epoch")

    def _settled(self) -> bool:
        return self._current is None or (self._current.is_last and self._stepped)

    # ---- backward

    def backward(self, losses: torch.Tensor) -> None:
        """Run backward from one loss a record of the current micro-batch, and add the clipped gradients up.

        Parameters
        ----------
        losses : tensor (rows,)
            With ``reduction="none"``, stand-ins included; where a record has several, their mean or sum.

        Raises
        ------
        InvalidArgumentError, InvalidTypeError
            Not one loss a record.
        NonFiniteError
            A loss or a record's gradient is NaN or infinite; nothing was released or charged, and the
            training ends: another draw would select among samples by what is in them.
        UnsupportedError
            Records are mixed, or a parameter was used where it cannot be followed.
        ProtocolError
            No micro-batch of `loader` is current, or it has had its backward.
        """
        self._require_usable()
        if self._reduction is not None:
            raise ProtocolError(f"loss_reduction={self._reduction!r} was declared: call loss.backward()")
        if self._current is None or self._collected:
            raise ProtocolError("privacy.backward belongs to one micro-batch of privacy.loader(), once")
        weights = torch.zeros(self._current.rows)
        weights[: self._current.num_records] = 1.0
        with self._fatal():
            self._keeper.backward(losses, weights)
        self._collect(1.0)

    def _settle(self) -> None:
        """Make sure that the current micro-batch has been collected."""
        if self._current is None or self._collected:
            return
        if not self._keeper.arrived:
            raise ProtocolError("no backward was run on the current micro-batch")
        if self._reduction is None:
            raise ProtocolError(
                "loss.backward() was called: call privacy.backward(losses), or declare loss_reduction at "
                "attach"
            )
        self._collect(float(self._current.rows) if self._reduction == "mean" else 1.0)

    def _collect(self, scale: float) -> None:
        assert self._current is not None  # noqa: S101 (callers made sure)
        with self._fatal():
            gradients = self._keeper.collect()
            if self._trial is not None:
                self._trial.take(gradients)
            else:
                self._add(gradients, self._current, scale)
        self._collected = True

    def _add(self, gradients: RecordGradients, micro: MicroBatch, scale: float) -> None:
        if self._reduction is None and bool((gradients.squared_norms[:, micro.num_records :] != 0).any()):
            raise UnsupportedError(
                "a stand-in of weight 0 has a gradient: the loss or the model mixes records"
            )
        self._added = _Added(self._added.records + micro.num_records, self._added.micro_batches + 1)
        dtype = self._sums_dtype()
        for name, total in self._sums.items():
            self._sums[name] = total.to(dtype)
        clipped_sum(
            self._keeper, gradients, self._rule, micro.num_records, scale, into=self._sums, dtype=dtype
        )
        beyond = self._rule.clipped(gradients.squared_norms[:, : micro.num_records] * scale**2)
        self._balance += micro.num_records / 2 - beyond

    def _sums_dtype(self) -> torch.dtype:
        """float32 in one process while that rounds seldom enough, unless a parameter is wider."""
        rounded = self._added.records * self._added.micro_batches
        narrow = rounded <= MOST_ROUNDINGS and self._processes.count == 1
        return self._released_dtype() if narrow else torch.float64

    # ---- the step

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        """Make the private gradient due; a closure runs now, before it, and hands on the loss it gave."""
        self._require_usable()
        if self._current is None:
            raise ProtocolError(
                "optimizer.step() without a micro-batch of privacy.loader(), or without its backward"
            )
        if self._stepped:
            raise ProtocolError("optimizer.step() was called twice on one batch")
        own, closure = _closure(optimizer, args, kwargs)
        if closure is None:
            self._write_gradients()
            return None
        with torch.enable_grad():
            loss = closure()
        self._write_gradients()
        return own, {**kwargs, "closure": lambda: loss}

    def _write_gradients(self) -> None:
        """After the last micro-batch of a step the private ones, else none."""
        current = self._current
        if current is None or self._stepped:
            raise ProtocolError("the closure of optimizer.step() has itself gone on to another step")
        self._settle()
        self._require_own_parameters()
        for parameter in self._keeper.parameters.values():
            parameter.grad = None
        if self._trial is not None or not current.is_last:
            return
        with self._fatal():
            self._release()
        self._stepped = True

    def _release(self) -> None:
        """Charge, add noise, write gradients, in this order."""
        self._plan.require_affordable(self._steps + 1)
        parameters = self._keeper.parameters
        sums = [self._sums.pop(name).cpu() for name in parameters]
        sums.append(torch.tensor([self._balance], dtype=torch.float64))
        self._balance, self._added = 0.0, _Added()
        step = self._steps
        *gradients, within = self._processes.once(sums, self._released_dtype(), step, self._charged_and_noisy)
        self._steps = step + 1  # as process 0 has counted it, before anything could leave it
        if isinstance(self._rule, AdaptiveClipping):
            self._rule = self._rule.following(float(within))
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient.to(parameter)

    def _released_dtype(self) -> torch.dtype:
        """float32, unless a parameter is wider."""
        wide = any(p.dtype == torch.float64 for p in self._keeper.parameters.values())
        return torch.float64 if wide else torch.float32

    def _charged_and_noisy(self, sums: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        """From all sums and the balance to the private gradient and, for adaptive clipping, the quantile.

        One after the other, and sums are let go of on the way: no more is held than all of them.
        """
        plan, rule = self._plan, self._rule
        if self._ledger is not None and self._steps % plan.steps_a_charge == 0:
            self._ledger.charge(plan.event, purpose=f"training step {self._steps + 1}")
        self._steps += 1
        z = plan.noise_multiplier
        sum_z, count_z = rule.multipliers(z) if isinstance(rule, AdaptiveClipping) else (z, math.inf)
        noisy = _Noisy(plan.noise, self._released_dtype(), 1.0 / plan.expected_batch_size)
        balance = sums.pop()
        yield from noisy.parts(sums, self._keeper.dimension, rule.l2_sensitivity, sum_z)
        if isinstance(rule, AdaptiveClipping):
            balance = next(noisy.parts([balance], 1, 0.5, count_z)) + 0.5
        yield balance

    def _require_own_parameters(self) -> None:
        """No gradient but ours may reach the optimizer."""
        ours = {id(p) for p in self._keeper.parameters.values()}
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in ours and parameter.grad is not None:
                    raise UnsupportedError(
                        "the optimizer has a parameter with a gradient that was frozen, or not there, at "
                        "attach: "
                        "detach and attach again"
                    )

    # ---- saving and going on

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs beside model and optimizer, as plain values.

        Raises
        ------
        ProtocolError
            A step is under way, or an epoch of ``sampling="allocation"``, whose draw must stay secret.
        """
        self._require_usable()
        if not self._settled():
            raise ProtocolError("a step is under way: save after optimizer.step() on its last micro-batch")
        if self._plan.sampling == "allocation" and self._steps % self._plan.steps_an_epoch:
            raise ProtocolError(
                "save after an epoch: within one of sampling='allocation' the draw would be saved too"
            )
        return {
            "format": _FORMAT,
            "plan": self._plan.identity(),
            "steps": self._steps,
            "l2_clip_norm": self._rule.l2_clip_norm,
            "ledger": None if self._ledger is None else self._ledger.head,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called: steps taken then count as taken now.

        So do all that the ledger has been charged since for such an event, by a process that ended before it
        saved them: their noisy gradients may have been seen. Of several processes that train one model all
        load the state of process 0, at once.

        Raises
        ------
        InvalidArgumentError, InvalidTypeError
            Not such a state, or of a training with other sampling, clipping, noise or length; each is named.
            Or there is a ledger and was none, or the other way round.
        LedgerError
            The ledger is another one, or an older copy of the one that was charged.
        """
        if mapping("state", state).keys() != _KEYS:
            raise InvalidTypeError("state must be what state_dict returned")
        if type(state["format"]) is not int or state["format"] != _FORMAT:
            raise InvalidArgumentError(f"format of state must be {_FORMAT}, got {state['format']!r}")
        same_as_saved("training", state["plan"], self._plan.identity())
        steps = whole("steps of state", state["steps"], minimum=0, maximum=self._plan.planned_steps)
        if steps < self._steps:
            raise InvalidArgumentError(
                f"steps of state must be at least the {self._steps} taken here, got {steps}"
            )
        norm = real("l2_clip_norm of state", state["l2_clip_norm"])
        rule = replace(self._plan.rule, l2_clip_norm=norm)  # type: ignore[type-var]
        if not isinstance(rule, AdaptiveClipping) and rule != self._plan.rule:
            raise InvalidArgumentError(f"l2_clip_norm of state must be {self._plan.rule.l2_clip_norm!r}")
        steps += self._steps_since(state["ledger"])
        self._forget()
        self._steps, self._rule = steps, rule

    def _steps_since(self, head: object) -> int:
        """How many steps process 0 has charged since the ledger had this head."""
        steps = 0
        if self._processes.rank == 0:
            entries = charged_since(self._ledger, head)
            steps = sum(entry.count for entry in entries if entry.event == self._plan.event)
        return self._plan.steps_a_charge * (steps if head is None else self._processes.as_in_first(steps))

    def _forget(self) -> None:
        self._keeper.drop()
        self._current, self._sums, self._balance, self._added = None, {}, 0.0, _Added()

    # ---- failing closed

    def _require_usable(self) -> None:
        if self._failure is not None:
            raise ProtocolError(f"this training has ended: {self._failure}")

    def _fatal(self) -> _Fatal:
        return _Fatal(self)

    def fail(self, reason: str) -> None:
        """End the training: nothing more is released."""
        self._failure = reason
        self._forget()


class _Added(NamedTuple):
    """What is in the sums of a step."""

    records: int = 0
    micro_batches: int = 0


class _Fatal:
    """What is raised inside ends the training."""

    def __init__(self, privacy: Privacy) -> None:
        self._privacy = privacy

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        careless = isinstance(error, (InvalidArgumentError, InvalidTypeError))  # says nothing about data
        if error is not None and (not careless or isinstance(error, NonFiniteError)):
            named = str(error) if isinstance(error, FedsecError) else type(error).__name__
            self._privacy.fail(named)


class _Trial:
    """The micro-batches on trial."""

    def __init__(self) -> None:
        self.seed = fresh_seed()
        self._first: trial.Norms | None = None

    def take(self, gradients: RecordGradients) -> None:
        norms = trial.Norms(
            gradients.names, gradients.squared_norms.sqrt()
        )  # and not the gradients themselves
        if self._first is None:
            self._first = norms
        else:
            trial.compare(self._first, norms)


def _closure(optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of a step but for its closure, and the closure; `args` may begin with the optimizer."""
    own = args[:1] if args and args[0] is optimizer else ()
    given = args[len(own) :]
    return own, given[0] if given else kwargs.get("closure")


@dataclass(frozen=True)
class _Noisy:
    """What turns sums into what is released of them."""

    kind: str
    dtype: torch.dtype
    scale: float

    def parts(
        self, sums: list[torch.Tensor], dimension: int, sensitivity: float, noise_multiplier: float
    ) -> Iterator[torch.Tensor]:
        """Each sum with noise, times the scale; taken from the list one after the other."""
        dtype = np.dtype(str(self.dtype).removeprefix("torch."))
        arrays = (sums.pop(0).numpy() for _ in range(len(sums)))
        if self.kind == "exact":
            given = (dimension, sensitivity, noise_multiplier)
            released = noise.release_parts(arrays, *given, dtype=dtype, scale=self.scale)
        else:
            released = (self._continuous(array, sensitivity * noise_multiplier, dtype) for array in arrays)
        return map(torch.from_numpy, released)

    def _continuous(self, array: Any, stddev: float, dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]]:
        noisy: np.ndarray[Any, np.dtype[Any]] = noise.gaussian(array.shape, stddev, dtype)
        noisy += array
        noisy *= self.scale
        return noisy
