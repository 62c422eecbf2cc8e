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
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsec import sampling
from fedsec._checks import whole
from fedsec.errors import BudgetExceededError, InvalidTypeError
from fedsec.federated.aggregation import Aggregate, aggregate, release
from fedsec.federated.parameters import ParameterSpace
from fedsec.federated.plan import Guarantee, Settings, make_plan
from fedsec.federated.round import OperatorFigures, Round, RoundReport
from fedsec.federated.strategies import FedAvg, Strategy

# The key under which central noise is charged: every client has spent the same.
_EVERYBODY = -1


class Federation:
    """Private federated averaging around any local training function.

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
    strategy : FedAvg
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
        of_model = ParameterSpace.of_trainable if unit == "record" else ParameterSpace.of_state
        self._space = of_model(model)
        self.model = model
        self.strategy = FedAvg() if strategy is None else strategy
        self.plan = make_plan(self.settings, self._space.dimension)
        self._strategy_state: dict[str, Any] = {}
        self._charges: dict[int, int] = {}
        self._rounds_started = 0
        self._stopped_early = False

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
        while self.settings.num_rounds is None or self._rounds_started < self.settings.num_rounds:
            cohort = self._draw_cohort()
            try:
                self._require_budget(cohort)
            except BudgetExceededError:
                if self.settings.num_rounds is None:
                    return
                raise
            reports: list[RoundReport] = []
            current = self._start(cohort, reports)
            yield current
            current.close()
            if stop is not None and reports and stop(reports[0]):
                self._stopped_early = True
                return

    def spent(self) -> Guarantee:
        """What has been spent so far, as a guarantee; with local noise, that of the client who spent most.

        After a run that a `stop` callable ended, the planned rounds count, not those that took place.
        """
        if self._stopped_early and self.settings.num_rounds is not None:
            return self.plan.guarantee(self.settings.num_rounds)
        return self.plan.guarantee(max(self._charges.values(), default=0))

    def client_epsilon(self, client: int) -> float:
        """What one client has spent of its own; with central noise, what everybody has."""
        key = whole("client", client, minimum=0, maximum=self.settings.num_clients - 1)
        return self.plan.epsilon(self._charges.get(key if self._local else _EVERYBODY, 0))

    @property
    def _local(self) -> bool:
        return self.plan.noise == "local"

    def _draw_cohort(self) -> tuple[int, ...]:
        if self.settings.poisson_clients:
            drawn = sampling.poisson(self.settings.num_clients, self.settings.sampling_probability or 0.0)
        else:
            drawn = sampling.fixed_size(self.settings.num_clients, self.settings.max_cohort)
        return tuple(int(client) for client in drawn)

    def _require_budget(self, cohort: tuple[int, ...]) -> None:
        budget = self.settings.target_epsilon
        if budget is None:
            return
        for key in cohort if self._local else (_EVERYBODY,):
            needed = self.plan.epsilon(self._charges.get(key, 0) + 1)
            if needed > budget:
                whose = f"client {key}" if self._local else "the federation"
                raise BudgetExceededError(
                    f"another round would bring {whose} to epsilon {needed:.6g}, the budget is {budget:g}"
                )

    def _start(self, cohort: tuple[int, ...], reports: list[RoundReport]) -> Round:
        def finish(current: Round) -> RoundReport:
            reports.append(self._finish(current))
            return reports[0]

        self._rounds_started += 1
        return Round(self._rounds_started, cohort, self.model, self._space, self.plan, finish)

    def _finish(self, current: Round) -> RoundReport:
        dropped = current.dropped
        uploaded = [client for client in current.cohort if dropped.get(client, "unmask") == "unmask"]
        if self._local:
            self._charge(uploaded)
        zeros = np.zeros(self.plan.vector_length, np.int64)
        vectors = {c: current.contributions[c].integers if c in uploaded else zeros for c in current.cohort}
        total = aggregate(self.plan, vectors, dropped, self.settings.secure_aggregation)
        if not self._local:
            self._charge([_EVERYBODY])
        started = time.perf_counter()
        released = release(self.plan, total.integers)
        noise_seconds = time.perf_counter() - started
        self._space.add_(self.model, self.strategy.step(self._mean(released), self._strategy_state))
        figures = _figures(current, total, noise_seconds)
        return RoundReport(current.round_id, self.plan.guarantee(max(self._charges.values())), figures)

    def _charge(self, keys: list[int]) -> None:
        for key in keys:
            self._charges[key] = self._charges.get(key, 0) + 1

    def _mean(self, released: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The mean update: by the weights' own sum without privacy, by the public expected count with it."""
        total, count = (
            (released, self.plan.expected_count) if self.plan.private else (released[:-1], released[-1])
        )
        return np.asarray(total / count)


def _figures(current: Round, total: Aggregate, noise_seconds: float) -> OperatorFigures:
    contributions = current.contributions
    units = sum(c.num_units for c in contributions.values())
    return OperatorFigures(
        survivors=total.survivors,
        dropped=tuple(client for client in current.cohort if client not in total.survivors),
        l2_norms={client: c.l2_norm for client, c in contributions.items() if c.l2_norm is not None},
        clipped_fraction=sum(c.num_clipped for c in contributions.values()) / units if units else 0.0,
        bytes_per_client=total.bytes_per_client,
        seconds={"training": current.training_seconds, **total.seconds, "noise": noise_seconds},
    )
