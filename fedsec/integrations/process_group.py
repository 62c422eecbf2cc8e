"""Secure aggregation among the ranks of a process group of torch.distributed (gloo): silos, or a cluster.

An all-reduce of int32 or int64 wraps modulo 2^32 or 2^64, and any smaller power of two divides these, so it
can sum masked vectors. Only they take the all-reduce. The protocol's other messages are small, and go from
every rank to the server's and back as tensors of bytes; nothing is pickled.

A process that is lost breaks the collective for all: every other rank raises. A rank that is there but has
nothing to give (its training failed, its session ended) is lost for the protocol alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsec import masks
from fedsec.errors import (
    AggregationAborted,
    FedsecError,
    InvalidArgumentError,
    MissingExtraError,
    UnsupportedError,
)
from fedsec.secagg import Client, Config, Phase, Server

try:
    import torch
    import torch.distributed as dist
except ImportError:
    raise MissingExtraError("process groups need torch: pip install 'fedsec[torch]'") from None

Vector = npt.NDArray[np.integer[Any]]

# More than any message takes with a Merkle tree of 2^16 leaves.
_FRAME_BYTES, _BYTES_A_PARTICIPANT = 256, 2048

_GO_ON, _UPLOAD, _DONE, _ABORTED = range(4)


@dataclass(frozen=True)
class GroupSum:
    """What the server's rank learns.

    Attributes
    ----------
    sum : (d,) residues mod 2**modulus_bits, of the lane dtype; exact, so not in the repr
    survivors : ids of the clients whose vectors are in it, ascending
    """

    sum: npt.NDArray[Any] = field(repr=False)
    survivors: tuple[int, ...]


def aggregate(
    config: Config,
    client: Client | None,
    vector: Vector | None,
    *,
    group: dist.ProcessGroup | None = None,
    server_rank: int = 0,
) -> GroupSum | None:
    """One session, which all ranks of the group run at once.

    Parameters
    ----------
    config : Config
        The same on all ranks, with its model bound.
    client : Client, optional
        This rank's, fresh, with its own identity, policy and store; None for a rank that takes no part.
    vector : (d,) integers, optional
        As for `Client.submit`; None if this rank has nothing to give, and so is lost in the upload.
    group : process group of gloo, optional
        The default group if left out. Its timeout is how long the slowest rank may take.
    server_rank : int
        Where the server runs. Whoever owns this rank is the server; count its client as corrupt.

    Returns
    -------
    GroupSum at the server's rank, None elsewhere.

    Raises
    ------
    AggregationAborted
        On all ranks: too few clients are left, or a process of the group was lost.
    InvalidArgumentError, InvalidTypeError
        About this rank's own arguments, before anything is sent; the other ranks wait until they time out.
    UnsupportedError
        The group is not of gloo.
    """
    if dist.get_backend(group) != "gloo":
        raise UnsupportedError(f"the backend of the group must be gloo, got {dist.get_backend(group)}")
    if config.model_digest is None:
        raise InvalidArgumentError("config must have its model bound, got model_digest=None")
    if client is not None and vector is not None:
        client.submit(vector)
    else:
        vector = None
    wire = _Wire(config, group, server_rank)
    try:
        return _session(wire, client, has_vector=vector is not None)
    except RuntimeError as error:  # gloo's word for all that can happen to a peer
        raise AggregationAborted(f"a process of the group was lost: {error}") from error
    finally:
        if client is not None and client.phase is not Phase.DONE:
            client.abort()


def _session(wire: _Wire, client: Client | None, *, has_vector: bool) -> GroupSum | None:
    hub = _Hub(wire.config) if wire.is_server else None
    message = client.start() if client else b""
    while True:
        arrived = wire.gather(message)
        status, answers = hub.close(arrived) if hub else (_GO_ON, {})
        status, request = wire.scatter(status, answers)
        if status == _ABORTED:
            raise AggregationAborted("the server gave the session up")
        if status == _DONE:
            return hub.result() if hub else None
        willing = has_vector or status != _UPLOAD
        message = _answered(client, request) if client and willing else b""
        if status == _UPLOAD:
            total = wire.all_reduce(message)
            if hub:
                hub.total = total
            message = message[: -masks.packed_bytes(wire.config.vector_length, wire.config.modulus_bits)]


def _answered(client: Client, request: bytes) -> bytes:
    """The client's answer, or nothing if it has none: then its rank goes on without it."""
    try:
        return client.receive(request) or b"" if request else b""
    except FedsecError:
        return b""


