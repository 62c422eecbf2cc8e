"""What a run leaves on disk, in a folder of its own: metrics line by line, the state to go on from, reports.

The state is written before the line of its round, both after the round is over: a run that was ended at any
time goes on after the last round that is in the state, whatever else was written.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedsec.errors import DataFormatError, InvalidArgumentError
from fedsec.report import finite, write_all

METRICS, TABLE, STATE, RESULT = "metrics.jsonl", "metrics.csv", "state.pt", "result.json"


class Folder:
    """The folder of one run."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        if self.holds_a_run and not resume:
            raise InvalidArgumentError(
                f"output.folder {path} holds a run already: --resume goes on with it, or name another folder"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidArgumentError(f"output.folder {path} cannot be made: {error.strerror}") from None
        if not os.access(path, os.W_OK):
            raise InvalidArgumentError(f"output.folder {path} cannot be written to")

    @property
    def holds_a_run(self) -> bool:
        """Whether a run has been here."""
        return any((self.path / name).exists() for name in (METRICS, STATE, RESULT))

    def result(self) -> dict[str, Any] | None:
        """The result of a run that has ended."""
        if not (self.path / RESULT).exists():
            return None
        try:
            return dict(json.loads((self.path / RESULT).read_text()))
        except ValueError as error:
            raise DataFormatError(f"{self.path / RESULT} cannot be read: {error}") from None

    def state(self) -> dict[str, Any] | None:
        """The state to go on from, if there is one."""
        if not (self.path / STATE).exists():
            return None
        try:
            return dict(torch.load(self.path / STATE, weights_only=True))
        except Exception as error:  # torch raises what it likes
            raise DataFormatError(f"{self.path / STATE} cannot be read: {error}") from None

    def begin(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The lines of the rounds that are in the state, and no others: those run again."""
        write_all({self.path / METRICS: "".join(map(_line, rows)).encode()})

    def add(self, row: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """A finished round: its state, then its line."""
        self.save(state)
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(_line(row))

    def save(self, state: Mapping[str, Any]) -> None:
        """The state, all or nothing."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_all({self.path / STATE: buffer.getvalue()})

    def finish(
        self, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], files: Mapping[str, bytes]
    ) -> None:
        """The result, the metrics as a table, and files by name, all or nothing."""
        text = json.dumps(finite(result), indent=2, allow_nan=False) + "\n"
        named = {**files, TABLE: table(rows), RESULT: text.encode()}
        write_all({self.path / name: contents for name, contents in named.items()})


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(finite(row), allow_nan=False) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as CSV, with a column for every key of any of them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
