"""Processes in which the clients of a simulation train, and what goes between them and their driver.

A worker is a fresh process (spawned, with one thread of torch). It gets `contribute` once, each round's
`Configuration` once, and then one client at a time; it answers with the client's contribution, so that each
worker has one update in flight. Masks, sums, noise and charges stay where the federation is. Sums of integers
do not depend on who comes first.

A client that comes again comes to the worker that had it before: what `contribute` keeps of it is there.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch

from fedsec.errors import InvalidArgumentError, InvalidTypeError, WorkerLostError
from fedsec.federated.clients import ClientSide, Configuration
from fedsec.federated.contributions import Contribution
from fedsec.federated.records import RecordSums
from fedsec.federated.round import Round

Contribute = Callable[[Any, int], object]
Train = Callable[[Round, Sequence[int]], None]


@contextmanager
def trainer(contribute: Contribute, workers: int, seed: int | None) -> Iterator[Train]:
    """What trains the clients of a round one by one, here or in `workers` processes, which end with it.

    With a seed the global generators of Python, numpy and torch are seeded for each client's turn.
    """
    if workers == 0:
        yield lambda rnd, clients: _train_here(rnd, clients, contribute, seed)
        return
    team = _Team(contribute, seed)
    try:
        team.start(workers)
        yield team.train
    finally:
        team.close()


def _train_here(rnd: Round, clients: Sequence[int], contribute: Contribute, seed: int | None) -> None:
    for client in clients:
        _seed(seed, rnd.round_id, client)
        contribute(rnd, client)


def _seed(seed: int | None, round_id: int, client: int) -> None:
    """Each turn has streams of its own, wherever it is taken, and whoever was before."""
    if seed is None:
        return
    words = [int(word) for word in np.random.SeedSequence((seed, round_id, client)).generate_state(4)]
    random.seed(words[0])
    np.random.seed(words[1])  # noqa: NPY002 (the generator that training functions use)
    torch.manual_seed(words[2] << 32 | words[3])


# ---- what goes to and fro


@dataclass
class _Turn:
    """What came of a client's turn."""

    contribution: Contribution | None = None
    drops: dict[int, str] = field(default_factory=dict)
    closed: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class _Failure:
    """What `contribute` raised, and where; the exception itself if it can travel."""

    error: BaseException
    where: str


class _RemoteTraceback(Exception):  # noqa: N818 (not raised: the cause of what is)
    """Where in a worker process an error was raised."""


# ---- the process that drives the federation


@dataclass(eq=False)
class _Worker:
    number: int
    process: BaseProcess
    connection: Connection
    queue: deque[int] = field(default_factory=deque)  # this round's clients that it had before
    client: int | None = None