class _Hub:
    """The server, and which client is at which rank."""

    def __init__(self, config: Config) -> None:
        self._server = Server(config)
        self._client_at: dict[int, int] = {}
        self.total: npt.NDArray[Any] | None = None

    def close(self, arrived: list[bytes]) -> tuple[int, dict[int, bytes]]:
        """Ends a phase with what the ranks sent; what comes next, and the answers by rank."""
        try:
            self._take({rank: message for rank, message in enumerate(arrived) if message})
            answers = self._server.close_phase()
        except FedsecError:
            return _ABORTED, {}
        rank_of = {client: rank for rank, client in self._client_at.items()}
        status = {Phase.UPLOAD: _UPLOAD, Phase.DONE: _DONE}.get(self._server.phase, _GO_ON)
        return status, {rank_of[client]: answer for client, answer in answers.items()}

    def _take(self, arrived: dict[int, bytes]) -> None:
        if self.total is not None:
            heads = {self._client_at.get(rank, -1): head for rank, head in arrived.items()}
            self._server.receive_sum(heads, self.total)
            self.total = None
            return
        for rank, message in arrived.items():
            client = self._client_at.get(rank, int.from_bytes(message[2:6], "little"))  # [SPEC 4.1]
            try:
                self._server.receive(client, message)
            except FedsecError:
                continue  # refused, and so lost; another one's id is not its own by saying so
            self._client_at[rank] = client

    def result(self) -> GroupSum:
        """After the last phase."""
        return GroupSum(self._server.result(), self._server.survivors)


class _Wire:
    """Bytes and residues between the ranks of a group."""

    def __init__(self, config: Config, group: dist.ProcessGroup | None, server_rank: int) -> None:
        self.config, self._group = config, group
        self._size = dist.get_world_size(group)
        self._hub = dist.get_global_rank(group, server_rank) if group else server_rank
        self.is_server = dist.get_rank(group) == server_rank

    def gather(self, message: bytes) -> list[bytes]:
        """Every rank's message, at the server's rank; nothing elsewhere."""
        claimed = [torch.zeros(1, dtype=torch.int64) for _ in range(self._size)]
        dist.all_gather(claimed, torch.tensor([len(message)]), group=self._group)
        lengths = [_require_length(self.config, int(length)) for length in claimed]
        widest = max(1, *lengths)
        rows = [torch.empty(widest, dtype=torch.uint8) for _ in lengths] if self.is_server else None
        dist.gather(_padded(message, widest), rows, dst=self._hub, group=self._group)
        return [_bytes(row, length) for row, length in zip(rows or [], lengths, strict=False)]

    def scatter(self, status: int, answers: dict[int, bytes]) -> tuple[int, bytes]:
        """The status for all, and each rank's own message."""
        there = [answers.get(rank, b"") for rank in range(self._size)]
        widest = max(1, *map(len, there))
        heads = [torch.tensor([status, widest, len(one)]) for one in there] if self.is_server else None
        head = torch.zeros(3, dtype=torch.int64)
        dist.scatter(head, heads, src=self._hub, group=self._group)
        status, widest, length = (int(value) for value in head)
        _require_length(self.config, widest)
        _require_length(self.config, length)
        row = torch.empty(widest, dtype=torch.uint8)
        rows = [_padded(one, widest) for one in there] if self.is_server else None
        dist.scatter(row, rows, src=self._hub, group=self._group)
        return status, _bytes(row, length)

    def all_reduce(self, upload: bytes) -> npt.NDArray[Any]:
        """The sum of all ranks' masked vectors mod 2^b; a rank without an upload adds zeros."""
        length, bits = self.config.vector_length, self.config.modulus_bits
        wide = np.uint64 if bits > 32 else np.uint32
        residues = np.zeros(length, wide)
        if upload:
            residues[:] = masks.unpack(upload[-masks.packed_bytes(length, bits) :], length, bits)
        # torch sums signed integers alone; the bits of the sum are the same.
        signed = torch.from_numpy(residues.view(np.int64 if bits > 32 else np.int32))
        dist.all_reduce(signed, group=self._group)
        np.bitwise_and(residues, wide(2**bits - 1), out=residues)
        return residues.astype(masks.lane_dtype(bits), copy=False)


def _padded(message: bytes, length: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(message.ljust(length, b"\0")), dtype=torch.uint8)


def _bytes(row: torch.Tensor, length: int) -> bytes:
    return row[:length].numpy().tobytes()


def _require_length(config: Config, length: int) -> int:
    """A length that another rank claims, before anybody makes room for it.

    The longest message is a roster: for each participant its keys with their path twice, and a nonce.
    """
    most = _FRAME_BYTES + _BYTES_A_PARTICIPANT * len(config.ids)
    if not 0 <= length <= most:
        raise AggregationAborted(f"a message must take 0 to {most} bytes, a rank claims {length}")
    return length
