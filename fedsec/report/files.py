"""Reports as files: one record for machines, the same as tables for people."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsec.errors import InvalidArgumentError

SUFFIXES = (".html", ".md", ".json")

Table = Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """A title, tables of named figures under headings, closing notes, and the record behind them."""

    title: str
    tables: Mapping[str, Table]
    notes: tuple[str, ...]
    record: Mapping[str, Any]

    def markdown(self, picture: str | None = None) -> str:
        """The report as a Markdown document, with a picture's file name if there is one."""
        return "\n".join(self._lines(picture)) + "\n"

    def json(self) -> str:
        """The record as one JSON object; infinity, which JSON lacks, becomes null."""
        return json.dumps(finite(self.record), indent=2, allow_nan=False) + "\n"

    def _lines(self, picture: str | None) -> Iterator[str]:
        yield f"# {self.title}"
        for heading, table in self.tables.items():
            yield from ("", f"## {heading}", "", "| | |", "|---|---|")
            yield from (f"| {name} | {value} |" for name, value in table.items())
        for note in self.notes:
            yield from ("", note)
        if picture:
            yield from ("", f"![accuracy and epsilon over rounds]({picture})")


def require_target(path: str | Path) -> Path:
    """The path of a report that can be written: .html, .md or .json, in a directory that is open."""
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise InvalidArgumentError(f"a report must end in {', '.join(SUFFIXES)}, got {str(path)!r}")
    for file in (target, picture_of(target)):
        _require_writable(file)
    return target


def require_picture(path: str) -> Path:
    """The path of a picture that can be written: .png, in a directory that is there and open."""
    target = Path(path)
    if target.suffix != ".png":
        raise InvalidArgumentError(f"a picture must end in .png, got {path!r}")
    _require_writable(target)
    return target


def _require_writable(file: Path) -> None:
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise InvalidArgumentError(
            f"a report or picture must be a file in a directory that can be written, got {file}"
        )


def picture_of(target: Path) -> Path:
    """Where a report's picture goes: beside it."""
    return target.with_suffix(".png")


def write(report: Report, target: Path, picture: bytes | None = None) -> None:
    """Writes the report in the format of the target's suffix, with its picture beside it, all or nothing."""
    shown = picture_of(target)
    text = report.json() if target.suffix == ".json" else report.markdown(shown.name if picture else None)
    write_all({target: text.encode()} | ({shown: picture} if picture else {}))


def write_all(files: Mapping[Path, bytes]) -> None:
    """Writes files, all or nothing."""
    drafts = {file: file.with_name(f".{file.name}.{os.getpid()}") for file in files}
    try:
        for file, contents in files.items():
            drafts[file].write_bytes(contents)
        for file, draft in drafts.items():
            draft.replace(file)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """Plain values for JSON, which has no infinity: that becomes null."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and math.isinf(value) else value
