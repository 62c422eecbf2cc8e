"""SecAgg+ of Flower, as `fedsec[bench]` installs it, beside which `measure.secagg` runs.

Client and server are Flower's own: `secaggplus_mod` answers the stages of `SecAggPlusWorkflow`, in the
objects and in the order of its own code. Only what carries messages is not: a `_Wire` hands each message to
its client in this process. Training is a vector that is ready, and its time is not counted.
"""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np

STAGES = ("setup_stage", "share_keys_stage", "collect_masked_vectors_stage", "unmask_stage")


def is_installed() -> bool:
    """Whether the peer is there to be measured."""
    return find_spec("flwr") is not None


def version() -> str:
    """The release of it."""
    from importlib.metadata import version

    return version("flwr")


class Cohort:
    """`num_clients` clients with float32 vectors (length,), and a server.

    Each client shares with `num_shares` - 1 others and itself; `threshold` shares open a secret.
    """

    def __init__(self, num_clients: int, length: int, num_shares: int, threshold: int) -> None:
        _prepare()
        from flwr.app import ConfigRecord, Context, RecordDict
        from flwr.common import ndarrays_to_parameters
        from flwr.compat.common import recorddict_compat
        from flwr.server.compat.legacy_context import LegacyContext
        from flwr.server.workflow import SecAggPlusWorkflow
        from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
        from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState

        state = RecordDict()
        state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
        nothing = ndarrays_to_parameters([np.zeros(1, np.float32)])
        state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(nothing, True)
        strategy: Any = _Strategy(num_clients)
        manager: Any = SimpleNamespace(num_available=lambda: num_clients)
        self._context = LegacyContext(_context(Context, 0, state), strategy=strategy, client_manager=manager)
        self._workflow = SecAggPlusWorkflow(num_shares, threshold)
        self._state = WorkflowState()
        vector = np.random.default_rng(0).normal(size=length).astype(np.float32)
        self._wire = _Wire({i: _Client(i, vector) for i in range(num_clients)})

    def stage(self, name: str, lost: Collection[int] = ()) -> float:
        """Runs a stage; `lost` clients never answer it. Seconds of the server, its clients' not counted."""
        self._wire.lost, self._wire.seconds = frozenset(lost), 0.0
        started = time.perf_counter()
        if not getattr(self._workflow, name)(self._wire, self._context, self._state):
            raise RuntimeError(f"the peer gave up in {name}")
        return time.perf_counter() - started - self._wire.seconds

    def client_step(self, name: str, client: int) -> Callable[[], float]:
        """What one client makes of the message of a stage, as often as it is called; seconds each."""
        messages: list[Any] = []
        self._wire.tap = messages
        try:
            getattr(self._workflow, name)(self._wire, self._context, copy.copy(self._state))
        finally:
            self._wire.tap = None
        message = next(message for message in messages if message.metadata.dst_node_id == client)
        return lambda: self._wire.clients[client].repeat(message)


@contextmanager
def quantised_before(length: int) -> Iterator[None]:
    """Takes the rounding of floats to integers out of Flower's client: integers that are ready are used."""
    from importlib import import_module

    module: Any = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    quantize = module.quantize
    ready = np.random.default_rng(0).integers(0, 2**22, length, dtype=np.int32)
    module.quantize = lambda *_: [ready]
    try:
        yield
    finally:
        module.quantize = quantize


class _Client:
    """One client: its vector, and what Flower keeps of the session between two messages."""

    def __init__(self, number: int, vector: Any) -> None:
        from flwr.app import Context, RecordDict
        from flwr.common import ndarrays_to_parameters

        self._parameters = ndarrays_to_parameters([vector])
        self._context = _context(Context, number, RecordDict())
        self._training = 0.0

    def answer(self, message: Any) -> tuple[Any, float]:
        """The answer and its seconds."""
        from flwr.client.mod import secaggplus_mod

        self._training = 0.0
        started = time.perf_counter()
        answer = secaggplus_mod(message, self._context, self._train)
        return answer, time.perf_counter() - started - self._training

    def repeat(self, message: Any) -> float:
        """Seconds of an answer after which the client stands as before."""
        before = copy.deepcopy(self._context.state), copy.deepcopy(message.content)
        seconds = self.answer(message)[1]
        self._context.state, message.content = before
        return seconds

    def _train(self, message: Any, _: Any) -> Any:
        from flwr.app import Message
        from flwr.common import Code, FitRes, Status
        from flwr.compat.common import recorddict_compat

        started = time.perf_counter()
        result = FitRes(Status(Code.OK, ""), self._parameters, num_examples=100, metrics={})
        answer = Message(recorddict_compat.fitres_to_recorddict(result, keep_input=True), reply_to=message)
        self._training = time.perf_counter() - started
        return answer


class _Wire:
    """What `Grid` is to the workflow: it hands messages over and brings the answers back."""

    def __init__(self, clients: dict[int, _Client]) -> None:
        self.clients = clients
        self.lost: frozenset[int] = frozenset()
        self.seconds = 0.0
        self.tap: list[Any] | None = None

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        """The answers of all clients that are not lost; none when the messages are only looked at."""
        del timeout
        started, there = time.perf_counter(), list(messages)
        if self.tap is not None:
            self.tap.extend(there)
            return []
        # Several messages may share one content, of which a client takes parts out.
        arrived = [copy.deepcopy(one) for one in there if one.metadata.dst_node_id not in self.lost]
        answers = [self.clients[one.metadata.dst_node_id].answer(one)[0] for one in arrived]
        self.seconds += time.perf_counter() - started
        return answers


class _Strategy:
    """All clients take part, and nothing is made of the aggregate."""

    def __init__(self, num_clients: int) -> None:
        self._num_clients = num_clients

    def configure_fit(self, _round: int, parameters: Any, _manager: Any) -> list[tuple[Any, Any]]:
        """Which clients train, and on what."""
        from flwr.common import FitIns

        return [(SimpleNamespace(node_id=i), FitIns(parameters, {})) for i in range(self._num_clients)]

    def aggregate_fit(self, _round: int, _results: Any, _failures: Any) -> tuple[None, dict[str, Any]]:
        """Flower has the aggregate by then."""
        return None, {}


def _context(made: Callable[..., Any], number: int, state: Any) -> Any:
    return made(run_id=1, node_id=number, node_config={}, state=state, run_config={})


def _prepare() -> None:
    """No telemetry, no log lines, and who we are, which messages are stamped with."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    from flwr.supercore.task_identity import TaskIdentity

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