class _Team:
    """The workers, and which client is whose."""

    def __init__(self, contribute: Contribute, seed: int | None) -> None:
        try:
            self._task = pickle.dumps((contribute, seed), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # pickle raises what it likes
            raise InvalidTypeError(
                "contribute goes to worker processes and must be picklable (a function of a module, or an "
                f"object of a class of one, with its data): {error}"
            ) from error
        self._workers: list[_Worker] = []
        self._of: dict[int, _Worker] = {}

    def start(self, count: int) -> None:
        """Starts the processes; they load what they need while the first round begins."""
        context = multiprocessing.get_context("spawn")
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), name=f"fedsec-{number}", daemon=True)
            self._workers.append(_Worker(number, process, ours))
            process.start()
            theirs.close()
        for worker in self._workers:
            self._send(worker, self._task)

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        started = [worker.process for worker in self._workers if worker.process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()
        for worker in self._workers:
            worker.connection.close()

    def train(self, rnd: Round, clients: Sequence[int]) -> None:
        """One round: every client once, each worker busy while there are clients for it."""
        configuration = pickle.dumps(rnd.configuration, pickle.HIGHEST_PROTOCOL)
        fresh: deque[int] = deque()
        for client in clients:
            (self._of[client].queue if client in self._of else fresh).append(client)
        for worker in self._workers:
            self._send(worker, configuration)
            self._give(worker, fresh)
        while busy := {worker.connection: worker for worker in self._workers if worker.client is not None}:
            for ready in wait(list(busy)):
                self._take(busy[ready], rnd, fresh)  # type: ignore[index]

    def _give(self, worker: _Worker, fresh: deque[int]) -> None:
        """The next client of this worker, if there is one."""
        source = worker.queue or fresh
        worker.client = source.popleft() if source else None
        if worker.client is not None:
            self._of[worker.client] = worker
            self._send(worker, pickle.dumps(worker.client))

    def _take(self, worker: _Worker, rnd: Round, fresh: deque[int]) -> None:
        client, answer = worker.client, self._answer(worker)
        if client is None:
            raise AssertionError("only workers that have a client are waited for")
        if isinstance(answer, _Failure):
            raise answer.error from _RemoteTraceback(f"\n{answer.where}")
        self._give(worker, fresh)  # before the masks: it trains meanwhile
        for dropped, phase in answer.drops.items():
            rnd.drop(dropped, phase)
        if answer.closed:
            rnd.close()
        if answer.contribution is not None:
            rnd.receive(client, answer.contribution, answer.seconds)

    def _send(self, worker: _Worker, message: bytes) -> None:
        try:
            worker.connection.send_bytes(message)
        except OSError:
            raise self._lost(worker) from None

    def _answer(self, worker: _Worker) -> Any:
        try:
            return pickle.loads(worker.connection.recv_bytes())  # noqa: S301 (of a process that we started)
        except (EOFError, OSError):
            raise self._lost(worker) from None

    def _lost(self, worker: _Worker) -> WorkerLostError:
        worker.process.join(5.0)
        while_at = "before its first client" if worker.client is None else f"at client {worker.client}"
        return WorkerLostError(
            f"worker process {worker.number} ended {while_at}, exit code {worker.process.exitcode}; a script "
            "that simulates with workers must do so under if __name__ == '__main__'"
        )


# ---- a worker process


class _RemoteRound(ClientSide):
    """A round in a worker process: takes what one client submits."""

    def __init__(self, configuration: Configuration, sums: RecordSums | None, client: int) -> None:
        super().__init__(configuration, sums)
        self._client = client
        self.turn = _Turn()

    def drop(self, client: int, phase: str = "upload") -> None:
        """See `Round.drop`, which checks it."""
        self.turn.drops[client] = phase

    def close(self) -> None:
        """See `ClientSide`."""
        self.turn.closed = True

    def _require_awaited(self, client: int) -> int:
        if client != self._client:
            raise InvalidArgumentError(f"client must be {self._client}, whose turn it is, got {client!r}")
        if self.turn.contribution is not None:
            raise InvalidArgumentError(f"client {client} has submitted in round {self.round_id} already")
        return client

    def _accept(self, client: int, contribution: Contribution) -> None:
        self.turn.contribution, self.turn.seconds = contribution, self.training_seconds


def _serve(connection: Connection) -> None:
    """The life of a worker: as long as the process that drives the federation, at most."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the driver, which ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _Served(connection).until_the_end()


class _Served:
    """What a worker was given, and its answers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._task: tuple[Contribute, int | None] | None = None
        self._configuration: Configuration | None = None
        self._sums: RecordSums | None = None

    def until_the_end(self) -> None:
        """Takes messages until the driver is gone."""
        while (message := self._next()) is not None:
            try:
                self._take(pickle.loads(message))  # noqa: S301 (of the process that started us)
            except Exception as error:  # noqa: PERF203 (contribute's, or of what could not be loaded)
                self._answer(_failure(error))

    def _answer(self, answer: _Turn | _Failure) -> None:
        message = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
        with suppress(OSError):  # nobody is there: neither is a next message
            self._connection.send_bytes(message)

    def _next(self) -> bytes | None:
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            return None

    def _take(self, message: Any) -> None:
        if self._task is None:
            self._task = message
        elif isinstance(message, Configuration):
            self._configuration = message
            self._sums = RecordSums.of(message.plan, message.space) if self._sums is None else self._sums
        elif self._configuration is not None:
            contribute, seed = self._task
            remote = _RemoteRound(self._configuration, self._sums, message)
            _seed(seed, remote.round_id, message)
            contribute(remote, message)
            self._answer(remote.turn)


def _failure(error: Exception) -> _Failure:
    """An error to be sent; one that would not arrive as it is goes as its words."""
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (made here)
    except Exception:  # whatever its class does
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return _Failure(error, where)


def _end_with_parent() -> None:
    """A driver that was killed cannot end us: then we go by ourselves, even in the middle of a training."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
