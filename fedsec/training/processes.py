"""Several processes that train one model (torch.distributed): who draws which records, and where sums meet.

Every process holds the same data set and draws from its own share of it, so that a record is drawn with the
accounted probability once a step in all. Sums of clipped gradients meet in process 0, which charges the
budget, adds the noise, once, and hands out what everybody steps by. If a process dies, the others' collective
call fails, or runs into the group's time-out: an error, and no step.

The sums travel as they are, without masks: these processes are one operator's. For parties that do not trust
each other there is `fedsec.Federation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import distributed

from fedsec.errors import InvalidArgumentError, ProtocolError
from fedsec.training.draws import Indices

_EXCLUDED = "_ddp_params_and_buffers_to_ignore"  # read by DistributedDataParallel


class Processes:
    """The processes of torch.distributed's default group; one alone where there is no group."""

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.count = distributed.get_world_size() if together else 1
        self.rank = distributed.get_rank() if together else 0

    def require_unchanged(self) -> None:
        """Raise `ProtocolError` if a group of other processes has been joined since."""
        now = Processes()
        if (now.count, now.rank) != (self.count, self.rank):
            raise ProtocolError(
                f"{self.count} process at attach, and {now.count} now: attach after init_process_group"
            )

    def share(self, size: int) -> Indices:
        """The records that this process draws from: each is one process's."""
        if size < self.count:
            raise InvalidArgumentError(
                f"dataset must hold a record for each of the {self.count} processes, got {size}"
            )
        return np.arange(self.rank, size, self.count)

    def agree(self, terms: Mapping[str, Any]) -> None:
        """Raise `InvalidArgumentError` unless all processes attach on the same terms."""
        if self.count == 1:
            return
        everybodys: list[Any] = [None] * self.count
        distributed.all_gather_object(everybodys, dict(terms))
        for name, value in everybodys[0].items():
            for rank, theirs in enumerate(everybodys):
                if theirs.get(name) != value:
                    raise InvalidArgumentError(
                        f"{name} is {theirs.get(name)!r} in process {rank}, and {value!r} in process 0"
                    )

    def begin_alike(self, model: torch.nn.Module) -> None:
        """Give every process the parameters and buffers of process 0, as DistributedDataParallel does."""
        if self.count > 1:
            for tensor in model.state_dict().values():
                if isinstance(tensor, torch.Tensor):
                    distributed.broadcast(tensor.detach(), src=0)

    def as_in_first(self, number: int) -> int:
        """The number of process 0."""
        shared = torch.tensor([number])
        if self.count > 1:
            distributed.broadcast(shared, src=0)
        return int(shared)

    def once(
        self,
        own: list[torch.Tensor],
        dtype: torch.dtype,
        step: int,
        make: Callable[[list[torch.Tensor]], Iterable[torch.Tensor]],
    ) -> list[torch.Tensor]:
        """`make` of all processes' sums, made in process 0 and handed out: of the same shapes, in `dtype`.

        `own` is used up.

        Raises
        ------
        ProtocolError
            Processes are at different steps, or process 0 has raised an error.
        RuntimeError
            Of torch.distributed: a process has gone, or is late.
        """
        if self.count == 1:
            return list(make(own))
        made = [torch.zeros(part.shape, dtype=dtype) for part in own]
        steps = torch.tensor([step])
        distributed.reduce(steps, dst=0)
        for part in own:
            distributed.reduce(part, dst=0)
        done = torch.zeros(1)
        try:
            if self.rank == 0:
                if steps != self.count * step:
                    raise ProtocolError(f"not every process is at step {step}: were all resumed alike?")
                for place, part in zip(made, make(own), strict=True):
                    place.copy_(part)
                done[0] = 1.0
        finally:
            distributed.broadcast(done, src=0)
        if done[0] != 1.0:
            raise ProtocolError("process 0 has ended the training; its own error says why")
        for part in made:
            distributed.broadcast(part, src=0)
        return made


def exclude(model: torch.nn.Module) -> None:
    """Keep all parameters out of DistributedDataParallel's reducer: with none left it refuses the model."""
    object.__setattr__(model, _EXCLUDED, list(model.state_dict()))


def include(model: torch.nn.Module) -> None:
    """Undo `exclude`."""
    model.__dict__.pop(_EXCLUDED, None)
