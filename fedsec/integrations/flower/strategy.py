"""The server's side: a strategy around another one, which sees the mean of a round and nothing else.

Training, or an evaluation, is one exchange of messages in Flower, and a session of secure aggregation five or
six. The ones before the upload take place in `configure_train`, the upload is Flower's own exchange, and the
ones after it take place in `aggregate_train`, before the strategy inside is given one reply that holds the
mean; likewise for `configure_evaluate` and `aggregate_evaluate`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Krum,
    MultiKrum,
    QFedAvg,
    Result,
    Strategy,
)

from fedsec._checks import positive, whole
from fedsec._kernels import fresh_bytes
from fedsec.accounting import Ledger
from fedsec.clipping import ClippingRule
from fedsec.errors import (
    AggregationAborted,
    BudgetExceededError,
    CommitteeLostError,
    FedsecError,
    InvalidArgumentError,
    InvalidTypeError,
    ProtocolError,
    UnsupportedError,
)
from fedsec.federated.plan import Guarantee, Plan
from fedsec.federated.settings import Settings
from fedsec.integrations.flower import records
from fedsec.integrations.flower.records import Asked
from fedsec.integrations.metrics import Metrics
from fedsec.integrations.node import is_introduced
from fedsec.integrations.task import Mean, Task
from fedsec.integrations.terms import EVALUATE, TRAIN, Terms
from fedsec.secagg import Config, Directory, Parameters, Phase, Server, recommend

# These look at single updates or at losses of single clients, which nobody sees here.
_LOOK_AT_SINGLE_UPDATES = (
    Bulyan,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Krum,
    MultiKrum,
    QFedAvg,
)
_ATTEMPTS = 3  # sessions for one sum, where members of the committee are lost

_log = logging.getLogger("flwr")


class SecureAggregation(Strategy):  # type: ignore[misc, unused-ignore]
    """Federated averaging in which the server learns the sum of a round, and no client's update.

    Parameters
    ----------
    strategy : FedAvg, or one that derives from it
        Picks the nodes and steps the model, from one reply a round: the mean of all. Those that compare
        single updates, such as Krum, are refused.
    directory : path
        The clients' directory (docs/identities.md).
    authority : bytes or str
        The public key of whoever signed it: 32 bytes, or 64 hexadecimal digits.
    max_clients : int of at least 3
        So many take part in a round at most. Under privacy the sum of updates is divided by this number,
        whoever is lost.
    train_metrics, evaluate_metrics : {name: (low, high)}, optional
        Which of the numbers in clients' `MetricRecord` are summed too, each clipped to its public bounds: the
        mean of all clients is all that is seen. Other metrics stay with their client, and without
        `evaluate_metrics` nobody evaluates. Under privacy an evaluation is charged as a round is, and
        `train_metrics` are refused.
    l2_clip_norm, noise_multiplier, target_epsilon, target_delta : float, optional
        Privacy of clients, as for `fedsec.Federation`: without `noise_multiplier` the noise is calibrated
        to `target_epsilon` over all rounds. All left out: exact sums, weighted by the clients' examples.
    clipping : "flat" or "adaptive", or one of these rules of `fedsec.clipping`
        "adaptive" begins at `l2_clip_norm` and follows a quantile of the updates' norms, as for
        `fedsec.Federation`.
    noise : "central", "distributed" or "local"
        Added to the sum by the server; by each client in shares, of which the sum protects, so that the
        server never sees an exact one; or by each client to its own update, enough for it alone.
    ledger : path, optional
        A budget (`fedsec.Ledger`) that outlives this process: all runs with this file together stay within
        `target_epsilon`. It needs `noise_multiplier` too.
    corrupt_fraction, dropout_fraction : float
        What each session is set up for; see `fedsec.secagg.recommend`.
    phase_timeout : float
        Seconds that a message of the protocol may take. For the upload, which is when clients train, it is
        the `timeout` of `start`.

    Raises
    ------
    UnsupportedError
        For a strategy that needs single updates.
    InvalidTypeError, InvalidArgumentError, IdentityError

    A round in which too few clients are left moves nothing and is logged; the run goes on.
    """

    def __init__(
        self,
        strategy: FedAvg,
        *,
        directory: str | os.PathLike[str],
        authority: bytes | str,
        max_clients: int,
        train_metrics: Mapping[str, tuple[float, float]] | None = None,
        evaluate_metrics: Mapping[str, tuple[float, float]] | None = None,
        l2_clip_norm: float | None = None,
        clipping: str | ClippingRule = "flat",
        noise_multiplier: float | None = None,
        target_epsilon: float | None = None,
        target_delta: float | None = None,
        noise: str = "central",
        ledger: str | os.PathLike[str] | None = None,
        corrupt_fraction: float = 0.1,
        dropout_fraction: float = 0.1,
        phase_timeout: float = 600.0,
    ) -> None:
        self._inner = _require_averaging(strategy)
        self._directory = Directory.load(directory, _key(authority))
        if ledger is not None and (noise_multiplier is None or target_epsilon is None):
            raise InvalidArgumentError("a ledger needs target_epsilon, and a noise_multiplier for its rounds")
        settings = Settings(
            num_clients=whole("max_clients", max_clients, minimum=3),
            num_rounds=1,  # until `start` says how many
            l2_clip_norm=l2_clip_norm,
            clipping=clipping,
            noise_multiplier=noise_multiplier,
            target_epsilon=target_epsilon,
            target_delta=target_delta,
            noise=noise,
            corrupt_fraction=corrupt_fraction if noise == "distributed" else None,
            dropout_fraction=dropout_fraction if noise == "distributed" else None,
        )
        self._asked = Terms(
            settings,
            weighted_by=strategy.weighted_by_key,
            train_metrics=Metrics.of("train_metrics", train_metrics or {}),
            evaluate_metrics=Metrics.of("evaluate_metrics", evaluate_metrics or {}),
        )
        self._ledger_path = ledger
        self._corrupt_fraction, self._dropout_fraction = corrupt_fraction, dropout_fraction
        self._phase_timeout = positive("phase_timeout", phase_timeout)
        self._run: _Run | None = None
        self._session: _Session | None = None

    def summary(self) -> None:
        """Logs what this strategy adds, and the summary of the one inside."""
        run = self._require_run()
        said = run.plan.guarantee(run.num_sums)
        _log.info("\t├──> Secure aggregation: up to %d clients a round", run.terms.settings.num_clients)
        if run.plan.private:
            _log.info("\t├──> Epsilon of all rounds: %.4g at delta %g", said.epsilon, said.delta)
        if not run.terms.evaluate_metrics:
            _log.info("\t├──> Clients do not evaluate: evaluate_metrics names nothing")
        for warning in said.warnings:
            _log.info("\t├──> Note: %s", warning)
        self._inner.summary()

    def spent(self) -> Guarantee:
        """What the run has spent so far."""
        run = self._require_run()
        return run.plan.guarantee(run.charged)

    def start(
        self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, *args: Any, **kwargs: Any
    ) -> Result:
        """Runs all rounds, as `Strategy.start` does.

        Raises
        ------
        BudgetExceededError
            Before anything runs: the rounds would spend more than the budget.
        """
        self._run = _Run.of(self._asked, _numpy(initial_arrays), num_rounds, self._ledger_path)
        return super().start(grid, initial_arrays, num_rounds, *args, **kwargs)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The phases before the upload; the messages that ask for it."""
        originals = list(self._inner.configure_train(server_round, arrays, config, grid))
        return self._ask(TRAIN, f"round {server_round}", originals, _numpy(arrays), grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The phases from the upload on; the step of the strategy inside."""
        run, heard = self._require_run(), self._hear(f"round {server_round}", list(replies))
        if heard is None:
            return None, None
        session, mean, reply = heard
        reply.content["arrays"] = _record(session.task.moved(session.arrays, mean.update))
        run.follow(mean.plan)
        stepped, metrics = self._inner.aggregate_train(server_round, [reply])
        return None if stepped is None else _with_dtypes(stepped, session.arrays), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As for training, where there are `evaluate_metrics`; else nothing, and nobody evaluates."""
        if not self._asked.evaluate_metrics:
            return []
        originals = list(self._inner.configure_evaluate(server_round, arrays, config, grid))
        return self._ask(EVALUATE, f"evaluation of round {server_round}", originals, _numpy(arrays), grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The means of the metrics, by way of the strategy inside."""
        heard = self._hear(f"evaluation of round {server_round}", list(replies))
        return None if heard is None else self._inner.aggregate_evaluate(server_round, [heard[2]])

    def _ask(
        self,
        task: str,
        purpose: str,
        originals: list[Message],
        arrays: dict[str, npt.NDArray[Any]],
        grid: Grid,
    ) -> list[Message]:
        """Keys and shares of a fresh session; the messages that ask for uploads, none if it is given up."""
        self._session = None
        run = self._require_run()
        clients = self._known(grid, originals, run) if originals else {}
        for _ in range(_ATTEMPTS if clients else 0):
            session = self._open(grid, clients, task, arrays, run)
            if session is None:
                return []
            try:
                requests = session.until_upload()
            except CommitteeLostError as error:
                _log.warning("fedsec: %s", error)
                continue
            except AggregationAborted as error:
                _log.warning("fedsec: %s is given up: %s", purpose, error)
                return []
            run.charge(purpose, "local")
            self._session = session
            return requests
        return []

    def _hear(self, purpose: str, replies: list[Message]) -> tuple[_Session, Mean, Message] | None:
        """The rest of the session, charged; its mean, and a reply with it for the strategy inside."""
        session, run = self._session, self._require_run()
        if session is None:
            return None
        self._session = None
        try:
            # With the shares the sum is open, whether or not enough of them come for this process.
            residues = session.finish(
                replies, before_shares=lambda: run.charge(purpose, "central", "distributed")
            )
            mean = session.task.mean(residues, session.public_key)
        except AggregationAborted as error:
            _log.warning("fedsec: %s is given up: %s", purpose, error)
            return None
        _log.info("fedsec: %s, the sum of %d clients", purpose, len(session.survivors))
        carrier = next(message for message in replies if message.has_content())
        metrics = {**mean.metrics, self._inner.weighted_by_key: mean.total}
        return session, mean, records.mean_reply(carrier, metrics)

    def _require_run(self) -> _Run:
        if self._run is None:
            raise ProtocolError("start must be called first: it fixes the number of rounds, and so the noise")
        return self._run

    def _known(self, grid: Grid, originals: list[Message], run: _Run) -> dict[int, Message]:
        """By client id, the messages of all that say who they are, and are in the directory."""
        new = [one for one in originals if one.metadata.dst_node_id not in run.client_of]
        challenge = fresh_bytes(32)
        asking = [records.request(one, Asked(records.HELLO, payload=challenge)) for one in new]
        for reply in grid.send_and_receive(asking, timeout=self._phase_timeout):
            node, client = reply.metadata.src_node_id, records.answered(reply, "client-id", int)
            signature = records.answered(reply, "payload", bytes)
            if client is None or signature is None:
                _log.warning("fedsec: node %d does not take part: %s", node, _reason(reply))
            elif not is_introduced(self._directory, client, challenge, signature):
                _log.warning("fedsec: node %d says that it is client %d, and is not", node, client)
            elif client in run.client_of.values():
                _log.warning("fedsec: node %d is client %d, which has another node already", node, client)
            else:
                run.client_of[node] = client
        ids = {one.metadata.dst_node_id: one for one in originals}
        return {run.client_of[node]: one for node, one in ids.items() if node in run.client_of}

    def _parameters(self, task: Task, num_clients: int) -> Parameters | None:
        """For as many losses as the noise stands, or as asked for, or none; clients' policies judge them."""
        n, needed = max(2, num_clients), task.plan.secagg_parameters
        if needed is not None:
            lost = max(0, n - needed.min_survivors) / n
            tries = [_feasible(n, min(1.0, needed.max_corrupt / n), lost)]
        else:
            tries = [_feasible(n, self._corrupt_fraction, lost) for lost in (self._dropout_fraction, 0.0)]
        found = next((one for one in tries if one is not None and task.allows(one)), None)
        if found is None:
            _log.warning("fedsec: no session is feasible with %d clients", num_clients)
        return found

    def _open(
        self,
        grid: Grid,
        clients: Mapping[int, Message],
        name: str,
        arrays: dict[str, npt.NDArray[Any]],
        run: _Run,
    ) -> _Session | None:
        most = run.terms.settings.num_clients
        if len(clients) > most:
            raise InvalidArgumentError(f"max_clients is {most}, but the strategy picked {len(clients)} nodes")
        task = run.terms.task(name, arrays)
        parameters = self._parameters(task, len(clients))
        if parameters is None:
            return None
        vector_length, modulus_bits = task.ring
        config = Config(
            session_id=fresh_bytes(32),
            round_id=time.time_ns(),
            participants={client: self._directory[client] for client in clients},
            vector_length=vector_length,
            parameters=parameters,
            modulus_bits=modulus_bits,
            model_digest=run.terms.digest(name, arrays),
        )
        return _Session(config, grid, clients, arrays, task, run.terms.to_bytes(), self._phase_timeout)


class _Run:
    """One call of `start`: its terms, its plan, what it has charged, and who is behind which node."""

    def __init__(self, terms: Terms, plan: Plan, num_sums: int, ledger: Ledger | None) -> None:
        self.num_sums, self._ledger = num_sums, ledger
        self.client_of: dict[int, int] = {}
        self.charged = 0
        self.terms, self.plan = terms, plan
        self.follow(plan)

    @classmethod
    def of(
        cls,
        asked: Terms,
        arrays: dict[str, npt.NDArray[Any]],
        num_rounds: int,
        ledger_path: str | os.PathLike[str] | None,
    ) -> _Run:
        """Plans a run; refuses one that would spend more than its budget."""
        num_sums = whole("num_rounds", num_rounds, minimum=1) * (2 if asked.evaluate_metrics else 1)
        terms = replace(asked, settings=replace(asked.settings, num_rounds=num_sums))
        plan = terms.task(TRAIN, arrays).plan
        budget = terms.settings.target_epsilon
        if budget is not None and plan.epsilon(num_sums) > budget:
            raise BudgetExceededError(
                f"{num_sums} rounds and evaluations would spend epsilon {plan.epsilon(num_sums):.6g}, "
                f"the budget is {budget:g}"
            )
        ledger = None
        if ledger_path is not None and plan.event is not None:
            ledger = Ledger(
                ledger_path,
                target_epsilon=budget or 0.0,
                target_delta=terms.settings.target_delta or 0.0,
                neighboring_relation=plan.relation,
            )
            if ledger.would_exceed(plan.event, num_sums):
                raise BudgetExceededError(
                    f"the ledger has room for {ledger.remaining(plan.event)} rounds and evaluations, "
                    f"got {num_sums}"
                )
        return cls(terms, plan, num_sums, ledger)

    def follow(self, plan: Plan) -> None:
        """Goes on with a plan whose bound may have moved; all cost the same."""
        self.plan, self.terms = plan, self.terms.following(plan)

    def charge(self, purpose: str, *noises: str) -> None:
        """Before noisy updates leave their clients, or the shares that open a sum; by the place of noise."""
        if self.plan.noise not in noises:
            return
        if self._ledger is not None and self.plan.event is not None:
            self._ledger.charge(self.plan.event, purpose=purpose)
        self.charged += 1


class _Session:
    """One session of the protocol, over Flower's messages."""

    def __init__(
        self,
        config: Config,
        grid: Grid,
        originals: Mapping[int, Message],
        arrays: dict[str, npt.NDArray[Any]],
        task: Task,
        terms: bytes,
        timeout: float,
    ) -> None:
        self.arrays, self.task = arrays, task
        self._config, self._server = config, Server(config)
        self._grid, self._timeout = grid, timeout
        self._originals = originals
        self._client_of = {one.metadata.dst_node_id: client for client, one in originals.items()}
        self._terms = terms

    @property
    def public_key(self) -> bytes:
        """Random bytes that all parties of the session know."""
        return self._config.session_id

    @property
    def survivors(self) -> tuple[int, ...]:
        """Whose updates are in the sum."""
        return self._server.survivors

    def until_upload(self) -> list[Message]:
        """Keys and shares; the messages that ask for the uploads."""
        join = Asked(records.JOIN, payload=self._config.to_bytes())
        answers = self._exchange(dict.fromkeys(self._originals, join))
        while self._server.phase is not Phase.UPLOAD:
            answers = self._exchange(self._asking(answers))
        asking = self._asking(answers)
        return [
            records.request(self._originals[client], one, with_content=True) for client, one in asking.items()
        ]

    def finish(self, replies: Iterable[Message], *, before_shares: Callable[[], None]) -> npt.NDArray[Any]:
        """The uploads, the agreement, and the sum's residues."""
        self._take(replies)
        answers: Mapping[int, bytes] = self._server.close_phase()
        while self._server.phase is not Phase.DONE:
            if self._server.phase is Phase.UNMASK:
                before_shares()
            answers = self._exchange(self._asking(answers))
        return self._server.result()

    def _asking(self, answers: Mapping[int, bytes]) -> dict[int, Asked]:
        session_id, terms = self._config.session_id, b""
        if self._server.phase is Phase.UPLOAD:
            terms = self._terms
        return {
            client: Asked(records.ANSWER, session_id, payload, terms) for client, payload in answers.items()
        }

    def _exchange(self, asking: Mapping[int, Asked]) -> Mapping[int, bytes]:
        """One phase: everybody is asked, whoever answers in time is heard."""
        requests = [records.request(self._originals[client], one) for client, one in asking.items()]
        self._take(self._grid.send_and_receive(requests, timeout=self._timeout))
        return self._server.close_phase()

    def _take(self, replies: Iterable[Message]) -> None:
        for reply in replies:
            client = self._client_of.get(reply.metadata.src_node_id)
            payload = records.answered(reply, "payload", bytes)
            if client is None or payload is None:
                _log.warning("fedsec: no answer: %s", _reason(reply))
                continue
            try:
                self._server.receive(client, payload)
            except FedsecError as error:
                _log.warning("fedsec: refused: %s", error)


def _require_averaging(strategy: object) -> FedAvg:
    if isinstance(strategy, _LOOK_AT_SINGLE_UPDATES):
        raise UnsupportedError(
            f"{type(strategy).__name__} compares single clients' updates, which secure aggregation hides"
        )
    if not isinstance(strategy, FedAvg):
        raise InvalidTypeError(
            f"strategy must be a FedAvg or derive from it, such as FedAdam, got {type(strategy).__name__}"
        )
    return strategy


def _feasible(num_clients: int, corrupt_fraction: float, dropout_fraction: float) -> Parameters | None:
    try:
        return recommend(
            num_clients=num_clients,
            corrupt_fraction=corrupt_fraction,
            dropout_fraction=dropout_fraction,
        )
    except UnsupportedError:
        return None


def _key(authority: object) -> bytes:
    if isinstance(authority, str):
        try:
            return bytes.fromhex(authority)
        except ValueError:
            raise InvalidArgumentError(f"authority must be hexadecimal digits, got {authority!r}") from None
    if isinstance(authority, bytes):
        return authority
    raise InvalidTypeError(f"authority must be bytes or hexadecimal digits, got {type(authority).__name__}")


def _numpy(arrays: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    return {name: array.numpy() for name, array in arrays.items()}


def _with_dtypes(stepped: ArrayRecord, before: dict[str, npt.NDArray[Any]]) -> ArrayRecord:
    """In the dtypes that the model had: Flower's mean turns integers into floats."""
    arrays = {name: array.numpy() for name, array in stepped.items()}
    kept = {
        name: array.astype(before[name].dtype) if before[name].dtype.kind == "f" else before[name]
        for name, array in arrays.items()
    }
    return _record(kept)


def _record(arrays: Mapping[str, npt.NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _reason(reply: Message) -> str:
    return str(reply.error.reason) if reply.has_error() else "it is no message of the protocol"
