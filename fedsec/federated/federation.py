"""`Federation`: who takes part, what is run on them, what it costs, and how the model moves.

The flow of a round [MMR+17, Alg. 1; MRTZ18, Alg. 1]: check the budget, draw the cohort, hand out copies
of the model, take contributions in, sum them under masks, charge, add noise, step. The cost is checked
before any client trains and charged before anything is released.

References
----------
[MMR+17] McMahan et al. Communication-Efficient Learning of Deep Networks from Decentralized Data. 2017.
[MRTZ18] McMahan, Ramage, Talwar, Zhang. Learning Differentially Private Recurrent Language Models. 2018.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from fedsec import sampling
from fedsec._checks import whole
from fedsec.errors import BudgetExceededError, InvalidArgumentError, InvalidTypeError
from fedsec.federated.aggregation import Aggregate, aggregate, release
from fedsec.federated.parameters import ParameterSpace
from fedsec.federated.plan import Guarantee, make_plan
from fedsec.federated.round import OperatorFigures, Round, RoundReport
from fedsec.federated.settings import Settings
from fedsec.federated.strategies import FedAvg, Strategy, require_strategy

# The key under which central noise is charged: every client has spent the same.
_EVERYBODY = -1


class Federation:
    """Private federated averaging around any local training function.

    One thread drives a federation. It keeps the count of what has been spent, and so can be neither copied
    nor pickled.

    Parameters
    ----------
    model : torch.nn.Module
        The global model; `Round.finish` moves it in place.
    num_clients : int >= 1
        Clients are numbered 0 to num_clients - 1.
    num_rounds : int >= 1, or None
        None: until the budget `target_epsilon` is spent.
    cohort_size : int, optional
        Clients a round, drawn uniformly by the operating system's randomness; all of them by default.
        A fixed cohort is charged without amplification, with a client that contributes zero as the
        neighbour (REPLACE_SPECIAL).
    unit : "client" or "record"
        Whose contribution is bounded: a client's whole update, or each record's gradient.
    l2_clip_norm, noise_multiplier : float > 0
        The bound, and the noise's standard deviation divided by it. Both left out: no privacy.
    target_epsilon : float > 0, optional
        The budget. Without `noise_multiplier` the noise is calibrated to it over all planned rounds.
    target_delta : float in (0, 1)
    noise : "central" or "local"
        The server's, added to the aggregated sum; or each client's own, before anything leaves it, with
        an epsilon for each client.
    sampling_probability : float in (0, 1], optional
        The probability with which each unit takes part in a round, independently (Poisson): records
        within clients for unit="record"; clients for unit="client", there without secure aggregation.
    num_records : int, optional
        unit="record": how many records all clients hold together, declared public.
    secure_aggregation : bool
        Sum under masks (2 to 255 clients a round). The server then never sees one client's contribution.
    strategy : FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, or one of your own
        How the mean update moves the model.
    local_steps, local_learning_rate : int >= 1, float > 0
        unit="record", noise="local": the client's own private training in a round.

    Under privacy the sum is divided by the public expected count, never by survivors or the realised
    sample. For unit="record" the update is minus the mean clipped gradient, so `strategy.learning_rate`
    is the step size.

    Raises
    ------
    InvalidArgumentError, InvalidTypeError, UnsupportedError, CalibrationError
        At construction, naming the argument, its value and what is allowed.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        num_clients: int,
        num_rounds: int | None,
        cohort_size: int | None = None,
        unit: str = "client",
        l2_clip_norm: float | None = None,
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        target_delta: float | None = None,
        noise: str = "central",
        sampling_probability: float | None = None,
        num_records: int | None = None,
        secure_aggregation: bool = True,
        strategy: Strategy | None = None,
        local_steps: int = 1,
        local_learning_rate: float = 1.0,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise InvalidTypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.settings = Settings(
            num_clients=num_clients,
            num_rounds=num_rounds,
            cohort_size=cohort_size,
            unit=unit,
            noise=noise,
            l2_clip_norm=l2_clip_norm,
            noise_multiplier=noise_multiplier,
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            sampling_probability=sampling_probability,
            num_records=num_records,
            secure_aggregation=secure_aggregation,
            local_steps=local_steps,
            local_learning_rate=local_learning_rate,
        )
        if strategy is not None:
            require_strategy(strategy)
        of_model = ParameterSpace.of_trainable if unit == "record" else ParameterSpace.of_state
        self._space = of_model(model)
        self.model = model
        self.strategy = FedAvg() if strategy is None else strategy
        self.plan = make_plan(self.settings, self._space.dimension)
        self._strategy_state: dict[str, Any] = {}
        self._charges: dict[int, int] = {}
        self._rounds_started = 0
        self._current: Round | None = None
        self._stopped_early = False

    def __reduce__(self) -> NoReturn:
        raise InvalidTypeError("a Federation counts what has been spent and cannot be pickled or copied")

    def rounds(self, stop: Callable[[RoundReport], bool] | None = None) -> Iterator[Round]:
        """The rounds of the run, one at a time.

        Parameters
        ----------
        stop : callable, optional
            Called with each finished round's report; true ends the run. What it reads (accuracy, loss)
            must be public: a metric on private records would have to be charged itself. As stopping
            then depends on what was released, `spent` states the epsilon of all planned rounds.

        Raises
        ------
        BudgetExceededError
            Before any client of the round trains, when the round would spend more than `target_epsilon`.
            With num_rounds=None the run ends there instead.
        """
        if stop is not None and not callable(stop):
            raise InvalidTypeError(f"stop must be callable, got {stop!r}")
        return self._rounds(stop)

    def spent(self) -> Guarantee:
        """What has been spent so far, as a guarantee; with local noise, that of the client who spent most.

        After a run that a `stop` callable ended, all planned rounds count (with num_rounds=None, all that
        the budget admits), not those that took place. Leaving the loop in another way because of what was
        released is early stopping, too, but cannot be seen from here: use `stop`.
        """
        return self.plan.guarantee(self._count(max(self._charges, key=self._charges.__getitem__, default=0)))

    def client_epsilon(self, client: int) -> float:
        """What one client has spent of its own; with central noise, what everybody has. As for `spent`."""
        key = whole("client", client, minimum=0, maximum=self.settings.num_clients - 1)
        return self.plan.epsilon(self._count(key if self._local else _EVERYBODY))

    def _rounds(self, stop: Callable[[RoundReport], bool] | None) -> Iterator[Round]:
        while self.settings.num_rounds is None or self._rounds_started < self.settings.num_rounds:
            cohort = self._draw_cohort()
            if self.settings.num_rounds is None and not self._affordable(cohort):
                return
            self._require_budget(cohort)
            current = self._start(cohort)
            yield current
            current.close()
            if stop is not None and current.report is not None and stop(current.report):
                self._stopped_early = True
                return

    def _count(self, key: int) -> int:
        """How many charges stand against a key, planned ones included after early stopping."""
        if not self._stopped_early or not self.plan.private:
            return self._charges.get(key, 0)
        if self.settings.num_rounds is None:
            return self.plan.most_charges(self.settings.target_epsilon or 0.0)
        return self.settings.num_rounds

    @property
    def _local(self) -> bool:
        return self.plan.noise == "local"

    def _draw_cohort(self) -> tuple[int, ...]:
        if self.settings.poisson_clients:
            drawn = sampling.poisson(self.settings.num_clients, self.settings.sampling_probability or 0.0)
        else:
            drawn = sampling.fixed_size(self.settings.num_clients, self.settings.max_cohort)
        return tuple(int(client) for client in drawn)

    def _affordable(self, cohort: tuple[int, ...]) -> bool:
        try:
            self._require_budget(cohort)
        except BudgetExceededError:
            return False
        return True

    def _require_budget(self, clients: Sequence[int]) -> None:
        """Refuses when one more charge, of these clients or of everybody, would pass the budget."""
        budget = self.settings.target_epsilon
        for key in clients if self._local else (_EVERYBODY,):
            needed = self.plan.epsilon(self._charges.get(key, 0) + 1)
            if budget is not None and needed > budget:
                whose = f"client {key}" if self._local else "the federation"
                raise BudgetExceededError(
                    f"another round would bring {whose} to epsilon {needed:.6g}, the budget is {budget:g}"
                )

    def _start(self, cohort: tuple[int, ...]) -> Round:
        """Opens a round; one that is still open is left behind."""
        if self._current is not None:
            self._current.close()
        self._rounds_started += 1
        self._current = Round(self._rounds_started, cohort, self.model, self._space, self.plan, self._finish)
        return self._current

    def _finish(self, current: Round) -> RoundReport:
        charged = current.uploaders() if self._local else [_EVERYBODY]
        self._require_budget(charged)
        if self._local:
            self._charge(charged)
        total = aggregate(self.plan, current.vectors(), current.lost(), self.settings.secure_aggregation)
        if not self._local:
            self._charge(charged)
        started = time.perf_counter()
        released = release(self.plan, total.integers)
        noise_seconds = time.perf_counter() - started
        total.integers.fill(0)
        self._space.add_(self.model, self.strategy.step(self._mean(released), self._strategy_state))
        return RoundReport(current.round_id, self.spent(), _operator_figures(current, total, noise_seconds))

    def _charge(self, keys: list[int]) -> None:
        for key in keys:
            self._charges[key] = self._charges.get(key, 0) + 1

    def _mean(self, released: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The mean update: by the weights' own sum without privacy, by the public expected count with it."""
        if self.plan.private:
            return np.asarray(released / self.plan.expected_count)
        if released[-1] <= 0.0:
            raise InvalidArgumentError(
                f"the weights must sum to more than {self.plan.quantizer.granularity:g}, got {released[-1]}"
            )
        return np.asarray(released[:-1] / released[-1])


def _operator_figures(current: Round, total: Aggregate, noise_seconds: float) -> OperatorFigures:
    return OperatorFigures(
        survivors=total.survivors,
        dropped=tuple(client for client in current.cohort if client not in total.survivors),
        bytes_per_client=total.bytes_per_client,
        seconds={"training": current.training_seconds, **total.seconds, "noise": noise_seconds},
        **current.figures(),
    )
