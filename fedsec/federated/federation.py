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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
import torch

from fedsec import sampling
from fedsec._checks import whole
from fedsec._kernels import fresh_bytes
from fedsec.accounting import Event, Ledger
from fedsec.clipping import ClippingRule
from fedsec.errors import (
    AggregationAborted,
    BudgetExceededError,
    InvalidArgumentError,
    InvalidTypeError,
    ProtocolError,
)
from fedsec.federated import state as saving
from fedsec.federated.aggregation import Aggregate, Schedule
from fedsec.federated.budget import Budget
from fedsec.federated.clients import Configuration
from fedsec.federated.mechanism import Reals
from fedsec.federated.parameters import Chosen, ParameterSpace
from fedsec.federated.plan import Guarantee, make_plan
from fedsec.federated.records import RecordSums
from fedsec.federated.round import OperatorFigures, Round, RoundReport
from fedsec.federated.settings import Settings
from fedsec.federated.strategies import FedAvg, Strategy, require_strategy


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
    clipping : "flat", "adaptive", "per_layer" or "automatic", or a rule of `fedsec.clipping`
        How contributions are bounded; clients' updates by the first two alone. "adaptive" begins at
        `l2_clip_norm` and follows a quantile of the norms, at 1 % of the budget; a rule has its own.
    target_epsilon : float > 0, optional
        The budget. Without `noise_multiplier` the noise is calibrated to it over all planned rounds.
    target_delta : float in (0, 1)
    noise : "central", "distributed" or "local"
        The server's, added to the aggregated sum; a share of each client's, so that only the noisy sum is
        ever revealed (docs/distributed_noise.md); or each client's own, with an epsilon for each client.
    sampling_probability : float in (0, 1], optional
        The probability with which each unit takes part in a round, independently (Poisson): records
        within clients for unit="record"; clients for unit="client", there without secure aggregation.
    num_records : int, optional
        unit="record": how many records all clients hold together, declared public.
    max_weight, total_weight : float, optional
        unit="client" under privacy: a mean weighted by `Round.submit`'s weights, which count up to
        `max_weight`; the sum of the weights of all clients, declared public, takes the place of their number.
    secure_aggregation : bool or "insecure_session_key"
        Sum under masks. The server then never sees one client's contribution. By name, to rehearse a run:
        masks from one key of this process, without key agreement and signatures; every report says so.
    corrupt_fraction, dropout_fraction : float in [0, 1], optional
        noise="distributed": which shares of a cohort may be corrupt and lost; 0.05 and 0.1 by default, or
        what a small cohort allows. Noise is sized for the honest ones that are left.
    strategy : FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, or one of your own
        How the mean update moves the model.
    local_steps, local_learning_rate : int >= 1, float > 0
        unit="record", noise="local": the client's own private training in a round.
    parameters : str or list of str, optional
        Names of the tensors that are exchanged, or patterns of names such as "*.lora_*"; all by default. What
        else the model holds is each client's own, and never leaves it.
    ledger : Ledger, optional
        Charged before each release; not with local noise, which is each client's own to account for.
    insecure_sampling_seed : int, optional
        For debugging: cohorts come from a seed, and every report says that it is a simulation.

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
        clipping: str | ClippingRule = "flat",
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        target_delta: float | None = None,
        noise: str = "central",
        sampling_probability: float | None = None,
        num_records: int | None = None,
        max_weight: float | None = None,
        total_weight: float | None = None,
        secure_aggregation: bool | str = True,
        corrupt_fraction: float | None = None,
        dropout_fraction: float | None = None,
        strategy: Strategy | None = None,
        local_steps: int = 1,
        local_learning_rate: float = 1.0,
        parameters: Chosen = None,
        ledger: Ledger | None = None,
        insecure_sampling_seed: int | None = None,
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
            clipping=clipping,
            noise_multiplier=noise_multiplier,
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            sampling_probability=sampling_probability,
            num_records=num_records,
            max_weight=max_weight,
            total_weight=total_weight,
            secure_aggregation=secure_aggregation,
            corrupt_fraction=corrupt_fraction,
            dropout_fraction=dropout_fraction,
            insecure_sampling_seed=insecure_sampling_seed,
            local_steps=local_steps,
            local_learning_rate=local_learning_rate,
        )
        if strategy is not None:
            require_strategy(strategy)
        of_model = ParameterSpace.of_trainable if unit == "record" else ParameterSpace.of_state
        self._space = of_model(model, parameters)
        self.model = model
        self.strategy = FedAvg() if strategy is None else strategy
        self.plan = make_plan(self.settings, self._space.dimension)
        self._budget = Budget(self.plan, ledger)
        self._sums = RecordSums.of(self.plan, self._space)
        self._strategy_state: dict[str, Any] = {}
        self._rounds_started = 0
        self._current: Round | None = None

    def __reduce__(self) -> NoReturn:
        raise InvalidTypeError("a Federation counts what has been spent and cannot be pickled or copied")

    def rounds(
        self, stop: Callable[[RoundReport], bool] | None = None, lost: Schedule | None = None
    ) -> Iterator[Round]:
        """The rounds of the run, one at a time.

        Parameters
        ----------
        stop : callable, optional
            Called with each finished round's report; true ends the run. What it reads (accuracy, loss)
            must be public: a metric on private records would have to be charged itself. As stopping
            then depends on what was released, `spent` states the epsilon of all planned rounds.
        lost : callable, optional
            ``lost(round_id, cohort)``: who will be lost, {client: phase}, known beforehand as in a
            simulation. Then each contribution is masked and added when it is submitted, and none is kept.

        Raises
        ------
        BudgetExceededError
            Before any client of the round trains, when the round would spend more than `target_epsilon`.
            With num_rounds=None the run ends there instead.
        """
        if stop is not None and not callable(stop):
            raise InvalidTypeError(f"stop must be callable, got {stop!r}")
        return self._rounds(stop, lost)

    def spent(self) -> Guarantee:
        """What has been spent so far, as a guarantee; with local noise, that of the client who spent most.

        After a run that a `stop` callable ended, all planned rounds count (with num_rounds=None, all that
        the budget admits), not those that took place. Leaving the loop in another way because of what was
        released is early stopping, too, but cannot be seen from here: use `stop`.
        """
        return self._budget.spent()

    def charged(self) -> tuple[Event | None, int]:
        """What one charge costs (None without privacy), and how many `spent` counts: for an accountant."""
        return self.plan.event, self.spent().rounds_charged

    def client_epsilon(self, client: int) -> float:
        """What one client has spent of its own; else what everybody has. As for `spent`."""
        return self._budget.epsilon_of(
            whole("client", client, minimum=0, maximum=self.settings.num_clients - 1)
        )

    # ---- saving and going on

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the model's own state: plain values and tensors, nothing private.

        Rounds and charges so far, what the strategy remembers, where an adaptive bound is. Saved with
        `torch.save`, it loads with ``weights_only=True``.

        Raises
        ------
        ProtocolError
            A round is open.
        """
        if self._current is not None and self._current.is_open:
            raise ProtocolError(f"round {self._current.round_id} is open: save after it has finished")
        return saving.encode(
            identity=saving.identity(self.settings, self._space, self.strategy),
            rounds_started=self._rounds_started,
            l2_clip_norm=self.plan.rule.l2_clip_norm if self.plan.private else None,
            budget=self._budget.state_dict(),
            strategy=self._strategy_state,
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called; the model's own state is the caller's to load.

        Raises
        ------
        InvalidArgumentError, InvalidTypeError
            Not such a state, or one of a federation with other settings, parameters or strategy, each
            named; or of a run that has spent less than this one.
        """
        saved = saving.decode(state, saving.identity(self.settings, self._space, self.strategy))
        rounds = whole("rounds_started of state", saved["rounds_started"], minimum=self._rounds_started)
        plan = saving.moved(self.plan, saved["l2_clip_norm"])
        self._budget.load_state_dict(saved["budget"])
        if self._current is not None:
            self._current.close()
        self.plan, self._rounds_started, self._strategy_state = plan, rounds, saved["strategy"]

    # ---- rounds

    def _rounds(self, stop: Callable[[RoundReport], bool] | None, lost: Schedule | None) -> Iterator[Round]:
        while self.settings.num_rounds is None or self._rounds_started < self.settings.num_rounds:
            cohort = self._draw_cohort()
            if self.settings.num_rounds is None and not self._affordable(cohort):
                return
            self._budget.require(cohort)
            current = self._start(cohort, lost)
            yield current
            current.close()
            if stop is not None and current.report is not None and stop(current.report):
                self._budget.stopped_early = True
                return

    def _draw_cohort(self) -> tuple[int, ...]:
        s = self.settings
        if s.insecure_sampling_seed is not None:
            rng = np.random.default_rng((s.insecure_sampling_seed, self._rounds_started))
            chance = rng.random(s.num_clients)
            drawn = (
                np.flatnonzero(chance < (s.sampling_probability or 0.0))
                if s.poisson_clients
                else np.sort(np.argsort(chance)[: s.max_cohort])
            )
        elif s.poisson_clients:
            drawn = sampling.poisson(s.num_clients, s.sampling_probability or 0.0)
        else:
            drawn = sampling.fixed_size(s.num_clients, s.max_cohort)
        return tuple(int(client) for client in drawn)

    def _affordable(self, cohort: tuple[int, ...]) -> bool:
        try:
            self._budget.require(cohort)
        except BudgetExceededError:
            return False
        return True

    def _start(self, cohort: tuple[int, ...], lost: Schedule | None) -> Round:
        """Opens a round; one that is still open is left behind."""
        if self._current is not None:
            self._current.close()
        self._rounds_started += 1
        known = None if lost is None else dict(lost(self._rounds_started, cohort))
        # Public, and drawn when who takes part is known: no contribution can be made to suit it.
        mechanism = self.plan.mechanism.of_round(fresh_bytes(32))
        handed_out = Configuration(
            self._rounds_started, cohort, self.model, self._space, self.plan, mechanism
        )
        self._current = Round(handed_out, self._sums, known, self._finish)
        return self._current

    def _finish(self, current: Round) -> RoundReport:
        uploaders, plan = current.uploaders(), self.plan
        self._budget.require(uploaders)
        if self._budget.local:  # it has left them, whatever becomes of the round
            self._budget.charge(uploaders, current.round_id, plan.event)
        try:
            total = current.collector.finish(current.lost())
        except AggregationAborted:
            if current.opened():  # shares of some have left them
                self._charge(current, len(uploaders))
            raise
        if not self._budget.local:
            self._charge(current, len(total.survivors))
        started = time.perf_counter()
        released = current.mechanism.release(total.integers)
        noise_seconds = time.perf_counter() - started
        total.integers.fill(0)
        self._space.add_(self.model, self.strategy.step(self._mean(released), self._strategy_state))
        self.plan = plan.following(released)
        return RoundReport(current.round_id, self.spent(), _operator_figures(current, total, noise_seconds))

    def _charge(self, current: Round, survivors: int) -> None:
        self._budget.charge(current.uploaders(), current.round_id, self.plan.charged_event(survivors))

    def _mean(self, released: Reals) -> Reals:
        """The mean update: by the weights' own sum without privacy, by the public expected count with it."""
        if self.plan.private:
            return self.plan.mean(released)
        if released[-1] <= 0.0:
            raise InvalidArgumentError(f"the weights vanish on the grid: their sum is {released[-1]}")
        return np.asarray(released[:-1] / released[-1])


def _operator_figures(current: Round, total: Aggregate, noise_seconds: float) -> OperatorFigures:
    return OperatorFigures(
        survivors=total.survivors,
        dropped=tuple(client for client in current.cohort if client not in total.survivors),
        bytes_per_client=total.bytes_per_client,
        seconds={"training": current.training_seconds, **total.seconds, "noise": noise_seconds},
        phases=total.phases,
        **current.figures(),
    )
