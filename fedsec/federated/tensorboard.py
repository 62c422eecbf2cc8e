"""Rounds of a simulation as scalars of TensorBoard (the extra `tensorboard`)."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from fedsec.errors import MissingExtraError
from fedsec.federated.simulation import RoundMetrics


class TensorBoard:
    """For `on_round` of `simulate`: what a line of its log has, each round as one step.

        with TensorBoard("runs/private") as board:
            simulate(federation, contribute, on_round=board)

    Parameters
    ----------
    directory : path
        Where the file of events goes, made if it is not there. TensorBoard puts the name of the host and the
        time of the start into the file's name.
    include_operator_data : bool
        Whether figures that no guarantee covers are written too. Without, all events carry the time at which
        the run began: how long a round took would be such a figure.

    Raises
    ------
    MissingExtraError
        Without the package `tensorboard`.
    """

    def __init__(self, directory: str | Path, *, include_operator_data: bool = False) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError(
                "events of TensorBoard need its package: pip install 'fedsec[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(directory))
        self._operator = include_operator_data
        self._began = time.time()

    def __call__(self, metrics: RoundMetrics) -> None:
        """Writes one round, so that it can be looked at while the next one runs."""
        row = metrics.record(self._operator)
        walltime = time.time() if self._operator else self._began
        for name, value in row.items():
            if name != "round" and value is not None:
                self._writer.add_scalar(name, float(value), row["round"], walltime)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file of events."""
        self._writer.close()

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
